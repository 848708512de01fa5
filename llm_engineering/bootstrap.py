"""The only door to infrastructure: settings in, ready ports out, closed on exit.

::

    with open_resources() as twin:
        twin.index.search(...)

Nothing is opened before it is first asked for, and what was opened is closed in reverse order. Adapters are imported
here, inside the property that needs them, so what is not chosen costs nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, SecretStr

from llm_engineering.application.inference import InferenceConfig, InferencePipeline
from llm_engineering.application.late_interaction import TokenEncoder
from llm_engineering.application.ports import (
    Embedder,
    FeedbackStore,
    LanguageModel,
    NullTracer,
    Progress,
    Reranker,
    SourceReader,
    Tracer,
    VectorIndex,
)
from llm_engineering.application.retriever import Retriever
from llm_engineering.settings import (
    LateInteractionSettings,
    LlamaCppSettings,
    NoRerankerSettings,
    OnnxEmbedderSettings,
    QdrantEdgeSettings,
    SageMakerSettings,
    Settings,
    load_settings,
)

if TYPE_CHECKING:
    from llm_engineering.infrastructure.model_files import BundledModels
    from llm_engineering.infrastructure.stores.mongo import MongoWarehouse

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
            raise NotImplementedError
        from llm_engineering.infrastructure.llms.openai_http import OpenAIHttpModel

        return OpenAIHttpModel(
            base_url=chosen.base_url,
            api_key=chosen.api_key.get_secret_value() if chosen.api_key else None,
            model=chosen.model,
            context_tokens=chosen.context_tokens,
            timeout_seconds=chosen.timeout_seconds,
            max_retries=chosen.max_retries,
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
        return NullTracer()

    @property
    def feedback(self) -> FeedbackStore | None:
        """None: answers are not kept, and votes on them are not taken."""
        return self.warehouse.feedback if self.settings.service.keep_answers else None

    def inference_pipeline(self, config: InferenceConfig | None = None) -> InferencePipeline:
        """Answers questions with all that the settings name."""
        chosen = config or InferenceConfig()
        retriever = Retriever(self.index, self.embedder, self.language_model, self.reranker, chosen.retrieval)
        return InferencePipeline(
            retriever,
            self.language_model,
            self.index,
            self.embedder,
            config=chosen,
            strict=self.settings.llm.grounding == "strict",
            tracer=self.tracer,
            trace_content=getattr(self.settings.tracing, "content", False),
            feedback=self.feedback,
        )

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
