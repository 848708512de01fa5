"""Pushes a data set's folder to a hub: ``poe push-to-huggingface FOLDER OWNER/NAME [--public] [--dry-run]``.

Private unless ``--public`` is given. ``dropped.jsonl`` stays here. The token comes from ``HF_TOKEN``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from llm_engineering.application.training.datasets.store import read_dataset
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import open_datasets_hub
from llm_engineering.settings import load_settings
from tools.console import console, run, user_path


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
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
    seen = "public" if options.public else "private"
    if options.dry_run:
        console.print(
            f"Nothing was pushed. Without --dry-run it goes to {escape(options.repository)}, {seen}."
        )
        return 0
    pushed = open_datasets_hub(settings).push(folder, options.repository, private=not options.public)
    console.print(f"[green]✓[/] {escape(pushed.url)}  [dim]{pushed.commit[:12]}[/]", soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="poe push-to-huggingface", description="Push a data set's folder to the Hugging Face hub."
    )
    parser.add_argument("folder", metavar="FOLDER", help="data/datasets/NAME/VERSION")
    parser.add_argument("repository", metavar="OWNER/NAME")
    parser.add_argument(
        "--public",
        action="store_true",
        help="make a new repository public: only with the consent of those who wrote the texts",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="check the folder and say what would happen; needs no token"
    )
    return parser


if __name__ == "__main__":
    run(main)
