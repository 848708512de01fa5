"""Show how an author writes, in numbers and examples: ``./poe show-voice [NAME] [--json]``."""

import json
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.text.markdown import shorten
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.voices import Spread, VoiceProfile
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run

_RATES = {
    "i": "“I”, “my”",
    "we": "“we”, “our”",
    "you": "“you”, “your”",
    "commas": "commas",
    "semicolons": "semicolons",
    "colons": "colons",
    "dashes": "dashes",
    "brackets": "brackets",
    "questions": "questions",
    "exclamations": "exclamations",
    "emoji": "emoji",
    "headings": "headings",
}
_LONGEST = 100
"""Characters of an example that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("show-voice", __doc__)
    parser.add_argument("name", nargs="*", metavar="NAME", help="author; default: TWIN_AUTHOR, else all")
    parser.add_argument("--json", action="store_true", help="all of it, for a program")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    name = " ".join(options.name) or settings.twin_author
    with open_resources(settings) as resources:
        voices = resources.warehouse.voices
        found = voices.find(name) if name else list(voices.list_profiles())
        known = sorted({voice.author for voice in voices.list_profiles()}) if not found else []
    if not found:
        raise InvalidInputError(
            f"There is no voice profile of {name}. There are: {', '.join(known)}."
            if known
            else f"There are no voice profiles yet. They are made with the features: {POE} run-feature-engineering-pipeline"
        )
    if options.json:
        print(
            json.dumps(
                [voice.model_dump(mode="json", exclude={"style"}) for voice in found], ensure_ascii=False
            )
        )
        return 0
    for voice in found:
        show_voice(voice)
    return 0


def show_voice(voice: VoiceProfile) -> None:
    """Print one profile."""
    table = Table(title=f"{voice.author} ({voice.language or '?'})", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("made from", f"{voice.documents:,} documents, {voice.words:,} words")
    table.add_row("words of a sentence", _spread(voice.sentence_words))
    table.add_row("sentences of a paragraph", _spread(voice.paragraph_sentences))
    rates = [f"{label} {voice.rates[name]:g}" for name, label in _RATES.items() if voice.rates.get(name)]
    table.add_row("in 1,000 words", " · ".join(rates))
    absent = [label for name, label in _RATES.items() if not voice.rates.get(name)]
    if absent:
        table.add_row("never", " · ".join(absent))
    for label, words in (("uses more than others", voice.favoured), ("typical words", voice.terms)):
        if words:
            table.add_row(label, escape(", ".join(words)))
    for label, sentences in (("opens with", voice.openers), ("closes with", voice.closers)):
        table.add_row(label, "\n".join(escape(shorten(sentence, _LONGEST)) for sentence in sentences))
    table.add_row(
        "most like themselves",
        "\n".join(escape(shorten(f"{e.category}: {e.title or e.text}", _LONGEST)) for e in voice.exemplars),
    )
    if voice.style is None:
        table.add_row("voice score", "too little text to tell this author from others")
    else:
        table.add_row(
            "voice score",
            f"their own texts: {voice.style.low:.2f} to {voice.style.high:.2f} (1 is most like them)",
        )
    console.print(table)


def _spread(spread: Spread) -> str:
    return f"{spread.median:g} (mostly {spread.low:g} to {spread.high:g})"


if __name__ == "__main__":
    run(main)
