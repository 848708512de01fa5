"""Generate a cited answer from retrieved passages; abstain when they do not answer the question.

Three ways, by what the model is good for: it writes, and each sentence is held against the sources (``annotate``); the best part
of a source is quoted, and the model's sentences follow where they hold against it (``quote``); it is quoted and no model is
asked (``extractive``).
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

from loguru import logger
from pydantic import Field

from llm_engineering.application.config import StrictConfig
from llm_engineering.application.inference.abstention import UNMEASURED_FLOOR, join_nearness
from llm_engineering.application.inference.context import (
    ContextConfig,
    Packed,
    Source,
    fit_to_context,
    heading,
    merge_overlapping,
)
from llm_engineering.application.inference.grounding import (
    GroundingConfig,
    GroundingVerifier,
    word_confidence,
)
from llm_engineering.application.inference.quotes import Quotation, Rank, choose_quotations
from llm_engineering.application.inference.writers import NOTHING_FOUND, Judge, Writer, Written, decline
from llm_engineering.application.llm import prompts
from llm_engineering.application.ports import Delta, GenerationOptions, LanguageModel, Message, Vectors
from llm_engineering.application.text.markdown import find_code_names
from llm_engineering.domain.errors import ModelError
from llm_engineering.domain.inference import Grounding, LlmProfile, StageStatus
from llm_engineering.domain.retrieval import Answer, Citation, Passage, Support, Usage, Verdict

_WORDS_TO_SIMILARITY = 2 * UNMEASURED_FLOOR
"""Scales a share of words to the scale of similarities: half of a question's words are enough."""
_STATEMENT = 4
"""Content words of a sentence of a draft that states something, rather than greets or announces."""
QUOTED_PLAINLY = "The reranker failed, so what is quoted was chosen in a plainer way."
_LONGEST_QUOTED = 3_000
"""Characters of a quotation that a model is asked to sum up."""
_CITATION = re.compile(r"\s*\[\d{1,3}\]")


class AnsweringConfig(StrictConfig):
    """How answers are made: the section ``answering`` of the file of ``run-inference-ml-service --config``."""

    RENAMED: ClassVar = {
        "strict": "grounding",
    }

    min_similarity: float | None = Field(default=None, ge=-1, le=1)
    """Below this :func:`estimate_confidence`, the answer is "the sources do not say". None: what
    :mod:`~llm_engineering.application.inference.abstention` measures on the collection; where the search went by words
    alone, half of the question's words."""
    topic_similarity: float = Field(default=0.5, ge=-1, le=1)
    """Cosine similarity to a subject from which a passage is about it, where a list, a summary or a draft looks for all
    that was written on the subject."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a reply, at most, and never more than a quarter of the model's context. None: as suits the model, else 512."""
    grounding: Grounding | None = None
    """None: as the language model's setting ``LLM_GROUNDING`` says."""
    template: str | None = None
    """Prompt to use; None: as suits the model, else ``answer``."""
    template_version: int = Field(default=1, ge=1)
    max_passages: int | None = Field(default=None, ge=1)
    """Passages that the model is given; None: as suits the model, or as many as fit."""
    context: ContextConfig = ContextConfig()
    evidence: GroundingConfig = GroundingConfig()
    verify_similarity: bool = True
    """Embed sentences whose words do not decide. False: verdicts go by words alone, at next to no cost."""
    mask_personal_data: bool = False
    """Mask e-mail addresses and phone numbers in what is shown. Text then comes sentence by sentence."""
    max_quotes: int = Field(default=3, ge=1)
    """Parts of the sources that are quoted, three sentences each: the best, and others where they are nearly as good."""
    rewrites: bool | None = None
    """Whether the model may rewrite given texts. None: as suits the model; one that answers in its own words may."""
    leave_out_unsupported: bool | None = None
    """Leave out a sentence that states what no source backs, rather than mark it. None: as suits the model."""

    def with_profile(self, profile: LlmProfile) -> "AnsweringConfig":
        """Return the configuration with what it leaves open as suits the model."""
        return self.model_copy(
            update={
                "grounding": self.grounding or profile.grounding,
                "template": self.template or profile.template,
                "rewrites": (profile.rewrites or None) if self.rewrites is None else self.rewrites,
                "max_passages": self.max_passages or profile.passages,
                "max_tokens": self.max_tokens or profile.max_tokens,
                "leave_out_unsupported": profile.leave_out_unsupported
                if self.leave_out_unsupported is None
                else self.leave_out_unsupported,
            }
        )

    @property
    def is_extractive(self) -> bool:
        """Whether the sources are quoted and no model is asked."""
        return self.grounding == "extractive"

    @property
    def quotes(self) -> bool:
        """Whether replies are made of the sources' own words, and the model at most adds to them."""
        return self.grounding in ("extractive", "quote")

    @property
    def may_rewrite(self) -> bool:
        """Whether the model may be given a text to rewrite."""
        return not self.is_extractive if self.rewrites is None else self.rewrites

    @property
    def reply_tokens(self) -> int:
        """Tokens of a reply, at most."""
        return self.max_tokens or 512

    @property
    def prompt(self) -> str:
        """Name of the prompt's template."""
        return self.template or "answer"


@dataclass(frozen=True, slots=True)
class AnswerPiece:
    """A piece of a streamed answer: its sources first, then text and verdicts, at the end the finished answer."""

    text: str = ""
    sources: tuple[Citation, ...] | None = None
    """What the answer is made from; in the first piece only."""
    support: Support | None = None
    """The verdict on the last sentence, whose text has come."""
    answer: Answer | None = None
    compression_status: StageStatus = StageStatus.OFF
    """In the first piece."""
    degradation: str = ""
    """In the first piece: one sentence on what the answer goes without."""
    support_status: StageStatus = StageStatus.OFF
    """In the last piece; FAILED: the embedder failed, and words alone decided."""


async def answer(
    question: str,
    passages: Sequence[Passage],
    model: LanguageModel,
    config: AnsweringConfig = AnsweringConfig(),
    *,
    embed: Callable[[Sequence[str]], Vectors] | None = None,
    rank: Rank | None = None,
    closeness: float | None = None,
    history: Sequence[Message] = (),
    instructions: str = "",
    temperature: float | None = None,
    seed: int | None = None,
) -> AsyncGenerator[AnswerPiece, None]:
    """Stream an answer; the last piece carries the finished :class:`Answer`, whose text is all pieces joined.

    Every sentence gets a verdict. One that is supported and cites nothing is given its source; a citation of a source that
    does not exist, or does not back the sentence, is removed. Generation stops when the model repeats itself. Where nothing
    is left to show, the best part of a source is quoted.

    Args:
        passages: best first.
        embed: texts to unit vectors, shape (n, dimension); blocking, so it is called in a thread. Pass the same
            :class:`~llm_engineering.application.inference.embedding.InMemoryEmbeddingCache` for all
            answers, so that sentences of the sources are embedded once.
        rank: scores parts of texts against the question, to choose what is quoted; None: they are compared by their vectors.
        closeness: the best of such scores, which counts for whether to answer at all.
        history: earlier turns, oldest first; those that do not fit are dropped, the oldest first. A model that only sums up a
            quotation is not given them.
        instructions: of the calling application; they stand below the prompt's own rules.
        temperature, seed: of the generation; None: 0.

    Raises:
        ModelServiceError: the language model failed.
        ConfigurationError: the configured prompt does not exist.
    """
    run = _Run(question, model, config, leave_out=_STATEMENT if config.leave_out_unsupported else None)
    if abstains(question, passages, config, closeness):
        async for piece in run.abstained(
            [Citation(number=i, passage=p) for i, p in enumerate(passages, start=1)]
        ):
            yield piece
        return
    reply_tokens = min(config.reply_tokens, model.context_tokens // 4)
    options = GenerationOptions(
        max_tokens=reply_tokens, temperature=temperature or 0.0, seed=0 if seed is None else seed
    )
    if config.quotes:
        async with aclosing(run.quoted(passages, embed, rank, options, instructions)) as pieces:
            async for piece in pieces:
                yield piece
        return
    packed = await fit_to_context(
        question,
        passages[: config.max_passages],
        model,
        config.context,
        frame=build_messages(question, [], config, instructions),
        max_tokens=reply_tokens,
        history=[_past(turn) for turn in history],
        embed=embed,
    )
    if not packed.sources:
        logger.warning(
            "No source fits beside the question into {} tokens of {}.", model.context_tokens, model.name
        )
        async for piece in run.abstained([]):
            yield piece
        return
    yield AnswerPiece(sources=packed.citations, compression_status=packed.compression_status)
    messages = _with_history(build_messages(question, packed.laid_out, config, instructions), packed)
    async with aclosing(run.pieces(packed.citations, messages, options, embed, rank)) as pieces:
        async for piece in pieces:
            yield piece


async def write_part(
    question: str,
    messages: Sequence[Message],
    passages: Sequence[Passage],
    template: str,
    model: LanguageModel,
    config: AnsweringConfig,
    embed: Callable[[Sequence[str]], Vectors],
    *,
    max_tokens: int,
    cite: bool = False,
    temperature: float | None = None,
    seed: int | None = None,
) -> AsyncGenerator[AnswerPiece, None]:
    """Stream a part of a text that the model writes, with a verdict on each sentence. Empty where nothing of it may be shown.

    Args:
        messages: the whole prompt.
        passages: what its sentences are held against.
        template: name of the prompt that the messages were made from; its first version.
        cite: add the source to a sentence that has one.

    Raises:
        ModelError: the language model or the embedder failed.
    """
    own = config.model_copy(update={"grounding": "annotate", "template": template, "template_version": 1})
    run = _Run(
        question, model, own, cite=cite, leave_out=_STATEMENT if config.leave_out_unsupported else None
    )
    sources = tuple(Citation(number=n, passage=passage) for n, passage in enumerate(passages, start=1))
    yield AnswerPiece(sources=sources)
    options = GenerationOptions(
        max_tokens=min(max_tokens, model.context_tokens // 2),
        temperature=temperature or 0.0,
        seed=0 if seed is None else seed,
    )
    async with aclosing(run.pieces(sources, messages, options, embed, None, or_quote=False)) as pieces:
        async for piece in pieces:
            yield piece


class _Run:
    """One answer being made."""

    def __init__(
        self,
        question: str,
        model: LanguageModel,
        config: AnsweringConfig,
        *,
        cite: bool = True,
        leave_out: int | None = None,
    ) -> None:
        self._question = question
        self._cite = cite
        self._leave_out = leave_out
        self._model = model
        self._config = config
        self._prompt_hash = prompts.prompt_hash(config.prompt, config.template_version)

    async def abstained(self, sources: Sequence[Citation]) -> AsyncGenerator[AnswerPiece, None]:
        """Nothing bears on the question; no model is asked."""
        yield AnswerPiece(sources=tuple(sources))
        said = decline(self._question)
        yield AnswerPiece(text=said)
        yield AnswerPiece(answer=self._finished(sources, said))

    async def quoted(
        self,
        passages: Sequence[Passage],
        embed: Callable[[Sequence[str]], Vectors] | None,
        rank: Rank | None,
        options: GenerationOptions,
        instructions: str,
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Quote at once; then, where the model may speak, what it says of the quotation and what holds against it."""
        config = self._config
        sources = [
            Citation(number=n, passage=passage)
            for n, passage in enumerate(merge_overlapping(passages[: config.max_passages]), start=1)
        ]
        chosen, plainer = await self._choose(sources, embed, rank)
        if not chosen:
            async for piece in self.abstained(sources):
                yield piece
            return
        yield AnswerPiece(sources=tuple(sources), degradation=QUOTED_PLAINLY if plainer else "")
        # The model sums up the best part alone: of two, a small one takes its answer from the wrong one.
        best = chosen[0]
        judge = Judge(
            await asyncio.to_thread(
                GroundingVerifier, [best.citation], self._similarity(embed), config.evidence
            )
        )
        writer = Writer(
            self._question,
            [best.citation],
            judge,
            mask=config.mask_personal_data,
            leave_out=1,
            lowest=Verdict.SUPPORTED,
        )
        for part in chosen:
            for written in writer.quote(part):
                yield _piece(written)
        if not config.is_extractive and len(best.text) <= _LONGEST_QUOTED and not best.is_code:
            shown = [Source(best.citation, (best.span,))]
            messages = build_messages(self._question, shown, config, instructions)
            async with aclosing(self._written(writer, messages, options)) as stream:
                async for written in stream:
                    yield _piece(written)
            writer.declined = False  # whatever the model says of it, the quotation is an answer
        yield self._last(sources, writer, judge, quoted=not writer.shown)

    async def pieces(
        self,
        sources: Sequence[Citation],
        messages: Sequence[Message],
        options: GenerationOptions,
        embed: Callable[[Sequence[str]], Vectors] | None,
        rank: Rank | None,
        *,
        or_quote: bool = True,
    ) -> AsyncGenerator[AnswerPiece, None]:
        """Generate, and show what may be shown. Where that is nothing, quote, unless ``or_quote`` is False."""
        config = self._config
        judge = Judge(
            await asyncio.to_thread(GroundingVerifier, sources, self._similarity(embed), config.evidence)
        )
        writer = Writer(
            self._question,
            sources,
            judge,
            mask=config.mask_personal_data,
            cite=self._cite,
            leave_out=self._leave_out,
        )
        async with aclosing(self._written(writer, messages, options)) as stream:
            async for written in stream:
                yield _piece(written)
        quoted = False
        if not writer.said.strip():
            writer.note("empty")
        if not writer.text and or_quote:
            chosen = (await self._choose(sources, embed, rank))[0] if not writer.declined else []
            for part in chosen:
                quoted = True
                for written in writer.quote(part):
                    yield _piece(written)
            if not chosen:
                writer.declined = True
                writer.text = decline(self._question)
                yield AnswerPiece(text=writer.text)
        yield self._last(sources, writer, judge, quoted=quoted)

    async def _written(
        self, writer: Writer, messages: Sequence[Message], options: GenerationOptions
    ) -> AsyncGenerator[Written, None]:
        """What of the model's reply may be shown."""
        async with (
            aclosing(_closable(self._model.stream(messages, options))) as deltas,
            aclosing(writer.write(deltas)) as parts,
        ):
            async for part in parts:
                yield part
        if writer.usage == Usage():
            writer.usage = await self._counted(messages, writer.said)

    async def _choose(
        self,
        sources: Sequence[Citation],
        embed: Callable[[Sequence[str]], Vectors] | None,
        rank: Rank | None,
    ) -> tuple[list[Quotation], bool]:
        """What to quote, and whether it was chosen in a plainer way: where the reranker fails, by vectors, and where those
        fail too, the best source's beginning."""
        ways: list[tuple[Rank | None, Callable[[Sequence[str]], Vectors] | None]] = [
            (rank, embed), (None, embed), (None, None)
        ]  # fmt: skip
        for number, (by_rank, by_vectors) in enumerate(ways):
            try:
                chosen = await asyncio.to_thread(
                    choose_quotations,
                    self._question,
                    sources,
                    rank=by_rank,
                    embed=by_vectors,
                    count=self._config.max_quotes,
                )
                return chosen, number > 0
            except ModelError as error:
                logger.warning("Quotations are chosen in a plainer way: {}", error)
        raise AssertionError("the plainest way asks no model")

    def _similarity(
        self, embed: Callable[[Sequence[str]], Vectors] | None
    ) -> Callable[[Sequence[str]], Vectors] | None:
        return embed if self._config.verify_similarity else None

    def _last(
        self, sources: Sequence[Citation], writer: Writer, judge: Judge, *, quoted: bool
    ) -> AnswerPiece:
        answer = self._finished(sources, writer.text, writer, quoted=quoted)
        status = (
            StageStatus.FAILED if judge.failed else StageStatus.OK if answer.supports else StageStatus.OFF
        )
        return AnswerPiece(answer=answer, support_status=status)

    async def _counted(self, messages: Sequence[Message], said: str) -> Usage:
        """The usage of a reply that was broken off before its service told it. Without costs, which only that
        knows."""
        *prompt, reply = await self._model.count_tokens([*(message.content for message in messages), said])
        return Usage(prompt_tokens=sum(prompt), completion_tokens=reply)

    def _finished(
        self,
        sources: Sequence[Citation],
        text: str,
        writer: Writer | None = None,
        *,
        quoted: bool = False,
    ) -> Answer:
        base = Answer(
            question=self._question,
            text=text,
            citations=tuple(sources),
            abstained=True,
            model=self._model.name,
            prompt_hash=self._prompt_hash,
        )
        if writer is None:
            return base
        if writer.unsupported:
            logger.debug("{} sentence(s) of the model are not backed by a source.", writer.unsupported)
        supports = () if writer.declined else tuple(writer.supports)
        return base.model_copy(
            update={
                "abstained": writer.declined,
                "supports": supports,
                "cited": tuple(dict.fromkeys(number for support in supports for number in support.cited)),
                "quoted": quoted,
                "unsupported": writer.unsupported,
                "finish_reason": writer.finish_reason,
                "guard": tuple(writer.guard),
                "usage": writer.usage,
            }
        )


def _piece(part: Written) -> AnswerPiece:
    return AnswerPiece(text=part.text, support=part.support)


async def _closable(stream: AsyncIterator[Delta]) -> AsyncGenerator[Delta, None]:
    """The stream as a generator whose closing closes it too, so that leaving early ends the generation."""
    try:
        async for delta in stream:
            yield delta
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


# --- whether to answer ------------------------------------------------------------------------------------------------


def estimate_confidence(question: str, passages: Sequence[Passage], closeness: float | None = None) -> float:
    """Return how sure it is that the passages bear on the question; higher is surer, about 0 to 1.

    The highest cosine similarity between question and passage, or its mean with the reranker's score of the best part. Where
    no passage has one (the search went by words alone), the share of the question's content words that the best passage
    holds, scaled to like meaning. Pure: the same for serving, for calibration and for the risk–coverage curve.

    Args:
        closeness: the reranker's score of the part that answers best; None: there is none.
    """
    similarities = [passage.dense_score for passage in passages if passage.dense_score is not None]
    if similarities:
        return join_nearness(max(similarities), closeness)
    return _WORDS_TO_SIMILARITY * word_confidence(question, passages)


def abstains(
    question: str, passages: Sequence[Passage], config: AnsweringConfig, closeness: float | None = None
) -> bool:
    """Return whether the passages bear so little on the question that no model should be asked."""
    floor = UNMEASURED_FLOOR if config.min_similarity is None else config.min_similarity
    if not passages or estimate_confidence(question, passages, closeness) < floor:
        return True
    # Whoever asks for a name that is written like no word wants that one, and nothing that is near to it.
    names = {name.casefold() for name in find_code_names(question) if "_" in name}
    return bool(names) and not any(name in passage.text.casefold() for name in names for passage in passages)


# --- the prompt -------------------------------------------------------------------------------------------------------


def build_messages(
    question: str, sources: Sequence[Source], config: AnsweringConfig, instructions: str = ""
) -> list[Message]:
    """Return the prompt, with the sources in the order given. Everything that others wrote is fenced."""
    known = prompts.load_prompt(config.prompt, config.template_version).values
    return prompts.render(
        config.prompt,
        config.template_version,
        question=question,
        instructions=instructions.strip(),
        **(
            {"nothing_found": NOTHING_FOUND} if "nothing_found" in known else {}
        ),  # not every model may abstain
        sources=[
            prompts.present_source(source.citation.number, heading(source.citation.passage), source.text)
            for source in sources
        ],
    )


def _past(turn: Message) -> Message:
    """An earlier turn as it may stand in a prompt: its citations name sources that are no longer there."""
    text = _CITATION.sub("", turn.content) if turn.role == "assistant" else turn.content
    return Message(turn.role, prompts.make_inert(text))


def _with_history(messages: Sequence[Message], packed: Packed) -> list[Message]:
    rules = [message for message in messages if message.role == "system"]
    return [*rules, *packed.history, *(message for message in messages if message.role != "system")]
