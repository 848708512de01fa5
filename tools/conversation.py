"""A conversation with the twin on the terminal: what ``./poe ask`` opens where it is given no words."""

import argparse
import difflib
import readline
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.inference.events import BriefOptions, RagRequest
from llm_engineering.application.ports.llm import Message
from llm_engineering.domain.errors import InvalidInputError, TwinError
from llm_engineering.domain.inference import Intent, RagResult
from llm_engineering.settings import Settings
from tools.ask import Answerer, show_sources
from tools.console import console, errors
from tools.search_options import query_from
from tools.vote import vote_on_last

COMMANDS = {
    "/author": "NAME: answer from this author's texts, and write in their voice; without a name: everybody's",
    "/write": "WORDS: have a text written",
    "/sources": "show the sources of the last answer",
    "/vote": "up or down, and why: say whether the last answer helped",
    "/new": "forget what was said",
    "/help": "show these",
    "/quit": "end (so does Ctrl-D)",
}
_TURNS = 10
"""Question and answer pairs that are handed on: older ones have no bearing on a follow-up."""
_HISTORY_LINES = 500


def hold_conversation(
    options: argparse.Namespace, intent: Intent | None, brief: BriefOptions, settings: Settings
) -> None:
    """Ask and answer until the user has enough."""
    history = settings.local.data_dir / "ask_history"
    with suppress(OSError):
        readline.read_history_file(history)
    try:
        with Answerer(settings) as answerer:
            Conversation(options, intent, brief, answerer, settings).run(input)
    finally:
        _keep(history)


def _keep(history: Path) -> None:
    """Keep what was typed, for this user's eyes."""
    readline.set_history_length(_HISTORY_LINES)
    with suppress(OSError):
        history.touch(mode=0o600)
        readline.write_history_file(history)


class Conversation:
    """What was said so far, and whose texts it is about.

    Args:
        options: of the search, as on the command line; ``author`` changes with ``/author``.
        intent: of every request; None: it is read from the words.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        intent: Intent | None,
        brief: BriefOptions,
        answerer: Answerer,
        settings: Settings,
    ) -> None:
        self._options = options
        self._intent = intent
        self._brief = brief
        self._answerer = answerer
        self._settings = settings
        self._said: tuple[Message, ...] = ()
        self._last: RagResult | None = None

    def run(self, read: Callable[[str], str]) -> None:
        """Answer each line that ``read`` returns for a prompt, until it raises EOFError or the line is ``/quit``."""
        whose = self._settings.twin_author
        console.print(
            f"[bold]{escape(whose)}'s twin[/]" if whose else "[bold]The twin[/]",
            "[dim]— /help for commands, Ctrl-C breaks an answer off, Ctrl-D ends.[/]",
        )
        while True:
            try:
                line = read(f"\n{', '.join(self._options.author)}> ").strip()
            except EOFError:
                console.print()
                return
            except KeyboardInterrupt:
                errors.print("[dim] (Ctrl-D or /quit ends)[/]")
                continue
            if line == "/quit":
                return
            try:
                if line:
                    self._take(line)
            except TwinError as error:
                errors.print(f"[bold red]✗[/] {escape(str(error))}")
            except KeyboardInterrupt:
                errors.print("[yellow]Broken off.[/]")

    def _take(self, line: str) -> None:
        if not line.startswith("/"):
            self._ask(line, self._intent)
            return
        command, _, rest = line.partition(" ")
        rest = rest.strip()
        match command:
            case "/author":
                self._options.author = [rest] if rest else []
                console.print(f"[dim]Now: {escape(rest) or 'all authors'}.[/]")
            case "/write":
                self._ask(rest, Intent.WRITE)
            case "/sources" if self._last is not None:
                show_sources(self._last)
            case "/vote":
                rating, _, comment = rest.partition(" ")
                if rating not in ("up", "down"):
                    raise InvalidInputError(f"Expected /vote up or /vote down, got '{line}'.")
                vote_on_last(self._settings, rating, comment)
                console.print(f"[green]✓[/] Voted {rating}.")
            case "/new":
                self._said, self._last = (), None
                console.print("[dim]Forgotten.[/]")
            case "/help":
                for name, about in COMMANDS.items():
                    console.print(f"  {name:<9}{escape(about)}")
            case "/sources":
                console.print("[dim]There is no answer yet.[/]")
            case _:
                close = difflib.get_close_matches(command, COMMANDS, n=1)
                meant = f" Did you mean {close[0]}?" if close else " /help shows those there are."
                raise InvalidInputError(f"There is no command {command}.{meant}")

    def _ask(self, text: str, intent: Intent | None) -> None:
        query = query_from(text, self._options)
        request = RagRequest(query, history=self._said, intent=intent, brief=self._brief)
        result = self._answerer.answer(request, sources=False)
        self._last = result
        self._said = (*self._said, Message("user", text), Message("assistant", result.answer.text))[
            -2 * _TURNS :
        ]
        self._name_sources(result)

    def _name_sources(self, result: RagResult) -> None:
        """The titles of what the answer cites, in few lines."""
        for sentence in result.provenance.degradations:
            console.print(f"[yellow]{escape(sentence)}[/]")
        cited = [one for one in result.answer.citations if one.number in result.answer.cited]
        named = [f"[{one.number}] {one.passage.title or one.passage.link}" for one in cited]
        if named:
            console.print(f"[dim]{escape(' · '.join(named))}   (/sources)[/]")
        elif result.answer.citations:
            console.print("[dim]The nearest texts: /sources[/]")
