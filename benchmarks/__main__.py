"""Every performance figure of the project, measured on this machine: ``./poe benchmark [NAMES …]``.

Each part prints its tables; at the end stands one table of all targets, with what was measured. The numbers go into a
JSON file with the facts about the machine. Figures taken while other programs work are too low: the load is noted.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from loguru import logger
from rich.rule import Rule

from benchmarks.common import ROOT, console, load, machine, show_checks
from llm_engineering.domain.errors import InvalidInputError, TwinError
from llm_engineering.domain.hints import POE


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    corpus: Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    quick: bool = False
    mongo: str | None = None
    questions: Path | None = None
    beir: Sequence[Path] = ()


# A part is imported when it is run: one that is not asked for costs nothing, and needs nothing installed.


def _features(options: Options) -> dict[str, Any]:
    from benchmarks import features

    scales, rounds = ((1,), 1) if options.quick else ((1, 20), 3)
    return features.main(options.corpus, options.columns, scales, rounds, options.mongo)


def _embedding(options: Options) -> dict[str, Any]:
    from benchmarks import embedding

    texts, rounds = (8, 2) if options.quick else (48, 15)
    return embedding.main(options.corpus, options.columns, texts, rounds, mongo=options.mongo)


def _rerun(options: Options) -> dict[str, Any]:
    from benchmarks import rerun

    documents, scale = (3, 1) if options.quick else (None, 20)
    return rerun.main(options.corpus, options.columns, documents, scale, options.mongo)


def _index(options: Options) -> dict[str, Any]:
    from benchmarks import index

    return index.main((2_000,) if options.quick else (5_000, 100_000))


def _retrieval(options: Options) -> dict[str, Any]:
    from benchmarks import retrieval

    return retrieval.main(2_000, 50) if options.quick else retrieval.main()


def _memory(options: Options) -> dict[str, Any]:
    from benchmarks import memory

    return memory.main((250, 1_000) if options.quick else (5_000, 20_000), options.mongo)


def _imports(options: Options) -> dict[str, Any]:
    from benchmarks import imports

    return imports.main(1 if options.quick else 5)


def _roundtrips(options: Options) -> dict[str, Any]:
    from benchmarks import roundtrips

    return roundtrips.main(300 if options.quick else 1_500, options.mongo)


def _answering(_: Options) -> dict[str, Any]:
    from benchmarks import answering

    return answering.main()


def _twin(options: Options) -> dict[str, Any]:
    from benchmarks import twin

    return twin.main(options.questions, options.quick)


def _defaults(options: Options) -> dict[str, Any]:
    from benchmarks import defaults

    return defaults.main(options.beir, 10 if options.quick else 300)


def _service(options: Options) -> dict[str, Any]:
    from benchmarks import service

    if options.quick:
        return service.main(2_000, 10, 5.0, 4.0, options.mongo)
    return service.main(mongo=options.mongo)


def _generation(options: Options) -> dict[str, Any]:
    from benchmarks import generation

    return generation.main(100 if options.quick else 2_000, options.mongo)


def _deduplication(options: Options) -> dict[str, Any]:
    from benchmarks import deduplication

    return deduplication.main(2_000 if options.quick else 100_000)


PARTS: dict[str, tuple[str, Callable[[Options], dict[str, Any]]]] = {
    "features": ("the feature pipeline by stage, 1× and 20×", _features),
    "embedding": ("the embedding stage against the bare ONNX session", _embedding),
    "rerun": ("a second run with nothing changed", _rerun),
    "index": ("writing and searching 5,000 and 100,000 chunks", _index),
    "retrieval": ("filtered hybrid retrieval over 100,000 chunks", _retrieval),
    "memory": ("peak memory at 5,000 and 20,000 documents", _memory),
    "imports": ("import steps, pipelines", _imports),
    "roundtrips": ("requests to each store", _roundtrips),
    "service": ("the inference service under load", _service),
    "defaults": ("the reranker's weight and the abstention floor on unlike collections", _defaults),
    "answering": ("similarity of questions with and without an answer", _answering),
    "twin": (f"what a user gets: answers, declined questions, drafts (after: {POE} demo)", _twin),
    "generation": ("making training data, without the model's time", _generation),
    "deduplication": ("exact and near-duplicates among 100,000 samples", _deduplication),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the named parts, or all. Returns 0 also where a target is missed: a slow machine is no error."""
    parser = argument_parser()
    parsed = parser.parse_args(arguments)
    if unknown := [name for name in parsed.names if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; there are: {', '.join(PARTS)}")
    try:
        columns = column_map(parsed.columns)
    except InvalidInputError as error:
        parser.error(str(error))
    logger.remove()
    logger.add(sys.stderr, level="ERROR")
    options = Options(parsed.corpus, columns, parsed.quick, parsed.mongo, parsed.questions, parsed.beir)
    report = run_parts(parsed.names or [name for name in PARTS if name != "twin"], options)
    console.print(Rule())
    show_checks("Targets", [check for part in report["parts"].values() for check in part["checks"]])
    if parsed.quick:
        console.print("Quick: small sizes, to see that it works. Targets are set for the full sizes.")
    elif report["load_before"] > report["machine"]["cores"] / 2:
        console.print(
            f"The load was {report['load_before']} when this began: other programs slow what is measured."
        )
    file = parsed.json or default_file(report)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    console.print(f"Written: {file.relative_to(ROOT) if file.is_relative_to(ROOT) else file}")
    return 0


def argument_parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:<13} {what}" for name, (what, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog=f"{POE} benchmark",
        description=f"{__doc__}\nparts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="parts; default: all but the twin, which wants a collection"
    )
    parser.add_argument(
        "--corpus",
        type=Path,
        help="JSON array or JSON Lines file of objects with a text; default: the sample site's articles",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="text=FIELD",
        help="where text and title stand in such an object; a dot leads into an object: text=content.Content",
    )
    parser.add_argument(
        "--beir",
        nargs="+",
        type=Path,
        default=[],
        metavar="FOLDER",
        help="BEIR folders to measure retrieval on, beside the sample site",
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="default: data/benchmarks/TIME-COMMIT.json")
    parser.add_argument(
        "--questions",
        type=Path,
        metavar="FILE",
        help="twin: questions with what must stand in the reply, a JSON object a line; default: those of the sample",
    )
    parser.add_argument("--mongo", metavar="URI", help="measure with this MongoDB instead of a local one")
    return parser


def column_map(pairs: Sequence[str]) -> dict[str, str]:
    """``text=FIELD title=FIELD`` as a dictionary.

    Raises:
        InvalidInputError: a pair has another form, or names something else.
    """
    columns = {}
    for pair in pairs:
        name, equals, where = pair.partition("=")
        if name not in ("text", "title") or not equals or not where:
            raise InvalidInputError(f"--columns {pair!r}: expected text=FIELD or title=FIELD")
        columns[name] = where
    return columns


def run_parts(names: Sequence[str], options: Options) -> dict[str, Any]:
    """Run the parts one after the other; their results with the machine's facts, the commit and the time."""
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "corpus": options.corpus.name if options.corpus else "sample site",
        "quick": options.quick,
        "load_before": load(),
        "parts": {},
    }
    for name in dict.fromkeys(names):
        what, run = PARTS[name]
        console.print()
        console.print(Rule(f"[bold]{name}[/]: {what}", align="left"))
        start = perf_counter()
        result = run(options)
        report["parts"][name] = {**result, "seconds": perf_counter() - start}
    report["load_after"] = load()
    return report


def default_file(report: Mapping[str, Any]) -> Path:
    """Where a report goes that no file was named for."""
    moment = report["date"].replace(":", "").replace("+0000", "Z")
    return ROOT / "data" / "benchmarks" / f"{moment}-{report['machine']['git_commit']}.json"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TwinError as error:
        console.print(f"[bold red]✗[/] {error}")
        sys.exit(1)
