"""What a user gets: answers, declined questions, lists and drafts of the twin that the settings describe.

Run it after ``./poe demo``, or over a collection of your own with ``--questions FILE``. A line of the file is one question:
``{"question": …, "answer": …, "must": [["words", "or these"], …], "held_back": true}``; a reply is right where it holds one of
each group of ``must``. A question without ``must`` is one that the collection does not answer. Held-back ones were not looked at
while the twin was built, and are counted apart.

Drafts are written twice, with the author's voice profile and without, so that what the profile brings is measured on the same
subjects.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from time import perf_counter
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import ROOT, Check, console, show_checks
from llm_engineering.application.evaluation.statistics import bootstrap_interval
from llm_engineering.application.inference.pipeline import (
    Finished,
    InferenceConfig,
    InferencePipeline,
    Piece,
    RagRequest,
)
from llm_engineering.application.text.style import pick_evenly, score_voice
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.domain.retrieval import Answer, Query, Verdict
from llm_engineering.domain.voices import VoiceProfile
from llm_engineering.settings import load_settings

QUESTIONS = ROOT / "samples" / "twin_questions.jsonl"
_DRAFTS = 12
_RERANK_SECONDS = 60
"""A busy machine is to cost time here, not answers."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One question and what came of it."""

    question: str
    held_back: bool
    foreign: bool
    right: bool
    declined: bool
    first_seconds: float
    seconds: float
    text: str


def main(file: Path | None = None, quick: bool = False) -> dict[str, Any]:
    """Measure, print and return the figures.

    Raises:
        InvalidInputError: nothing was collected, or a line of the file cannot be used.
    """
    questions = read_questions(file or QUESTIONS)
    if quick:
        questions = questions[:: max(1, len(questions) // 6)]
    return asyncio.run(_measure(questions, 2 if quick else _DRAFTS))


def read_questions(file: Path) -> list[dict[str, Any]]:
    """Return the questions of a file.

    Raises:
        InvalidInputError: a line is no question.
    """
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            rows.append({"must": [], "held_back": True} | row | {"question": str(row["question"])})
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(
                f'{file}, line {number}: expected {{"question": …, "must": [[…]]}}, got {line[:80]!r}.'
            ) from error
    return rows


async def _measure(questions: Sequence[dict[str, Any]], drafts: int) -> dict[str, Any]:
    config = InferenceConfig.model_validate({"retrieval": {"rerank": {"timeout_seconds": _RERANK_SECONDS}}})
    with open_resources(load_settings()) as resources:
        if not any(True for _ in resources.warehouse.clean.list_cards()):
            raise InvalidInputError(f"Nothing was collected yet. Run: {POE} demo")
        pipeline = resources.inference_pipeline(config, keep_answers=False)
        outcomes = [await _ask(row, pipeline) for row in questions]
        written = await _write_drafts(resources, config, drafts)
        await pipeline.close()
        name = resources.language_model.name
        await resources.language_model.close()
    return _report(name, outcomes, written)


async def _ask(row: dict[str, Any], pipeline: InferencePipeline) -> Outcome:
    result, first, seconds = await _run(
        pipeline, RagRequest(Query.ask(row["question"]), intent=Intent.ANSWER)
    )
    said = " ".join(re.sub(r"(?m)^> ?", "", result.answer.text).split())
    right = all(any(_holds(said, words) for words in group) for group in row["must"])
    return Outcome(
        question=row["question"],
        held_back=row["held_back"],
        foreign=not row["must"],
        right=bool(row["must"]) and right and not result.answer.abstained,
        declined=result.answer.abstained,
        first_seconds=first,
        seconds=seconds,
        text=result.answer.text,
    )


def _holds(text: str, words: str) -> bool:
    """Whether a text holds words from the beginning of one, so that "merge" is found in "merged", and "low" not in "slow"."""
    start = r"\b" if words[:1].isalnum() else ""
    return re.search(start + re.escape(words.strip()), text, re.IGNORECASE) is not None


async def _run(pipeline: InferencePipeline, request: RagRequest) -> tuple[RagResult, float, float]:
    started = perf_counter()
    first: float | None = None
    async for event in pipeline.answer(request):
        if isinstance(event, Piece) and first is None:
            first = perf_counter() - started
        if isinstance(event, Finished):
            return event.result, first or 0.0, perf_counter() - started
    raise AssertionError("an answer always ends with its finished form")


@dataclass(frozen=True, slots=True)
class Written:
    """One draft, with the voice profile and without."""

    subject: str
    author: str
    supported: float | None
    """Share of its sentences that a source backs, at least in part."""
    in_range: bool | None
    score: float | None
    plain_score: float | None
    text: str


async def _write_drafts(resources: Resources, config: InferenceConfig, count: int) -> list[Written]:
    """Posts on the subjects of articles, each in the voice of its author."""
    cards = [card for card in resources.warehouse.clean.list_cards() if card.category == "article"]
    chosen = pick_evenly(cards, count)
    pipeline = resources.inference_pipeline(config, keep_answers=False)
    plain = resources.inference_pipeline(config, keep_answers=False, voices=False)
    found = []
    for card in chosen:
        voice = next(iter(resources.warehouse.voices.find(card.author)), None)
        request = RagRequest(
            Query.ask(f"Draft a LinkedIn post about {card.title} in the style of {card.author}"),
            intent=Intent.WRITE,
        )
        answer = (await _run(pipeline, request))[0].answer
        other = (await _run(plain, request))[0].answer
        found.append(_judge(card.title, card.author, answer, other, voice))
    await pipeline.close()
    await plain.close()
    return found


def _judge(subject: str, author: str, answer: Answer, plain: Answer, voice: VoiceProfile | None) -> Written:
    backed = [support.verdict is not Verdict.UNSUPPORTED for support in answer.supports]
    score = score_voice(voice, answer.text) if voice is not None else None
    other = score_voice(voice, plain.text) if voice is not None else None
    return Written(
        subject=subject,
        author=author,
        supported=mean(backed) if backed else None,
        in_range=score.is_in_range if score else None,
        score=score.score if score else None,
        plain_score=other.score if other else None,
        text=answer.text,
    )


def _report(model: str, outcomes: Sequence[Outcome], drafts: Sequence[Written]) -> dict[str, Any]:
    asked = [o for o in outcomes if not o.foreign]
    foreign = [o for o in outcomes if o.foreign]
    table = Table(title=f"Questions, answered by {model}", title_justify="left")
    for column in ("questions", "asked", "right", "declined", "beside the point", "first words, median s"):
        table.add_column(column, justify="left" if column == "questions" else "right")
    groups = {
        "looked at while building": [o for o in asked if not o.held_back],
        "held back": [o for o in asked if o.held_back],
        "that nothing answers": foreign,
    }
    for name, group in groups.items():
        if group:
            table.add_row(
                name,
                str(len(group)),
                "" if group is foreign else f"{sum(o.right for o in group)}",
                str(sum(o.declined for o in group)),
                str(sum(not o.right and not o.declined for o in group)),
                f"{float(np.median([o.first_seconds for o in group])):.1f}",
            )
    console.print(table)
    told = [d for d in drafts if d.score is not None and d.plain_score is not None]
    gains = [(d.score or 0.0) - (d.plain_score or 0.0) for d in told]
    # Drafts that are the author's own paragraphs are the same with a profile and without.
    gain = bootstrap_interval(gains, [d.subject for d in told], seed=0) if any(gains) else None
    backed = [d.supported for d in drafts if d.supported is not None]
    ranged = [d.in_range for d in drafts if d.in_range is not None]
    judged = [o for o in asked if o.held_back] or asked
    checks = [
        Check("held-back questions answered right", _share([o.right for o in judged]), 80, "at least", " %"),
        Check(
            "held-back questions answered wrong or beside the point",
            _share([not o.right and not o.declined for o in judged]),
            8,
            "at most",
            " %",
        ),
        Check("answerable questions declined", _share([o.declined for o in judged]), 8, "at most", " %"),
    ]
    if foreign:
        checks.append(
            Check("foreign questions declined", _share([o.declined for o in foreign]), 95, "at least", " %")
        )
    if backed:
        checks.append(Check("drafts: sentences with support", 100 * mean(backed), 90, "at least", " %"))
    if ranged:
        checks.append(
            Check("drafts: voice score in the author's range", _share(ranged), 70, "at least", " %")
        )
    if gain is not None:
        checks.append(
            Check("drafts: gain of the voice profile, lower end of 95 %", gain.low, 0.001, "at least", "")
        )
    found = [check.as_dict() for check in checks]
    show_checks("The twin", found)
    return {
        "model": model,
        "questions": [_as_dict(outcome) for outcome in outcomes],
        "drafts": [_as_dict(draft) for draft in drafts],
        "voice_gain": None if gain is None else asdict(gain),
        "checks": found,
    }


def _share(values: Sequence[bool]) -> float:
    return 100 * sum(values) / max(len(values), 1)


def _as_dict(item: Outcome | Written) -> dict[str, Any]:
    return asdict(item)
