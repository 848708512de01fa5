"""What every step opens."""

from collections.abc import Iterator
from contextlib import contextmanager

from llm_engineering.application.ports import Progress
from llm_engineering.bootstrap import Resources, open_resources, show_progress
from llm_engineering.settings import load_settings


@contextmanager
def step_resources() -> Iterator[tuple[Resources, Progress]]:
    """The ports that the environment's settings name, and a progress display, for the time of a step."""
    settings = load_settings()
    with show_progress(settings) as progress, open_resources(settings) as twin:
        yield twin, progress
