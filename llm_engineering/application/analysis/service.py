"""Analyses on request: a text is analysed as a record of the warehouse would be; its result can be kept, and corrected."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm_engineering.application.analysis.analyse import STAGE, Analyser, AnalysisStores, Deciders
from llm_engineering.application.analysis.grouping import POSTED, Unit, hash_input
from llm_engineering.application.llm.batch import BatchClient, BatchConfig, NoAnswerError
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.domain.analyses import Analysis, AnalysisField, AnalysisSpec, Engine, FieldKind
from llm_engineering.domain.documents import CleanDocument, text_hash
from llm_engineering.domain.errors import InvalidInputError, ModelServiceError

_REQUESTS = BatchConfig(attempts=2, timeout_seconds=60.0)


@dataclass(frozen=True, slots=True)
class Analysed:
    """A result on request."""

    analysis: Analysis
    degraded: str = ""
    """What was left out because the language model failed; empty: nothing."""


class AnalysisService:
    """Answers requests for the analyses of a service.

    Args:
        deciders: whom each spec asks, by task. Heads are looked for at each request: one that goes into use while the service
            runs decides from then on, and a service starts without any.
        privacy: what is done with personal data before anything reads a text, as with records; None: nothing.
    """

    def __init__(
        self,
        specs: Sequence[AnalysisSpec],
        stores: AnalysisStores,
        deciders: Mapping[str, Deciders],
        privacy: PrivacyPolicy | None = None,
    ) -> None:
        self._privacy = privacy
        self.specs = {spec.task: spec for spec in specs}
        self._stores = stores
        self._deciders = deciders

    def find_spec(self, task: str) -> AnalysisSpec | None:
        """Return the spec of a task; None: this service does not answer it."""
        return self.specs.get(task)

    async def analyse(
        self, task: str, text: str, title: str = "", identifier: str | None = None, *, keep: bool = True
    ) -> Analysed:
        """Analyse a text after personal data in it is treated; quotes and places are of the text as it is then. The same text
        again, under the same identifier, has the same id.

        Args:
            identifier: whose it is in another system; None: the text's own hash.
            keep: whether the result is stored, until it is deleted. A language model's reply is cached in any case.

        Raises:
            InvalidInputError: there is no such task, or it is about groups, which only a run sees.
            ModelServiceError: the language model failed, and the heads alone cannot answer.
            ModelFileError: a head is not trained.
        """
        analyser = self._make_analyser(task)
        if self._privacy is not None:
            text, title = self._privacy.apply(text), self._privacy.apply(title)
        key = f"{POSTED}{identifier or text_hash(text)[:32]}"
        document = _make_document(key, text, title)
        unit = Unit(key, (key,), (hash_input(document),), (document,))
        wanted = analyser.derive_id(unit)
        if keep and (known := await asyncio.to_thread(self._stores.analyses.get, [wanted])):
            return Analysed(known[0])
        [headed] = await asyncio.to_thread(analyser.apply_heads, [unit])
        try:
            result = await analyser.analyse(unit, headed)
        except (NoAnswerError, ModelServiceError) as error:
            if analyser.spec.engine is not Engine.HEAD_THEN_LLM:
                raise ModelServiceError(str(error)) from error
            left = analyser.summarise_heads(unit, headed)
            return Analysed(left, "The language model failed; what only it can tell is left out.")
        if keep:
            await asyncio.to_thread(self._stores.analyses.upsert, [result])
        return Analysed(result)

    async def find(self, task: str, identifier: str) -> Analysis | None:
        """Return a result by its id; None: there is none."""
        found = await asyncio.to_thread(self._stores.analyses.get, [identifier])
        return next((one for one in found if one.task == task), None)

    async def find_by_id(self, identifier: str) -> Analysis | None:
        """Return a result of any task by its id."""
        return next(iter(await asyncio.to_thread(self._stores.analyses.get, [identifier])), None)

    def _make_analyser(self, task: str) -> Analyser:
        spec = self.specs.get(task)
        if spec is None:
            raise InvalidInputError(
                f"There is no analysis {task!r} here. There are: {', '.join(sorted(self.specs)) or 'none'}."
            )
        if spec.group_by is not None:
            raise InvalidInputError(
                f"The analysis {task} is about groups of records; its results come from runs. Read them with GET."
            )
        deciders, client = self._deciders[task], None
        if deciders.model is not None:
            stores = self._stores
            client = BatchClient(
                deciders.model, stores.generations, stores.dead_letters, _REQUESTS, stage=STAGE
            )
        return Analyser(spec, deciders, client)


def check_correction(
    spec: AnalysisSpec, correction: Mapping[str, Any]
) -> dict[str, str | float | tuple[str, ...]]:
    """Return a correction that the spec can hold.

    Raises:
        InvalidInputError: a field or a value is not the spec's; lists those that are.
    """
    if not correction:
        raise InvalidInputError(
            f"A correction names a field at least: {', '.join(one.name for one in spec.fields)}."
        )
    return {name: _check_value(spec, name, value) for name, value in correction.items()}


def _check_value(spec: AnalysisSpec, name: str, value: Any) -> str | float | tuple[str, ...]:
    field = spec.find_field(name)
    if field is None:
        known = ", ".join(one.name for one in spec.fields)
        raise InvalidInputError(f"{spec.task} has no field {name!r}. It has: {known}.")
    if field.kind in (FieldKind.ENTITIES, FieldKind.LIST):
        if not isinstance(value, list | tuple) or not all(isinstance(one, str) for one in value):
            raise InvalidInputError(f"{name}: expected a list of texts.")
        return tuple(_check_named(field, one) for one in value)
    if field.kind is FieldKind.NUMBER:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidInputError(f"{name}: expected a number.")
        return float(value)
    if not isinstance(value, str):
        raise InvalidInputError(f"{name}: expected a text.")
    return _check_named(field, value)


def _check_named(field: AnalysisField, value: str) -> str:
    if field.values and value not in field.values:
        raise InvalidInputError(
            f"{field.name}: {value[:80]!r} is no value of it. There are: {', '.join(field.values)}."
        )
    return value


def _make_document(key: str, text: str, title: str) -> CleanDocument:
    """What was posted, as a record."""
    return CleanDocument(
        id=key,
        category="ticket",
        title=title,
        text=text,
        link=key,
        platform="api",
        author="",
        author_id="",
        language="und",
        source_hash="",
    )
