"""Set up a twin of your own: ``./poe init [--author NAME] [--link LINK …] [--small | --large] [--yes]``.

Asks whose twin it is, where the writing is found and which language model is to answer, and writes ``.env`` and
``configs/mine.yaml``, which the other tasks then read. Nothing that is there is replaced unasked, and nothing is written
before the last answer. With ``--yes``, or where there is no terminal, nothing is asked.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from dotenv import dotenv_values
from rich.markup import escape

from llm_engineering.application.features.config import CollectRun, LinkSpec
from llm_engineering.application.files import atomic_write
from llm_engineering.bootstrap.training import open_bundled_models
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import LlamaCppSettings, Settings, load_settings
from tools.console import console, errors, make_parser, run, user_path
from tools.preflight import check_links
from tools.run import OWN

ENV = Path(".env")
_HEAD = "# Settings of this twin. All that there are, with their defaults: .env.example\n"
_CONFIG = """\
# Where {author}'s writing is found. Written by ./poe init; change it as you like. Every kind of link is shown in
# configs/digital_data_etl_template.yaml.
#
#   ./poe run-end-to-end-data-pipeline     collects it and builds features; run it again when something new was written
#   ./poe twin                             does this too, then trains and serves

parameters:
  collect:
    author: {author_text}         # whose writing a link is, where the link does not say
    links:                        # a link of somebody else: {{url: …, author: Their Name}}
{links}
    max_failed_share: 0.5         # the run fails when more links than this do
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written."""

    author: str
    links: tuple[str, ...]
    """Empty: no configuration is written."""
    model: str | None
    """None: the model stays as it is."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parse(arguments)
    settings = load_settings(ENV)
    ask = input if sys.stdin.isatty() and not options.yes else None
    try:
        plan = make_plan(options, settings, ask)
        written = write_plan(plan, force=options.force, ask=ask)
    except (KeyboardInterrupt, EOFError):
        errors.print("\n[yellow]Interrupted. Nothing was written.[/]")
        return 130
    _show_end(plan, written)
    return 0


def make_plan(options: argparse.Namespace, settings: Settings, ask: Callable[[str], str] | None) -> Plan:
    """Return what to write, asked for where it is not given.

    Args:
        ask: puts a question and returns the answer; None: nobody is there to be asked.

    Raises:
        ConfigurationError: the author is missing, or a link cannot be one.
    """
    author = " ".join((options.author or "").split())
    if not author and ask is not None:
        author = _ask_author(ask, settings.twin_author or _git_name())
    author = author or settings.twin_author or ""
    if not author:
        raise ConfigurationError(
            f'Whose twin is it? Nobody can be asked here: {POE} init --author "Your Name"'
        )
    links = [_place(link) for link in options.link]
    if not links and ask is not None:
        links = _ask_links(ask, author)
    if links:
        check_links(CollectRun(author=author, links=tuple(LinkSpec(url=link) for link in links)))
    return Plan(author, tuple(dict.fromkeys(links)), _choose_model(options, settings, ask))


def _ask_author(ask: Callable[[str], str], known: str) -> str:
    console.print("[bold]Whose twin is it?[/] The name that stands under the texts.")
    return " ".join(ask(f"Name{f' [{known}]' if known else ''}: ").split()) or known


def _ask_links(ask: Callable[[str], str], author: str) -> list[str]:
    console.print(
        f"\n[bold]Where is {escape(author)}'s writing?[/] A feed, a page, a repository, a file or a folder; one a line, an empty "
        "line ends."
    )
    links: list[str] = []
    while line := ask("Link: ").strip():
        link = _place(line)
        try:
            check_links(CollectRun(author=author, links=(LinkSpec(url=link),)))
        except (ConfigurationError, ValueError) as error:
            errors.print(f"[red]✗[/] {escape(str(error).splitlines()[-1].strip())}")
            continue
        links.append(link)
    return links


def _place(text: str) -> str:
    """A link as it is; a file or folder by its whole path, since tasks run in the project's root."""
    path = user_path(text)
    return str(path.absolute()) if "://" not in text and path.exists() else text


def _choose_model(
    options: argparse.Namespace, settings: Settings, ask: Callable[[str], str] | None
) -> str | None:
    if not isinstance(settings.llm, LlamaCppSettings) or settings.llm.model_path is not None:
        return None  # another model was chosen already
    models = open_bundled_models(settings)
    if options.small or options.large:
        return models.small_llm if options.small else models.default_llm
    if ask is None:
        return None
    size = sum(models.list_files(models.default_llm).values()) / 1e9
    fits = models.fits_machine(models.default_llm)
    console.print(
        f"\n[bold]Which language model?[/] With either, answers are quotations and drafts are made of your own sentences; "
        f"the large one ({models.default_llm}, {size:.1f} GB) can add words of its own (LLM_GROUNDING=quote). A service such as "
        "OpenAI or Ollama, which writes freely, is set later by LLM_BASE_URL."
        + ("" if fits else " [yellow]This machine has little memory for the large one.[/]")
    )
    usual = "large" if fits else "small"
    while True:
        answer = ask(f"large or small [{usual}]: ").strip().casefold() or usual
        if answer in ("large", "l", "small", "s"):
            return models.small_llm if answer.startswith("s") else "auto"
        errors.print("[red]✗[/] Expected large or small.")


def write_plan(plan: Plan, *, force: bool = False, ask: Callable[[str], str] | None = None) -> list[Path]:
    """Write ``.env`` and the configuration, after what there is to ask about them; returns the files that were changed.

    Raises:
        ConfigurationError: a file says something else and may not be replaced, or cannot be written.
    """
    values = {"TWIN_AUTHOR": plan.author, **({"LLM_MODEL": plan.model} if plan.model else {})}
    try:
        before = ENV.read_text(encoding="utf-8") if ENV.is_file() else ""
        known = dotenv_values(ENV) if before else {}
        texts: dict[Path, str] = {}
        other = {name: value for name, value in values.items() if known.get(name) not in (None, "", value)}
        for name, value in other.items():
            if not _may_replace(f"{name}={known[name]} in {ENV}", f"{name}={value}", force, ask):
                del values[name]
        if any(known.get(name) != value for name, value in values.items()):
            texts[ENV] = set_lines(before or _HEAD, values)
        if plan.links:
            config = make_config(plan)
            there = OWN.read_text(encoding="utf-8") if OWN.is_file() else None
            if there != config and (there is None or _may_replace(str(OWN), "the new links", force, ask)):
                texts[OWN] = config
        for path in texts:
            path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            atomic_write(path, text)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or ENV} cannot be written: {error.strerror}. Nothing half-written is left; make the folder "
            "writable, or set the variables in the environment (.env.example)."
        ) from None
    return list(texts)


def _may_replace(there: str, new: str, force: bool, ask: Callable[[str], str] | None) -> bool:
    if force:
        return True
    if ask is None:
        raise ConfigurationError(f"There is {there} already. To replace it by {new}, add --force.")
    return ask(f"\nThere is {there} already. Replace it by {new}? [y/N] ").strip().casefold() in ("y", "yes")


def set_lines(text: str, values: Mapping[str, str]) -> str:
    """Return the text of a ``.env`` with these variables set; every other line stays as it is."""
    lines = text.splitlines()
    for name, value in values.items():
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        line = f'{name}="{escaped}"'
        places = [n for n, old in enumerate(lines) if re.match(rf"\s*(?:export\s+)?{name}\s*=", old)]
        for place in places:
            lines[place] = line
        if not places:
            lines.append(line)
    return "\n".join(lines) + "\n"


def make_config(plan: Plan) -> str:
    """Return the YAML that collects the plan's links."""
    links = "\n".join(f"      - {json.dumps(link, ensure_ascii=False)}" for link in plan.links)
    text = _CONFIG.format(
        author=" ".join(plan.author.splitlines()),
        author_text=json.dumps(plan.author, ensure_ascii=False),
        links=links,
    )
    CollectRun.model_validate(yaml.safe_load(text)["parameters"]["collect"])
    return text


def _git_name() -> str:
    try:
        told = subprocess.run(
            ["git", "config", "user.name"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return " ".join(told.stdout.split())


def _show_end(plan: Plan, written: Sequence[Path]) -> None:
    console.print()
    for path in written:
        console.print(f"[green]✓[/] {path}")
    if not written:
        console.print("[green]✓[/] Everything is as you want it already.")
    console.print(f"[bold]{escape(plan.author)}'s twin.[/] Go on with:")
    link = "" if plan.links or OWN.is_file() else " --link LINK"
    console.print(f"  {POE} twin{link}   [dim]all of it: collect, train, serve a chat page[/]")
    console.print(
        f"  {POE} twin{link} --no-training   [dim]the same within minutes, without a model of your own[/]"
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser("init", __doc__)
    parser.add_argument("--author", metavar="NAME", help="whose twin it is")
    parser.add_argument(
        "--link",
        action="extend",
        nargs="+",
        default=[],
        metavar="LINK",
        help="where the writing is: a URL, file or folder; repeatable",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="answer with the small language model")
    size.add_argument("--large", action="store_true", help="answer with the large one")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("--force", action="store_true", help="replace what is there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
