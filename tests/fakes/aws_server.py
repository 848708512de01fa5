"""Amazon's APIs over HTTP on loopback: moto's server, with what it lacks to carry a model endpoint through its whole life.

botocore reaches it through ``AWS_ENDPOINT_URL``. Added to moto: every instance type that botocore knows, ``UpdateEndpoint``,
inference components and their scaling dimension, names that are taken, states that advance, rollback by alarm, a runtime that
hands invocations (streamed, asynchronous and of transform jobs too) to a real server of models, and the simulation of rights.

A state advances when it is asked for, not with time: after ``server.polls`` answers ``Creating`` becomes ``InService``, or
``Failed`` where ``server.failures`` holds a reason for that name.
"""

import fnmatch
import json
import logging
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any, Self
from uuid import uuid4

import httpx
import moto.applicationautoscaling.models as scaling_models
import moto.applicationautoscaling.responses as scaling_responses
import moto.sagemaker.urls
import moto.sagemakerruntime.urls
from moto.cloudwatch.models import CloudWatchBackend, cloudwatch_backends
from moto.core.utils import utcnow
from moto.iam.exceptions import NotFoundException as NoSuchEntity
from moto.iam.responses import IamResponse
from moto.s3.models import s3_backends
from moto.sagemaker import models as sagemaker_models
from moto.sagemaker.exceptions import ValidationError
from moto.sagemaker.models import sagemaker_backends
from moto.sagemaker.responses import SageMakerResponse
from moto.sagemakerruntime.responses import SageMakerRuntimeResponse
from moto.server import ThreadedMotoServer
from moto.servicequotas.responses import ServiceQuotasResponse
from werkzeug.serving import WSGIRequestHandler

from llm_engineering.infrastructure.aws.clients import list_instance_types

ACCOUNT, REGION = "123456789012", "eu-west-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",  # not-a-secret: AWS documents it as an example
    "AWS_SECRET_ACCESS_KEY": "dummy-secret",  # not-a-secret
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": REGION,
}
"""Environment variables of a process that knows this account and nothing of the machine's own configuration."""
_TARGET = "sagemaker:inference-component:DesiredCopyCount"


@dataclass
class Component:
    """An inference component."""

    name: str
    endpoint: str
    variant: str
    specification: dict[str, Any]
    copies: int
    tags: list[dict[str, str]]
    status: str = "Creating"
    reason: str | None = None
    created: Any = field(default_factory=utcnow)
    changed: Any = field(default_factory=utcnow)

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:inference-component/{self.name}"


@dataclass
class _Change:
    """What a resource becomes once it was asked for often enough."""

    polls: int
    finish: Callable[[], None]


class AwsServer:
    """Use as a context manager; one at a time. :meth:`reset` empties the account."""

    active: "AwsServer"

    def __init__(self, model_server: str | None = None) -> None:
        self.model_server = model_server
        """Address of an OpenAI-compatible server that stands for the container: ``http://127.0.0.1:PORT``."""
        self.polls = 1
        self.failures: dict[str, str] = {}
        """Reason by name of the endpoint or component that fails when it is next created or updated."""
        self.quotas: dict[str, float] = {}
        """Machines that may serve models, by instance type."""
        self.components: dict[str, Component] = {}
        self.changes: dict[tuple[str, str], _Change] = {}
        self.invocations: list[dict[str, Any]] = []
        self.lock = threading.RLock()
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._moto.get_host_and_port()[1]}"

    def __enter__(self) -> Self:
        _patch_moto()
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request hides what a test has to say
        WSGIRequestHandler.protocol_version = (
            "HTTP/1.1"  # connections stay open: a third of the time of most calls
        )
        AwsServer.active = self
        self._moto.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._moto.stop()

    def reset(self) -> None:
        """Empty the account."""
        httpx.post(f"{self.url}/moto-api/reset").raise_for_status()
        self.polls = 1
        for kept in (self.failures, self.quotas, self.components, self.changes, self.invocations):
            kept.clear()

    def begin(self, kind: str, name: str, finish: Callable[[], None]) -> None:
        """Have a resource change once it was asked for ``polls`` times."""
        self.changes[kind, name] = _Change(self.polls, finish)

    def advance(self, kind: str, name: str) -> None:
        """Count one question for a resource's state."""
        change = self.changes.get((kind, name))
        if change is None:
            return
        if change.polls <= 0:
            del self.changes[kind, name]
            change.finish()
        else:
            change.polls -= 1

    def answer(self, body: bytes) -> httpx.Response:
        """Have the model server answer an invocation."""
        self.invocations.append(json.loads(body))
        return httpx.post(f"{self._container()}/v1/chat/completions", content=body, headers=_JSON, timeout=60)

    def stream_answer(self, body: bytes) -> Iterator[bytes]:
        """Yield event-stream frames, each as soon as the model server has sent its part."""
        self.invocations.append(json.loads(body))
        address = f"{self._container()}/v1/chat/completions"
        with httpx.stream("POST", address, content=body, headers=_JSON, timeout=60) as reply:
            for part in reply.iter_raw():
                yield frame(part)

    def _container(self) -> str:
        if self.model_server is None:
            raise ValidationError("The emulator has no model server: AwsServer(model_server=URL).")
        return self.model_server


_JSON = {"Content-Type": "application/json"}


def frame(payload: bytes) -> bytes:
    """Return a frame of ``application/vnd.amazon.eventstream`` with a part of the payload."""
    head = b""
    for name, value in (
        (":event-type", "PayloadPart"),
        (":content-type", "application/octet-stream"),
        (":message-type", "event"),
    ):
        head += bytes([len(name)]) + name.encode() + b"\x07" + struct.pack(">H", len(value)) + value.encode()
    prelude = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + payload
    return message + struct.pack(">I", zlib.crc32(message))


# --- SageMaker --------------------------------------------------------------------------------------------------------


def _asked(response: Any) -> dict[str, Any]:
    return dict(json.loads(response.body or "{}"))


def _refuse_taken(there: object, name: str, kind: str) -> None:
    if name in there:  # type: ignore[operator]
        arn = f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:{kind}/{name}"
        raise ValidationError(f'Cannot create already existing {kind} "{arn}".')


def _settle(server: AwsServer, endpoint: Any) -> None:
    """End the creation of an endpoint."""
    reason = server.failures.pop(endpoint.endpoint_name, None)
    endpoint.endpoint_status = "Failed" if reason else "InService"
    endpoint.failure_reason = reason
    endpoint.last_modified_time = utcnow()


def _in_alarm(deployment: dict[str, Any] | None) -> list[str]:
    """Names of the alarms of a deployment that ring."""
    rollback = (deployment or {}).get("AutoRollbackConfiguration", {})
    named = {alarm["AlarmName"] for alarm in rollback.get("Alarms", ())}
    alarms = cloudwatch_backends[ACCOUNT][REGION].alarms
    return sorted(name for name in named if name in alarms and alarms[name].state_value == "ALARM")


def _create_endpoint(self: Any) -> str:
    server, asked = AwsServer.active, _asked(self)
    name, backend = asked["EndpointName"], self.sagemaker_backend
    with server.lock:
        _refuse_taken(backend.endpoints, name, "endpoint")
        endpoint = backend.create_endpoint(name, asked["EndpointConfigName"], asked.get("Tags"))
        endpoint.endpoint_status = "Creating"
        server.begin("endpoint", name, lambda: _settle(server, endpoint))
    return json.dumps({"EndpointArn": endpoint.arn})


def _describe_endpoint(self: Any) -> Any:
    server, name = AwsServer.active, _asked(self)["EndpointName"]
    with server.lock:
        server.advance("endpoint", name)
        return _original["describe_endpoint"](self)


def _update_endpoint(self: Any) -> str:
    server, asked, backend = AwsServer.active, _asked(self), self.sagemaker_backend
    name, wanted = asked["EndpointName"], asked["EndpointConfigName"]
    with server.lock:
        backend.describe_endpoint(name)
        config = backend.describe_endpoint_config(wanted)
        endpoint = backend.endpoints[name]
        if endpoint.endpoint_status != "InService":
            raise ValidationError(f'Cannot update in-progress endpoint "{endpoint.arn}".')
        endpoint.endpoint_status = "Updating"
        endpoint.pending_deployment_summary = {"EndpointConfigName": wanted}

        def finish() -> None:
            endpoint.endpoint_status, endpoint.pending_deployment_summary = "InService", None
            reason = server.failures.pop(name, None)
            if ringing := _in_alarm(asked.get("DeploymentConfig")):
                reason = f"Rolled back: alarm(s) {', '.join(ringing)} went off during the deployment"
            endpoint.failure_reason = reason
            if reason is None:
                endpoint.endpoint_config_name = wanted
                endpoint.production_variants = endpoint._process_production_variants(
                    config["ProductionVariants"]
                )
            endpoint.last_modified_time = utcnow()

        server.begin("endpoint", name, finish)
    return json.dumps({"EndpointArn": endpoint.arn})


def _delete_endpoint(self: Any) -> str:
    server, backend, name = AwsServer.active, self.sagemaker_backend, _asked(self)["EndpointName"]
    with server.lock:
        backend.describe_endpoint(name)
        endpoint = backend.endpoints[name]
        if endpoint.endpoint_status in ("Creating", "Updating", "Deleting"):
            raise ValidationError(
                f'Cannot delete endpoint "{endpoint.arn}" while it is {endpoint.endpoint_status}.'
            )
        if any(part.endpoint == name for part in server.components.values()):
            raise ValidationError(f'Cannot delete endpoint "{endpoint.arn}": it has inference components.')
        endpoint.endpoint_status = "Deleting"
        server.begin("endpoint", name, lambda: backend.endpoints.pop(name, None))
    return "{}"


def _create_model(self: Any) -> Any:
    _refuse_taken(self.sagemaker_backend._models, _asked(self)["ModelName"], "model")
    return _original["create_model"](self)


def _list_models(self: Any) -> str:
    part = _asked(self).get("NameContains", "")
    found = [model for model in self.sagemaker_backend._models.values() if part in model.model_name]
    told = [{"ModelName": model.model_name, "ModelArn": model.arn, "CreationTime": 0} for model in found]
    return json.dumps({"Models": told})


def _create_endpoint_config(self: Any) -> Any:
    name = _asked(self)["EndpointConfigName"]
    _refuse_taken(self.sagemaker_backend.endpoint_configs, name, "endpoint-config")
    return _original["create_endpoint_config"](self)


def _check_instance_type(self: Any, instance_type: str) -> None:
    if instance_type not in list_instance_types():
        raise ValidationError(f"Value '{instance_type}' at 'instanceType' failed to satisfy constraint")


def _component(server: AwsServer, name: str) -> Component:
    if name not in server.components:
        raise ValidationError(f'Could not find inference component "{name}".')
    return server.components[name]


def _create_component(self: Any) -> str:
    server, asked, backend = AwsServer.active, _asked(self), self.sagemaker_backend
    name, endpoint = asked["InferenceComponentName"], asked["EndpointName"]
    with server.lock:
        _refuse_taken(server.components, name, "inference-component")
        if backend.describe_endpoint(endpoint)["EndpointStatus"] not in ("InService", "Updating"):
            raise ValidationError(f"Endpoint {endpoint} is not InService.")
        if model := asked["Specification"].get("ModelName"):
            backend.describe_model(model)
        part = server.components[name] = Component(
            name,
            endpoint,
            asked["VariantName"],
            asked["Specification"],
            asked["RuntimeConfig"]["CopyCount"],
            asked.get("Tags", []),
        )

        def finish() -> None:
            part.reason = server.failures.pop(name, None)
            part.status = "Failed" if part.reason else "InService"

        server.begin("component", name, finish)
    return json.dumps({"InferenceComponentArn": part.arn})


def _describe_component(self: Any) -> str:
    server, name = AwsServer.active, _asked(self)["InferenceComponentName"]
    with server.lock:
        server.advance("component", name)
        part = _component(server, name)
        serving = part.copies if part.status in ("InService", "Updating") else 0
        told = {
            "InferenceComponentName": name,
            "InferenceComponentArn": part.arn,
            "EndpointName": part.endpoint,
            "EndpointArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{part.endpoint}",
            "VariantName": part.variant,
            "Specification": part.specification,
            "RuntimeConfig": {"DesiredCopyCount": part.copies, "CurrentCopyCount": serving},
            "InferenceComponentStatus": part.status,
            "CreationTime": part.created.timestamp(),
            "LastModifiedTime": part.changed.timestamp(),
        }
        if part.reason:
            told["FailureReason"] = part.reason
    return json.dumps(told)


def _list_components(self: Any) -> str:
    asked = _asked(self)
    found = [
        part
        for part in AwsServer.active.components.values()
        if asked.get("NameContains", "") in part.name
        and asked.get("EndpointNameEquals", part.endpoint) == part.endpoint
    ]
    told = [
        {
            "InferenceComponentName": part.name,
            "InferenceComponentArn": part.arn,
            "EndpointName": part.endpoint,
            "EndpointArn": f"arn:aws:sagemaker:{REGION}:{ACCOUNT}:endpoint/{part.endpoint}",
            "VariantName": part.variant,
            "InferenceComponentStatus": part.status,
            "CreationTime": part.created.timestamp(),
            "LastModifiedTime": part.changed.timestamp(),
        }
        for part in found
    ]
    return json.dumps({"InferenceComponents": told})


def _update_component(self: Any) -> str:
    server, asked = AwsServer.active, _asked(self)
    with server.lock:
        part = _component(server, asked["InferenceComponentName"])
        if part.status != "InService":
            raise ValidationError(
                f'Cannot update inference component "{part.arn}" while it is {part.status}.'
            )
        if model := asked.get("Specification", {}).get("ModelName"):
            self.sagemaker_backend.describe_model(model)
        part.status, part.reason = "Updating", None

        def finish() -> None:
            part.status, part.changed = "InService", utcnow()
            part.reason = server.failures.pop(part.name, None)
            if ringing := _in_alarm(asked.get("DeploymentConfig")):
                part.reason = f"Rolled back: alarm(s) {', '.join(ringing)} went off during the deployment"
            if part.reason is None:
                part.specification = asked.get("Specification", part.specification)
                part.copies = asked.get("RuntimeConfig", {}).get("CopyCount", part.copies)

        server.begin("component", part.name, finish)
    return json.dumps({"InferenceComponentArn": part.arn})


def _scale_component(self: Any) -> str:
    server, asked = AwsServer.active, _asked(self)
    with server.lock:
        part = _component(server, asked["InferenceComponentName"])
        if part.status != "InService":
            raise ValidationError(
                f'Cannot update inference component "{part.arn}" while it is {part.status}.'
            )
        part.status = "Updating"

        def finish() -> None:
            part.status, part.copies = "InService", asked["DesiredRuntimeConfig"]["CopyCount"]

        server.begin("component", part.name, finish)
    return json.dumps({"InferenceComponentArn": part.arn})


def _delete_component(self: Any) -> str:
    server, name = AwsServer.active, _asked(self)["InferenceComponentName"]
    with server.lock:
        part = _component(server, name)
        if part.status in ("Creating", "Updating"):
            raise ValidationError(
                f'Cannot delete inference component "{part.arn}" while it is {part.status}.'
            )
        part.status = "Deleting"
        server.begin("component", name, lambda: server.components.pop(name, None))
    return "{}"


def _find_tagged(self: Any, arn: str) -> Any:
    kind, _, name = arn.rpartition(":")[2].partition("/")
    if kind == "inference-component" and name in AwsServer.active.components:
        return AwsServer.active.components[name]
    if kind == "endpoint-config" and name in self.endpoint_configs:
        return self.endpoint_configs[name]
    return _original["_get_resource_from_arn"](self, arn)


def _add_tags(self: Any, arn: str, tags: list[dict[str, str]]) -> list[dict[str, str]]:
    """A key that is there gets the new value."""
    found = self._get_resource_from_arn(arn)
    new = {tag["Key"] for tag in tags}
    found.tags = [tag for tag in found.tags if tag["Key"] not in new] + tags
    return list(found.tags)


# --- transform jobs ---------------------------------------------------------------------------------------------------


def _create_transform_job(self: Any) -> Any:
    server, asked, backend = AwsServer.active, _asked(self), self.sagemaker_backend
    name = asked["TransformJobName"]
    _refuse_taken(backend.transform_jobs, name, "transform-job")
    backend.describe_model(asked["ModelName"])
    answer = _original["create_transform_job"](self)
    job = backend.transform_jobs[name]
    job.transform_job_status, job.transform_end_time = "InProgress", None

    def finish() -> None:
        job.transform_end_time = utcnow()
        if reason := server.failures.pop(name, None):
            job.transform_job_status, job.failure_reason = "Failed", reason
            return
        _transform(server, asked)
        job.transform_job_status = "Completed"

    server.begin("transform", name, finish)
    return answer


def _transform(server: AwsServer, asked: dict[str, Any]) -> None:
    """Have each line of each input answered, the answers beside it under ``.out``, as SageMaker does with SplitType Line."""
    store = s3_backends[ACCOUNT]["aws"]
    place = asked["TransformInput"]["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://")
    bucket, _, prefix = place.partition("/")
    target, _, folder = asked["TransformOutput"]["S3OutputPath"].removeprefix("s3://").partition("/")
    for key in [key for key in store.buckets[bucket].keys if key.startswith(prefix)]:
        lines = store.get_object(bucket, key).value.splitlines()
        answers = [json.dumps(server.answer(line).json()).encode() for line in lines]
        store.put_object(
            target, f"{folder.rstrip('/')}/{key.rpartition('/')[2]}.out", b"\n".join(answers) + b"\n"
        )


def _describe_transform_job(self: Any) -> Any:
    server = AwsServer.active
    with server.lock:
        server.advance("transform", _asked(self)["TransformJobName"])
        return _original["describe_transform_job"](self)


# --- the runtime ------------------------------------------------------------------------------------------------------


def _called(response: Any) -> None:
    """Refuse an invocation of what does not serve."""
    server = AwsServer.active
    name = response.path.split("/")[2]
    endpoint = sagemaker_backends[ACCOUNT][REGION].endpoints.get(name)
    if endpoint is None or endpoint.endpoint_status not in ("InService", "Updating"):
        raise ValidationError(f"Endpoint {name} of account {ACCOUNT} not found.")
    component = response.headers.get("X-Amzn-SageMaker-Inference-Component")
    if component is not None:
        part = _component(server, component)
        if part.endpoint != name or part.status not in ("InService", "Updating") or not part.copies:
            raise ValidationError("Inference Component has no capacity to process this request.")
    elif any(part.endpoint == name for part in server.components.values()):
        raise ValidationError("Inference Component Name header is required for endpoints with components.")


def _invoke(self: Any) -> tuple[int, dict[str, str], bytes]:
    _called(self)
    body = self.body if isinstance(self.body, bytes) else self.body.encode()
    reply = AwsServer.active.answer(body)
    if reply.is_success:
        return 200, dict(_JSON), reply.content
    told = {
        "ErrorCode": "CLIENT_ERROR_FROM_MODEL",
        "Message": f"Received error ({reply.status_code}) from primary with message {reply.text}",
        "OriginalMessage": reply.text,
        "OriginalStatusCode": reply.status_code,
    }
    return 424, {**_JSON, "x-amzn-ErrorType": "ModelError"}, json.dumps(told).encode()


def _invoke_streamed(self: Any) -> tuple[int, dict[str, str], Iterator[bytes]]:
    _called(self)
    body = self.body if isinstance(self.body, bytes) else self.body.encode()
    headers = {"Content-Type": "application/vnd.amazon.eventstream"}
    return 200, headers, AwsServer.active.stream_answer(body)


def _invoke_later(self: Any) -> tuple[int, dict[str, str], str]:
    """Answer at once into the endpoint's S3OutputPath, or the failure path where the model refuses."""
    _called(self)
    name = self.path.split("/")[2]
    endpoint = sagemaker_backends[ACCOUNT][REGION].endpoints[name]
    config = sagemaker_backends[ACCOUNT][REGION].endpoint_configs[endpoint.endpoint_config_name]
    output = config.async_inference_config["OutputConfig"]
    store = s3_backends[ACCOUNT]["aws"]
    bucket, _, key = self.headers["X-Amzn-SageMaker-InputLocation"].removeprefix("s3://").partition("/")
    reply = AwsServer.active.answer(store.get_object(bucket, key).value)
    number = self.headers.get("X-Amzn-SageMaker-Inference-Id") or str(uuid4())
    places = {
        kind: f"{output[path].rstrip('/')}/{number}.out"
        for kind, path in (("OutputLocation", "S3OutputPath"), ("FailureLocation", "S3FailurePath"))
        if path in output
    }
    kept = "OutputLocation" if reply.is_success else "FailureLocation"
    target, _, folder = places[kept].removeprefix("s3://").partition("/")
    store.put_object(target, folder, reply.content)
    headers = {f"X-Amzn-SageMaker-{kind}": place for kind, place in places.items()}
    return 202, headers, json.dumps({"InferenceId": number})


# --- alarms ---------------------------------------------------------------------------------------------------------


def _put_alarm(self: Any, *, name: str, **given: Any) -> Any:
    """Set an alarm; one that is there keeps its state."""
    before = self.alarms.get(name)
    alarm = _original["put_metric_alarm"](self, name=name, **given)
    if before is not None:
        alarm.state_value, alarm.state_reason = before.state_value, before.state_reason
    return alarm


# --- quotas ---------------------------------------------------------------------------------------------------------


def _list_quotas(self: Any) -> str:
    told = [
        {"ServiceCode": "sagemaker", "QuotaName": f"{name} for endpoint usage", "Value": value}
        for name, value in AwsServer.active.quotas.items()
    ]
    return json.dumps({"Quotas": told})


# --- rights -----------------------------------------------------------------------------------------------------------


def _simulate(self: Any) -> str:
    """Decide each action on each resource by the role's inline and managed policies; conditions count as met."""
    asked = self.querystring
    listed = {
        kind: [values[0] for name, values in sorted(asked.items()) if name.startswith(f"{kind}.member.")]
        for kind in ("ActionNames", "ResourceArns")
    }
    known = [*self.backend.roles.values(), *self.backend.users.values()]
    role = next((one for one in known if one.arn == asked["PolicySourceArn"][0]), None)
    if role is None:
        raise NoSuchEntity(
            f"Invalid Entity Arn: {asked['PolicySourceArn'][0]} does not clearly define entity type"
        )
    documents = [*role.policies.values(), *(policy.document for policy in role.managed_policies.values())]
    statements = [
        statement
        for document in documents
        for statement in (json.loads(document) if isinstance(document, str) else document)["Statement"]
    ]
    decided = "".join(
        f"<member><EvalActionName>{action}</EvalActionName><EvalResourceName>{resource}</EvalResourceName>"
        f"<EvalDecision>{_decide(statements, action, resource)}</EvalDecision></member>"
        for action in listed["ActionNames"]
        for resource in listed["ResourceArns"] or ["*"]
    )
    return (
        "<SimulatePrincipalPolicyResponse><SimulatePrincipalPolicyResult><IsTruncated>false</IsTruncated>"
        f"<EvaluationResults>{decided}</EvaluationResults></SimulatePrincipalPolicyResult>"
        "</SimulatePrincipalPolicyResponse>"
    )


def _decide(statements: list[dict[str, Any]], action: str, resource: str) -> str:
    def fits(given: str | list[str], value: str) -> bool:
        patterns = [given] if isinstance(given, str) else given
        return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in patterns)

    found = [one for one in statements if fits(one["Action"], action) and fits(one["Resource"], resource)]
    if any(one["Effect"] == "Deny" for one in found):
        return "explicitDeny"
    return "allowed" if found else "implicitDeny"


# --- set-up -----------------------------------------------------------------------------------------------------------

_original: dict[str, Any] = {}


@cache
def _patch_moto() -> None:
    """Add to moto, once a process: it calls an operation by its method's name."""
    changed = {
        "create_endpoint": _create_endpoint,
        "describe_endpoint": _describe_endpoint,
        "update_endpoint": _update_endpoint,
        "delete_endpoint": _delete_endpoint,
        "create_model": _create_model,
        "list_models": _list_models,
        "create_endpoint_config": _create_endpoint_config,
        "create_inference_component": _create_component,
        "describe_inference_component": _describe_component,
        "list_inference_components": _list_components,
        "update_inference_component": _update_component,
        "update_inference_component_runtime_config": _scale_component,
        "delete_inference_component": _delete_component,
        "create_transform_job": _create_transform_job,
        "describe_transform_job": _describe_transform_job,
    }
    for name, function in changed.items():
        _original[name] = getattr(SageMakerResponse, name, None)
        setattr(SageMakerResponse, name, function)
    backend = sagemaker_models.SageMakerModelBackend
    _original["_get_resource_from_arn"] = backend._get_resource_from_arn
    backend._get_resource_from_arn = _find_tagged  # type: ignore[method-assign]
    backend.add_tags = _add_tags  # type: ignore[method-assign]
    validate = backend.validate_production_variants
    backend.validate_production_variants = lambda self, variants: validate(  # type: ignore[method-assign]
        self, [variant for variant in variants if "ModelName" in variant]
    )
    sagemaker_models.FakeEndpointConfig.validate_instance_type = _check_instance_type  # type: ignore[method-assign]
    dimensions = {one.name: one.value for one in scaling_models.ScalableDimensionValueSet}
    more = Enum("ScalableDimensionValueSet", {**dimensions, "SAGEMAKER_COMPONENT_COPIES": _TARGET})  # type: ignore[misc]
    scaling_models.ScalableDimensionValueSet = more  # type: ignore[misc]
    scaling_responses.ScalableDimensionValueSet = more  # type: ignore[attr-defined]
    scaling_responses.ApplicationAutoScalingResponse.list_tags_for_resource = (  # type: ignore[attr-defined]
        lambda self: json.dumps({"Tags": {}})
    )
    runtime: Any = SageMakerRuntimeResponse
    runtime.invoke_endpoint = _invoke
    runtime.invoke_endpoint_with_response_stream = _invoke_streamed
    runtime.invoke_endpoint_async = _invoke_later
    _original["put_metric_alarm"] = CloudWatchBackend.put_metric_alarm
    CloudWatchBackend.put_metric_alarm = _put_alarm  # type: ignore[method-assign]
    ServiceQuotasResponse.list_service_quotas = _list_quotas  # type: ignore[method-assign]
    IamResponse.simulate_principal_policy = _simulate  # type: ignore[attr-defined]
    # moto sends paths that end otherwise than in "invocations" to SageMaker itself, whatever the host.
    moto.sagemaker.urls.url_paths["{0}/endpoints/(?P<name>[^/]+)/invocations-response-stream$"] = (
        moto.sagemakerruntime.urls.response.dispatch
    )
