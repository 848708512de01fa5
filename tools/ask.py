"""Ask the twin, or have it write, summarise, compare or list: ``./poe ask WORDS … [--author NAME] [--out FILE]``.

``./poe write WORDS … [--format FORMAT] [--length WORDS]`` says that a text is to be written. Without words, either opens a
conversation with follow-ups.
"""

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, TypeVar

from rich.markup import escape

from llm_engineering.application.files import atomic_write
from llm_engineering.application.inference.events import (
    FORMATS,
    LEAST_WORDS,
    NO_OPTIONS,
    BriefOptions,
    Event,
    Finished,
    Piece,
    RagRequest,
)
from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.domain.retrieval import Answer, Citation, Verdict
from llm_engineering.settings import Settings, load_settings
from tools.console import (
    WordStream,
    add_demo_option,
    console,
    errors,
    hold_log,
    make_parser,
    run,
    user_path,
)
from tools.search_options import add_search_options, query_from
from tools.vote import note_answer
from tools.warm import NotWarmError, WarmTwin, warm_minutes

if TYPE_CHECKING:  # seconds to import, and needed only where no process has it loaded
    from llm_engineering.application.inference.pipeline import InferencePipeline
    from llm_engineering.bootstrap.resources import Resources

_C = TypeVar("_C")
_MARKS = {
    Verdict.SUPPORTED: "[green]✓[/]",
    Verdict.PARTIAL: "[yellow]≈[/]",
    Verdict.UNSUPPORTED: "[red]✗[/]",
}
NEAREST = 3
"""Sources that are shown where none answers the question."""
_SHOWN_SPAN = 160
"""Characters of a source's backing text that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if arguments is None else arguments
    parser = make_parser("write" if given[:2] == ["--intent", "write"] else "ask", __doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="WORDS",
        help="what you want to know, or to have written; without: a conversation, or the text of a pipe",
    )
    parser.add_argument(
        "--intent", choices=[intent.value for intent in Intent], help="what is asked for; read from the words"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="of a text that is to be written; read from the words"
    )
    parser.add_argument("--length", type=int, metavar="WORDS", help="of a text that is to be written")
    parser.add_argument("--out", type=user_path, metavar="FILE", help="write the text into this file too")
    parser.add_argument(
        "--twin", metavar="MODEL", help="a trained model that answers: NAME, NAME:VERSION or its folder"
    )
    add_search_options(parser)
    add_demo_option(parser)
    options = parser.parse_args(given)
    intent, brief = read_order(options)
    settings = load_settings()
    start_logging(settings)
    if options.twin:
        from llm_engineering.bootstrap.llm_service import with_trained_model

        settings = with_trained_model(settings, options.twin)
    if not options.words and sys.stdin.isatty():
        from tools.conversation import hold_conversation

        if options.out is not None:
            raise InvalidInputError("--out goes with a question: it keeps one text, not a conversation.")
        hold_conversation(options, intent, brief, settings)
        return 0
    query = query_from(" ".join(options.words) if options.words else sys.stdin.read(), options)
    with Answerer(settings) as answerer:
        answer = answerer.answer(RagRequest(query, intent=intent, brief=brief)).answer
    if options.out is not None and not answer.abstained:
        atomic_write(options.out, answer.text.rstrip() + "\n")
        console.print(f"Written to {options.out}")
    return 0


def read_order(options: argparse.Namespace) -> tuple[Intent | None, BriefOptions]:
    """Return what the options say is asked for, and of a text that is to be written.

    Raises:
        InvalidInputError: options contradict each other, or the length is too small.
    """
    intent = Intent(options.intent) if options.intent else None
    brief = BriefOptions(form=options.format, words=options.length)
    if brief != NO_OPTIONS:
        if intent not in (None, Intent.WRITE):
            raise InvalidInputError(f"--format and --length are for drafts, and --intent says '{intent}'.")
        if options.length is not None and options.length < LEAST_WORDS:
            raise InvalidInputError(f"--length must be at least {LEAST_WORDS} words, got {options.length}.")
        intent = Intent.WRITE
    return intent, brief


class Answerer:
    """Answers on the console by the process that has the models loaded, else in this one, which then keeps them until the end.

    What is logged meanwhile is shown after the answer, and the answer is noted for ``./poe vote``.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._warm = bool(warm_minutes(settings))
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._pipeline: InferencePipeline | None = None

    def __enter__(self) -> "Answerer":
        return self

    def __exit__(self, *_: object) -> None:
        with hold_log(self._settings):
            self._runner.run(self._stack.aclose())
            self._runner.close()

    def answer(self, request: RagRequest, *, sources: bool = True) -> RagResult:
        """Show an answer as it comes.

        Args:
            sources: list its sources below it.

        Raises:
            KeyboardInterrupt: the user has broken it off.
        """
        with hold_log(self._settings):
            result = self._runner.run(self._answer(request))
        if sources:
            show_sources(result)
        note_answer(self._settings, result.trace_id)
        return result

    async def _answer(self, request: RagRequest) -> RagResult:
        cold = ""
        if self._warm:
            try:
                return await show(WarmTwin(self._settings).answer(request))
            except NotWarmError as error:
                self._warm = False
                cold = str(error)
        if self._pipeline is None:
            from llm_engineering.bootstrap.resources import open_resources

            resources = self._stack.enter_context(open_resources(self._settings))
            self._stack.push_async_callback(resources.language_model.close)
            self._pipeline = resources.inference_pipeline()
        if cold:  # only now: what would keep this process from answering too is the better message
            errors.print(f"[yellow]{escape(cold)} Answering without it.[/]")
        try:
            return await show(self._pipeline.answer(request))
        finally:
            await self._pipeline.close()  # what is being written: until the next question, nothing runs here


async def ask(request: RagRequest, resources: "Resources") -> Answer:
    """Answer on the console with what this process has loaded."""
    pipeline = resources.inference_pipeline()
    try:
        result = await show(pipeline.answer(request))
    finally:
        await pipeline.close()
    show_sources(result)
    return result.answer


async def show(answering: AsyncGenerator[Event, None]) -> RagResult:
    """Print the text as it comes, and return the finished answer."""
    result: RagResult | None = None
    stream = WordStream()
    try:
        async with aclosing(answering) as events:
            async for event in events:
                if isinstance(event, Piece):
                    stream.write(event.text)
                elif isinstance(event, Finished):
                    result = event.result
    finally:
        stream.close()
    if result is None:
        raise AssertionError("an answer always ends with its finished form")
    return result


def show_sources(result: RagResult) -> None:
    """List the numbered sources, those that the answer cites in bold, each with the sentences that it backs."""
    finished = result.answer
    for sentence in result.provenance.degradations:
        console.print(f"[yellow]{escape(sentence)}[/]")
    if not finished.citations:
        return
    if finished.abstained:
        console.print("[dim]Nothing that was collected is close enough. Nearest:[/]\n")
        for citation in finished.citations[:NEAREST]:
            _show_source(citation, finished)
        return
    if finished.quoted:
        drafted = result.provenance.intent is Intent.WRITE
        console.print(
            "[dim]Composed of the author's own sentences, word for word.[/]"
            if drafted
            else "[dim]Quoted from the sources.[/]"
        )
    else:
        _show_verdicts(finished)
    console.print()
    for citation, follows in group_passages(finished.citations, lambda one: one.passage.link):
        _show_source(citation, finished, follows=follows)


def group_passages(citations: Iterable[_C], link_of: Callable[[_C], str]) -> Iterator[tuple[_C, bool]]:
    """Yield the passages of a text one after the other, each with whether it follows another of the same text."""
    texts: dict[str, list[_C]] = {}
    for citation in citations:
        texts.setdefault(link_of(citation), []).append(citation)
    for passages in texts.values():
        yield from ((passage, number > 0) for number, passage in enumerate(passages))


def name_passage(title: str, headings: Sequence[str], text: str, *, follows: bool = False) -> str:
    """Return what a passage is called: title and section, or, where it follows another of its text, the section alone."""
    section = headings[-1] if headings and headings[-1] != title else ""
    beginning = f"{' '.join(text.split())[:60]}…"  # a post has no title
    if follows:
        return f"  > {section or beginning}"
    return " > ".join(part for part in (title, section) if part) or beginning


def _show_verdicts(finished: Answer) -> None:
    """How many sentences are backed, and which are not."""
    counts = Counter(support.verdict for support in finished.supports)
    if finished.supports and not counts[Verdict.SUPPORTED] + counts[Verdict.PARTIAL]:
        console.print("[yellow]No source backs this answer.[/]")
        return
    doubtful = [support for support in finished.supports if support.verdict is not Verdict.SUPPORTED]
    for support in doubtful:
        said = " ".join(finished.text[support.span.start : support.span.end].split())
        what = "backed in part" if support.verdict is Verdict.PARTIAL else "not backed by a source"
        console.print(f"{_MARKS[support.verdict]} [dim]{what}:[/] {escape(shorten(said, _SHOWN_SPAN))}")
    if finished.finish_reason == "length":
        console.print("[dim]The answer was cut at the token limit.[/]")


def _show_source(citation: Citation, finished: Answer, *, follows: bool = False) -> None:
    passage = citation.passage
    style = "bold" if citation.number in finished.cited else "dim"
    name = name_passage(passage.title, passage.headings, passage.text, follows=follows)
    console.print(f"[{style}]\\[{citation.number}] {escape(name)}[/]")
    if not follows:
        similarity = f" · cosine {passage.dense_score:.2f}" if passage.dense_score is not None else ""
        author = f"{escape(passage.author)} · " if passage.author else ""
        console.print(f"    [dim]{author}{escape(passage.link)}{similarity}[/]")
    spans = [
        (support.verdict, support.source_span)
        for support in finished.supports
        if citation.number in support.cited and support.source == citation.number and support.source_span
    ]
    for verdict, span in dict.fromkeys(spans):
        backing = " ".join(passage.text[span.start : span.end].split())
        console.print(f"    {_MARKS[verdict]} [dim italic]{escape(shorten(backing, _SHOWN_SPAN))}[/]")


if __name__ == "__main__":
    run(main)
