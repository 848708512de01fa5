"""What every step needs: opened ports, a progress display, and tables for the ZenML dashboard."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loguru import logger
from zenml import get_step_context
from zenml.types import MarkdownString

from llm_engineering.application.ports import Progress
from llm_engineering.bootstrap.logging import show_progress
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings


@contextmanager
def open_step_resources() -> Iterator[tuple[Resources, Progress]]:
    """Open the ports that the environment's settings name, and a progress display, for the time of a step, and say which it
    is."""
    settings = load_settings()
    with show_progress(settings) as progress, open_resources(settings) as resources:
        logger.info("{} …", get_step_context().step_run.name.replace("_", " ").capitalize())
        yield resources, progress


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> MarkdownString:
    """Write rows as a Markdown table; cells are escaped so that a title with a bar does not break it."""
    lines = [" | ".join(columns), " | ".join("---" for _ in columns)]
    lines += [" | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) for row in rows]
    return MarkdownString("\n".join(f"| {line} |" for line in lines))


def find_newest_dataset(artifact: str) -> Path:
    """Find the folder of the newest data set that the generation pipeline has made.

    Raises:
        ConfigurationError: there is none.
    """
    from zenml.client import Client

    try:
        found = Client().get_artifact_version(artifact)
    except KeyError:
        kind = artifact.partition("_")[0]
        raise ConfigurationError(
            f"There is no data set to train on: no '{artifact}' was made yet. Make one with: {POE} "
            f"run-generate-{kind}-datasets-pipeline, or name a folder ('dataset:' in the YAML)."
        ) from None
    folder = Path(found.load())
    logger.info("The data set is version {} of {}.", found.version, artifact)
    return folder
