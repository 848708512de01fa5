"""Model endpoints on SageMaker: made, changed in place, listed and deleted to the last resource.

What a plan asks for is compared with what is there, and only the difference is done. So the same call goes on where an earlier
one was broken off: names are derived from what they stand for, and what is there already is not made again.
"""

import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from llm_engineering.domain.errors import (
    DeploymentError,
    DeploymentTimeoutError,
    InvalidInputError,
    TwinError,
)
from llm_engineering.domain.hints import POE
from llm_engineering.infrastructure.aws.autoscaling import apply_scaling, remove_scaling
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.faults import advise, explain_failures
from llm_engineering.infrastructure.aws.requests import (
    VARIANT,
    Plan,
    ServingPlace,
    artifact_folder,
    async_folder,
    batch_folder,
    check_plan,
)
from llm_engineering.infrastructure.shared.aws import call_unless, code_of, is_absent, mask_ids
from llm_engineering.infrastructure.shared.s3_upload import upload_missing

_CHANGING = ("Creating", "Updating", "SystemUpdating", "RollingBack")
_BROKEN = ("OutOfService", "UpdateRollbackFailed")
_LOG_LINES = 5
_LONGEST_REASON = 1024
_REGISTRY = re.compile(r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com(?:\.cn)?/(?P<name>[^:@]+)"
                       r"(?::(?P<tag>[^@]+))?(?:@(?P<digest>sha256:\w+))?")  # fmt: skip


@dataclass(frozen=True, slots=True)
class EndpointState:
    """An endpoint as it stands."""

    name: str
    status: str
    instance_type: str
    instances: int
    copies: int | None
    """Of its inference component; None: it has none."""
    tags: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    """Why it failed, or why its last update was taken back."""


class Endpoints:
    """Endpoints of one account and region.

    Args:
        tell: is told each change of a state.
        poll_seconds: between two looks at what is changing.
    """

    def __init__(
        self,
        clients: AwsClients,
        place: ServingPlace,
        tell: Callable[[str], object] = lambda _: None,
        poll_seconds: float = 10.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clients = clients
        self._place = place
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._sleep = sleep

    # --- what there is ---

    @property
    def region(self) -> str:
        return self._clients.region

    def list_endpoints(self, project: str | None = None) -> list[EndpointState]:
        """Return the endpoints of a project by name; None: all of the account and region."""
        names = self._names("list_endpoints", "Endpoints", "EndpointName", "")
        found = [state for name in names if (state := self.find(name)) is not None]
        return [state for state in found if project is None or state.tags.get("project") == project]

    def find(self, name: str) -> EndpointState | None:
        """Return an endpoint; None: there is none of that name."""
        told = self._describe_endpoint(name)
        if told is None:
            return None
        config = self._describe_config(told["EndpointConfigName"])
        variant = (config or {}).get("ProductionVariants", [{}])[0]
        component = self._describe_component(name)
        running = (told.get("ProductionVariants") or [{}])[0]
        return EndpointState(
            name,
            told["EndpointStatus"],
            variant.get("InstanceType", "unknown"),
            running.get("CurrentInstanceCount", variant.get("InitialInstanceCount", 0)),
            None if component is None else _copies_of(component),
            self._tags(told["EndpointArn"]),
            mask_ids(str(told.get("FailureReason") or (component or {}).get("FailureReason") or "")),
        )

    # --- deploying ---

    def check(self, plan: Plan, instance_types: frozenset[str]) -> None:
        """Refuse a plan that cannot work, before anything is made or paid for.

        Raises:
            ConfigurationError: credentials, region, image, role or a key of the file are wrong.
            DeploymentError: the name is another project's, or somebody else is changing the endpoint.
        """
        check_plan(plan, instance_types)
        if not is_pushed(self._clients, plan.image):
            raise DeploymentError(
                f"container.image was never pushed: {mask_ids(plan.image)} is not in ECR. Build and push it, or correct the "
                "tag."
            )
        self._refuse_others(plan)

    def deploy(self, plan: Plan) -> EndpointState:
        """Make what a plan asks for, or change what is there into it; wait until it serves.

        A first deployment that fails leaves nothing; a later one leaves what served before. One that takes too long leaves all.

        Raises:
            ConfigurationError, DeploymentError: says why, and what is left.
            DeploymentTimeoutError: what was begun goes on in AWS.
        """
        self._refuse_others(plan)
        state = self._describe_endpoint(plan.endpoint)
        first = state is None or state["EndpointStatus"] in ("Failed", "Deleting", "Creating")
        if plan.deployment.component is not None and not first:
            component = self._describe_component(plan.endpoint)
            first = component is None or component["InferenceComponentStatus"] in ("Failed", "Creating")
            if first and state is not None and state["EndpointStatus"] == "InService":
                first = not self._answers_alone(state)
        try:
            self._make(plan)
        except DeploymentTimeoutError:
            raise  # it may yet come: nothing is taken away
        except TwinError as error:
            raise type(error)(f"{error} {self._clean_up(plan, first=first)}") from error
        found = self.find(plan.endpoint)
        assert found is not None
        return found

    def _make(self, plan: Plan) -> None:
        if plan.model.files:
            with explain_failures(f"Uploading the model to s3://{plan.place.bucket}/{plan.model_folder}"):
                upload_missing(
                    self._clients.get("s3"),
                    plan.place.bucket,
                    plan.model_folder,
                    plan.model.files,
                    plan.model.label,
                    plan.place.kms_key,
                )
        self._create("model", plan.model_request())
        self._create("endpoint_config", plan.config_request())
        for request in plan.alarm_requests():
            with explain_failures(f"Setting the alarm {request['AlarmName']}"):
                self._clients.get("cloudwatch").put_metric_alarm(**request)
        self._make_endpoint(plan)
        self._make_component(plan)
        apply_scaling(self._clients, plan.deployment, plan.owner_tags)
        self._apply_tags(plan)
        self._tidy(plan.endpoint, plan.deployment.project)

    def _make_endpoint(self, plan: Plan) -> None:
        name, wanted = plan.endpoint, plan.config_request()["EndpointConfigName"]
        state = self._settle_endpoint(plan)
        if state is not None and state["EndpointStatus"] == "Failed":
            self._tell(f"endpoint {name} is left from a failed start: it is made anew")
            self._delete_component(name)
            self._delete_endpoint(name)
            state = None
        if state is not None and state["EndpointStatus"] in _BROKEN:
            raise DeploymentError(
                f"The endpoint {name} is {state['EndpointStatus']} and cannot be changed: delete it ({POE} "
                f"delete-inference-endpoint {name} --yes) and deploy again."
            )
        if state is None:
            self._create("endpoint", {"EndpointName": name, "EndpointConfigName": wanted, "Tags": plan.tags})
        elif state["EndpointConfigName"] != wanted:
            self._tell(f"endpoint {name} gets other machines, beside those that serve")
            with explain_failures(f"Updating the endpoint {name}"):
                call_unless(
                    self._begun(
                        lambda: self._describe_endpoint(name),
                        "EndpointStatus",
                        lambda now: bool(now["EndpointConfigName"] == wanted),
                    ),
                    self._client.update_endpoint,
                    EndpointName=name,
                    EndpointConfigName=wanted,
                    RetainAllVariantProperties=False,
                    DeploymentConfig=plan.endpoint_rollout(),
                )
        else:
            return
        state = self._settle_endpoint(plan)
        if state is None or state["EndpointStatus"] != "InService":
            raise self._failure("endpoint", name, state or {})
        if state["EndpointConfigName"] != wanted:
            raise self._taken_back(plan, state)

    def _make_component(self, plan: Plan) -> None:
        name = plan.endpoint
        component = plan.deployment.component
        if component is None:
            self._delete_component(name)
            return
        wanted = plan.component_specification()
        state = self._settle_component(plan)
        if state is not None and state["InferenceComponentStatus"] == "Failed":
            self._tell(f"component {name} is left from a failed start: it is made anew")
            self._delete_component(name)
            state = None
        copies = {"CopyCount": component.copies}
        if state is None:
            request = {
                "InferenceComponentName": name,
                "EndpointName": name,
                "VariantName": VARIANT,
                "Specification": wanted,
                "RuntimeConfig": copies,
                "Tags": plan.tags,
            }
            self._create("inference_component", request)
        elif not _equals(state["Specification"], wanted):
            self._tell(f"component {name} gets {plan.model.label}, some copies at a time")
            with explain_failures(f"Updating the inference component {name}"):
                call_unless(
                    self._begun(
                        lambda: self._describe_component(name),
                        "InferenceComponentStatus",
                        lambda now: _equals(now["Specification"], wanted),
                    ),
                    self._client.update_inference_component,
                    InferenceComponentName=name,
                    Specification=wanted,
                    DeploymentConfig=plan.component_rollout(),
                )
        elif plan.deployment.scaling is None and _copies_of(state) != component.copies:
            with explain_failures(f"Setting the copies of {name}"):
                call_unless(
                    self._begun(
                        lambda: self._describe_component(name),
                        "InferenceComponentStatus",
                        lambda now: _copies_of(now) == component.copies,
                    ),
                    self._client.update_inference_component_runtime_config,
                    InferenceComponentName=name,
                    DesiredRuntimeConfig=copies,
                )
        else:
            return
        state = self._settle_component(plan)
        if state is None or state["InferenceComponentStatus"] != "InService":
            raise self._failure("inference component", name, state or {})
        if not _equals(state["Specification"], wanted):
            raise self._taken_back(plan, state)

    def _refuse_others(self, plan: Plan) -> None:
        """Leave alone what is another project's, and what somebody else is changing."""
        name, state = plan.endpoint, self._describe_endpoint(plan.endpoint)
        component = self._describe("inference_component", InferenceComponentName=name)
        if component is not None and component["EndpointName"] != name:
            raise DeploymentError(
                f"The name {name} is taken by an inference component of the endpoint {component['EndpointName']}. Take another "
                "in the file ('endpoint')."
            )
        if state is None:
            return
        self._refuse_foreign(name, plan.deployment.project, self._tags(state["EndpointArn"]))
        if state["EndpointStatus"] not in _CHANGING:
            return
        pending = state.get("PendingDeploymentSummary", {}).get(
            "EndpointConfigName", state["EndpointConfigName"]
        )
        if pending != plan.config_request()["EndpointConfigName"]:
            raise DeploymentError(
                f"The endpoint {name} is {state['EndpointStatus']} at the moment, to another configuration ({pending}): somebody "
                f"else deploys it. Wait until {POE} list-inference-endpoints says InService, and deploy again."
            )

    def _refuse_foreign(self, name: str, project: str, tags: Mapping[str, str]) -> None:
        if tags.get("project") != project:
            owner = tags.get("project")
            raise DeploymentError(
                f"The endpoint {name} belongs to {f'the project {owner}' if owner else 'somebody else (it has no tag project)'}, "
                f"not to {project}: it is left alone. Take another name in the file ('endpoint'), or correct 'project'."
            )

    # --- deleting ---

    def delete(self, name: str, project: str, *, keep_logs: bool = False) -> list[str]:
        """Delete an endpoint with all that belongs to it: scaling, component, configurations, models, alarms, files, logs; its
        queue of asynchronous requests, and the models and files of its batches. What a bucket with versions keeps is not touched.

        Returns:
            What was deleted.

        Raises:
            InvalidInputError: there is nothing of that name; the message says what there is.
            DeploymentError: it is another project's, or AWS refuses.
        """
        state = self._describe_endpoint(name)
        if state is not None:
            self._refuse_foreign(name, project, self._tags(state["EndpointArn"]))
        removed = self._remove_all(name, project, keep_logs=keep_logs) + self._delete_batches(name, project)
        if not removed:
            there = ", ".join(one.name for one in self.list_endpoints(project)) or "none"
            raise InvalidInputError(
                f"There is no endpoint {name} in {self._clients.region}, and nothing is left of one. Endpoints of {project} "
                f"there: {there}."
            )
        return removed

    def _remove_all(self, name: str, project: str, *, keep_logs: bool) -> list[str]:
        removed = remove_scaling(self._clients, name)
        if self._delete_component(name):
            removed.append(f"inference component {name}")
        if self._delete_endpoint(name):
            removed.append(f"endpoint {name}")
        removed += self._tidy(name, project)
        removed += self._delete_alarms(name, project)
        if not keep_logs:
            removed += self._delete_logs(name)
        return removed

    def _clean_up(self, plan: Plan, *, first: bool) -> str:
        """Take away what a deployment that failed has made; what is left, in a sentence."""
        self._tell("taking away what was made")
        try:
            if first:
                self._remove_all(plan.endpoint, plan.deployment.project, keep_logs=True)
                return "What had been made was taken away again: nothing runs, nothing costs."
            self._tidy(plan.endpoint, plan.deployment.project)
            if self._serves(plan):
                return f"{plan.model.label} serves already; the same command makes up for the rest."
            state = self._describe_endpoint(plan.endpoint)
            if state is not None and (
                self._answers_alone(state) or self._describe_component(plan.endpoint) is not None
            ):
                return "The model before serves on."
            return (
                f"The endpoint {plan.endpoint} has no model at the moment, and costs: deploy again, or take it away "
                f"({POE} delete-inference-endpoint {plan.endpoint} --yes)."
            )
        except TwinError as error:
            return (
                f"What had been made could not be taken away ({error}) and may cost: run {POE} delete-inference-endpoint "
                f"{plan.endpoint} --yes, or deploy again."
            )

    def _answers_alone(self, state: Mapping[str, Any]) -> bool:
        """Whether an endpoint has a model of its own, beside any component."""
        config = self._describe_config(state["EndpointConfigName"]) or {}
        return any(variant.get("ModelName") for variant in config.get("ProductionVariants", ()))

    def _serves(self, plan: Plan) -> bool:
        """Whether the model of a plan is the one that answers."""
        if plan.deployment.component is None:
            state = self._describe_endpoint(plan.endpoint)
            return (
                state is not None
                and state["EndpointConfigName"] == plan.config_request()["EndpointConfigName"]
            )
        component = self._describe_component(plan.endpoint)
        return component is not None and _equals(component["Specification"], plan.component_specification())

    def _delete_component(self, name: str) -> bool:
        state = self._wait(
            lambda: self._describe_component(name), "InferenceComponentStatus", f"component {name}"
        )
        if state is None:
            return False
        self._tell(f"deleting component {name}")
        with explain_failures(f"Deleting the inference component {name}"):
            call_unless(
                lambda error: (
                    is_absent(error)
                    or self._begun(lambda: self._describe_component(name), "InferenceComponentStatus")(error)
                ),
                self._client.delete_inference_component,
                InferenceComponentName=name,
            )
        self._wait_until_gone(
            lambda: self._describe_component(name), "InferenceComponentStatus", f"component {name}"
        )
        return True

    def _delete_endpoint(self, name: str) -> bool:
        state = self._wait(lambda: self._describe_endpoint(name), "EndpointStatus", f"endpoint {name}")
        if state is None:
            return False
        self._tell(f"deleting endpoint {name}")
        with explain_failures(f"Deleting the endpoint {name}"):
            call_unless(
                lambda error: (
                    is_absent(error)
                    or self._begun(lambda: self._describe_endpoint(name), "EndpointStatus")(error)
                ),
                self._client.delete_endpoint,
                EndpointName=name,
            )
        self._wait_until_gone(lambda: self._describe_endpoint(name), "EndpointStatus", f"endpoint {name}")
        return True

    def _tidy(self, name: str, project: str) -> list[str]:
        """Delete the models, their files and the configurations of an endpoint that nothing uses."""
        used: set[str | None] = set()
        configs: set[str] = set()
        if (state := self._describe_endpoint(name)) is not None:
            configs.add(state["EndpointConfigName"])
            config = self._describe_config(state["EndpointConfigName"]) or {}
            used |= {variant.get("ModelName") for variant in config.get("ProductionVariants", ())}
        if (component := self._describe_component(name)) is not None:
            used.add(component["Specification"].get("ModelName"))
        keep = used | configs
        removed = self._delete_named("endpoint_config", f"{name}-", project, keep)
        removed += self._delete_named("model", f"{name}-", project, keep)
        return removed + self._delete_files(artifact_folder(self._place, name), self._places(used))

    def _delete_named(
        self, kind: str, beginning: str, project: str, keep: Collection[str | None] = ()
    ) -> list[str]:
        """Delete a project's models or configurations that are called by this beginning and a digest."""
        key = "ModelName" if kind == "model" else "EndpointConfigName"
        listed = "Models" if kind == "model" else "EndpointConfigs"
        removed = []
        for found in self._names(f"list_{kind}s", listed, key, beginning):
            ours = re.fullmatch(rf"{re.escape(beginning)}[0-9a-f]{{8}}", found)
            if not ours or found in keep or not self._is_of(kind, found, project):
                continue
            with explain_failures(f"Deleting the {kind.replace('_', ' ')} {found}"):
                call_unless(is_absent, getattr(self._client, f"delete_{kind}"), **{key: found})
            removed.append(f"{kind.replace('_', ' ')} {found}")
        return removed

    def _delete_batches(self, name: str, project: str) -> list[str]:
        """Delete an asynchronous endpoint's queue, and the models and files of transform jobs."""
        removed = self._delete_named("model", f"{name}-batch-", project)
        removed += self._delete_files(async_folder(self._place, name))
        beginning = batch_folder(self._place, name).removesuffix("/")
        return removed + self._delete_files(
            f"{beginning}-", only=rf"{re.escape(beginning)}-([0-9a-f]{{8}}|models)/.+"
        )

    def _places(self, models: set[str | None]) -> tuple[str, ...]:
        """Where the files of models lie."""
        found = [self._describe("model", ModelName=model) for model in sorted(filter(None, models))]
        return tuple(
            model["PrimaryContainer"].get("ModelDataSource", {}).get("S3DataSource", {}).get("S3Uri", "")
            for model in found
            if model is not None
        )

    def _delete_alarms(self, name: str, project: str) -> list[str]:
        client = self._clients.get("cloudwatch")
        names = [f"{name}-{kind}" for kind in ("errors", "latency", "wake")]
        with explain_failures(f"Deleting the alarms of {name}"):
            found = client.describe_alarms(AlarmNames=names)["MetricAlarms"]
            ours = [
                alarm["AlarmName"]
                for alarm in found
                if _mapping(client.list_tags_for_resource(ResourceARN=alarm["AlarmArn"])["Tags"]).get(
                    "project"
                )
                == project
            ]
            if ours:
                client.delete_alarms(AlarmNames=ours)
        return [f"alarm {one}" for one in ours]

    def _delete_files(self, folder: str, keep: tuple[str, ...] = (), only: str = ".*") -> list[str]:
        """Delete what lies under a key.

        Args:
            keep: addresses under which all stays.
            only: expression of the keys that go.
        """
        client = self._clients.get("s3")
        place = f"s3://{self._place.bucket}/{folder}"
        with explain_failures(f"Deleting {place}"):
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self._place.bucket, Prefix=folder)
            keys = [
                {"Key": item["Key"]}
                for page in pages
                for item in page.get("Contents", ())
                if re.fullmatch(only, item["Key"], re.DOTALL)
                and not f"s3://{self._place.bucket}/{item['Key']}".startswith(tuple(filter(None, keep)))
            ]
            for start in range(0, len(keys), 1000):
                client.delete_objects(
                    Bucket=self._place.bucket, Delete={"Objects": keys[start : start + 1000]}
                )
        return [f"{len(keys)} file(s) in {place}"] if keys else []

    def _delete_logs(self, name: str) -> list[str]:
        removed = []
        for group in _log_groups(name):
            with explain_failures(f"Deleting the log {group}"):
                found = self._clients.get("logs").describe_log_groups(logGroupNamePrefix=group)["logGroups"]
                if any(one["logGroupName"] == group for one in found):
                    call_unless(is_absent, self._clients.get("logs").delete_log_group, logGroupName=group)
                    removed.append(f"log {group}")
        return removed

    # --- asking and waiting ---

    @property
    def _client(self) -> Any:
        return self._clients.get("sagemaker")

    def _describe_endpoint(self, name: str) -> dict[str, Any] | None:
        return self._describe("endpoint", EndpointName=name)

    def _describe_config(self, name: str) -> dict[str, Any] | None:
        return self._describe("endpoint_config", EndpointConfigName=name)

    def _describe_component(self, name: str) -> dict[str, Any] | None:
        """The component of an endpoint, which has its name; one of another endpoint is none of ours."""
        told = self._describe("inference_component", InferenceComponentName=name)
        return told if told is not None and told["EndpointName"] == name else None

    def _describe(self, kind: str, **named: str) -> dict[str, Any] | None:
        with explain_failures(f"Looking for the {kind.replace('_', ' ')} {next(iter(named.values()))}"):
            told: dict[str, Any] | None = call_unless(
                is_absent, getattr(self._client, f"describe_{kind}"), **named
            )
        return told

    def _tags(self, arn: str) -> dict[str, str]:
        with explain_failures("Reading tags"):
            told = call_unless(is_absent, self._client.list_tags, ResourceArn=arn)
        return _mapping((told or {}).get("Tags", []))

    def _is_of(self, kind: str, name: str, project: str) -> bool:
        told = self._describe(kind, **{"ModelName" if kind == "model" else "EndpointConfigName": name})
        arn = "" if told is None else told["ModelArn" if kind == "model" else "EndpointConfigArn"]
        return bool(arn) and self._tags(arn).get("project") == project

    def _names(self, call: str, listed: str, key: str, part: str) -> list[str]:
        with explain_failures("Listing what there is"):
            pages = self._client.get_paginator(call).paginate(**({"NameContains": part} if part else {}))
            return [item[key] for page in pages for item in page[listed]]

    def _create(self, kind: str, request: Mapping[str, Any]) -> None:
        """Create what is not there yet: its name tells what it is."""
        name = next(iter(request.values()))
        with explain_failures(f"Making the {kind.replace('_', ' ')} {name}"):
            # There already: an earlier call has made it, or this one whose answer was lost.
            made = call_unless(
                lambda error: "already existing" in str(error),
                getattr(self._client, f"create_{kind}"),
                **request,
            )
        if made is not None:
            self._tell(f"{kind.replace('_', ' ')} {name} is made")

    def _apply_tags(self, plan: Plan) -> None:
        """Have the tags of what stays over updates tell what serves now."""
        wanted = _mapping(plan.tags)
        for state, key in (
            (self._describe_endpoint(plan.endpoint), "EndpointArn"),
            (self._describe_component(plan.endpoint), "InferenceComponentArn"),
            (self._describe("model", ModelName=plan.model_request()["ModelName"]), "ModelArn"),
        ):
            if state is None:
                continue
            there = self._tags(state[key])
            with explain_failures(f"Tagging {plan.endpoint}"):
                if any(there.get(name) != value for name, value in wanted.items()):
                    self._client.add_tags(ResourceArn=state[key], Tags=plan.tags)
                if stale := sorted(there.keys() - wanted.keys()):
                    self._client.delete_tags(ResourceArn=state[key], TagKeys=stale)

    def _begun(
        self,
        look: Callable[[], dict[str, Any] | None],
        key: str,
        reached: Callable[[dict[str, Any]], bool] | None = None,
    ) -> Callable[[Exception], bool]:
        """Whether a change was refused because it is going on, or is done already: AWS has begun it, its answer was lost, and the
        SDK asked again. What comes of it is compared with the plan in any case.

        Args:
            reached: whether a state is what the change leads to; None: it leads to the thing's end.
        """

        def is_begun(error: Exception) -> bool:
            if is_absent(error) or not code_of(error).startswith("Validation"):
                return False
            state = look()
            if state is None:
                return reached is None
            return state[key] in (*_CHANGING, "Deleting") or (reached is not None and reached(state))

        return is_begun

    def _settle_endpoint(self, plan: Plan) -> dict[str, Any] | None:
        name = plan.endpoint
        return self._wait(
            lambda: self._describe_endpoint(name),
            "EndpointStatus",
            f"endpoint {name}",
            plan.deployment.max_minutes,
        )

    def _settle_component(self, plan: Plan) -> dict[str, Any] | None:
        name = plan.endpoint
        return self._wait(
            lambda: self._describe_component(name),
            "InferenceComponentStatus",
            f"component {name}",
            plan.deployment.max_minutes,
        )

    def _wait(
        self, look: Callable[[], dict[str, Any] | None], key: str, what: str, max_minutes: float = 60
    ) -> dict[str, Any] | None:
        """The state once it no longer changes; None: it is gone."""
        for state in self._watch(look, key, what, max_minutes):
            if state is None or state[key] not in (*_CHANGING, "Deleting"):
                return state
        raise AssertionError("unreachable")

    def _wait_until_gone(self, look: Callable[[], dict[str, Any] | None], key: str, what: str) -> None:
        for state in self._watch(look, key, what, 60):
            if state is None:
                return
            if state[key] == "Failed":
                raise DeploymentError(
                    f"{what} could not be deleted: {mask_ids(str(state.get('FailureReason', '')))}"
                )

    def _watch(
        self, look: Callable[[], dict[str, Any] | None], key: str, what: str, max_minutes: float
    ) -> Iterator[dict[str, Any] | None]:
        waited, told = 0.0, ""
        while True:
            state = look()
            status = "gone" if state is None else str(state[key])
            if status != told and (told or status != "gone"):
                self._tell(f"{what}: {status}{f' after {waited / 60:.1f} min' if waited else ''}")
            told = status
            yield state
            if waited >= max_minutes * 60:
                raise DeploymentTimeoutError(
                    f"The {what} is still {status} after {waited / 60:.0f} min. It may yet come, and costs: the same command "
                    "waits on; raise max_minutes where a model is this large."
                )
            self._sleep(self._poll_seconds)
            waited += self._poll_seconds

    # --- reasons ---

    def _failure(self, what: str, name: str, state: Mapping[str, Any]) -> DeploymentError:
        reason = str(state.get("FailureReason") or "AWS gives no reason").rstrip(". ")
        lines = self._last_lines(name)
        log = f" Its log ends with: {' | '.join(lines)}." if lines else ""
        return DeploymentError(
            f"The {what} {name} failed: {mask_ids(reason, _LONGEST_REASON)}.{log} {advise(' '.join([reason, *lines]))}".rstrip()
        )

    def _taken_back(self, plan: Plan, state: Mapping[str, Any]) -> DeploymentError:
        reason = str(state.get("FailureReason") or "AWS gives no reason").rstrip(". ")
        with explain_failures("Reading the alarms"):
            found = self._clients.get("cloudwatch").describe_alarms(AlarmNames=list(plan.alarm_names))
        ringing = [
            f"{alarm['AlarmName']} ({alarm.get('StateReason', '')})"
            for alarm in found["MetricAlarms"]
            if alarm["StateValue"] == "ALARM"
        ]
        alarms = f" Alarms that are on: {', '.join(ringing)}." if ringing else ""
        return DeploymentError(
            f"The update of {plan.endpoint} to {plan.model.label} was taken back: {mask_ids(reason, _LONGEST_REASON)}.{alarms} "
            f"{advise('alarm' if ringing else reason)}".rstrip()
        )

    def _last_lines(self, name: str) -> list[str]:
        """The end of the container's log; nothing where it cannot be read: the reason above is what counts."""
        lines: list[str] = []
        client = self._clients.get("logs")
        for group in _log_groups(name):
            found = call_unless(
                lambda _: True,
                client.describe_log_streams,
                logGroupName=group,
                orderBy="LastEventTime",
                descending=True,
                limit=1,
            )
            for stream in (found or {}).get("logStreams", ()):
                told = call_unless(
                    lambda _: True,
                    client.get_log_events,
                    logGroupName=group,
                    logStreamName=stream["logStreamName"],
                    limit=_LOG_LINES,
                )
                lines += [mask_ids(event["message"].strip()) for event in (told or {}).get("events", ())]
        return lines[-_LOG_LINES:]


def is_pushed(clients: AwsClients, image: str) -> bool:
    """Return whether an image is in the account's registry; one of another account (AWS's own) is not looked for."""
    found = _REGISTRY.fullmatch(image)
    if found is None or found["account"] != clients.account:
        return True
    wanted = {"imageDigest": found["digest"]} if found["digest"] else {"imageTag": found["tag"] or "latest"}
    with explain_failures(f"Looking for the image {image}"):
        there = call_unless(
            lambda error: code_of(error) in ("RepositoryNotFoundException", "ImageNotFoundException"),
            clients.get("ecr").describe_images,
            repositoryName=found["name"],
            imageIds=[wanted],
        )
    return there is not None


def _log_groups(name: str) -> tuple[str, str]:
    return f"/aws/sagemaker/Endpoints/{name}", f"/aws/sagemaker/InferenceComponents/{name}"


def _copies_of(component: Mapping[str, Any]) -> int:
    return int(component["RuntimeConfig"].get("DesiredCopyCount", 0))


def _mapping(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def _equals(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a specification is the wanted one; AWS adds facts of its own."""
    return all(
        _equals(there.get(key, {}), value) if isinstance(value, Mapping) else there.get(key) == value
        for key, value in wanted.items()
    )
