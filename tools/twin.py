"""From links to your twin: ``./poe twin --author "Your Name" --link URL … [--no-training] [--steps N] [--no-serve]``.

Collects, builds features, makes data sets, trains, evaluates, promotes what is better, and serves the chat page: the tasks that
are there for each of these, in order. What an earlier run has done is not done again, so after an interruption, or when
something new was written, the same command goes on.
"""

import argparse
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from llm_engineering.application.evaluation.models.config import ModelEvaluationParameters
from llm_engineering.application.features.config import EndToEndData, FeatureEngineering
from llm_engineering.application.training.datasets.config import (
    GenerateInstructDataset,
    GeneratePreferenceDataset,
)
from llm_engineering.application.training.finetune.config import SftConfig
from llm_engineering.application.training.finetune.dpo import DpoConfig, DpoRun
from llm_engineering.application.training.finetune.model_folder import open_version
from llm_engineering.application.training.finetune.run import SftRun, Training
from llm_engineering.bootstrap.logging import start_logging
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.bootstrap.training import open_bundled_models
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError, TwinError
from llm_engineering.domain.hints import POE, describe_install
from llm_engineering.domain.models import EVALUATION, Stage
from llm_engineering.settings import LlamaCppSettings, Settings, load_settings
from tools import registry
from tools.checks import find_missing_group
from tools.compare import show_side_by_side
from tools.console import (
    DEMO_COLLECTION,
    NARROW,
    console,
    errors,
    make_parser,
    run,
    show_stage,
    user_link,
    user_path,
)
from tools.models import choose_models, ensure_models, with_small_llm
from tools.preflight import check_hosts, describe_limits
from tools.reports import read_output
from tools.run import OWN, PIPELINES, run_pipeline
from tools.run_config import check_parameters, read_run_config
from tools.sample_site import DEFAULT_PORT, SampleSite
from tools.serve import serve
from tools.services import LocalMongo, describe_taker
from tools.speed import measure_step_seconds

SAMPLE, SAMPLE_AUTHOR = Path("configs/end_to_end_data_sample.yaml"), "Ada Winter"
SFT, DPO = Path("configs/training_sft.yaml"), Path("configs/training_dpo.yaml")
_DPO_STEPS, _EVALUATION_STEPS = 2.8, 55
"""How many steps of SFT a step of DPO takes, and an evaluation, measured once with the bundled model."""
_LONGEST_NAME = 40
ConfigT = TypeVar("ConfigT", SftConfig, DpoConfig)


@dataclass(frozen=True, slots=True)
class Part:
    """A line of the plan."""

    title: str
    what: str
    about: str = ""
    """Time or size."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the command line asks for, checked."""

    author: str
    data: EndToEndData | None
    """None: no links were given; what was collected before is used."""
    training: Training | None
    """None: nothing is trained."""
    evaluation: Path
    sample: bool
    serve: bool
    reason: str = ""
    """Why nothing is trained, where it was wanted."""

    @property
    def name(self) -> str:
        """Of the author's models and data sets."""
        return make_name(self.author)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    if options.sample:
        os.environ.update(DEMO_COLLECTION)  # the sample never mixes with anybody's writing
    settings = with_small_llm(load_settings()) if options.small else load_settings()
    start_logging(settings)
    wish = read_wish(options, settings)
    check_hosts(options.link)
    url = f"http://{settings.service.host}:{settings.service.port}/"
    if wish.serve and settings.service.port and (taken := describe_taker(settings.service.port)):
        raise ConfigurationError(
            f"The chat page cannot be served at {url}: {taken}. End that program, choose another SERVICE_PORT, or add "
            "--no-serve."
        )
    show_plan(wish, make_plan(wish, settings, url, small=options.small))
    timings: dict[str, float] = {}
    with ExitStack() as stack:
        with show_stage("Models and local services", timings):
            ensure_models(settings, small=options.small)
            _start_database(settings)
            if wish.sample:  # up to the end, so that the page's sources can be opened
                stack.enter_context(SampleSite(port=DEFAULT_PORT))
        with show_stage("Collect and build features", timings):
            _collect(wish)
        failed = _train(wish, settings, timings) if wish.training is not None else False
        own = settings_of_twin(wish, settings)
        _show_end(wish, timings, settings.twin_author)
        if wish.serve:
            serve(own, own.service.host, own.service.port)
    return 1 if failed else 0


# --- what is wanted, and the plan -------------------------------------------------------------------------------------


def read_wish(options: argparse.Namespace, settings: Settings) -> Wish:
    """Return what the command line asks for.

    Raises:
        ConfigurationError: author or links are missing or wrong, or a YAML is.
    """
    author = options.author or (SAMPLE_AUTHOR if options.sample else settings.twin_author)
    if not author or not author.strip():
        raise ConfigurationError(f'Whose twin? Add --author "Your Name", or set TWIN_AUTHOR once: {POE} init')
    if options.sample and options.link:
        raise ConfigurationError("--sample brings its own links; leave out --link or --sample.")
    if options.steps is not None and options.steps < 1:
        raise ConfigurationError(f"--steps must be at least 1, got {options.steps}.")
    data: EndToEndData | None = None
    if options.sample:
        data, _ = read_run_config(SAMPLE, EndToEndData)
    elif options.link:
        given = {"collect": {"author": author, "links": options.link}}
        data = check_parameters(given, EndToEndData, Path("the command line"))
    elif OWN.is_file():
        data, _ = read_run_config(OWN, EndToEndData)
    training, reason = None, ""
    if not options.no_training:
        if missing := find_missing_group("training"):
            reason = f"not installed: {missing}"
        else:
            training = _read_training(options, make_name(author))
            read_run_config(options.evaluation, ModelEvaluationParameters)  # a mistake in it is told now
    return Wish(author.strip(), data, training, options.evaluation, options.sample, options.serve, reason)


def _read_training(options: argparse.Namespace, name: str) -> Training:
    sft, _ = read_run_config(options.training, Training)
    dpo, _ = read_run_config(options.dpo, Training)
    if sft.training is None or dpo.dpo is None:
        raise ConfigurationError(
            f"{options.training} must hold a section 'training', and {options.dpo} a section 'dpo'."
        )
    supervised, preferring = sft.training.sft, dpo.dpo.dpo
    if options.steps is not None:
        supervised = set_steps(supervised, options.steps, options.training)
        preferring = set_steps(preferring, options.steps, options.dpo)
    return Training(
        training=sft.training.model_copy(update={"name": name, "sft": supervised}),
        dpo=dpo.dpo.model_copy(update={"name": name, "dpo": preferring}),
    )


def set_steps(config: ConfigT, steps: int, file: Path) -> ConfigT:
    """Return a training's configuration with so many steps; what is counted in steps becomes no longer than that.

    Raises:
        ConfigurationError: the file and that many steps do not go together.
    """
    values = config.model_dump()
    values |= {"max_steps": steps, "epochs": None}
    values |= {
        name: min(values[name], steps)
        for name in ("eval_steps", "save_steps", "logging_steps")
        if values[name] is not None
    }
    values["optimizer"]["warmup_steps"] = min(values["optimizer"]["warmup_steps"], steps - 1)
    return check_parameters(values, type(config), file)


def make_name(author: str) -> str:
    """Return a name for models and data sets: ``Zoë O'Hara`` becomes ``zoe-o-hara``; ``twin`` where no letter is left."""
    plain = unicodedata.normalize("NFKD", author).encode("ascii", "ignore").decode()
    words = re.findall("[a-z0-9]+", plain.casefold())
    return "-".join(words)[:_LONGEST_NAME].strip("-") or "twin"


def make_plan(wish: Wish, settings: Settings, url: str, *, small: bool = False) -> list[Part]:
    """Return what will be done, with what it takes."""
    return [
        *_plan_data(wish, settings, small),
        *_plan_training(wish),
        *([Part("Serve", f"the chat page at {url}")] if wish.serve else []),
    ]


def _plan_data(wish: Wish, settings: Settings, small: bool) -> Iterator[Part]:
    models = open_bundled_models(settings)
    missing = sum(
        size
        for name in choose_models(models.names, settings, small=small)
        for file, size in models.list_files(name).items()
        if not file.is_file()
    )
    yield Part("Models", f"{missing / 1e9:.1f} GB to fetch" if missing else "here", "once" if missing else "")
    if wish.data is None:
        yield Part("Collect", "no new links: what was collected before", "")
    else:
        links = wish.data.collect.links
        yield Part(
            "Collect",
            ", ".join(link.url for link in links[:3]) + (" …" if len(links) > 3 else ""),
            "a second a page or two",
        )
    yield Part("Features", "clean, chunk, embed and index what is new", "a minute for 500 passages")


def _plan_training(wish: Wish) -> Iterator[Part]:
    if wish.training is None:
        yield Part("Training", wish.reason or "left out, as you said", "")
        return
    sft, dpo = wish.training.training, wish.training.dpo
    assert sft is not None
    assert dpo is not None
    seconds = measure_step_seconds()
    yield Part("Data set", f"questions answered in {wish.author}'s own words", "a minute")
    yield Part("SFT", *_plan_steps(sft.sft.max_steps, seconds, sft.sft.base_model))
    yield Part(
        "DPO",
        "where readers have voted answers down",
        _plan_steps(dpo.dpo.max_steps, seconds * _DPO_STEPS)[1],
    )
    yield Part(
        "Evaluation",
        "base and trained models on texts held back",
        f"{seconds * _EVALUATION_STEPS / 60:.0f} min",
    )
    yield Part("Promotion", "into production, if it is better than what is there", "")


def _plan_steps(steps: int | None, seconds: float, model: str = "") -> tuple[str, str]:
    if not steps:
        return f"all epochs on {model}", "long: see --steps"
    return f"{steps} steps on {model}", f"{max(1, steps * seconds / 60):.0f} min"


def show_plan(wish: Wish, parts: Sequence[Part]) -> None:
    """Print the plan, and how to leave and to take up again."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_column(style="dim", no_wrap=True)
    for part in parts:
        table.add_row(part.title, escape(part.what), escape(part.about))
        if console.width < NARROW:
            console.print(f"[bold]{part.title}[/] {escape(part.what)} [dim]{escape(part.about)}[/]")
    if console.width >= NARROW:
        console.print(
            Panel(
                table,
                title=f"[bold]{escape(wish.author)}'s twin[/]",
                subtitle="Ctrl-C stops it; the same command goes on",
                title_align="left",
                border_style="cyan",
            )
        )
    if wish.reason:
        console.print(
            f"[yellow]Nothing is trained: the group 'training' is not here.[/] It comes with: {describe_install('training')}",
            soft_wrap=True,
        )


# --- the parts --------------------------------------------------------------------------------------------------------


def _start_database(settings: Settings) -> None:
    mongo = LocalMongo(settings.local.data_dir, settings.local.mongo_port)
    if settings.database.uri.get_secret_value().startswith(mongo.uri):
        if not mongo.status().running:
            mongo.start()
        console.print(f"  MongoDB runs at {mongo.uri}; to stop it: {POE} local-infrastructure-down")


def _collect(wish: Wish) -> None:
    if wish.data is not None:
        run_pipeline("end_to_end_data", wish.data)
        return
    with open_resources() as resources:
        user = resources.warehouse.users.find(wish.author)
        if user is None:
            raise InvalidInputError(
                f"Nothing by {wish.author} was collected yet. Say where it is to be read: --link URL (repeatable)."
            )
    run_pipeline("feature_engineering", FeatureEngineering())


def _train(wish: Wish, settings: Settings, timings: dict[str, float]) -> bool:
    """Make data sets, train, evaluate, promote. True if it could not be done; what was collected is served all the same."""
    assert wish.training is not None
    sft, dpo = wish.training.training, wish.training.dpo
    assert sft is not None
    assert dpo is not None
    try:
        with show_stage("Data sets", timings):
            questions = _make_questions(wish)
            pairs = _make_pairs(wish)
        with show_stage("Training", timings):
            folder = _fine_tune(sft, questions, dpo, pairs)
        with show_stage("Evaluation and promotion", timings):
            _evaluate(wish, folder, questions)
            _promote(wish.name)
        show_side_by_side(folder, settings)
    except TwinError as error:
        errors.print(f"[bold red]✗[/] The training ended here: {escape(str(error))}", soft_wrap=True)
        return True
    return False


def _make_questions(wish: Wish) -> Path:
    parameters, rest = read_run_config(
        PIPELINES["generate-instruct-datasets"].config, GenerateInstructDataset
    )
    own = {"author": wish.author, "name": f"{wish.name}-instruct"}
    instruct = parameters.instruct.model_copy(update=own)
    result = run_pipeline(
        "generate_instruct_dataset", parameters.model_copy(update={"instruct": instruct}), rest
    )
    return Path(read_output(result, "dataset_report")["folder"])


def _make_pairs(wish: Wish) -> Path | None:
    """Pairs of the author's words and an answer that was voted down; None where nobody has voted one down."""
    with open_resources() as resources:
        if not any(vote.rating == "down" for _, vote in resources.warehouse.feedback.read_votes()):
            console.print(
                "  No pairs for DPO: no answer was voted down yet. A model's answers make some: "
                f"{POE} run-generate-preference-datasets-pipeline",
                soft_wrap=True,
            )
            return None
    parameters, rest = read_run_config(
        PIPELINES["generate-preference-datasets"].config, GeneratePreferenceDataset
    )
    own = {"author": wish.author, "name": f"{wish.name}-preference", "rejected": None}
    preference = parameters.preference.model_copy(update=own)
    try:
        result = run_pipeline(
            "generate_preference_dataset", parameters.model_copy(update={"preference": preference}), rest
        )
    except TwinError as error:
        console.print(f"  No pairs for DPO: {escape(str(error))}", soft_wrap=True)
        return None
    return Path(read_output(result, "dataset_report")["folder"])


def _fine_tune(sft: SftRun, questions: Path, dpo: DpoRun, pairs: Path | None) -> Path:
    """The newest model's folder. A run that was finished earlier is not done again."""
    wanted = Training(
        training=sft.model_copy(update={"dataset": questions}),
        dpo=dpo.model_copy(update={"dataset": pairs}) if pairs else None,
    )
    result = run_pipeline("training", wanted)
    return Path(read_output(result, "training_report")["folder"])


def _evaluate(wish: Wish, folder: Path, questions: Path) -> None:
    if (folder / EVALUATION).is_file():
        console.print(f"  Evaluated before: {folder / EVALUATION}", soft_wrap=True)
        return
    parameters, rest = read_run_config(wish.evaluation, ModelEvaluationParameters)
    evaluation = parameters.model_evaluation.model_copy(update={"name": wish.name, "dataset": questions})
    parameters = parameters.model_copy(update={"model_evaluation": evaluation})
    if told := describe_limits(questions, parameters):
        console.print(f"  [yellow]![/] {escape(told)}")
    run_pipeline("model_evaluation", parameters, rest)


def _promote(name: str) -> None:
    """Put into production what its evaluation has put into staging."""
    with open_resources() as resources:
        waiting = [one for one in resources.registry.list_versions(name) if one.stage is Stage.STAGING]
    if waiting:
        registry.main(["promote", waiting[0].label])


def settings_of_twin(wish: Wish, settings: Settings) -> Settings:
    """Return the settings to serve with: whose twin it is, and the model in production where it takes its own base's place."""
    own = settings.model_copy(update={"twin_author": wish.author})
    llm = settings.llm
    if wish.training is None or not isinstance(llm, LlamaCppSettings) or llm.model_path is not None:
        return own
    with open_resources(settings) as resources:
        try:
            registry = resources.registry
            version = registry.get(wish.name, Stage.PRODUCTION)
        except InvalidInputError:
            return own  # none was better than its base
    chosen = open_bundled_models(settings).choose_llm() if llm.model == "auto" else llm.model
    if version.manifest.base != chosen:
        console.print(
            f"  The page speaks with {chosen}. Your {version.label} is made from {version.manifest.base}; it is served by: "
            f"{POE} run-llm-server --model {version.label}",
            soft_wrap=True,
        )
        return own
    gguf = open_version(registry.files, version).gguf
    console.print(f"  {version.label} speaks. For other commands too: LLM_MODEL_PATH={gguf}", soft_wrap=True)
    return own.model_copy(update={"llm": llm.model_copy(update={"model_path": gguf})})


def _show_end(wish: Wish, timings: dict[str, float], owner: str | None) -> None:
    """Print what was done and how to go on. ``owner``: whom "I" means in the settings."""
    spent = ", ".join(f"{title.lower()} {seconds:.0f} s" for title, seconds in timings.items())
    console.print(f"\n[green]✓[/] {escape(wish.author)}'s twin: {spent}.", soft_wrap=True)
    demo = " --demo" if wish.sample else ""
    command = f'  {POE} ask{demo} "What do I think about …?"'
    if owner == wish.author:
        console.print(command, soft_wrap=True)
    else:
        console.print(
            f'{command} --author "{escape(wish.author)}"   '
            f'[dim]for "I" without it: TWIN_AUTHOR="{escape(wish.author)}" in .env[/]',
            soft_wrap=True,
        )
    if not wish.serve:
        console.print(
            f"  {POE} run-inference-ml-service{demo}   [dim]a chat page and an API[/]", soft_wrap=True
        )


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser("twin", __doc__)
    parser.add_argument("--author", metavar="NAME", help="whose twin (TWIN_AUTHOR)")
    parser.add_argument(
        "--link",
        action="extend",
        nargs="+",
        type=user_link,
        default=[],
        metavar="LINK",
        help="where to read: a URL, file, folder or pattern; repeatable, may be left out later",
    )
    parser.add_argument(
        "--sample", action="store_true", help="the sample site, served meanwhile, in the demo's collection"
    )
    parser.add_argument("--small", action="store_true", help="answer with the small language model (0.1 GB)")
    parser.add_argument("--no-training", action="store_true", help="collect and serve, train nothing")
    parser.add_argument("--steps", type=int, metavar="N", help="of training (default: as the YAML says)")
    parser.add_argument(
        "--serve", action=argparse.BooleanOptionalAction, default=True, help="serve the chat page at the end"
    )
    parser.add_argument(
        "--training", type=user_path, default=SFT, metavar="FILE", help=f"YAML of SFT (default {SFT})"
    )
    parser.add_argument(
        "--dpo", type=user_path, default=DPO, metavar="FILE", help=f"YAML of DPO (default {DPO})"
    )
    evaluation = PIPELINES["evaluation"].config
    parser.add_argument(
        "--evaluation",
        type=user_path,
        default=evaluation,
        metavar="FILE",
        help=f"YAML of the evaluation (default {evaluation})",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run(main)
