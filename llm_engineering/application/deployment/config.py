"""``configs/deploy_inference.yaml``: one endpoint with its model, machine, limits, rollout and scaling."""

from typing import Literal, Self

from pydantic import Field, model_validator

from llm_engineering.application.config import StrictConfig
from llm_engineering.domain.models import Stage

Server = Literal["vllm", "tgi", "llama_cpp"]


class ModelConfig(StrictConfig):
    """Which model: one of the registry, files in S3, or a public model of the hub."""

    name: str | None = None
    """Of the registry."""
    stage: Stage = Stage.PRODUCTION
    version: int | None = Field(default=None, ge=1)
    """In place of the stage."""
    s3: str | None = Field(default=None, pattern=r"^s3://[a-z0-9.-]+/.+/$")
    """A folder whose files the container finds in ``/opt/ml/model``."""
    hub: str | None = Field(default=None, pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str | None = None
    """Of the hub's repository: a commit, so that the weights cannot change."""
    template: str | None = None
    """Of ``s3`` and ``hub``: the chat template that the model reads, checked against the one in the code."""
    template_hash: str | None = None

    @model_validator(mode="after")
    def _is_one_model(self) -> Self:
        if sum(part is not None for part in (self.name, self.s3, self.hub)) != 1:
            raise ValueError("name one of 'name' (of the registry), 's3' and 'hub'")
        if self.hub is not None and self.revision is None:
            raise ValueError(
                "a model of the hub needs 'revision', a commit, or its weights may change unseen"
            )
        if (self.template is None) != (self.template_hash is None):
            raise ValueError("'template' and 'template_hash' are given together or not at all")
        return self


class ContainerConfig(StrictConfig):
    """The server of the model, and its image."""

    server: Server = "vllm"
    image: str
    """In ECR; ``{account}`` and ``{region}`` stand for those of the caller."""
    quantization: str | None = Field(default=None, pattern=r"^[a-z0-9_-]+$")
    """As the server calls it: ``awq``, ``gptq``, ``bitsandbytes``, ``fp8``. llama.cpp reads it from the file."""
    startup_minutes: int = Field(default=15, ge=1, le=60)
    """Longest time for fetching the model, and again for loading it."""
    environment: dict[str, str] = Field(default_factory=dict)
    """More variables, shown in the clear to all who may describe the model: no secrets."""


class InstanceConfig(StrictConfig):
    """Machines."""

    type: str = Field(pattern=r"^ml\.[a-z0-9-]+\.[a-z0-9]+$")
    count: int = Field(default=1, ge=1, le=64)
    """To begin with; scaling changes it."""
    max_count: int | None = Field(default=None, ge=1, le=64)
    """Most that scaling may start; None: as many as the copies need that ``scaling`` allows."""


class ComponentConfig(StrictConfig):
    """What one copy of the model is given of a machine. Several copies share a machine where they fit."""

    copies: int = Field(default=1, ge=1, le=64)
    """To begin with; scaling changes it."""
    accelerators: int = Field(default=1, ge=0, le=8)
    cpus: float = Field(default=2, gt=0, le=192)
    memory_mb: int = Field(default=8192, ge=128)


class LimitsConfig(StrictConfig):
    """Tokens."""

    max_input_tokens: int = Field(default=3072, ge=16)
    max_total_tokens: int = Field(default=4096, ge=32)
    """Of prompt and reply."""
    max_batch_tokens: int = Field(default=8192, ge=32)
    """Of all requests that are computed together."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if not self.max_input_tokens < self.max_total_tokens <= self.max_batch_tokens:
            raise ValueError("expected max_input_tokens < max_total_tokens <= max_batch_tokens")
        return self


class RolloutConfig(StrictConfig):
    """How an update takes the place of what serves. AWS takes it back where an alarm goes off meanwhile."""

    bake_minutes: int = Field(default=5, ge=0, le=60)
    """How long alarms are watched after each step."""
    batch_percent: int = Field(default=50, ge=5, le=50)
    """Copies that are replaced at a time."""
    canary_percent: int = Field(default=10, ge=1, le=50)
    """Of a change of the machines: the share that goes first."""
    max_errors: int = Field(default=5, ge=1)
    """Replies with a status of 500 or more, a minute; more set off the alarm."""
    max_latency_seconds: float = Field(default=30.0, gt=0)
    """95th percentile of the time that the model takes, over a minute."""


class ScheduledCapacity(StrictConfig):
    """Bounds that hold from a time on."""

    name: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    schedule: str = Field(pattern=r"^(cron|at|rate)\(.+\)$")
    """``cron(0 8 ? * MON-FRI *)``, ``at(2026-12-24T18:00:00)``."""
    timezone: str = "UTC"
    min_copies: int = Field(ge=0)
    max_copies: int = Field(ge=0)

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.min_copies > self.max_copies:
            raise ValueError(f"min_copies ({self.min_copies}) is more than max_copies ({self.max_copies})")
        return self


class ScalingConfig(StrictConfig):
    """Target tracking: as many copies as keep the metric at its target."""

    min_copies: int = Field(default=1, ge=0, le=64)
    """0: no machine runs, and nothing is paid, while nobody asks. The first request then fails and wakes one."""
    max_copies: int = Field(default=2, ge=1, le=64)
    metric: Literal["concurrency", "invocations"] = "concurrency"
    """Requests in progress per copy, looked at every 10 seconds; or requests per copy and minute. Not for asynchronous endpoints,
    which follow the requests in the queue per machine."""
    target: float = Field(default=4.0, gt=0)
    scale_out_seconds: int = Field(default=60, ge=0, le=3600)
    """After a scale-out, the next one waits that long."""
    scale_in_seconds: int = Field(default=600, ge=0, le=3600)
    schedules: tuple[ScheduledCapacity, ...] = ()

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.min_copies > self.max_copies:
            raise ValueError(f"min_copies ({self.min_copies}) is more than max_copies ({self.max_copies})")
        names = [schedule.name for schedule in self.schedules]
        if len(set(names)) < len(names):
            raise ValueError("two schedules have the same name")
        return self

    @property
    def copies_range(self) -> tuple[int, int]:
        """Fewest and most copies at any time, by the schedules too."""
        least = [self.min_copies, *(one.min_copies for one in self.schedules)]
        most = [self.max_copies, *(one.max_copies for one in self.schedules)]
        return min(least), max(most)


class AsynchronousConfig(StrictConfig):
    """Requests wait in a queue of AWS, replies lie in S3, messages go to SNS."""

    concurrent_per_instance: int = Field(default=4, ge=1, le=1000)
    success_topic: str | None = Field(default=None, pattern=r"^arn:aws[\w-]*:sns:")
    error_topic: str | None = Field(default=None, pattern=r"^arn:aws[\w-]*:sns:")
    """Where failed requests are told of: subscribe a queue to it, and it is the dead-letter queue."""


class Deployment(StrictConfig):
    """All of the file."""

    endpoint: str = Field(pattern=r"^[a-zA-Z0-9](-?[a-zA-Z0-9]){0,39}$")
    project: str = Field(default="llm-twin", pattern=r"^[\w-]{1,64}$")
    """Whose endpoint it is: one of another project is never touched."""
    model: ModelConfig
    container: ContainerConfig
    instance: InstanceConfig
    component: ComponentConfig | None = ComponentConfig()
    """None: the model takes the whole machine (asynchronous endpoints know no other way)."""
    limits: LimitsConfig = LimitsConfig()
    rollout: RolloutConfig = RolloutConfig()
    scaling: ScalingConfig | None = None
    asynchronous: AsynchronousConfig | None = None
    max_minutes: int = Field(default=60, ge=1, le=240)
    """Longest wait for one change."""

    @model_validator(mode="after")
    def _fit(self) -> Self:
        if self.asynchronous is not None and self.component is not None:
            raise ValueError("an asynchronous endpoint has no inference component: set 'component: null'")
        if self.scaling is None:
            return self
        if self.scaling.copies_range[0] == 0 and self.component is None and self.asynchronous is None:
            raise ValueError(
                "scaling to zero (min_copies: 0) needs an inference component, or 'asynchronous'"
            )
        copies = self.instance.count if self.component is None else self.component.copies
        if copies > self.scaling.max_copies:
            raise ValueError(
                f"it starts with {copies} copies, more than scaling.max_copies ({self.scaling.max_copies})"
            )
        return self
