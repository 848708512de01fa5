"""Many requests answered by a transform job, or by an asynchronous endpoint's queue. Both go on where they were broken off."""

import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from llm_engineering.application.deployment.batch import BatchAnswer, BatchRequest, read_reply
from llm_engineering.domain.documents import text_hash
from llm_engineering.domain.errors import ConfigurationError, DeploymentError
from llm_engineering.infrastructure.aws.clients import AwsClients
from llm_engineering.infrastructure.aws.faults import advise, explain_failures
from llm_engineering.infrastructure.aws.requests import Plan, ServingPlace, async_folder, batch_folder
from llm_engineering.infrastructure.shared.aws import call_unless, code_of, is_absent, mask_ids
from llm_engineering.infrastructure.shared.s3_upload import upload_missing

_DIGEST = 8


class Batches:
    """Batches of one account and region.

    Args:
        tell: is told each change of a state.
        poll_seconds: between two looks at what is in progress.
        max_hours: longest time for a batch.
    """

    def __init__(
        self,
        clients: AwsClients,
        place: ServingPlace,
        tell: Callable[[str], object] = lambda _: None,
        poll_seconds: float = 20.0,
        max_hours: float = 24.0,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._clients = clients
        self._place = place
        self._tell = tell
        self._poll_seconds = poll_seconds
        self._max_hours = max_hours
        self._sleep = sleep
        self.machine_seconds = 0.0
        """Of the last transform job: what is paid for."""

    # --- a queue ---

    def ask_asynchronously(self, endpoint: str, requests: Sequence[BatchRequest]) -> Iterator[BatchAnswer]:
        """Put requests into an asynchronous endpoint's queue, and yield each answer when it has come.

        Where each answer will lie is kept in S3, so that a second call waits for what the first has asked, and asks no twice.

        Raises:
            ConfigurationError, DeploymentError: AWS refuses, cannot be reached, or takes too long.
        """
        client, folder = self._clients.get("s3"), async_folder(self._place, endpoint) + "requests/"
        open_requests: dict[str, tuple[BatchRequest, dict[str, str]]] = {}
        for request in requests:
            key = f"{folder}{request.digest}"
            with explain_failures(f"Asking {endpoint}"):
                known = self._read(f"s3://{self._place.bucket}/{key}.location")
                if known is None:
                    client.put_object(
                        Bucket=self._place.bucket, Key=f"{key}.json", Body=request.body.encode()
                    )
                    told = self._clients.get("sagemaker-runtime").invoke_endpoint_async(
                        EndpointName=endpoint,
                        InputLocation=f"s3://{self._place.bucket}/{key}.json",
                        ContentType="application/json",
                        InvocationTimeoutSeconds=3600,
                    )
                    places = {"reply": told["OutputLocation"], "failure": told.get("FailureLocation", "")}
                    client.put_object(
                        Bucket=self._place.bucket, Key=f"{key}.location", Body=json.dumps(places).encode()
                    )
                else:
                    places = json.loads(known)
            open_requests[request.id] = (request, places)
        self._tell(f"{len(open_requests)} request(s) in the queue of {endpoint}")
        waited = 0.0
        while open_requests:
            for name, (request, places) in list(open_requests.items()):
                with explain_failures("Looking for answers"):
                    reply = self._read(places["reply"])
                    failure = self._read(places["failure"]) if reply is None and places["failure"] else None
                if reply is None and failure is None:
                    continue
                del open_requests[name]
                if reply is None:
                    # It may be asked again: where the answer would lie is forgotten.
                    key = f"{folder}{request.digest}.location"
                    with explain_failures("Forgetting a failed request"):
                        client.delete_object(Bucket=self._place.bucket, Key=key)
                    yield BatchAnswer(name, error=mask_ids((failure or b"").decode(errors="replace")))
                else:
                    yield read_reply(name, reply)
            if open_requests:
                self._wait(waited, f"{len(open_requests)} answer(s) are still to come")
                waited += self._poll_seconds

    # --- a job ---

    def transform(self, plan: Plan, requests: Sequence[BatchRequest]) -> Iterator[BatchAnswer]:
        """Have a transform job answer requests, on machines of its own that end with it. The same requests are the same job,
        unless some of them failed there.

        Raises:
            ConfigurationError: the model lies unpacked in S3, which transform jobs cannot read.
            DeploymentError: the job failed or takes too long, or AWS refuses.
        """
        if plan.model.s3 is not None:
            raise ConfigurationError(
                "A transform job cannot read model.s3, a folder: AWS wants one archive. Name a model of the registry or the hub, "
                "or take an asynchronous endpoint (--way asynchronous)."
            )
        model = self._make_model(plan)
        lines = "".join(f"{request.body}\n" for request in requests).encode()
        job = f"{plan.endpoint}-{text_hash(model + text_hash(lines.decode()))[:_DIGEST]}"
        folder = batch_folder(self._place, job)
        name = self._start(plan, model, job, folder, lines)
        state = self._follow(name)
        started, ended = state.get("TransformStartTime"), state.get("TransformEndTime")
        if started and ended:
            self.machine_seconds = (ended - started).total_seconds() * plan.deployment.instance.count
        reply = self._read(f"s3://{self._place.bucket}/{folder}answers/requests.jsonl.out")
        replies = [] if reply is None else [line for line in reply.split(b"\n") if line.strip()]
        if len(replies) != len(requests):
            raise DeploymentError(
                f"The transform job {job} was given {len(requests)} lines and has written {len(replies)}: which is whose cannot "
                "be told. A container must answer in one line."
            )
        answers = [read_reply(request.id, line) for request, line in zip(requests, replies, strict=True)]
        if any(answer.error for answer in answers):
            with explain_failures(f"Noting that requests of {name} failed"):
                self._clients.get("s3").put_object(
                    Bucket=self._place.bucket, Key=_failed_key(folder, name), Body=b""
                )
        yield from answers
        with explain_failures(f"Deleting the model {model}"):
            call_unless(is_absent, self._clients.get("sagemaker").delete_model, ModelName=model)

    def _make_model(self, plan: Plan) -> str:
        """A model from an archive, packed once: transform jobs cannot read a folder."""
        request = plan.model_request()
        container = request["PrimaryContainer"]
        if plan.model.files:
            folder = batch_folder(self._place, f"{plan.endpoint}-models")
            archive = f"{plan.model.content_hash}.tar.gz"
            if not self._is_there(folder + archive):
                self._tell(f"packing {plan.model.label}")
                with tempfile.TemporaryDirectory(prefix="batch-") as work:
                    file = Path(work) / archive
                    with tarfile.open(file, "w:gz", compresslevel=1) as packed:
                        for inside, path in plan.model.files.items():
                            packed.add(path, inside)
                    with explain_failures(f"Uploading s3://{self._place.bucket}/{folder}{archive}"):
                        upload_missing(
                            self._clients.get("s3"),
                            self._place.bucket,
                            folder,
                            {archive: file},
                            plan.model.label,
                            self._place.kms_key,
                        )
            container.pop("ModelDataSource")
            container["ModelDataUrl"] = f"s3://{self._place.bucket}/{folder}{archive}"
        name: str = request["ModelName"].replace(f"{plan.endpoint}-", f"{plan.endpoint}-batch-", 1)
        with explain_failures(f"Making the model {name}"):
            call_unless(
                lambda error: "already existing" in str(error),
                self._clients.get("sagemaker").create_model,
                **{**request, "ModelName": name},
            )
        return name

    def _start(self, plan: Plan, model: str, job: str, folder: str, lines: bytes) -> str:
        """The job's name: of the one that runs or is done, or of a new one."""
        client = self._clients.get("sagemaker")
        with explain_failures(f"Starting the transform job {job}"):
            state = call_unless(is_absent, client.describe_transform_job, TransformJobName=job)
            name, number = job, 1
            # A job that ended with failed requests is done again: they may be asked anew.
            while state is not None and (
                state["TransformJobStatus"] in ("Failed", "Stopped")
                or (state["TransformJobStatus"] == "Completed" and self._is_there(_failed_key(folder, name)))
            ):
                number += 1
                name = f"{job}-{number}"
                state = call_unless(is_absent, client.describe_transform_job, TransformJobName=name)
            if state is not None:
                self._tell(f"transform job {name} is there already ({state['TransformJobStatus']})")
                return name
            upload_missing(
                self._clients.get("s3"),
                self._place.bucket,
                f"{folder}input/",
                {"requests.jsonl": lines},
                "requests",
                self._place.kms_key,
            )
            base = f"s3://{self._place.bucket}/{folder}"
            client.create_transform_job(
                TransformJobName=name,
                ModelName=model,
                BatchStrategy="SingleRecord",
                TransformInput={
                    "DataSource": {
                        "S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": f"{base}input/requests.jsonl"}
                    },
                    "ContentType": "application/json",
                    "SplitType": "Line",
                },
                TransformOutput={
                    "S3OutputPath": f"{base}answers",
                    "AssembleWith": "Line",
                    "Accept": "application/json",
                    **({} if self._place.kms_key is None else {"KmsKeyId": self._place.kms_key}),
                },
                TransformResources={
                    "InstanceType": plan.deployment.instance.type,
                    "InstanceCount": plan.deployment.instance.count,
                },
                ModelClientConfig={"InvocationsTimeoutInSeconds": 600, "InvocationsMaxRetries": 3},
                Tags=plan.tags,
            )
        self._tell(f"transform job {name} is started")
        return name

    def _follow(self, job: str) -> dict[str, Any]:
        waited = 0.0
        while True:
            with explain_failures(f"Looking for the transform job {job}"):
                state: dict[str, Any] = self._clients.get("sagemaker").describe_transform_job(
                    TransformJobName=job
                )
            if state["TransformJobStatus"] == "Completed":
                return state
            if state["TransformJobStatus"] in ("Failed", "Stopped"):
                reason = mask_ids(str(state.get("FailureReason") or "somebody stopped it"))
                raise DeploymentError(
                    f"The transform job {job} ended without answers: {reason}. {advise(reason)} The same command starts it again."
                )
            self._wait(waited, f"transform job {job} is {state['TransformJobStatus']}")
            waited += self._poll_seconds

    def _wait(self, waited: float, what: str) -> None:
        if waited >= self._max_hours * 3600:
            raise DeploymentError(f"After {self._max_hours:g} h {what}. The same command waits on.")
        self._sleep(self._poll_seconds)

    def _read(self, uri: str) -> bytes | None:
        """An object's content; None: it is not there (yet)."""
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        told = call_unless(
            lambda error: code_of(error) in ("NoSuchKey", "404"), self._clients.get("s3").get_object, Bucket=bucket, Key=key
        )  # fmt: skip
        return None if told is None else cast(bytes, told["Body"].read())

    def _is_there(self, key: str) -> bool:
        """Whether an object is there."""
        with explain_failures(f"Looking for s3://{self._place.bucket}/{key}"):
            told = call_unless(
                lambda error: code_of(error) in ("NoSuchKey", "404"),
                self._clients.get("s3").head_object,
                Bucket=self._place.bucket,
                Key=key,
            )
        return told is not None


def _failed_key(folder: str, job: str) -> str:
    """Where it is kept that requests of a job failed."""
    return f"{folder}{job}.failed"
