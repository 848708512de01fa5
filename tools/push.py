"""Push data sets and prompts to the places that share them: ``python -m tools.push dataset | prompts``.

``./poe push-to-huggingface FOLDER OWNER/NAME [--public] [--dry-run]`` pushes a data set's folder, private unless ``--public``
is given. ``dropped.jsonl`` stays here. The token comes from ``HF_TOKEN``.

``./poe push-prompts-to-opik`` pushes the prompt templates to Opik's library. Running it again adds nothing: a version is known
by its hash, the one that stands in answers and traces.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.llm.prompts import list_prompts
from llm_engineering.application.training.datasets.store import read_dataset
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import open_datasets_hub, open_prompt_library
from llm_engineering.domain.hints import POE
from llm_engineering.settings import load_settings
from tools.console import console, run, user_path


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return push_prompts() if options.what == "prompts" else push_dataset(options)


def push_dataset(options: argparse.Namespace) -> int:
    """Check a data set's folder, and push it to the hub."""
    settings = load_settings()
    start_logging(settings)
    folder: Path = user_path(options.folder)
    dataset = read_dataset(folder)  # nothing damaged leaves this machine
    manifest = dataset.manifest
    counts = ", ".join(f"{split} {count:,}" for split, count in manifest.counts.items())
    console.print(
        f"[bold]{escape(manifest.name)}[/] {manifest.version}  {manifest.kind}: {counts} samples of "
        f"{len(manifest.document_hashes):,} documents"
    )
    if options.dry_run:
        visibility = "public" if options.public else "private"
        console.print(
            f"Nothing was pushed. Without --dry-run it goes to {escape(options.repository)}, {visibility}."
        )
        return 0
    pushed = open_datasets_hub(settings).push(folder, options.repository, private=not options.public)
    console.print(f"[green]✓[/] {escape(pushed.url)}  [dim]{pushed.commit[:12]}[/]", soft_wrap=True)
    return 0


def push_prompts() -> int:
    """Push each version of each prompt template, with its hash, to Opik's library."""
    settings = load_settings()
    start_logging(settings)
    with open_prompt_library(settings) as library:
        pushed = library.push(list_prompts())
    for template in pushed:
        console.print(f"[green]+[/] {escape(template.name)} v{template.version}  [dim]{template.hash}[/]")
    console.print(
        f"[green]✓[/] {len(pushed)} of {len(list_prompts())} prompt versions were new to the library."
    )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.push", description="Push data sets or prompts.")
    kinds = parser.add_subparsers(dest="what", required=True, metavar="dataset | prompts")
    dataset = kinds.add_parser(
        "dataset",
        prog=f"{POE} push-to-huggingface",
        description="Push a data set's folder to the Hugging Face hub.",
    )
    dataset.add_argument("folder", metavar="FOLDER", help="data/datasets/NAME/VERSION")
    dataset.add_argument("repository", metavar="OWNER/NAME")
    dataset.add_argument(
        "--public",
        action="store_true",
        help="make a new repository public: only with the consent of those who wrote the texts",
    )
    dataset.add_argument(
        "--dry-run", action="store_true", help="check the folder and say what would happen; needs no token"
    )
    kinds.add_parser(
        "prompts",
        prog=f"{POE} push-prompts-to-opik",
        description="Push the prompt templates to Opik's library.",
    )
    return parser


if __name__ == "__main__":
    run(main)
