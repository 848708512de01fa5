"""Open the ports that the settings name, and close them on exit.

::

    with open_resources() as resources:
        resources.index.search(...)

Nothing is opened before it is first asked for, and what was opened is closed in reverse order. Adapters are imported
inside the property that needs them, so what is not chosen costs nothing.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from llm_engineering.application.analysis.analyse import AnalysisStores, Deciders
from llm_engineering.application.analysis.heads import HeadFolder, TextEmbedder
from llm_engineering.application.evaluation.models.config import HarnessConfig
from llm_engineering.application.evaluation.models.metrics import ReferenceMetrics
from llm_engineering.application.evaluation.models.systems import Harness
from llm_engineering.application.evaluation.rag.answers import AnswerJudge
from llm_engineering.application.features.tables import WriteTable
from llm_engineering.application.inference.collection import Collection
from llm_engineering.application.inference.pipeline import InferenceConfig, InferencePipeline
from llm_engineering.application.inference.retriever import Retriever
from llm_engineering.application.ports import (
    DraftStore,
    Embedder,
    ExperimentTracker,
    FeedbackStore,
    LanguageModel,
    Notifier,
    NullTracer,
    Reranker,
    SharedFiles,
    SourceReader,
    TokenEncoder,
    Tracer,
    VectorIndex,
)
from llm_engineering.application.reviews.summarise import ReviewStores
from llm_engineering.application.text.privacy import PrivacyPolicy
from llm_engineering.application.training.finetune.dpo import PreferenceTrainer
from llm_engineering.application.training.finetune.tracking import NamedTracker, SafeTrackers
from llm_engineering.application.training.finetune.trainer import Trainer
from llm_engineering.domain.analyses import AnalysisSpec, Engine
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.inference import LlmProfile
from llm_engineering.settings import (
    JsonLinesTracingSettings,
    JudgeSettings,
    LateInteractionSettings,
    LlamaCppSettings,
    MultilingualEmbedderSettings,
    NoRerankerSettings,
    OnnxEmbedderSettings,
    OpenAIEmbedderSettings,
    OpenAIHttpSettings,
    OpikTracingSettings,
    OtlpTracingSettings,
    QdrantEdgeSettings,
    SageMakerSettings,
    Settings,
    load_settings,
)

if TYPE_CHECKING:
    from llm_engineering.infrastructure.llms.transformers_local import TransformersModels
    from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry
    from llm_engineering.infrastructure.stores.mongo import MongoWarehouse
    from llm_engineering.infrastructure.training.export import Exporter
    from llm_engineering.infrastructure.training.trl import Bases


T = TypeVar("T")

_UNKNOWN_GGUF = LlmProfile(
    grounding="quote", template="answer_passage", passages=5, max_tokens=120, leave_out_unsupported=True
)
"""How a GGUF file that is not in the catalogue is asked, a trained one for instance: it may speak, where a quotation backs it."""


def _name_trained(file: Path) -> str | None:
    """The name, version and base of the trained model whose folder a file lies in; None: it lies in none."""
    from llm_engineering.application.training.finetune.model_folder import GGUF, read_manifest
    from llm_engineering.application.training.finetune.sft import MANIFEST

    folder = Path(str(file).removesuffix(GGUF))
    if folder == file or not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    return f"{manifest.name}-{manifest.content_hash[:8]}@{manifest.base}"


def _read_people(path: Path | None, variable: str) -> list[str]:
    """The lines of a file of people; none where there is no file to be read."""
    try:
        return path.read_text(encoding="utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{variable} cannot be read: {error}") from None


def make_webhook(url: str, secret: str) -> Notifier:
    """Return what sends notices to a system, signed with a secret."""
    from llm_engineering.infrastructure.notifiers.webhook import WebhookNotifier

    return WebhookNotifier(url, secret)


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
        warehouse = MongoWarehouse(database.uri.get_secret_value(), database.name, database.timeout_seconds)
        return self._closing(warehouse, warehouse.close)

    @cached_property
    def index(self) -> VectorIndex:
        chosen = self.settings.vector_index
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
        from llm_engineering.infrastructure.model_files import model_path

        chosen = self.settings.embedder
        embedder: Embedder
        if isinstance(chosen, OnnxEmbedderSettings):
            from llm_engineering.infrastructure.embedders.onnx import OnnxEmbedder

            model_dir = model_path(chosen.model, self.settings.models_dir)
            embedder = OnnxEmbedder(model_dir, chosen.model, chosen.threads, chosen.batch_tokens)
        elif isinstance(chosen, MultilingualEmbedderSettings):
            from llm_engineering.infrastructure.embedders.use_multilingual import UseEmbedder

            yardstick = model_path("all-MiniLM-L6-v2", self.settings.models_dir) / "tokenizer.json"
            embedder = UseEmbedder(yardstick, chosen.threads)
        else:
            from llm_engineering.infrastructure.embedders.openai_http import OpenAIEmbedder

            embedder = OpenAIEmbedder(
                base_url=chosen.base_url,
                api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
                model=chosen.model,
                dimension=chosen.dimension,
                max_tokens=chosen.max_tokens,
                batch_size=chosen.batch_size,
                price=chosen.prompt_price,
                timeout_seconds=chosen.timeout_seconds,
                query_prefix=chosen.query_prefix,
                document_prefix=chosen.document_prefix,
                tokenizer_path=model_path("all-MiniLM-L6-v2", self.settings.models_dir) / "tokenizer.json",
            )
        return self._closing(embedder, embedder.close)

    @property
    def embedding_calls(self) -> dict[str, int]:
        """Return how documents are handed to the embedder: ``texts_at_once`` and ``concurrency`` of ``index_documents``."""
        chosen = self.settings.embedder
        if isinstance(chosen, OpenAIEmbedderSettings):
            return {"texts_at_once": chosen.batch_size, "concurrency": chosen.concurrency}
        return {}

    def open_tables(self, folder: Path) -> WriteTable:
        """Return what writes tables below a folder."""
        from llm_engineering.infrastructure.table_files import ParquetTables

        return ParquetTables(folder).write

    @cached_property
    def privacy(self) -> PrivacyPolicy:
        """What is done with personal data in cleaning.

        Raises:
            ConfigurationError: the file of names cannot be read.
        """
        from llm_engineering.infrastructure.personal_data import RulesFinder

        chosen = self.settings.privacy
        names = _read_people(chosen.names_path, "PRIVACY_NAMES_PATH")
        key = chosen.key.get_secret_value().encode() if chosen.key else b""
        return PrivacyPolicy(RulesFinder(names), chosen.action, key)

    @property
    def opted_out(self) -> list[str]:
        """Names and addresses of people of whom nothing is collected, as their file holds them now.

        Raises:
            ConfigurationError: it cannot be read.
        """
        return _read_people(self.settings.privacy.opt_out_path, "PRIVACY_OPT_OUT_PATH")

    @cached_property
    def notifiers(self) -> tuple[Notifier, ...]:
        """Where notices are sent to; nowhere unless NOTIFY_* variables are set.

        Raises:
            ConfigurationError: an address cannot be read.
        """
        chosen = self.settings.notify
        found: list[Notifier] = []
        if chosen.urls is not None:
            from llm_engineering.infrastructure.notifiers.apprise_urls import AppriseNotifier

            found += map(AppriseNotifier, chosen.urls.get_secret_value().split())
        if chosen.webhook_url is not None and chosen.webhook_secret is not None:
            found.append(
                make_webhook(chosen.webhook_url.get_secret_value(), chosen.webhook_secret.get_secret_value())
            )
        return tuple(found)

    @cached_property
    def language_model(self) -> LanguageModel:
        """The language model. It is closed by whoever runs the event loop it was used in; see ``close_async``."""
        chosen = self.settings.llm
        if isinstance(chosen, LlamaCppSettings):
            from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel
            from llm_engineering.infrastructure.model_files import model_path

            name = self._llm_name(chosen)
            file = chosen.model_path or model_path(name, self.settings.models_dir)
            trained = _name_trained(chosen.model_path.absolute()) if chosen.model_path else None
            return LlamaCppModel(file, chosen.context_tokens, chosen.threads, chosen.parallel, name=trained)
        if isinstance(chosen, SageMakerSettings):
            from llm_engineering.infrastructure.llms.sagemaker import SageMakerModel

            return SageMakerModel(**chosen.model_dump(exclude={"kind", "grounding", "keep_warm"}))
        return self._http_model(chosen, chosen.model, priced=True)

    @cached_property
    def more_language_models(self) -> tuple[LanguageModel, ...]:
        """Others that callers may choose. They are closed by whoever runs the event loop they were used in."""
        chosen = self.settings.llm
        if not isinstance(chosen, OpenAIHttpSettings):
            return ()
        names = (name.strip() for name in chosen.more_models.split(","))
        wanted = dict.fromkeys(name for name in names if name and name != chosen.model)
        return tuple(self._http_model(chosen, name, priced=False) for name in wanted)

    def _http_model(self, chosen: OpenAIHttpSettings, name: str, *, priced: bool) -> LanguageModel:
        from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel

        return OpenAIHttpModel(
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            model=name,
            context_tokens=chosen.context_tokens,
            timeout_seconds=chosen.timeout_seconds,
            max_retries=chosen.max_retries,
            prompt_price=chosen.prompt_price if priced else None,
            completion_price=chosen.completion_price if priced else None,
        )

    def _llm_name(self, chosen: LlamaCppSettings) -> str:
        from llm_engineering.infrastructure.model_files import choose_llm

        return choose_llm(self.settings.models_dir) if chosen.model == "auto" else chosen.model

    @cached_property
    def llm_profile(self) -> LlmProfile:
        """How the language model is asked."""
        chosen = self.settings.llm
        if not isinstance(chosen, LlamaCppSettings):
            return LlmProfile(grounding=chosen.grounding)
        from llm_engineering.infrastructure.model_files import CATALOGUE

        entry = None if chosen.model_path else CATALOGUE.get(self._llm_name(chosen))
        profile = entry.llm if entry and entry.llm else _UNKNOWN_GGUF
        return profile.model_copy(update={"grounding": chosen.grounding or profile.grounding})

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
        from llm_engineering.infrastructure.model_files import model_path

        if isinstance(self.embedder, OnnxEmbedder):
            return self.embedder
        encoder = OnnxEmbedder(model_path("all-MiniLM-L6-v2", self.settings.models_dir))
        return self._closing(encoder, encoder.close)

    @cached_property
    def tracer(self) -> Tracer:
        """Where traces of requests go.

        Raises:
            MissingDependencyError: Opik or OTLP was chosen, and what sends to it is not installed.
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
        if isinstance(chosen, OtlpTracingSettings):
            from llm_engineering.infrastructure.tracing.otlp import OtlpTracer

            headers = chosen.headers.get_secret_value() if chosen.headers else ""
            otlp = OtlpTracer(chosen.endpoint, headers, chosen.project, chosen.sample)
            otlp.open()
            return self._closing(otlp, otlp.close)
        return NullTracer()

    @cached_property
    def registry(self) -> "ZenMLRegistry":
        """Versions of trained models, in the ZenML store that is active."""
        from llm_engineering.infrastructure.registry.zenml import ZenMLRegistry

        return ZenMLRegistry(self.shared_files)

    @cached_property
    def shared_files(self) -> SharedFiles:
        """Where data sets, trained models and heads are kept: on this machine, or where ``SHARED_FILES_URI`` says."""
        from llm_engineering.infrastructure.shared.stored_files import StoredFiles

        return StoredFiles(self.settings.shared_files_uri, self.settings.local.data_dir / "fetched")

    @cached_property
    def heads(self) -> HeadFolder:
        """Learned heads of analyses; each database has its own, so that a demo's never decide about somebody's records."""
        place = f"heads/{self.settings.database.name}"
        return HeadFolder(self.settings.local.data_dir / place, self.shared_files, place)

    @cached_property
    def text_embedder(self) -> TextEmbedder:
        """Embeds what heads read, each text once."""
        return TextEmbedder(self.embedder, self.warehouse.embeddings)

    def make_deciders(self, spec: AnalysisSpec) -> Deciders:
        """Return whom an analysis asks; its language model is closed by whoever runs the event loop it is used in."""
        asks = spec.engine is Engine.HEAD_THEN_LLM or bool(spec.llm_fields)
        headed = spec.engine is not Engine.LLM
        return Deciders(
            model=self.language_model if asks else None,
            heads=self.heads if headed else None,
            embedder=self.text_embedder if headed else None,
        )

    def collect_analysis_stores(self) -> AnalysisStores:
        """Return what an analysis reads and writes."""
        stores = self.warehouse
        return AnalysisStores(stores.clean, stores.analyses, stores.generations, stores.dead_letters)

    def collect_review_stores(self) -> ReviewStores:
        """Return what summaries of reviews are made from, and where they are kept."""
        stores = self.warehouse
        return ReviewStores(
            stores.clean, stores.analyses, stores.summaries, stores.generations, stores.dead_letters
        )

    @property
    def feedback(self) -> FeedbackStore | None:
        """None: answers are not kept, and votes on them are not taken."""
        return self.warehouse.feedback if self.settings.service.keep_answers else None

    @property
    def drafts(self) -> DraftStore | None:
        """None: drafts are not kept."""
        return self.warehouse.drafts if self.settings.service.keep_answers else None

    def answer_judge(self) -> AnswerJudge:
        """Return a fresh judge of answers; closed by whoever runs the event loop it is used in."""
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
        """Yield an empty index in a temporary folder, for the time of the block. The configured one is not touched."""
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
        voices: bool = True,
    ) -> InferencePipeline:
        """Return what answers questions with all that the settings name; ``tracer`` in place of the one they name.

        Args:
            keep_answers: False: nothing is kept for feedback, whatever the settings say; for questions that nobody asked.
            voices: False: drafts are written without a voice profile, to see what it brings.
        """
        chosen = config or InferenceConfig()
        retriever = Retriever(self.index, self.embedder, self.language_model, self.reranker, chosen.retrieval)
        return InferencePipeline(
            retriever,
            self.language_model,
            self.index,
            self.embedder,
            config=chosen,
            profile=self.llm_profile,
            tracer=tracer or self.tracer,
            trace_content=getattr(self.settings.tracing, "content", False),
            feedback=self.feedback if keep_answers else None,
            drafts=self.drafts if keep_answers else None,
            collection=Collection(
                self.warehouse.clean,
                self.index,
                self.embedder,
                min_similarity=chosen.answering.topic_similarity,
                voices=self.warehouse.voices if voices else None,
            ),
            owner=self.settings.twin_author,
            more_models=self.more_language_models,
            floor_file=self.floor_file,
        )

    @property
    def floor_file(self) -> Path:
        """Where it is kept from which nearness on questions are answered."""
        return self.settings.local.data_dir / "abstention.json"

    def make_trainer(self) -> Trainer:
        """Trains on the hardware that is there."""
        from llm_engineering.infrastructure.training.trl import TrlTrainer

        return TrlTrainer(self.base_models())

    def preference_trainer(self) -> PreferenceTrainer:
        """Trains with preferences on the hardware that is there."""
        from llm_engineering.infrastructure.training.trl.dpo import TrlPreferenceTrainer

        return TrlPreferenceTrainer(self.base_models())

    def make_exporter(self) -> "Exporter":
        """Completes a trained folder with merged weights and a file for llama.cpp."""
        from llm_engineering.infrastructure.training.export import Exporter

        bases = self.base_models()
        return Exporter(lambda name, revision: bases.find(name, revision).location)

    def base_models(self, converted: Path | None = None) -> "Bases":
        """Finds models to train or evaluate by name; a GGUF file is converted once.

        Args:
            converted: folder for what is converted; None: within the models folder.
        """
        from llm_engineering.infrastructure.model_files import model_path
        from llm_engineering.infrastructure.training.trl import Bases

        name = "SmolLM2-135M-Instruct"
        return Bases(
            converted or self.settings.models_dir / "trainable",
            {name: lambda: model_path(name, self.settings.models_dir)},
        )

    def answering_models(self, converted: Path | None = None) -> "TransformersModels":
        """Return models on this machine, to be compared; closed by whoever uses them. ``converted``: see :meth:`base_models`."""
        from llm_engineering.infrastructure.llms.transformers_local import TransformersModels

        bases = self.base_models(converted)
        return TransformersModels(lambda name, revision: bases.find(name, revision).location)

    def reference_metrics(self, bertscore: Path | None = None) -> ReferenceMetrics:
        """Return ROUGE, BLEU and chrF; BERTScore with the encoder of that folder."""
        from llm_engineering.infrastructure.evaluation.text_metrics import LibraryMetrics

        return LibraryMetrics(bertscore)

    def make_harness(self, config: HarnessConfig, batch_size: int, seed: int) -> Harness:
        """Return what runs tasks of lm-evaluation-harness on a system."""
        from llm_engineering.infrastructure.evaluation.lm_harness import LmHarness

        return LmHarness(**config.model_dump(), batch_size=batch_size, seed=seed)

    def make_judges(self, names: Sequence[str]) -> list[LanguageModel]:
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
        """Shows a training run while it goes on: in files here, and in Comet and Weights & Biases where the settings say so.

        Raises:
            ConfigurationError: a service was chosen without what it needs.
        """
        from llm_engineering.infrastructure.tracking.comet import CometTracker
        from llm_engineering.infrastructure.tracking.jsonl import JsonLinesTracker
        from llm_engineering.infrastructure.tracking.tensorboard import TensorBoardTracker

        chosen = self.settings.tracking
        trackers = [NamedTracker("The log of runs", JsonLinesTracker(chosen.folder / "runs"))]
        if chosen.tensorboard:
            board = TensorBoardTracker(chosen.folder / "tensorboard")
            trackers.append(NamedTracker("TensorBoard", board))
        key = chosen.comet_api_key.get_secret_value() if chosen.comet_api_key else None
        mode = chosen.comet if chosen.comet != "auto" else "online" if key else "off"
        if mode != "off":
            comet = CometTracker(
                mode, key, chosen.comet_project, chosen.comet_workspace, chosen.folder / "comet"
            )
            trackers.append(NamedTracker("Comet", comet))
        key = chosen.wandb_api_key.get_secret_value() if chosen.wandb_api_key else None
        mode = chosen.wandb if chosen.wandb != "auto" else "online" if key else "off"
        if mode != "off":
            from llm_engineering.infrastructure.tracking.wandb import WandbTracker

            runs = WandbTracker(mode, key, chosen.wandb_project, chosen.wandb_entity, chosen.folder / "wandb")
            trackers.append(NamedTracker("Weights & Biases", runs))
        return SafeTrackers(trackers)

    def find_browser(self) -> tuple[str, str]:
        """Return the paths of Chromium and its driver.

        Raises:
            CollectionError: one is not there.
        """
        from llm_engineering.infrastructure.sources.browser.chromium import find_programs

        return find_programs(self.settings.rendering.binary, self.settings.rendering.driver)

    def source_readers(self) -> dict[str, SourceReader]:
        """Return a fresh set of readers by name, for one run; their ``close`` belongs to the run's event loop."""
        from llm_engineering.infrastructure.sources.browser.driver import Browser
        from llm_engineering.infrastructure.sources.browser.linkedin import LinkedInReader
        from llm_engineering.infrastructure.sources.browser.posts import PostsPageReader
        from llm_engineering.infrastructure.sources.contacts import AssociatingReader
        from llm_engineering.infrastructure.sources.files import FilesReader
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
            GitReader(
                token=settings.github_token.get_secret_value() if settings.github_token else None,
                private_addresses=settings.crawler.private_addresses,
            ),
            AssociatingReader(
                TableReader(
                    private_addresses=settings.crawler.private_addresses,
                    name_writer=self.privacy.name_writer,
                )
            ),
            AssociatingReader(FilesReader()),
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
    settings = settings or load_settings()
    keep_private(settings.local.data_dir)
    with ExitStack() as stack:
        yield Resources(settings, stack)


def keep_private(folder: Path) -> None:
    """Take a folder of ours away from the machine's other users; one of somebody else is left as it is."""
    with suppress(OSError):
        state = folder.stat()
        if state.st_uid == os.getuid() and state.st_mode & 0o077:
            folder.chmod(stat.S_IMODE(state.st_mode) & ~0o077)
