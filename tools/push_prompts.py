"""Pushes the prompt templates, each version with its hash, to Opik's library: ``poe push-prompts-to-opik``.

Running it again adds nothing: a version is known by its hash, the one that stands in answers and traces.
"""

import argparse
from collections.abc import Sequence

from rich.markup import escape

from llm_engineering.application.llm.prompts import templates
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.training import open_prompt_library
from llm_engineering.settings import load_settings
from tools.console import console, run


def main(arguments: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(
        prog="poe push-prompts-to-opik", description="Push the prompt templates to Opik's library."
    ).parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    with open_prompt_library(settings) as library:
        pushed = library.push(templates())
    for template in pushed:
        console.print(f"[green]+[/] {escape(template.name)} v{template.version}  [dim]{template.hash}[/]")
    console.print(f"[green]✓[/] {len(pushed)} of {len(templates())} prompt versions were new to the library.")
    return 0


if __name__ == "__main__":
    run(main)
