"""Every error the project raises on purpose.

::

    TwinError
    ├── ConfigurationError        the user's settings, YAML or arguments are wrong
    │   └── MissingDependencyError    an optional package is not installed; names the Poetry group
    ├── InvalidInputError         one value handed in cannot be used (a question, a filter, a link)
    │   ├── UnknownFilterValueError   a filter names a value that the store does not hold
    │   └── ForeignVoteError          somebody else has voted on this answer
    ├── RunUnderWayError          the pipeline runs already
    ├── CollectionError           a link or a record could not be collected
    │   ├── FetchError                the network said no (may be worth another try)
    │   └── ExtractionError           fetched, but there is no text in it
    ├── StoreError                a document store or an index failed
    │   ├── StoreUnavailableError     it cannot be reached; names the task that starts it
    │   └── FingerprintMismatchError  the index was written by another embedder
    ├── ModelError                a model failed
    │   ├── ModelFileError            weights are missing or their checksum is wrong
    │   ├── ModelServiceError         a model server failed or answered nonsense
    │   │   └── TextRefusedError          it does not take one of the texts; the others it may
    │   ├── TemplateMismatchError     two sides mean different chat templates
    │   ├── TrainingError             a training run cannot go on
    │   ├── PromotionRefusedError     a model may not go to the stage it was sent to
    │   └── DeploymentError           an endpoint could not be made, changed or deleted
    │       └── DeploymentTimeoutError    it takes too long, and may yet come
    └── TooManyFailuresError      a step lost more than its configured share

Catch ``TwinError`` at the edge (the command line, the API); catch a leaf where there is something to do about it.
"""

from typing import Literal

from llm_engineering.domain.hints import describe_install


class TwinError(Exception):
    """Base of all errors raised on purpose. The message says what was expected, what came, and what to do."""


class ConfigurationError(TwinError):
    """Settings, a run's YAML or command-line arguments are wrong."""


class MissingDependencyError(ConfigurationError):
    """An optional package is not installed."""

    def __init__(self, package: str, group: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed. Install it with: {describe_install(group)}"
        )


class InvalidInputError(TwinError):
    """A value handed in by the caller cannot be used."""


class UnknownFilterValueError(InvalidInputError):
    """A filter names a value that the store does not hold."""


class ForeignVoteError(InvalidInputError):
    """Somebody else has voted on this answer, and only they may change the vote."""


class RunUnderWayError(TwinError):
    """A pipeline runs already, and one run of it goes on at a time."""


class CollectionError(TwinError):
    """A link or a record could not be collected."""


class FetchError(CollectionError):
    """The network or the server refused: unreachable, timed out, an error status, too large, forbidden by robots.txt."""


class ExtractionError(CollectionError):
    """Something was fetched, but it holds no usable text."""


class StoreError(TwinError):
    """A document store or an index failed."""


class StoreUnavailableError(StoreError):
    """A store cannot be reached. The message names the task that starts it."""


class FingerprintMismatchError(StoreError):
    """The index was written by another embedder than the one now configured."""


class ModelError(TwinError):
    """A model failed."""


class ModelFileError(ModelError):
    """Model files are missing, or their checksum is not the pinned one."""


class ModelServiceError(ModelError):
    """A model server failed, timed out or answered something that cannot be used.

    Args:
        reason: ``timeout`` where it took too long, ``busy`` where it turned the request away for load.
        retry_after: seconds after which the service says it may be asked again.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: Literal["failed", "timeout", "busy"] = "failed",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after = retry_after


class TextRefusedError(ModelServiceError):
    """A model server does not take what it was sent. One text among many may be the cause."""


class TemplateMismatchError(ModelError):
    """Data set, training, evaluation or serving mean different chat templates. The message names both sides."""


class TrainingError(ModelError):
    """A training run cannot go on: out of memory or disk, or a NaN loss. The message names the setting to change."""


class PromotionRefusedError(ModelError):
    """A model may not go to the stage it was sent to. The message says what is missing, and what may be done."""


class DeploymentError(ModelError):
    """An endpoint could not be made, changed or deleted. The message says why, what is left, and what it costs."""


class DeploymentTimeoutError(DeploymentError):
    """An endpoint is still changing after the longest wait. It may yet come, so nothing is taken away."""


class NotificationError(TwinError):
    """A place that notices are sent to did not take one."""


class TooManyFailuresError(TwinError):
    """A step lost more items than its configured share allows."""
