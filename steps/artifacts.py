"""Artifacts of earlier runs, for other programs."""

from typing import Annotated

from loguru import logger
from zenml import log_metadata, step
from zenml.client import Client

from llm_engineering.application.reporting.json_export import JsonExport, write_json
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from steps.context import open_step_resources

__all__ = ["JsonExport", "export_artifacts"]


@step(enable_cache=False)
def export_artifacts(run: JsonExport) -> Annotated[dict[str, str], "json_exports"]:
    """Write artifacts as JSON files, one each; returns the files by artifact."""
    written: dict[str, str] = {}
    with open_step_resources():
        for asked in run.artifacts:
            name, _, version = asked.partition(":")
            file = run.folder / f"{name}.json"
            try:
                count = write_json(_load(name, version or None), file)
            except TypeError as error:
                raise InvalidInputError(
                    f"The artifact '{asked}' cannot be written as JSON: {error}"
                ) from None
            logger.info("{} → {} ({:,} entries)", asked, file, count)
            written[asked] = str(file)
    log_metadata(metadata={"exports": written})
    return written


def _load(name: str, version: str | None) -> object:
    client = Client()
    try:
        return client.get_artifact_version(name, version).load()
    except KeyError:
        there = sorted(artifact.name for artifact in client.list_artifacts(size=100).items)
        raise ConfigurationError(
            f"There is no artifact '{name}'{f' of version {version}' if version else ''}. There are: "
            f"{', '.join(there) or 'none, since no pipeline has run yet'}."
        ) from None
