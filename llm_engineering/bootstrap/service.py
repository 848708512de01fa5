"""Put the inference service together: routes, protection, and what its readiness depends on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from loguru import logger
from pydantic import SecretStr

from llm_engineering.application.analysis.service import AnalysisService
from llm_engineering.application.features.add import Addition, add_file
from llm_engineering.application.features.config import FeatureRun
from llm_engineering.application.inference.pipeline import InferenceConfig, InferencePipeline
from llm_engineering.application.inference.records import RecordSearch
from llm_engineering.application.inference.support import SupportDesk
from llm_engineering.application.notices import Outbox
from llm_engineering.application.ports import KeyStore, PipelineRunner, SearchRequest
from llm_engineering.bootstrap.locks import hold_collection
from llm_engineering.bootstrap.resources import Resources, open_resources
from llm_engineering.domain.analyses import AnalysisSpec
from llm_engineering.domain.errors import ConfigurationError, StoreUnavailableError
from llm_engineering.domain.hints import POE
from llm_engineering.domain.retrieval import SearchMode
from llm_engineering.settings import (
    LlamaCppSettings,
    OpenAIEmbedderSettings,
    SageMakerSettings,
    Settings,
)

if TYPE_CHECKING:
    from llm_engineering.infrastructure.api.aws_lambda import Handler
    from llm_engineering.infrastructure.api.chat_page import ChatPageService
    from llm_engineering.infrastructure.api.health import Dependency
    from llm_engineering.infrastructure.api.middleware.stack import Service
    from llm_engineering.infrastructure.api.parts import AddFile
    from llm_engineering.infrastructure.api.server import Listener


NOTHING: Mapping[Path, AnalysisSpec] = MappingProxyType({})


@contextmanager
def open_api_keys(settings: Settings) -> Iterator[KeyStore]:
    """Yield the API keys of the inference service, from where the settings keep them."""
    with open_resources(settings) as resources:
        yield find_api_keys(resources)


def find_api_keys(resources: Resources) -> KeyStore:
    """Return the API keys of the inference service, from where the settings keep them."""
    if resources.settings.service.state == "database":
        return resources.warehouse.api_keys
    from llm_engineering.infrastructure.api.middleware.auth import ApiKeyFile

    return ApiKeyFile(resources.settings.service.keys_file)


def build_service_app(
    resources: Resources,
    config: InferenceConfig | None = None,
    *,
    host: str | None = None,
    features: FeatureRun | None = None,
    analyses: Mapping[Path, AnalysisSpec] = NOTHING,
    runner: PipelineRunner | None = None,
) -> "Service":
    """Return the whole inference service as an ASGI application: routes, and every layer of protection around them.

    Nothing is opened or loaded before its lifespan begins. At its end it closes the pipeline and the language model; the
    other resources stay with ``resources``.

    Args:
        host: the address that it will listen on; None: as the settings say.
        features: how files that are added are indexed: as the feature pipeline runs.
        analyses: what texts can be analysed for, by the files that say so.
        runner: starts pipelines; None: none is started over HTTP.

    Raises:
        ConfigurationError: the address can be reached from elsewhere, and there is no API key; or the keys cannot be read.
    """
    from llm_engineering import __version__
    from llm_engineering.infrastructure.api.app import ServiceParts, create_app
    from llm_engineering.infrastructure.api.health import Health
    from llm_engineering.infrastructure.api.metrics import MeasuringTracer, ServiceMetrics
    from llm_engineering.infrastructure.api.middleware.auth import Access
    from llm_engineering.infrastructure.api.middleware.stack import add_middleware

    settings, service = resources.settings, resources.settings.service
    address = host or service.host
    chosen = config or InferenceConfig()
    access, metrics = Access(find_api_keys(resources), address), ServiceMetrics()
    access.check()
    dependencies, closing = _dependencies(resources)
    health = Health(dependencies, metrics)
    pipeline = resources.inference_pipeline(chosen, tracer=MeasuringTracer(resources.tracer, metrics))
    served = _make_analyses(resources, analyses) if analyses else None
    outbox = _make_outbox(resources) if chosen.support is not None else None
    parts = ServiceParts(
        pipeline=pipeline,
        index=resources.index,
        feedback=resources.feedback,
        drafts=resources.drafts,
        add_file=_make_add_file(resources, features or FeatureRun()) if service.max_document_bytes else None,
        reports=settings.local.data_dir / "reports",
        analyses=served,
        support=make_desk(resources, chosen, analyses, pipeline, served, outbox),
        records=RecordSearch(
            pipeline,
            resources.warehouse.clean,
            resources.index,
            resources.embedder,
            resources.warehouse.embeddings,
        ),
        cached_responses=service.cached_responses,
        summaries=resources.warehouse.summaries,
        reviews=resources.warehouse.clean,
        runner=runner,
        retrieval=chosen.retrieval,
        grounding=resources.llm_profile.grounding,
        reranker=resources.reranker.name if resources.reranker else None,
        embedder=settings.embedder.model,
        version=__version__,
        webhook_secret=service.webhook_secret.get_secret_value() if service.webhook_secret else None,
        keys_required=access.is_required,
        health=health,
        metrics=metrics,
    )
    return add_middleware(
        create_app(parts),
        access=access,
        health=health,
        metrics=metrics,
        host=address,
        origins=[origin.strip() for origin in service.cors_origins.split(",") if origin.strip()],
        rate_per_minute=service.rate_per_minute,
        shared_limits=resources.warehouse.make_rate_limits(service.rate_per_minute)
        if service.state == "database"
        else None,
        max_concurrent=service.max_concurrent,
        max_queue=service.max_queue,
        queue_seconds=service.queue_seconds,
        timeout_seconds=service.timeout_seconds,
        max_body_bytes=service.max_body_bytes,
        max_document_bytes=service.max_document_bytes,
        signed=service.webhook_secret is not None,
        on_start=(outbox.start,) if outbox is not None else (),
        on_stop=(
            *((outbox.close,) if outbox is not None else ()),
            pipeline.close,
            *(model.close for model in pipeline.models),
            *closing,
        ),
    )


def _make_outbox(resources: Resources) -> Outbox | None:
    """What tells people of conversations that they take over; None: nobody is to be told."""
    if not resources.notifiers:
        logger.info(
            "Only the caller learns that a conversation is handed over (decision `hand_over`). Set NOTIFY_URLS, or "
            "NOTIFY_WEBHOOK_URL and NOTIFY_WEBHOOK_SECRET, to tell the people who take over."
        )
        return None
    return Outbox(resources.warehouse.notices, resources.notifiers)


def _make_analyses(resources: Resources, specs: Mapping[Path, AnalysisSpec]) -> AnalysisService:
    deciders = {spec.task: resources.make_deciders(spec) for spec in specs.values()}
    return AnalysisService(
        list(specs.values()), resources.collect_analysis_stores(), deciders, resources.privacy
    )


def build_lambda_handler(service: "Service") -> "Handler":
    """Return what AWS Lambda calls with an event.

    Raises:
        MissingDependencyError: mangum is not installed.
    """
    from llm_engineering.infrastructure.api.aws_lambda import make_lambda_handler

    return make_lambda_handler(service)


def make_desk(
    resources: Resources,
    config: InferenceConfig,
    specs: Mapping[Path, AnalysisSpec],
    pipeline: InferencePipeline,
    analyses: AnalysisService | None = None,
    outbox: Outbox | None = None,
) -> SupportDesk | None:
    """Return what serves customers; None: the configuration serves none.

    Args:
        analyses: what the service has already; None: one of its own.
        outbox: of what people are told; None: they are not.

    Raises:
        ConfigurationError: the analysis that it goes by is not among ``specs``, or does not have what its rules name.
    """
    chosen = config.support
    if chosen is None:
        return None
    analyses = analyses or _make_analyses(resources, specs)
    if chosen.analysis not in specs:
        raise ConfigurationError(
            f"Customer service goes by the analysis {chosen.analysis}, which `analyses` does not list. Add it there."
        )
    from llm_engineering.infrastructure.shared.language import detect_language

    return SupportDesk(
        chosen,
        specs[chosen.analysis].task,
        analyses,
        pipeline,
        detect_language,
        outbox.tell if outbox is not None else None,
        resources.privacy,
    )


def build_chat_page() -> "ChatPageService":
    """Return the chat page as an ASGI application of its own."""
    from llm_engineering.infrastructure.api.chat_page import ChatPageService

    return ChatPageService()


def _make_add_file(resources: Resources, features: FeatureRun) -> "AddFile":
    """Adds files one after the other: each changes the index."""
    from llm_engineering.infrastructure.sources.files import FilesReader

    turn = asyncio.Lock()
    readers = {"files": FilesReader()}

    async def add(name: str, content: bytes, author: str) -> Addition:
        settings = resources.settings
        async with turn:
            with hold_collection(settings):
                return await add_file(
                    name,
                    content,
                    author,
                    folder=settings.local.data_dir / "uploads",
                    readers=readers,
                    warehouse=resources.warehouse,
                    index=resources.index,
                    embedder=resources.embedder,
                    features=features,
                    privacy=resources.privacy,
                )

    return add


@contextmanager
def open_listener(host: str, port: int) -> Iterator["Listener"]:
    """Hold an address, so that it is known to be free before anything is loaded.

    Raises:
        ConfigurationError: it cannot be had; says why and what to do.
    """
    from llm_engineering.infrastructure.api.server import Listener

    with Listener(host, port) as listener:
        yield listener


def _dependencies(resources: Resources) -> "tuple[list[Dependency], list[Callable[[], Awaitable[None]]]]":
    """What the service's readiness depends on, and how to end looking at it."""
    from llm_engineering.infrastructure.api.checks import HttpCheck, SageMakerCheck
    from llm_engineering.infrastructure.api.health import Dependency

    settings = resources.settings
    closing: list[Callable[[], Awaitable[None]]] = []

    def asked_by_http(base_url: str, key: SecretStr | None, what: str, variable: str) -> HttpCheck:
        headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
        check = HttpCheck(f"{base_url.rstrip('/')}/models", headers, what=what, variable=variable)
        closing.append(check.close)
        return check

    found = [Dependency("index", lambda: _look_into_index(resources))]
    embedder, llm = settings.embedder, settings.llm
    if not isinstance(embedder, OpenAIEmbedderSettings):
        found.append(
            Dependency(
                "embedder", lambda: _nothing(resources.embedder.embed_queries(["ready"])), lasting=True
            )
        )
    else:  # without it, searches go by words alone
        remote = asked_by_http(
            embedder.base_url, embedder.api_key, "The embedding service", "EMBEDDER_API_KEY"
        )
        found.append(Dependency("embedder", remote, matters=False, blocking=False))
    if isinstance(llm, LlamaCppSettings):

        async def load() -> None:
            await resources.language_model.count_tokens(["ready"])

        found.append(Dependency("language_model", load, lasting=True, blocking=False))
    elif isinstance(llm, SageMakerSettings):
        endpoint = SageMakerCheck(llm.endpoint, llm.region)
        closing.append(endpoint.close)
        found.append(Dependency("language_model", endpoint))
    else:
        served = asked_by_http(llm.base_url, llm.api_key, "The language model's service", "LLM_API_KEY")
        found.append(Dependency("language_model", served, blocking=False))
    if (reranker := resources.reranker) is not None:  # without it, hits stay as the search ranked them
        found.append(
            Dependency(
                "reranker", lambda: _nothing(reranker.rerank("ready", ["set"])), matters=False, lasting=True
            )
        )
    if resources.feedback is not None:  # without it, answers are not kept, and votes not taken
        found.append(Dependency("database", lambda: resources.warehouse.ping(), matters=False))
    return found, closing


def _look_into_index(resources: Resources) -> str:
    """Search for something, which shows whether the index is there and fits the embedder; tell its size."""
    resources.index.search(
        [SearchRequest("ready", None, k=1, mode=SearchMode.SPARSE)], resources.embedder.fingerprint
    )
    chunks = resources.index.count()
    if not chunks:
        raise StoreUnavailableError(
            f"The index holds nothing yet. Fill it with: {POE} run-end-to-end-data-pipeline"
        )
    return f"{chunks:,} chunks"


def _nothing(_: object) -> None:
    """A check's result that tells nothing but that it came."""
