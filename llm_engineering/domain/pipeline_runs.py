"""Runs of pipelines that were asked for over HTTP."""

from typing import Literal

from llm_engineering.domain.documents import Model, UtcDatetime

RunState = Literal["running", "submitted", "succeeded", "failed"]
"""``submitted``: another machine goes on with it, and ZenML's dashboard shows how."""


class PipelineRun(Model):
    """A run, and what became of it."""

    id: str
    pipeline: str
    config: str
    state: RunState = "running"
    started_by: str | None = None
    """Name of the key that asked for it; None: no key was needed."""
    started_at: UtcDatetime
    ended_at: UtcDatetime | None = None
    name: str | None = None
    """ZenML's own name of the run."""
    cause: str = ""
    """Why it failed."""
