"""Training jobs: started once, followed, stopped, and their result fetched."""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loguru import logger

from llm_engineering.application.training.finetune.remote import JobInput, RemoteRun, install, unpack
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TrainingError
from llm_engineering.infrastructure.shared.aws import code_of, is_absent, require_boto3
from llm_engineering.infrastructure.shared.s3_upload import upload_missing
from llm_engineering.infrastructure.training.sagemaker.faults import (
    explain_failure,
    explain_failures,
    explain_stop,
)
from llm_engineering.infrastructure.training.sagemaker.job_log import JobLog
from llm_engineering.infrastructure.training.sagemaker.request import JobPlace, input_parts, job_request

_TRIES = 50
"""Jobs of one run; AWS keeps the names of all that ever were."""
_RUNNING = ("InProgress", "Stopping")


class SageMakerJobs:
    """Training jobs in one place. The account is that of AWS's own configuration (environment, profile, role)."""

    def __init__(
        self, place: JobPlace, poll_seconds: float = 20.0, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._place = place
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._clients: dict[str, Any] = {}

    def start(self, run: RemoteRun) -> str:
        """Return the name of the run's job: the one that runs or is done, or else a new one, for which its files are
        uploaded.

        Raises:
            ConfigurationError: settings, credentials or rights are missing or wrong.
            TrainingError: AWS refuses (a quota), or cannot be reached.
            MissingDependencyError: boto3 is not installed.
        """
        self._place.check()
        if run.kind == "sft-dpo" and self._place.instance_count > 1:
            raise ConfigurationError(
                "On several machines, SFT and DPO are two jobs: one machine has the SFT model, and DPO on the others would lack "
                "it. Run the file with 'training' first, then one with 'dpo'; or set SAGEMAKER_INSTANCE_COUNT=1."
            )
        require_boto3("Training on SageMaker")
        for number in range(1, _TRIES + 1):
            name = run.job_name if number == 1 else f"{run.job_name}-{number}"
            state = self._state(name)
            if state is None:
                return self._create(name, run)
            status = state["TrainingJobStatus"]
            if status == "Stopping":  # two jobs must not write to the same checkpoints
                logger.info("The training job {} is being stopped: waiting for its end.", name)
                status = self._ended(name)["TrainingJobStatus"]
            if status in ("InProgress", "Completed"):
                logger.info("The training job {} is there already ({}).", name, status)
                return name
            logger.info("The training job {} ended without a model ({}): another one is tried.", name, status)
        raise TrainingError(
            f"{_TRIES} jobs of this run have failed. Look at the last one's log, and change the run before it is tried again."
        )

    def follow(self, name: str) -> None:
        """Tell how a job goes until it is done. Leaving this, as by Ctrl-C, leaves the job alone.

        Raises:
            TrainingError: it failed or was stopped; says why, and what to change.
            InvalidInputError: there is no such job.
        """
        told: set[tuple[str, str]] = set()
        log = JobLog(self._client("logs"), name)

        def tell(state: dict[str, Any]) -> None:
            for change in state.get("SecondaryStatusTransitions", ()):
                seen = (str(change["Status"]), str(change.get("StatusMessage", "")))
                if seen not in told:
                    told.add(seen)
                    logger.info("{}: {}", *seen)
            for line in log.lines():
                logger.info("| {}", line)

        state = self._ended(name, tell)
        status = state["TrainingJobStatus"]
        if status == "Failed":
            raise explain_failure(name, str(state.get("FailureReason", "")))
        if status != "Completed":
            raise explain_stop(name, str(state.get("SecondaryStatus", "")))
        if "BillableTimeInSeconds" in state:
            logger.info(
                "The job took {} s, of which {} s are billed.",
                state.get("TrainingTimeInSeconds", "?"),
                state["BillableTimeInSeconds"],
            )

    def stop(self, run: RemoteRun) -> list[str]:
        """Stop what runs of a run; the names of these jobs. What they have saved is kept."""
        require_boto3("Training on SageMaker")
        stopped = []
        for number in range(1, _TRIES + 1):
            name = run.job_name if number == 1 else f"{run.job_name}-{number}"
            state = self._state(name)
            if state is None:
                break
            if state["TrainingJobStatus"] == "InProgress":
                with explain_failures(f"Stopping the training job {name}"):
                    self._client("sagemaker").stop_training_job(TrainingJobName=name)
                stopped.append(name)
        return stopped

    def fetch(self, name: str, root: Path) -> list[Path]:
        """Fetch a finished job's models into ``root/NAME/RUN``, checked against their manifests; their folders.

        Raises:
            ModelFileError: the result is damaged, or is not what its manifests say.
            TrainingError: the job is not done, the disk is full, or AWS refuses.
        """
        state = self._known(name)
        if state["TrainingJobStatus"] != "Completed":
            raise TrainingError(
                f"The training job {name} has no model yet: it is {state['TrainingJobStatus']}."
            )
        bucket, _, key = state["ModelArtifacts"]["S3ModelArtifacts"].removeprefix("s3://").partition("/")
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".job-", dir=root) as folder:
            archive = Path(folder) / "model.tar.gz"
            with explain_failures(f"Fetching s3://{bucket}/{key}"):
                size = self._client("s3").head_object(Bucket=bucket, Key=key)["ContentLength"]
                logger.info("Fetching the model: {:.1f} MB.", size / 1e6)
                self._client("s3").download_file(bucket, key, str(archive))
            unpack(archive, Path(folder) / "models")
            return install(Path(folder) / "models", root)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()
        self._clients.clear()

    def _create(self, name: str, run: RemoteRun) -> str:
        self._upload(run.inputs)
        from botocore.exceptions import ClientError

        with explain_failures(f"Starting the training job {name}"):
            try:
                self._client("sagemaker").create_training_job(**job_request(name, run, self._place))
            except ClientError as error:
                if code_of(error) != "ResourceInUse":  # somebody else started the same run at the same moment
                    raise
        logger.info(
            "The training job {} is started on {} × {}{}.",
            name,
            self._place.instance_count,
            self._place.instance_type,
            ", spot" if self._place.spot else "",
        )
        return name

    def _upload(self, inputs: Sequence[JobInput]) -> None:
        for item in inputs:
            folder = self._place.object_key(*input_parts(item.channel, item.digest)) + "/"
            with explain_failures(f"Uploading {item.channel} to s3://{self._place.bucket}/{folder}"):
                upload_missing(
                    self._client("s3"),
                    self._place.bucket,
                    folder,
                    item.files,
                    item.channel,
                    self._place.kms_key,
                )

    def _ended(self, name: str, tell: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
        """The state of a job once it has ended."""
        while True:
            state = self._known(name)
            if tell is not None:
                tell(state)
            if state["TrainingJobStatus"] not in _RUNNING:
                return state
            self._sleep(self._poll_seconds)

    def _known(self, name: str) -> dict[str, Any]:
        state = self._state(name)
        if state is None:
            raise InvalidInputError(
                f"There is no training job {name} in this account and region (SAGEMAKER_REGION)."
            )
        return state

    def _state(self, name: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with explain_failures(f"Looking for the training job {name}"):
            try:
                found: dict[str, Any] = self._client("sagemaker").describe_training_job(TrainingJobName=name)
            except ClientError as error:
                if is_absent(error):
                    return None
                raise
        return found

    def _client(self, service: str) -> Any:
        if service not in self._clients:
            import boto3
            from botocore.config import Config

            config = Config(retries={"mode": "standard", "total_max_attempts": 5})
            session: Any = boto3.Session(region_name=self._place.region)
            self._clients[service] = session.client(service, config=config)
        return self._clients[service]
