"""Train a language model from nothing, to see learning happen: ``./poe train-tiny-model [FILE|FOLDER …] [--minutes 3]``."""

import math
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.bootstrap.logging import show_progress, start_logging
from llm_engineering.bootstrap.training import train_tiny_model
from llm_engineering.domain.errors import InvalidInputError
from llm_engineering.settings import load_settings
from tools.console import console, make_parser, run, show_table, user_path

ROOT = Path(__file__).resolve().parent.parent
_SUFFIXES = (".md", ".txt")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("train-tiny-model", __doc__)
    parser.add_argument(
        "texts",
        nargs="*",
        type=user_path,
        metavar="FILE|FOLDER",
        help=".md and .txt (default: the project's docs)",
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="of training, at most (default: 3)")
    parser.add_argument("--steps", type=int, default=1500, help="of training, at most (default: 1500)")
    parser.add_argument("--prompt", default="The model", help="what its samples begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=user_path, default=Path("data/tiny"), help="folder (default: data/tiny)"
    )
    options = parser.parse_args(arguments)
    if min(options.minutes, options.steps) <= 0:
        raise InvalidInputError("--minutes and --steps are numbers above 0.")
    settings = load_settings()
    start_logging(settings)
    texts = [file.read_text(encoding="utf-8") for file in _find_files(options.texts or [ROOT / "docs"])]
    with show_progress(settings) as progress:
        found = train_tiny_model(
            texts,
            options.out,
            minutes=options.minutes,
            steps=options.steps,
            seed=options.seed,
            prompt=options.prompt,
            progress=progress,
        )
    console.print(
        f"{found.parameters:,} weights, {found.tokens:,} tokens of text, {found.steps} steps in {found.seconds:.0f} s.",
        highlight=False,
    )
    table = Table(title="Loss, nats a token", title_justify="left", title_style="bold")
    for heading in ("Step", "Text learned", "Text held out", "Perplexity"):
        table.add_column(heading, justify="right")
    shown = {
        0,
        found.best,
        found.curve[-1][0],
        *(step for step, _, _ in found.curve[:: max(1, len(found.curve) // 5)]),
    }
    for step, learned, held in found.curve:
        if step in shown:
            mark = " ←" if step == found.best else ""
            table.add_row(f"{step}{mark}", f"{learned:.2f}", f"{held:.2f}", f"{math.exp(held):.1f}")
    show_table(table)
    for step, text in found.samples:
        console.print(f"\n[bold]It writes after step {step}:[/]\n{escape(text)}", highlight=False)
    console.print(
        f"\nThe weights of step {found.best}, lowest on held-out text, are in {escape(str(options.out))}."
    )
    return 0


def _find_files(places: Sequence[Path]) -> list[Path]:
    """
    Raises:
        InvalidInputError: one is not there.
    """
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise InvalidInputError(f"There is no file or folder {place}.")
        found += (
            sorted(file for file in place.rglob("*") if file.suffix in _SUFFIXES and file.is_file())
            if place.is_dir()
            else [place]
        )
    return found


if __name__ == "__main__":
    run(main)
