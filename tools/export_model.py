"""Write a trained model in 8 or 4 bits for llama.cpp, and say what that costs: ``./poe export-model [NAME|FOLDER]``."""

import math
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from llm_engineering.application.evaluation.models.evaluate import NamedProgress
from llm_engineering.application.evaluation.models.heldout import draw_samples
from llm_engineering.application.evaluation.models.systems import AnsweringModels, System
from llm_engineering.application.ports import Message, Progress
from llm_engineering.application.training.finetune.data import open_dataset, read_instruct
from llm_engineering.bootstrap.llm_service import open_trained_model
from llm_engineering.bootstrap.logging import show_progress, start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import quantise_model
from llm_engineering.domain.datasets import InstructSample, Split
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.models import ModelManifest
from llm_engineering.settings import load_settings
from tools.console import console, errors, make_parser, run, show_table, user_path

KINDS = ("q8_0", "q4_0", "q4_1")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = make_parser("export-model", __doc__)
    parser.add_argument(
        "model",
        nargs="?",
        default="twin",
        help="NAME, NAME:VERSION or a trained model's folder (default: twin)",
    )
    parser.add_argument(
        "--kind",
        action="append",
        choices=KINDS,
        help="repeatable; default: q8_0 (integers of 8 bits) and q4_0",
    )
    parser.add_argument(
        "--out", type=user_path, default=Path("data/exports"), metavar="FOLDER", help="default: data/exports"
    )
    parser.add_argument(
        "--dataset", type=user_path, metavar="FOLDER", help="whose test split perplexity is measured on"
    )
    parser.add_argument("--samples", type=int, default=24, help="of the test split (default: 24)")
    options = parser.parse_args(arguments)
    settings = load_settings()
    start_logging(settings)
    model, _ = open_trained_model(settings, options.model)
    manifest = model.manifest
    samples = draw_samples(_read_samples(options.dataset, manifest), options.samples, 0)
    whole = model.gguf
    files = [whole]
    for kind in dict.fromkeys(options.kind or ("q8_0", "q4_0")):
        file = options.out / f"{manifest.name}-{manifest.content_hash[:8]}-{kind}.gguf"
        errors.print(f"[dim]Writing {escape(str(file))} …[/]", soft_wrap=True)
        quantise_model(whole, file, kind)
        files.append(file)
    with (
        open_resources(settings) as resources,
        show_progress(settings) as progress,
        tempfile.TemporaryDirectory(dir=options.out) as unpacked,
        closing(resources.answering_models(Path(unpacked))) as models,
    ):
        found = [_measure_perplexity(models, manifest, file, samples, progress) for file in files]
    table = Table(
        title=f"Perplexity on {len(samples)} test samples", title_justify="left", title_style="bold"
    )
    for heading in ("File", "MB", "Perplexity", "Change"):
        table.add_column(heading, justify="left" if heading == "File" else "right")
    for file, value in zip(files, found, strict=True):
        change = "" if file is whole else f"{value / found[0] - 1:+.1%}"
        table.add_row(escape(str(file)), f"{file.stat().st_size / 1e6:.0f}", f"{value:.2f}", change)
    show_table(table)
    console.print(f"Talk to one: LLM_MODEL_PATH={escape(str(files[1]))} {POE} ask", soft_wrap=True)
    return 0


def _read_samples(given: Path | None, manifest: ModelManifest) -> list[InstructSample]:
    folder = given or Path("data/datasets") / Path(*manifest.dataset.split("@"))
    if not folder.is_dir():
        raise ConfigurationError(
            f"The data set {manifest.dataset} that {manifest.name} was trained on is not in {folder}; perplexity is measured on "
            "its test split. Name one with --dataset FOLDER."
        )
    if samples := list(read_instruct(open_dataset(folder, "instruct", manifest.template), Split.TEST)):
        return samples
    raise ConfigurationError(f"{folder} has no test split to measure on; name another with --dataset FOLDER.")


def _measure_perplexity(
    models: AnsweringModels,
    manifest: ModelManifest,
    file: Path,
    samples: Sequence[InstructSample],
    progress: Progress,
) -> float:
    """Perplexity of the author's answers by a file's weights, as llama.cpp unpacks them."""
    told = [
        [
            *(Message(turn.role, turn.content) for turn in sample.history),
            Message("user", sample.instruction),
            Message("assistant", sample.answer),
        ]
        for sample in samples
    ]
    with models.open(System(file.name, file.name, str(file), manifest.template)) as model:
        found = model.compute_likelihoods(told, batch_size=4, progress=NamedProgress(progress, file.name))
    scored = [one for one in found if one is not None]
    if not scored:
        raise ConfigurationError(
            "All test samples are longer than the model's context; nothing can be measured."
        )
    return math.exp(sum(one.nll for one in scored) / sum(one.tokens for one in scored))


if __name__ == "__main__":
    run(main)
