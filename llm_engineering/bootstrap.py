"""The only door to infrastructure: settings in, ready ports out, closed on exit.

::

    with open_resources() as twin:
        twin.index.search(...)

Nothing is opened before it is first asked for, and what was opened is closed in reverse order. Adapters are imported
here, inside the property that needs them, so what is not chosen costs nothing.
"""

import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, SecretStr

from llm_engineering.application.evaluation.models.config import HarnessConfig
from llm_engineering.application.evaluation.models.metrics import ReferenceMetrics
from llm_engineering.application.evaluation.models.systems import Harness
from llm_engineering.application.evaluation.rag.judging import AnswerJudge
from llm_engineering.application.inference.pipeline import InferenceConfig, InferencePipeline
from llm_engineering.application.inference.retriever import Retriever
from llm_engineering.application.llm.chat_templates import template
from llm_engineering.application.ports import (
    Embedder,
    ExperimentTracker,
    FeedbackStore,
    LanguageModel,
    NullTracer,
    Progress,
    Reranker,
    SearchRequest,
    SourceReader,
    TokenEncoder,
    Tracer,
    VectorIndex,
)
from llm_engineering.application.training.finetune.adapters import AdapterServing, adapter_set
from llm_engineering.application.training.finetune.dpo import PreferenceTrainer
from llm_engineering.application.training.finetune.model_folder import (
    ServableModel,
    named_version,
    open_servable,
    open_version,
)
from llm_engineering.application.training.finetune.tracking import NamedTracker, SafeTrackers
from llm_engineering.application.training.finetune.trainer import Trainer
from llm_engineering.domain.errors import ConfigurationError, StoreUnavailableError
from llm_engineering.domain.retrieval import SearchMode
from llm_engineering.settings import (
    JsonLinesTracingSettings,
    JudgeSettings,
    LateInteractionSettings,
    LlamaCppSettings,
    NoRerankerSettings,
    OnnxEmbedderSettings,
    OpikTracingSettings,
    QdrantEdgeSettings,
    SageMakerSettings,
    Settings,
    load_settings,
)

if TYPE_CHECKING:
    from llm_engineering.application.training.datasets.store import SaveForHub
    from llm_engineering.infrastructure.api.health import Dependency
    from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile
    from llm_engineering.infrastructure.api.middleware.stack import Service
    from llm_engineering.infrastructure.api.server import Listener
    from llm_engineering.infrastructure.hub.datasets import DatasetsHub
    from llm_engineering.infrastructure.llm_service.app import LlmService
    from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
    from llm_engineering.infrastructure.llms.transformers_local import TransformersModels
    from llm_engineering.infrastructure.model_files import BundledModels
    from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
    from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
    from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary
    from llm_engineering.infrastructure.training.export import Exporter
    from llm_engineering.infrastructure.training.sagemaker import SageMakerJobs
    from llm_engineering.infrastructure.training.trl import Bases

T = TypeVar("T")


class Resources:
    """Ports made from settings, each on first use. Use :func:`open_resources`, which also closes them."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self.settings = settings
        self._stack = stack

    def _closing(self, adapter: T, close: Callable[[], object]) -> T:
        self._stack.callback(close)
        return adapter

    @cached_property
    def warehouse(self) -> "MongoWarehouse":
        """Users, documents, clean documents, dead letters and cached embeddings, as attributes of those names."""
        from llm_engineering.infrastructure.stores.mongo import MongoWarehouse

        database = self.settings.database
        warehouse = MongoWarehouse(database.host.get_secret_value(), database.name, database.timeout_seconds)
        return self._closing(warehouse, warehouse.close)

    @cached_property
    def index(self) -> VectorIndex:
        chosen = self.settings.qdrant
        index: VectorIndex
        if isinstance(chosen, QdrantEdgeSettings):
            from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex

            index = QdrantEdgeIndex(chosen.path, chosen.collection)
        else:
            from llm_engineering.infrastructure.index.qdrant_server import QdrantServerIndex

            key = chosen.api_key.get_secret_value() if chosen.api_key else None
            index = QdrantServerIndex(chosen.url, key, chosen.collection, chosen.timeout_seconds)
        return self._closing(index, index.close)

    @cached_property
    def embedder(self) -> Embedder:
        from llm_engineering.infrastructure.model_files import path

        chosen = self.settings.embedder
        embedder: Embedder
        if isinstance(chosen, OnnxEmbedderSettings):
            from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder

            model_dir = path(chosen.model, self.settings.models_dir)
            embedder = OnnxEmbedder(model_dir, chosen.model, chosen.threads, chosen.batch_tokens)
        else:
            from llm_engineering.infrastructure.embedders.openai_http import OpenAIEmbedder

            embedder = OpenAIEmbedder(
                base_url=chosen.base_url,
                api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
                model=chosen.model,
                dimension=chosen.dimension,
                max_tokens=chosen.max_tokens,
                batch_size=chosen.batch_size,
                timeout_seconds=chosen.timeout_seconds,
                query_prefix=chosen.query_prefix,
                document_prefix=chosen.document_prefix,
                tokenizer_path=path("all-MiniLM-L6-v2", self.settings.models_dir) / "tokenizer.json",
            )
        return self._closing(embedder, embedder.close)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The language model. It is closed by whoever runs the event loop it was used in; see ``close_async``."""
        chosen = self.settings.llm
        if isinstance(chosen, LlamaCppSettings):
            from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
            from llm_engineering.infrastructure.model_files import path

            file = chosen.model_path or path("SmolLM2-135M-Instruct", self.settings.models_dir)
            return LlamaCppModel(file, chosen.context_tokens, chosen.threads, chosen.parallel)
        if isinstance(chosen, SageMakerSettings):
            from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel

            return SageMakerModel(**chosen.model_dump(exclude={"kind", "grounding"}))
        from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel

        return OpenAIHttpModel(
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            model=chosen.model,
            context_tokens=chosen.context_tokens,
            timeout_seconds=chosen.timeout_seconds,
            max_retries=chosen.max_retries,
            prompt_price=chosen.prompt_price,
            completion_price=chosen.completion_price,
        )

    @cached_property
    def reranker(self) -> Reranker | None:
        """None: hits stay as the search ranked them."""
        chosen = self.settings.reranker
        if isinstance(chosen, NoRerankerSettings):
            return None
        reranker: Reranker
        if isinstance(chosen, LateInteractionSettings):
            from llm_engineering.infrastructure.rerankers.late_interaction import LateInteractionReranker

            reranker = LateInteractionReranker(self._token_encoder, chosen.cache_mb << 20)
        else:
            from llm_engineering.infrastructure.rerankers.cross_encoder import CrossEncoderReranker

            reranker = CrossEncoderReranker(chosen.model, chosen.revision, chosen.threads)
        return self._closing(reranker, reranker.close)

    @cached_property
    def _token_encoder(self) -> TokenEncoder:
        """The embedder itself where its model runs here: one model in memory for both."""
        from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder
        from llm_engineering.infrastructure.model_files import path

        if isinstance(self.embedder, OnnxEmbedder):
            return self.embedder
        encoder = OnnxEmbedder(path("all-MiniLM-L6-v2", self.settings.models_dir))
        return self._closing(encoder, encoder.close)

    @cached_property
    def tracer(self) -> Tracer:
        """Where traces of requests go.

        Raises:
            MissingDependencyError: Opik was chosen, and its SDK is not installed.
        """
        chosen = self.settings.tracing
        if isinstance(chosen, JsonLinesTracingSettings):
            from llm_engineering.infrastructure.tracing.jsonl import JsonLinesTracer

            lines = JsonLinesTracer(chosen.path, chosen.sample)
            return self._closing(lines, lines.close)
        if isinstance(chosen, OpikTracingSettings):
            from llm_engineering.infrastructure.tracing.opik import OpikTracer

            key = chosen.api_key.get_secret_value() if chosen.api_key else None
            tracer = OpikTracer(chosen.url, key, chosen.workspace, chosen.project, chosen.sample)
            tracer.open()
            return self._closing(tracer, tracer.close)
        return NullTracer()

    @cached_property
    def registry(self) -> "ZenMLRegistry":
        """Versions of trained models, in the ZenML store that is active."""
        from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry

        return ZenMLRegistry()

    @property
    def feedback(self) -> FeedbackStore | None:
        """None: answers are not kept, and votes on them are not taken."""
        return self.warehouse.feedback if self.settings.service.keep_answers else None

    def answer_judge(self) -> AnswerJudge:
        """A fresh judge of answers; closed by whoever runs the event loop it is used in."""
        from llm_engineering.infrastructure.evaluation.ragas import RagasJudge

        chosen = self.settings.judge
        return RagasJudge(
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            model=chosen.model,
            embed=self.embedder.embed_queries,
            timeout_seconds=chosen.timeout_seconds,
            max_tokens=chosen.max_tokens,
            max_retries=chosen.max_retries,
        )

    @contextmanager
    def throwaway_index(self) -> Iterator[VectorIndex]:
        """An empty index in a temporary folder, for the time of the block. The configured one is not touched."""
        from llm_engineering.infrastructure.index.qdrant_edge import QdrantEdgeIndex

        with TemporaryDirectory(prefix="twin-index-") as folder:
            index = QdrantEdgeIndex(Path(folder))
            try:
                yield index
            finally:
                index.close()

    def inference_pipeline(
        self,
        config: InferenceConfig | None = None,
        *,
        tracer: Tracer | None = None,
        keep_answers: bool = True,
    ) -> InferencePipeline:
        """Answers questions with all that the settings name; ``tracer`` in place of the one they name.

        Args:
            keep_answers: False: nothing is kept for feedback, whatever the settings say; for questions that nobody asked.
        """
        chosen = config or InferenceConfig()
        retriever = Retriever(self.index, self.embedder, self.language_model, self.reranker, chosen.retrieval)
        return InferencePipeline(
            retriever,
            self.language_model,
            self.index,
            self.embedder,
            config=chosen,
            strict=self.settings.llm.grounding == "strict",
            tracer=tracer or self.tracer,
            trace_content=getattr(self.settings.tracing, "content", False),
            feedback=self.feedback if keep_answers else None,
        )

    def trainer(self) -> Trainer:
        """Trains on the hardware that is there."""
        from llm_engineering.infrastructure.training.trl import TrlTrainer

        return TrlTrainer(self.base_models())

    def preference_trainer(self) -> PreferenceTrainer:
        """Trains with preferences on the hardware that is there."""
        from llm_engineering.infrastructure.training.trl.dpo import TrlPreferenceTrainer

        return TrlPreferenceTrainer(self.base_models())

    def exporter(self) -> "Exporter":
        """Completes a trained folder with merged weights and a file for llama.cpp."""
        from llm_engineering.infrastructure.training.export import Exporter

        bases = self.base_models()
        return Exporter(lambda name, revision: bases.find(name, revision).location)

    def base_models(self) -> "Bases":
        """Finds models to train or evaluate by name; a GGUF file is converted once, into the models folder."""
        from llm_engineering.infrastructure.model_files import path
        from llm_engineering.infrastructure.training.trl import Bases

        name = "SmolLM2-135M-Instruct"
        return Bases(
            self.settings.models_dir / "trainable", {name: lambda: path(name, self.settings.models_dir)}
        )

    def answering_models(self) -> "TransformersModels":
        """Models on this machine, to be compared; closed by whoever uses them."""
        from llm_engineering.infrastructure.llms.transformers_local import TransformersModels

        bases = self.base_models()
        return TransformersModels(lambda name, revision: bases.find(name, revision).location)

    def reference_metrics(self, bertscore: Path | None = None) -> ReferenceMetrics:
        """ROUGE, BLEU and chrF; BERTScore with the encoder of that folder."""
        from llm_engineering.infrastructure.evaluation.text_metrics import LibraryMetrics

        return LibraryMetrics(bertscore)

    def harness(self, config: HarnessConfig, batch_size: int, seed: int) -> Harness:
        """Runs tasks of lm-evaluation-harness on a system."""
        from llm_engineering.infrastructure.evaluation.lm_harness import LmHarness

        return LmHarness(**config.model_dump(), batch_size=batch_size, seed=seed)

    def judges(self, names: Sequence[str]) -> list[LanguageModel]:
        """Judges by the names that a run's YAML gives them, see ``JudgeNames``; closed by whoever runs the event loop that
        they are used in.

        Raises:
            ConfigurationError: the settings do not hold such a judge.
        """
        return [self.language_model if name == "llm" else self._judge(*name.split(":", 1)) for name in names]

    def _judge(self, name: str, other_model: str | None = None) -> LanguageModel:
        from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel

        group = name.upper()
        chosen: JudgeSettings | None = getattr(self.settings, name)
        if chosen is None:
            raise ConfigurationError(
                f"The run names {name} as a judge, but no {group}_* setting is there. Set {group}_MODEL, and {group}_BASE_URL "
                f"and {group}_API_KEY where they differ from the defaults, or leave {name} out of the run's YAML."
            )
        return OpenAIHttpModel(
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            model=other_model or chosen.model,
            context_tokens=chosen.context_tokens,
            timeout_seconds=chosen.timeout_seconds,
            max_retries=chosen.max_retries,
            # The prices are those of the model that the settings name.
            prompt_price=None if other_model else chosen.prompt_price,
            completion_price=None if other_model else chosen.completion_price,
            settings=group,
        )

    def experiment_tracker(self) -> ExperimentTracker:
        """Shows a training run while it goes on: in files here, and in Comet where the settings say so.

        Raises:
            ConfigurationError: Comet was chosen without what it needs.
        """
        from llm_engineering.infrastructure.tracking.comet import CometTracker
        from llm_engineering.infrastructure.tracking.jsonl import JsonLinesTracker
        from llm_engineering.infrastructure.tracking.tensorboard import TensorBoardTracker

        chosen = self.settings.tracking
        trackers = [NamedTracker("The log of runs", JsonLinesTracker(chosen.folder / "runs"))]
        if chosen.tensorboard:
            board = TensorBoardTracker(chosen.folder / "tensorboard")
            trackers.append(NamedTracker("TensorBoard", board))
        mode = chosen.comet if chosen.comet != "auto" else "online" if chosen.comet_api_key else "off"
        if mode != "off":
            key = chosen.comet_api_key.get_secret_value() if chosen.comet_api_key else None
            comet = CometTracker(
                mode, key, chosen.comet_project, chosen.comet_workspace, chosen.folder / "comet"
            )
            trackers.append(NamedTracker("Comet", comet))
        return SafeTrackers(trackers)

    def source_readers(self) -> dict[str, SourceReader]:
        """A fresh set of readers by name, for one run; their ``close`` belongs to the run's event loop."""
        from llm_engineering.infrastructure.sources.browser.driver import Browser
        from llm_engineering.infrastructure.sources.browser.linkedin import LinkedInReader
        from llm_engineering.infrastructure.sources.browser.posts import PostsPageReader
        from llm_engineering.infrastructure.sources.git import GitReader
        from llm_engineering.infrastructure.sources.tabular import TableReader
        from llm_engineering.infrastructure.sources.web.article import ArticleReader
        from llm_engineering.infrastructure.sources.web.client import PoliteClient
        from llm_engineering.infrastructure.sources.web.feed import FeedReader

        settings = self.settings
        client = PoliteClient(**settings.crawler.model_dump())
        browser = Browser(**settings.rendering.model_dump())
        linkedin = settings.linkedin
        readers: list[SourceReader] = [
            ArticleReader(client, renderer=browser),
            FeedReader(client),
            GitReader(token=settings.github_token.get_secret_value() if settings.github_token else None),
            TableReader(),
            PostsPageReader(browser, permission=client.check_allowed),
            LinkedInReader(
                browser,
                username=linkedin.username,
                password=linkedin.password.get_secret_value() if linkedin.password else None,
                base_url=linkedin.base_url,
            ),
        ]
        return {reader.name: reader for reader in readers}


@contextmanager
def open_resources(settings: Settings | None = None) -> Iterator[Resources]:
    """Resources for the time of the block. Without settings, they are read from the environment and ``.env``.

    Raises:
        ConfigurationError: the settings are wrong.
    """
    with ExitStack() as stack:
        yield Resources(settings or load_settings(), stack)


def llm_service(
    settings: Settings,
    host: str,
    *,
    trained: str | None = None,
    adapters: AdapterServing | None = None,
    **overrides: Any,
) -> "tuple[LlamaCppModel, LlmService]":
    """The configured GGUF and the service that serves it; ``overrides`` win over the settings of llama_cpp.

    Where the settings name another language model, perhaps this very service, the defaults of llama_cpp hold.

    Args:
        trained: a trained model in place of the configured file: its folder, or ``NAME[:VERSION]`` as the registry has it,
            where a version is a number or a stage.
        adapters: several trained models over one base, in place of ``trained``.

    Raises:
        InvalidInputError: there is no such version, or the adapters cannot share a base.
        ModelFileError: the trained model's files are not those of its manifest, or the base is another one.
        TemplateMismatchError: it learned another chat template.
        ConfigurationError: ``host`` can be reached from elsewhere, and there is no key; or there is no such base.
    """
    from llm_engineering.infrastructure.api.middleware.auth import is_loopback
    from llm_engineering.infrastructure.llm_service.app import LlmService
    from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
    from llm_engineering.infrastructure.model_files import path

    named = settings.llm if isinstance(settings.llm, LlamaCppSettings) else LlamaCppSettings()
    chosen = named.model_copy(update={name: value for name, value in overrides.items() if value is not None})
    key = getattr(settings.llm, "api_key", None)
    if key is None and not is_loopback(host):
        raise ConfigurationError(
            f"On {host}, others can reach the model: set LLM_API_KEY to a long random text (the twin sends the same), or "
            "listen on 127.0.0.1."
        )
    served: dict[str, Any] = {}
    if adapters is not None:
        file, served = _with_adapters(settings, adapters)
    elif trained is not None:
        found, name = _servable(settings, trained)
        file, served = found.gguf, {"name": name}
    else:
        file = chosen.model_path or path("SmolLM2-135M-Instruct", settings.models_dir)
    model = LlamaCppModel(file, chosen.context_tokens, chosen.threads, chosen.parallel, **served)
    return model, LlmService(model, key.get_secret_value() if key else None)


def _servable(settings: Settings, trained: str) -> tuple[ServableModel, str]:
    """A trained model, verified, and the name to serve it under."""
    if Path(trained).expanduser().is_dir():
        found = open_servable(Path(trained).expanduser())
        return found, f"{found.manifest.name}-{found.manifest.content_hash[:8]}"
    with open_resources(settings) as twin:
        version = named_version(twin.registry, trained)
    return open_version(version), version.label


def _with_adapters(settings: Settings, wanted: AdapterServing) -> tuple[Path, dict[str, Any]]:
    """The base's file, and what else the model is made with: adapters and their chat template, which the base is served with
    too."""
    from llm_engineering.infrastructure.model_files import path
    from llm_engineering.infrastructure.training.gguf.base import BaseFile, base_file, chat_template

    models = {name: _servable(settings, trained)[0] for name, trained in wanted.adapters.items()}
    found = adapter_set(models)
    bundled = {"SmolLM2-135M-Instruct": partial(path, "SmolLM2-135M-Instruct", settings.models_dir)}
    cache = settings.models_dir / "servable"
    file = base_file(wanted.base or found.base, bundled, cache, template(found.template))
    if file.stem in models:
        raise ConfigurationError(
            f"An adapter is called {file.stem}, as the base is: nobody could ask for one of them. Rename the adapter."
        )
    base = BaseFile(file)
    for name, model in models.items():
        base.check(model.gguf, name)
    first = next(iter(models.values()))
    return file, {"adapters": found.files, "chat_template": chat_template(first.gguf)}


@contextmanager
def prompt_library(settings: Settings) -> "Iterator[OpikPromptLibrary]":
    """The library of prompts that the tracing settings name.

    Raises:
        ConfigurationError: they name none.
        MissingDependencyError: Opik's SDK is not installed.
    """
    from llm_engineering.infrastructure.tracing.opik import OpikPromptLibrary

    chosen = settings.tracing
    if not isinstance(chosen, OpikTracingSettings):
        raise ConfigurationError(
            "There is no prompt library to push to: set TRACING_KIND=opik, with TRACING_URL for a server of your own or "
            "TRACING_API_KEY for Comet's cloud."
        )
    key = chosen.api_key.get_secret_value() if chosen.api_key else None
    with closing(OpikPromptLibrary(chosen.url, key, chosen.workspace, chosen.project)) as library:
        yield library


def datasets_hub(settings: Settings) -> "DatasetsHub":
    """The hub that data sets are pushed to; ``HF_ENDPOINT`` names another one than the public.

    Raises:
        ConfigurationError: there is no token.
    """
    from llm_engineering.infrastructure.hub.datasets import DatasetsHub

    if settings.hf_token is None or not settings.hf_token.get_secret_value():
        raise ConfigurationError(
            "There is no token to push with: set HF_TOKEN to one with the right to write (on the hub: Settings, Access "
            "Tokens). Add --dry-run to see what would be pushed."
        )
    return DatasetsHub(settings.hf_token.get_secret_value(), os.environ.get("HF_ENDPOINT") or None)


@contextmanager
def training_jobs(settings: Settings) -> "Iterator[SageMakerJobs]":
    """Training jobs on SageMaker, for the time of the block.

    Raises:
        ConfigurationError: image, role or bucket are not set.
    """
    from llm_engineering.infrastructure.training.sagemaker import JobPlace, SageMakerJobs

    chosen = settings.sagemaker
    needed = {
        "SAGEMAKER_IMAGE": chosen.image,
        "SAGEMAKER_ROLE_ARN": chosen.role_arn,
        "SAGEMAKER_BUCKET": chosen.bucket,
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise ConfigurationError(
            f"A training job on SageMaker needs {', '.join(missing)}. Set them; .env.example says what each is."
        )
    told = chosen.model_dump(exclude={"poll_seconds", "subnets", "security_groups"})
    told |= {name: _listed(getattr(chosen, name)) for name in ("subnets", "security_groups")}
    with closing(SageMakerJobs(JobPlace(**told), chosen.poll_seconds)) as jobs:
        yield jobs


def container_secrets() -> dict[str, str]:
    """Variables from the secret that this container was told the name of; empty where it was told none.

    Raises:
        ConfigurationError, TrainingError: the secret cannot be had.
        MissingDependencyError: boto3 is not in the image.
    """
    from llm_engineering.infrastructure.training.sagemaker import SECRET_VARIABLE, read_secret

    name = os.environ.get(SECRET_VARIABLE)
    # SageMaker tells its containers their region as AWS_REGION, which boto3 does not read.
    return read_secret(name, os.environ.get("AWS_REGION")) if name else {}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def dataset_saver() -> "SaveForHub":
    """What writes splits for the library ``datasets``; it raises MissingDependencyError where that is not installed."""
    from llm_engineering.infrastructure.hub.datasets import save_for_hub

    return save_for_hub


def bundled_models(settings: Settings) -> "BundledModels":
    """The bundled models' files, to fetch and to check."""
    from llm_engineering.infrastructure.model_files import BundledModels

    return BundledModels(settings.models_dir)


def start_logging(settings: Settings, write: Callable[[str], object] | None = None) -> None:
    """Log as the settings say, with every secret they hold masked."""
    from llm_engineering.infrastructure.logs import configure_logging

    configure_logging(
        format=settings.log.format, level=settings.log.level, secrets=_secrets(settings), write=write
    )


def _secrets(group: BaseModel) -> Iterator[str]:
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseModel):
            yield from _secrets(value)
        elif isinstance(value, SecretStr) and name != "host":  # a URI's credentials are masked by their shape
            yield value.get_secret_value()


@contextmanager
def show_progress(settings: Settings) -> Iterator[Progress]:
    """Progress as fits where the output goes; log lines are printed above the bars while they are drawn."""
    from llm_engineering.infrastructure.progress import TerminalProgress, shown_progress

    with shown_progress() as progress:
        # Here, not only in the command line: on a remote stack a step is the first of our code to run.
        start_logging(settings, progress.write if isinstance(progress, TerminalProgress) else None)
        try:
            yield progress
        finally:
            start_logging(settings)


# --- the inference service --------------------------------------------------------------------------------------------


def api_keys(settings: Settings) -> "ApiKeyFile":
    """The API keys of the inference service."""
    from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile

    return ApiKeyFile(settings.service.keys_file)


def service_app(
    twin: Resources, config: InferenceConfig | None = None, *, host: str | None = None
) -> "Service":
    """The whole inference service as an ASGI application: routes, and every layer of protection around them.

    Nothing is opened or loaded before its lifespan begins. At its end it closes the pipeline and the language model; the
    other resources stay with ``twin``.

    Args:
        host: the address that it will listen on; None: as the settings say.

    Raises:
        ConfigurationError: the address can be reached from elsewhere, and there is no API key; or the keys' file is broken.
    """
    from llm_engineering import __version__
    from llm_engineering.infrastructure.api.app import ServiceParts, create_app
    from llm_engineering.infrastructure.api.health import Health
    from llm_engineering.infrastructure.api.metrics import MeasuringTracer, ServiceMetrics
    from llm_engineering.infrastructure.api.middleware.auth import Access
    from llm_engineering.infrastructure.api.middleware.stack import protect

    settings, service = twin.settings, twin.settings.service
    address = host or service.host
    chosen = config or InferenceConfig()
    access, metrics = Access(api_keys(settings), address), ServiceMetrics()
    access.check()
    dependencies, closing = _dependencies(twin)
    health = Health(dependencies, metrics)
    pipeline = twin.inference_pipeline(chosen, tracer=MeasuringTracer(twin.tracer, metrics))
    parts = ServiceParts(
        pipeline=pipeline,
        index=twin.index,
        feedback=twin.feedback,
        retrieval=chosen.retrieval,
        grounding=settings.llm.grounding,
        reranker=twin.reranker.name if twin.reranker else None,
        embedder=settings.embedder.model,
        version=__version__,
        keys_required=access.required,
        health=health,
        metrics=metrics,
    )
    return protect(
        create_app(parts),
        access=access,
        health=health,
        metrics=metrics,
        host=address,
        origins=[origin.strip() for origin in service.cors_origins.split(",") if origin.strip()],
        rate_per_minute=service.rate_per_minute,
        max_concurrent=service.max_concurrent,
        max_queue=service.max_queue,
        queue_seconds=service.queue_seconds,
        timeout_seconds=service.timeout_seconds,
        max_body_bytes=service.max_body_bytes,
        on_stop=(pipeline.close, twin.language_model.close, *closing),
    )


@contextmanager
def listening(host: str, port: int) -> Iterator["Listener"]:
    """Hold an address, so that it is known to be free before anything is loaded.

    Raises:
        ConfigurationError: it cannot be had; says why and what to do.
    """
    from llm_engineering.infrastructure.api.server import Listener

    with Listener(host, port) as listener:
        yield listener


def _dependencies(twin: Resources) -> "tuple[list[Dependency], list[Callable[[], Awaitable[None]]]]":
    """What the service's readiness depends on, and how to end looking at it."""
    from llm_engineering.infrastructure.api.checks import HttpCheck, SageMakerCheck
    from llm_engineering.infrastructure.api.health import Dependency

    settings = twin.settings
    closing: list[Callable[[], Awaitable[None]]] = []

    def asked_by_http(base_url: str, key: SecretStr | None, what: str, variable: str) -> HttpCheck:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        check = HttpCheck(f"{base_url.rstrip('/')}/models", headers, what=what, variable=variable)
        closing.append(check.close)
        return check

    found = [Dependency("index", lambda: _look_into_index(twin))]
    embedder, llm = settings.embedder, settings.llm
    if isinstance(embedder, OnnxEmbedderSettings):
        found.append(
            Dependency("embedder", lambda: _nothing(twin.embedder.embed_queries(["ready"])), lasting=True)
        )
    else:  # without it, searches go by words alone
        remote = asked_by_http(
            embedder.base_url, embedder.api_key, "The embedding service", "EMBEDDER_API_KEY"
        )
        found.append(Dependency("embedder", remote, matters=False, blocking=False))
    if isinstance(llm, LlamaCppSettings):

        async def load() -> None:
            await twin.language_model.count_tokens(["ready"])

        found.append(Dependency("language_model", load, lasting=True, blocking=False))
    elif isinstance(llm, SageMakerSettings):
        endpoint = SageMakerCheck(llm.endpoint, llm.region)
        closing.append(endpoint.close)
        found.append(Dependency("language_model", endpoint))
    else:
        served = asked_by_http(llm.base_url, llm.api_key, "The language model's service", "LLM_API_KEY")
        found.append(Dependency("language_model", served, blocking=False))
    if (reranker := twin.reranker) is not None:  # without it, hits stay as the search ranked them
        found.append(
            Dependency(
                "reranker", lambda: _nothing(reranker.rerank("ready", ["set"])), matters=False, lasting=True
            )
        )
    if twin.feedback is not None:  # without it, answers are not kept, and votes not taken
        found.append(Dependency("database", lambda: twin.warehouse.ping(), matters=False))
    return found, closing


def _look_into_index(twin: Resources) -> str:
    """Search for something, which shows whether the index is there and fits the embedder; tell its size."""
    twin.index.search([SearchRequest("ready", None, k=1, mode=SearchMode.SPARSE)], twin.embedder.fingerprint)
    chunks = twin.index.count()
    if not chunks:
        raise StoreUnavailableError(
            "The index holds nothing yet. Fill it with: poe run-end-to-end-data-pipeline"
        )
    return f"{chunks:,} chunks"


def _nothing(_: object) -> None:
    """A check's result that tells nothing but that it came."""
