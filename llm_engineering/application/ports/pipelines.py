"""Runs of pipelines, started beside the process that asks for them."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llm_engineering.domain.pipeline_runs import PipelineRun


class PipelineRunner(Protocol):
    """Starts pipelines with the operator's configurations."""

    @property
    def pipelines(self) -> Sequence[str]:
        """Names of the pipelines that can be run."""
        ...

    def list_configs(self) -> Sequence[str]:
        """Return the names of the configurations that the operator has put there."""
        ...

    def start(
        self, pipeline: str, config: str, overrides: Mapping[str, Any], started_by: str | None
    ) -> PipelineRun:
        """Start a run and return at once.

        Args:
            overrides: values in place of some of the configuration's parameters.

        Raises:
            ConfigurationError: the configuration is none of this pipeline's, or an override cannot be taken.
            RunUnderWayError: the pipeline runs already.
        """
        ...

    def find(self, pipeline: str, identifier: str) -> PipelineRun | None:
        """Return a run as it stands now; None: there is none of that id."""
        ...
