"""What a job's container writes, from CloudWatch."""

from collections.abc import Iterator
from typing import Any

from loguru import logger

_GROUP = "/aws/sagemaker/TrainingJobs"


class JobLog:
    """New lines of the first machine's log, each once. Not being allowed to read it ends the reading, not the job."""

    def __init__(self, client: Any, job: str) -> None:
        self._client = client
        self._job = job
        self._stream: str | None = None
        self._token: str | None = None
        self._readable = True

    def lines(self) -> Iterator[str]:
        """Yield what came since the last call."""
        from botocore.exceptions import BotoCoreError, ClientError

        if not self._readable:
            return
        try:
            yield from self._new()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "ResourceNotFoundException":
                return  # nothing was written yet
            self._give_up(error)
        except BotoCoreError as error:
            self._give_up(error)

    def _new(self) -> Iterator[str]:
        if self._stream is None:
            found = self._client.describe_log_streams(
                logGroupName=_GROUP, logStreamNamePrefix=f"{self._job}/"
            )
            names = sorted(stream["logStreamName"] for stream in found["logStreams"])
            if not names:
                return
            self._stream = names[0]
        while True:
            given = {"nextToken": self._token} if self._token else {}
            told = self._client.get_log_events(
                logGroupName=_GROUP, logStreamName=self._stream, startFromHead=True, **given
            )
            yield from (event["message"].rstrip("\n") for event in told["events"])
            if not told["events"] or told["nextForwardToken"] == self._token:
                return
            self._token = told["nextForwardToken"]

    def _give_up(self, error: Exception) -> None:
        self._readable = False
        logger.warning(
            "The log of {} cannot be read ({}): look for it in CloudWatch, {}.",
            self._job,
            type(error).__name__,
            _GROUP,
        )
