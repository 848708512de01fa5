"""Settings: typed, validated, read once from the environment and ``.env``. No instance lives at module level.

Where a thing runs (endpoints, secrets, adapters) is settings; what a run does (links, chunk sizes, shares) is its YAML
in ``configs/``. A variable's name is GROUP_NAME: ``DATABASE_URI``, ``VECTOR_INDEX_URL``, ``LLM_KIND``, ``LOG_FORMAT``.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.domain.inference import Grounding
from llm_engineering.settings_errors import describe_error, list_problems, suggest_name

_FORMER_GROUNDING = {"strict": "extractive", "lenient": "annotate"}


def _refuse_former_grounding(value: object) -> object:
    if isinstance(value, str) and value in _FORMER_GROUNDING:
        raise ValueError(f"'{value}' is now called '{_FORMER_GROUNDING[value]}'")
    return value


GroundingSetting = Annotated[Grounding, BeforeValidator(_refuse_former_grounding)]


class Group(BaseModel):
    """A group of settings.

    Unknown names are ignored here, since the environment holds variables of others (``DATABASE_URL`` on many hosts);
    in ``.env``, which is ours alone, :func:`load_settings` refuses them.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)


class DatabaseSettings(Group):
    """The data warehouse: any server that speaks MongoDB's protocol."""

    uri: SecretStr = SecretStr("mongodb://127.0.0.1:27027")
    """A MongoDB URI. A secret, because it may carry a password. The default is the local server of
    ``./poe local-infrastructure-up``."""
    name: str = "twin"
    timeout_seconds: float = Field(default=3.0, gt=0, le=60)
    """How long to wait for a server before saying that it is down."""

    @field_validator("uri")
    @classmethod
    def _is_uri(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("mongodb://", "mongodb+srv://")):
            raise ValueError("a MongoDB URI starts with mongodb:// or mongodb+srv://")
        return value


class LocalServicesSettings(Group):
    """Services that run on this machine for development, started by ``./poe local-infrastructure-up``."""

    data_dir: Path = Path("data")
    mongo_port: int = Field(default=27027, ge=1, le=65535)
    zenml_port: int = Field(default=8237, ge=1, le=65535)


class QdrantEdgeSettings(Group):
    """Qdrant's engine inside this process, storing in a folder."""

    kind: Literal["qdrant_edge"] = "qdrant_edge"
    path: Path = Path("data/index")
    collection: str = Field(default="twin", pattern=r"^[a-zA-Z0-9_-]+$")


class QdrantServerSettings(Group):
    """A Qdrant server or Qdrant Cloud."""

    kind: Literal["qdrant_server"] = "qdrant_server"
    url: str = "http://127.0.0.1:6333"
    api_key: SecretStr | None = None
    collection: str = Field(default="twin", pattern=r"^[a-zA-Z0-9_-]+$")
    timeout_seconds: float = Field(default=10.0, gt=0)


IndexSettings = Annotated[QdrantEdgeSettings | QdrantServerSettings, Field(discriminator="kind")]


class OnnxEmbedderSettings(Group):
    """all-MiniLM-L6-v2 as int8 ONNX, on the CPU, bundled (``./poe download-models``)."""

    kind: Literal["onnx"] = "onnx"
    model: str = "all-MiniLM-L6-v2"
    threads: int = Field(default=0, ge=0)
    """0: one per core."""
    batch_tokens: int = Field(default=1024, ge=256)
    """Padded tokens of one forward pass; texts of like length are batched together up to this. Small batches stay in
    the cache: on 2 cores, 4096 is a third slower."""


class OpenAIEmbedderSettings(Group):
    """Any OpenAI-compatible ``/embeddings`` endpoint."""

    kind: Literal["openai_http"] = "openai_http"
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    model: str = "text-embedding-3-small"
    dimension: int = Field(default=1536, gt=0)
    max_tokens: int = Field(default=512, gt=0)
    """Chunks are cut to this many tokens, counted by the bundled WordPiece tokenizer, which is never fewer than these
    models' own by much; stay well below the model's limit."""
    batch_size: int = Field(default=64, ge=1, le=2048)
    concurrency: int = Field(default=4, ge=1, le=64)
    """Requests at the same time, while documents are embedded."""
    prompt_price: float | None = Field(default=None, ge=0)
    """US dollars for a million tokens; None: costs are not counted."""
    timeout_seconds: float = Field(default=30.0, gt=0)
    query_prefix: str = ""
    document_prefix: str = ""


class MultilingualEmbedderSettings(Group):
    """Universal Sentence Encoder, multilingual: one space for 16 languages, on the CPU (``poe setup --with multilingual``).

    For collections and questions in other languages than English; in English, all-MiniLM-L6-v2 finds more. Take
    ``RERANKER_KIND=none`` with it: the bundled reranker reads English."""

    kind: Literal["use_multilingual"] = "use_multilingual"
    model: Literal["universal-sentence-encoder-multilingual-v3"] = (
        "universal-sentence-encoder-multilingual-v3"
    )
    threads: int = Field(default=0, ge=0)
    """0: one per core."""


EmbedderSettings = Annotated[
    OnnxEmbedderSettings | MultilingualEmbedderSettings | OpenAIEmbedderSettings, Field(discriminator="kind")
]


class LlmGroup(Group):
    """What holds for every language model."""

    keep_warm: float = Field(default=5.0, ge=0, le=24 * 60)
    """Minutes that ``./poe ask`` keeps the models loaded after a question, in a process in the background; 0: not at all.
    Where ``CI`` is set, only if this is set too."""


class LlamaCppSettings(LlmGroup):
    """A GGUF file run by llama.cpp inside this process."""

    kind: Literal["llama_cpp"] = "llama_cpp"
    model: str = "auto"
    """A language model of the catalogue (``./poe download-models``); ``auto``: the best that is here and that the machine has
    the memory for."""
    model_path: Path | None = None
    """Any GGUF file, in place of ``model``."""
    context_tokens: int = Field(default=4096, ge=512)
    threads: int = Field(default=0, ge=0)
    """0: one less than there are cores; threads wait for each other, so one too many stalls all."""
    parallel: int = Field(default=1, ge=1)
    """How many answers are generated at the same time; they share the context."""
    api_key: SecretStr | None = None
    """API key that ``./poe run-llm-server`` requires from clients; it must be set on any address other than loopback."""
    grounding: GroundingSetting | None = None
    """None: as suits the model. ``extractive``: the best part of a source is quoted and no model is asked; ``quote``: the
    model's sentences stand below it, where they hold against it; ``annotate``: the model writes, and what no source backs is
    shown without a citation, and counted."""


def _both_prices(
    settings: "OpenAIHttpSettings | SageMakerSettings | JudgeSettings", group: str = "LLM"
) -> None:
    if (settings.prompt_price is None) != (settings.completion_price is None):
        raise ValueError(f"{group}_PROMPT_PRICE and {group}_COMPLETION_PRICE are set together or not at all")


class OpenAIHttpSettings(LlmGroup):
    """Any OpenAI-compatible chat endpoint: OpenAI, vLLM, TGI, Ollama, llama-server."""

    kind: Literal["openai_http"] = "openai_http"
    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    model: str = "gpt-4o-mini"
    more_models: str = ""
    """Other models of that endpoint which callers may choose, separated by commas; their costs are not counted."""
    context_tokens: int = Field(default=16_384, ge=512)
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=10)
    grounding: GroundingSetting = "annotate"
    prompt_price: float | None = Field(default=None, ge=0)
    """US dollars for a million prompt tokens; None: costs are not counted."""
    completion_price: float | None = Field(default=None, ge=0)
    """US dollars for a million completion tokens."""

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        _both_prices(self)
        return self


class SageMakerSettings(LlmGroup):
    """A model on an Amazon SageMaker endpoint whose container speaks the messages API (TGI, LMI, vLLM). Credentials come
    from AWS's own places: environment, profile, role."""

    kind: Literal["sagemaker"] = "sagemaker"
    endpoint: str = "twin"
    inference_component: str | None = None
    """Of an endpoint that holds several models."""
    region: str | None = None
    """None: as AWS is configured."""
    model: str = ""
    """The name to send and to show; empty: the endpoint's."""
    stream: bool = True
    """False: for a container that cannot stream; the reply comes in one piece."""
    context_tokens: int = Field(default=4096, ge=512)
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_retries: int = Field(default=3, ge=0, le=10)
    grounding: GroundingSetting = "annotate"
    prompt_price: float | None = Field(default=None, ge=0)
    completion_price: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        _both_prices(self)
        return self


LlmSettings = Annotated[
    LlamaCppSettings | OpenAIHttpSettings | SageMakerSettings, Field(discriminator="kind")
]


class LateInteractionSettings(Group):
    """MaxSim over the token vectors of the bundled MiniLM: needs no other weights."""

    kind: Literal["late_interaction"] = "late_interaction"
    cache_mb: int = Field(default=256, ge=0)
    """Memory for the token vectors of passages, which are found again and again; about 7 passages a megabyte."""


class CrossEncoderSettings(Group):
    """A cross-encoder as ONNX, from a folder or from the hub."""

    kind: Literal["cross_encoder"] = "cross_encoder"
    model: str = "cross-encoder/ms-marco-MiniLM-L6-v2"
    """A name on the hub, or a folder with ``model.onnx`` and ``tokenizer.json``."""
    revision: str | None = None
    """A commit of the hub's repository, so that the weights cannot change."""
    threads: int = Field(default=0, ge=0)
    """0: one per core."""


class NoRerankerSettings(Group):
    """Hits stay as the search ranked them."""

    kind: Literal["none"] = "none"


RerankerSettings = Annotated[
    LateInteractionSettings | CrossEncoderSettings | NoRerankerSettings, Field(discriminator="kind")
]


class NoTracingSettings(Group):
    """Requests leave no trace but logs and metrics."""

    kind: Literal["none"] = "none"


class JsonLinesTracingSettings(Group):
    """A line of JSON for each request, in a file."""

    kind: Literal["jsonl"] = "jsonl"
    path: Path = Path("data/traces.jsonl")
    sample: float = Field(default=1.0, ge=0, le=1)
    """Share of the requests that are traced; chosen by trace id. Failed ones always are."""
    content: bool = False
    """Keep questions, passages and answers too, not only numbers."""


class OpikTracingSettings(Group):
    """Opik: Comet's cloud with a key, or a server of one's own."""

    kind: Literal["opik"] = "opik"
    url: str | None = None
    """None: Comet's cloud."""
    api_key: SecretStr | None = None
    workspace: str = "default"
    project: str = "llm-twin"
    sample: float = Field(default=1.0, ge=0, le=1)
    content: bool = False


class OtlpTracingSettings(Group):
    """OpenTelemetry's protocol over HTTP, which most stores of traces take."""

    kind: Literal["otlp"] = "otlp"
    endpoint: str = "http://127.0.0.1:4318/v1/traces"
    """Whole address of the receiver."""
    headers: SecretStr | None = None
    """Of each call: NAME=VALUE pairs with commas between, percent-encoded."""
    project: str = "llm-twin"
    """Becomes ``service.name``."""
    sample: float = Field(default=1.0, ge=0, le=1)
    content: bool = False


TracingSettings = Annotated[
    NoTracingSettings | JsonLinesTracingSettings | OpikTracingSettings | OtlpTracingSettings,
    Field(discriminator="kind"),
]


class TrackingSettings(Group):
    """Where training runs are shown. Files stay on this machine; Comet and Weights & Biases are told only with a key, or into
    files here."""

    folder: Path = Path("data/tracking")
    """JSON Lines in ``runs/``, TensorBoard's files in ``tensorboard/``, Comet's archives in ``comet/``, Weights & Biases' in
    ``wandb/``."""
    tensorboard: bool = True
    comet: Literal["auto", "online", "offline", "off"] = "auto"
    """``auto``: online where there is a key, else off."""
    comet_api_key: SecretStr | None = None
    comet_workspace: str | None = None
    comet_project: str = "llm-twin"
    wandb: Literal["auto", "online", "offline", "off"] = "auto"
    """``auto``: online where there is a key, else off."""
    wandb_api_key: SecretStr | None = None
    wandb_entity: str | None = None
    wandb_project: str = "llm-twin"


class ServiceSettings(Group):
    """The inference service: ``./poe run-inference-ml-service``."""

    host: str = "127.0.0.1"
    """On any other address than loopback, API keys are required."""
    port: int = Field(default=8088, ge=0, le=65535)
    url: str | None = None
    """Where ``./poe call-inference-ml-service`` finds it; None: host and port above."""
    api_key: SecretStr | None = None
    """The key that ``./poe call-inference-ml-service`` shows."""
    state: Literal["local", "database"] = "local"
    """Where API keys and rate limits are kept: ``local``, in ``keys_file`` and in memory; ``database``, where all replicas
    of the service see the same."""
    webhook_secret: SecretStr | None = Field(default=None, min_length=16)
    """Of systems that post records to be analysed, signed instead of with a key; None: signed requests are refused."""
    keys_file: Path = Path("data/api_keys.json")
    """Hashes of the API keys (``./poe create-api-key``). Read again when it changes."""
    rate_per_minute: int = Field(default=120, ge=0)
    """Requests of one key (without keys: of one address) a minute; 0: no limit."""
    max_concurrent: int = Field(default=16, ge=1)
    """Answers and searches in progress at a time; more wait in a queue."""
    max_queue: int = Field(default=64, ge=0)
    """Requests that may wait; more are turned away with 503."""
    queue_seconds: float = Field(default=10.0, gt=0)
    """Longest wait in the queue."""
    timeout_seconds: float = Field(default=120.0, gt=0)
    """Longest time for a whole request."""
    cached_responses: int = Field(default=128, ge=0)
    """Responses of searches among records that are kept in memory until the index changes; 0: none."""
    max_body_bytes: int = Field(default=262_144, ge=1_024)
    max_document_bytes: int = Field(default=20_000_000, ge=0)
    """Of a file that is added to the collection (``POST /documents``); 0: none is taken."""
    cors_origins: str = ""
    """Origins whose pages may call the service, separated by commas; empty: none but its own."""
    keep_answers: bool = True
    """Keep questions, answers and drafts in the database for 30 days, so that a vote or an edit can become training data."""
    shutdown_seconds: float = Field(default=30.0, gt=0)
    """How long running answers may take to finish when the service is stopped."""


class PrivacySettings(Group):
    """What is done with personal data in people's records (tickets, reviews), when they are cleaned."""

    action: Literal["keep", "mask", "pseudonymise"] = "mask"
    key: SecretStr | None = None
    """Of pseudonyms, at least 16 characters. Who has it can tell whether a pseudonym is a given person's; nobody else can."""
    names_path: Path | None = None
    """A file of people's names, one a line. Other names stay."""
    opt_out_path: Path | None = None
    """A file of names and addresses, one a line, of people of whom nothing is collected."""

    @model_validator(mode="after")
    def _keyed(self) -> Self:
        given = self.key.get_secret_value() if self.key is not None else ""
        if (given or self.action == "pseudonymise") and len(given.encode()) < 16:
            raise ValueError(
                "PRIVACY_KEY, which PRIVACY_ACTION=pseudonymise needs, is a secret of at least 16 characters"
            )
        return self


class NotifySettings(Group):
    """Whom pipelines tell that they failed, or ended."""

    urls: SecretStr | None = None
    """Addresses in Apprise's form (``mailto://``, ``slack://``, ``msteams://``, ``sns://`` …), separated by spaces."""
    webhook_url: SecretStr | None = None
    """Gets each notice as signed JSON."""
    webhook_secret: SecretStr | None = None
    """Of the signature; known to the receiver."""
    on: Literal["failure", "always"] = "failure"

    @model_validator(mode="after")
    def _signed(self) -> Self:
        if self.webhook_url is not None and self.webhook_secret is None:
            raise ValueError(
                "NOTIFY_WEBHOOK_URL needs NOTIFY_WEBHOOK_SECRET, by which its receiver knows the sender"
            )
        return self


class RenderingSettings(Group):
    """Chromium, driven by Selenium, for pages that need JavaScript."""

    binary: Path | None = None
    """None: looked for on the PATH (chromium, google-chrome …)."""
    driver: Path | None = None
    page_timeout_seconds: float = Field(default=30.0, gt=0)
    max_scrolls: int = Field(default=50, ge=0)


class CrawlerSettings(Group):
    """Crawler politeness and limits."""

    user_agent: str = "llm-twin/0.1"
    timeout_seconds: float = Field(default=15.0, gt=0)
    total_timeout_seconds: float = Field(default=60.0, gt=0)
    """A page that trickles in slower than this is given up."""
    max_bytes: int = Field(default=10_000_000, ge=1_000)
    max_redirects: int = Field(default=5, ge=0)
    max_retries: int = Field(default=3, ge=0, le=10)
    max_retry_after_seconds: float = Field(default=60.0, ge=0)
    per_host_concurrency: int = Field(default=2, ge=1)
    per_host_delay_seconds: float = Field(default=0.2, ge=0)
    respect_robots_txt: bool = True
    private_addresses: Literal["given", "always", "never"] = "given"
    """Addresses inside: this machine, its network, a cloud's metadata. ``given``: only under links that you wrote, not where
    their redirects, feeds and sitemaps lead."""


class LinkedInSettings(Group):
    """Log-in for the LinkedIn reader. Read what LinkedIn allows (README) before using it."""

    username: str | None = None
    password: SecretStr | None = None
    base_url: str = "https://www.linkedin.com"


class JudgeSettings(Group):
    """A model that judges answers and samples: any OpenAI-compatible chat endpoint. Best of another family than the model
    that answers, since models favour their own style. A run's YAML names it ``judge`` (``judge2``, ``judge3``);
    ``./poe run-rag-evaluation`` asks the first."""

    base_url: str = "https://api.openai.com/v1"
    api_key: SecretStr | None = None
    model: str = "gpt-4o-mini"
    context_tokens: int = Field(default=16_384, ge=512)
    timeout_seconds: float = Field(default=60.0, gt=0)
    max_tokens: int = Field(default=2048, ge=64)
    """Most tokens of one of its replies in ``./poe run-rag-evaluation``."""
    max_retries: int = Field(default=1, ge=0, le=10)
    prompt_price: float | None = Field(default=None, ge=0)
    """US dollars for a million prompt tokens; None: costs are not counted."""
    completion_price: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _has_both_prices(self) -> Self:
        _both_prices(self, "JUDGE")
        return self


class SageMakerTrainingSettings(Group):
    """Training jobs on SageMaker: ``./poe run-training-job-on-sagemaker``. Role, bucket, region, keys and network hold for
    endpoints too (``./poe deploy-inference-endpoint``). Credentials come from AWS's own places."""

    image: str | None = None
    """In ECR, built from the project's Dockerfile with the groups training and aws."""
    role_arn: str | None = None
    """The role of the container: reads and writes the bucket, writes logs, reads the secret. Made by
    ``./poe create-sagemaker-execution-role``."""
    bucket: str | None = None
    prefix: str = Field(default="twin", pattern=r"^[\w./-]*$")
    region: str | None = None
    """None: as AWS is configured."""
    instance_type: str = Field(default="ml.g5.xlarge", pattern=r"^ml\.")
    instance_count: int = Field(default=1, ge=1, le=16)
    volume_gb: int = Field(default=100, ge=1)
    max_hours: float = Field(default=24.0, gt=0, le=28 * 24)
    spot: bool = False
    max_wait_hours: float = Field(default=48.0, gt=0, le=28 * 24)
    """Spot: waiting and training together."""
    kms_key: str | None = None
    """For what is written to the bucket."""
    volume_kms_key: str | None = None
    """For the machine's volume."""
    subnets: str = ""
    """Separated by commas; empty: no VPC."""
    security_groups: str = ""
    secret: str | None = None
    """Name of a secret in AWS Secrets Manager, a JSON object of variables such as HF_TOKEN; the container reads it itself."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More variables for the container, as JSON; no secrets."""
    tags: dict[str, str] = Field(default_factory=dict)
    poll_seconds: float = Field(default=20.0, gt=0)
    """Polling interval in seconds."""


class LogSettings(Group):
    format: Literal["human", "json"] = "human"
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"


class Settings(BaseSettings):
    """All settings. ``.env.example`` lists each with its default."""

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        extra="ignore",
        frozen=True,
        validate_default=True,
    )

    database: DatabaseSettings = DatabaseSettings()
    vector_index: IndexSettings = QdrantEdgeSettings()
    embedder: EmbedderSettings = OnnxEmbedderSettings()
    llm: LlmSettings = LlamaCppSettings()
    reranker: RerankerSettings = LateInteractionSettings()
    tracing: TracingSettings = NoTracingSettings()
    tracking: TrackingSettings = TrackingSettings()
    sagemaker: SageMakerTrainingSettings = SageMakerTrainingSettings()
    service: ServiceSettings = ServiceSettings()
    notify: NotifySettings = NotifySettings()
    privacy: PrivacySettings = PrivacySettings()
    rendering: RenderingSettings = RenderingSettings()
    crawler: CrawlerSettings = CrawlerSettings()
    linkedin: LinkedInSettings = LinkedInSettings()
    local: LocalServicesSettings = LocalServicesSettings()
    judge: JudgeSettings = JudgeSettings()
    judge2: JudgeSettings | None = None
    """Another judge, for a jury; None: no JUDGE2_* variable is set."""
    judge3: JudgeSettings | None = None
    log: LogSettings = LogSettings()
    models_dir: Path = Path("models")
    shared_files_uri: str | None = Field(default=None, min_length=1)
    """Where data sets, trained models and heads are kept so that other machines find them: a folder that all mount, or
    ``s3://BUCKET/PREFIX``. None: on this machine alone."""
    twin_author: str | None = None
    """Whose twin this is: whom "I" and "my" mean, and in whose voice it writes. None: nobody in particular."""
    github_token: SecretStr | None = None
    """For private repositories; handed to git through its environment, never on a command line."""
    hf_token: SecretStr | None = None
    """For ``./poe push-to-huggingface``: a token with the right to write."""

    @field_validator("vector_index", "embedder", "llm", "reranker", "tracing", mode="before")
    @classmethod
    def _infer_kind(cls, value: object, info: ValidationInfo) -> object:
        """Without a ``kind``, a variable that only one kind has means that kind; else the embedded default."""
        if not isinstance(value, Mapping) or "kind" in value:
            return value
        default, telling = _KINDS[str(info.field_name)]
        return {**value, "kind": next((kind for name, kind in telling.items() if name in value), default)}


_KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "vector_index": ("qdrant_edge", {"url": "qdrant_server"}),
    "embedder": ("onnx", {"base_url": "openai_http"}),
    "llm": ("llama_cpp", {"base_url": "openai_http", "endpoint": "sagemaker"}),
    "reranker": ("late_interaction", {"model": "cross_encoder"}),
    "tracing": ("none", {"path": "jsonl", "url": "opik", "api_key": "opik", "endpoint": "otlp"}),
}


RENAMED_VARIABLES = {
    "DATABASE_HOST": "DATABASE_URI",
    "QDRANT_KIND": "VECTOR_INDEX_KIND",
    "QDRANT_PATH": "VECTOR_INDEX_PATH",
    "QDRANT_COLLECTION": "VECTOR_INDEX_COLLECTION",
    "QDRANT_URL": "VECTOR_INDEX_URL",
    "QDRANT_API_KEY": "VECTOR_INDEX_API_KEY",
    "QDRANT_TIMEOUT_SECONDS": "VECTOR_INDEX_TIMEOUT_SECONDS",
}
"""Former variables, each with its present name."""


def load_settings(env_file: Path | None = Path(".env"), **overrides: Any) -> Settings:
    """Read the settings from the environment and ``env_file``; ``overrides`` win over both.

    Raises:
        ConfigurationError: anything is wrong; the message lists every problem with the variable to set.
    """
    problems = [*_renamed_in_environment(), *_unknown_names(env_file)]
    try:
        settings = Settings(_env_file=env_file, **overrides)
    except ValidationError as error:
        problems += [_explain(dict(item)) for item in error.errors(include_url=False)]
    if problems:
        raise ConfigurationError(
            f"The settings have {list_problems(problems)}\nEvery setting is described in .env.example."
        )
    return settings


def list_variables(model: type[BaseModel] = Settings) -> Iterator[tuple[str, str, Any]]:
    """Yield (variable, group, default) of every setting, for ``.env.example`` and for checking names."""
    for name, field in model.model_fields.items():
        groups = [
            t
            for t in (field.annotation, *get_args(field.annotation))
            if isinstance(t, type) and issubclass(t, Group)
        ]
        for group in groups:
            for inner, inner_field in group.model_fields.items():
                yield f"{name}_{inner}".upper(), group.__name__, inner_field.default
        if not groups:
            yield name.upper(), model.__name__, field.default


def _renamed_in_environment() -> Iterator[str]:
    """Name former variables of the environment, unless the present one is set too: then it is another program's."""
    for former, present in RENAMED_VARIABLES.items():
        if former in os.environ and present not in os.environ:
            yield f"{former} is now called {present}."


def _unknown_names(env_file: Path | None) -> Iterator[str]:
    if env_file is None or not env_file.is_file():
        return
    known = {name for name, _, _ in list_variables()}
    for name in dotenv_values(env_file):
        # ZenML, Comet and AWS read variables of their own from the same file.
        if name.upper() in known or name.upper().startswith(
            ("ZENML_", "COMET_", "OPIK_", "AWS_", "HF_", "OTEL_")
        ):
            continue
        if present := RENAMED_VARIABLES.get(name.upper()):
            yield f"{name} in {env_file} is now called {present}."
        else:
            yield f"{name} in {env_file} is not a setting.{suggest_name(name.upper(), known)}"


def _explain(error: dict[str, Any]) -> str:
    kinds = {kind for default, telling in _KINDS.values() for kind in (default, *telling.values())}
    variable = "_".join(str(part) for part in error["loc"] if part not in kinds).upper()
    if error["type"] == "union_tag_invalid":
        known = [tag.strip(" '") for tag in error["ctx"]["expected_tags"].split(",")]
        tag = str(error["ctx"]["tag"])
        return f"{variable}_KIND: expected one of {', '.join(known)}; got '{tag}'.{suggest_name(tag, known)}"
    secret = variable.endswith(("_KEY", "_PASSWORD", "_TOKEN", "_URI", "_USERNAME"))
    return describe_error(variable, error, show_value=not secret)
