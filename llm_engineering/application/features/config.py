"""What a run does, as its YAML in ``configs/`` says it. Unknown keys are errors."""

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from pydantic import Field, field_validator, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.features.chunk import ChunkingConfig
from llm_engineering.application.features.links import find_database_secrets
from llm_engineering.application.ports import Link
from llm_engineering.domain.categories import is_record
from llm_engineering.domain.errors import ConfigurationError

_WEB_CREDENTIALS = re.compile(
    r"(?i)^(?:(?:git\+)?https?|(?:postgresql|mysql|mariadb|mssql|oracle)(?:\+\w+)?)://(?P<credentials>[^/?#]*)@"
)
# Not "${NAME}": ZenML fills that in itself, before the step sees it.
_VARIABLE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class LinkSpec(StrictConfig):
    """One link to collect. A plain string in the YAML stands for ``{url: …}``."""

    url: str = Field(min_length=1)
    """A run's parameters are stored, so a password must not stand here: ``https://{GIT_USER}:{GIT_PASSWORD}@host/…`` takes both
    from the environment when the link is collected."""
    author: str | None = None
    """Whose writing it is; None: the run's author."""
    category: str | None = None
    """None: what the link's reader gives. Needed for tables."""
    render: bool = False
    """Use a browser, for a page that needs JavaScript."""
    options: dict[str, Any] = Field(default_factory=dict)
    """For the reader: ``branch``, ``include``, ``exclude`` (git), ``column_map`` (table), ``max_items`` (feed)."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _without_secrets(cls, value: str) -> str:
        address = value.strip()
        if any(_VARIABLE.sub("", address[start:end]).strip(":") for start, end in _find_secrets(address)):
            raise ValueError(
                "a link must not hold a user name or password, because a run's parameters are stored; "
                "write https://{GIT_USER}:{GIT_PASSWORD}@… and set these variables"
            )
        return value


class Route(StrictConfig):
    """Sends links whose URL matches a regular expression to a reader, before the built-in rules are asked."""

    pattern: str
    reader: str


class CollectRun(StrictConfig):
    """Parameters of the collection step."""

    author: str | None = None
    """Whose writing the links are, where a link does not say."""
    links: tuple[LinkSpec, ...] = Field(min_length=1)
    routes: tuple[Route, ...] = ()
    max_concurrency: int = Field(default=8, ge=1, le=64)
    max_failed_share: float = Field(default=0.5, ge=0, le=1)
    batch_size: int = Field(default=256, ge=1, le=10_000)

    @model_validator(mode="after")
    def _authored(self) -> "CollectRun":
        for number, link in enumerate(self.links):
            if not (link.author or self.author or is_record(link.category)):
                raise ValueError(
                    f"links.{number} ({link.url}) has no author: give it one, or set 'author' for the run "
                    "(only records, such as movies or tickets, need none)"
                )
        return self

    def as_links(self, environment: Mapping[str, str]) -> list[Link]:
        """Return the links to collect, with ``{NAME}`` in their credentials and secret parameters taken from the environment.

        Raises:
            ConfigurationError: a variable is not set.
        """
        return [
            Link(
                url=_expanded(link.url, environment),
                author=link.author or self.author or "",
                category=link.category,
                render=link.render,
                options=link.options,
            )
            for link in self.links
        ]


def _find_secrets(url: str) -> list[tuple[int, int]]:
    """Where user name and password stand in an address, and other secrets of a database's."""
    found = _WEB_CREDENTIALS.match(url)
    return [*([found.span("credentials")] if found else []), *find_database_secrets(url)]


def _expanded(url: str, environment: Mapping[str, str]) -> str:
    places = _find_secrets(url)
    named = [name for start, end in places for name in _VARIABLE.findall(url[start:end])]
    if missing := [name for name in named if name not in environment]:
        raise ConfigurationError(f"The link {url} needs variables that are not set: {', '.join(missing)}.")
    for start, end in reversed(places):
        # Quoted, because a password may hold what has a meaning in an address.
        filled = _VARIABLE.sub(lambda match: quote(environment[match[1]], safe=""), url[start:end])
        url = url[:start] + filled + url[end:]
    return url


class FeatureRun(StrictConfig):
    """Parameters of the feature steps."""

    chunking: ChunkingConfig = ChunkingConfig()
    window_chunks: int = Field(default=1024, ge=1)
    """Chunks held in memory at a time."""
    batch_size: int = Field(default=256, ge=1, le=10_000)
    """Documents read and written at a time."""
    max_failed_share: float = Field(default=0.1, ge=0, le=1)
    title_vectors: bool = False
    """Embed titles and headings as a second vector of each chunk, searched beside the body's."""


class DigitalDataEtl(StrictConfig):
    """Parameters of the pipeline ``digital_data_etl``."""

    collect: CollectRun


class FeatureEngineering(StrictConfig):
    """Parameters of the pipeline ``feature_engineering``."""

    features: FeatureRun = FeatureRun()


class EndToEndData(StrictConfig):
    """Parameters of the pipeline ``end_to_end_data``."""

    collect: CollectRun
    features: FeatureRun = FeatureRun()
