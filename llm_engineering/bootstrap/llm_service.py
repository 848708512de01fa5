"""Put together the service that serves a language model of this machine."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_engineering.application.llm.chat_templates import load_template
from llm_engineering.application.training.finetune.model_folder import (
    AdapterServing,
    ServableModel,
    adapter_set,
    find_version,
    open_servable,
    open_version,
)
from llm_engineering.bootstrap.resources import open_resources
from llm_engineering.domain.errors import ConfigurationError, InvalidInputError
from llm_engineering.domain.hints import POE
from llm_engineering.settings import (
    LlamaCppSettings,
    Settings,
)

if TYPE_CHECKING:
    from llm_engineering.infrastructure.llm_service.app import LlmService
    from llm_engineering.infrastructure.llms.llama_cpp import LlamaCppModel


def build_llm_service(
    settings: Settings,
    host: str,
    *,
    trained: str | None = None,
    adapters: AdapterServing | None = None,
    **overrides: Any,
) -> "tuple[LlamaCppModel, LlmService]":
    """Return the configured GGUF and the service that serves it; ``overrides`` win over the settings of llama_cpp.

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
    from llm_engineering.infrastructure.model_files import choose_llm, model_path

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
        found, name = open_trained_model(settings, trained)
        file, served = found.gguf, {"name": name}
    else:
        name = choose_llm(settings.models_dir) if chosen.model == "auto" else chosen.model
        file = chosen.model_path or model_path(name, settings.models_dir)
    model = LlamaCppModel(file, chosen.context_tokens, chosen.threads, chosen.parallel, **served)
    return model, LlmService(model, key.get_secret_value() if key else None)


def with_trained_model(settings: Settings, trained: str) -> Settings:
    """Return the settings with a trained model in place of the configured one; it writes in its own words.

    Args:
        trained: its folder, or ``NAME[:VERSION]`` as the registry has it.

    Raises:
        InvalidInputError: there is no such model, or no such version of it.
        ModelFileError: its files are not those of its manifest.
    """
    found, _ = open_trained_model(settings, trained)
    named = settings.llm if isinstance(settings.llm, LlamaCppSettings) else LlamaCppSettings()
    update = {
        "model_path": found.gguf,
        "grounding": named.grounding or "annotate",
        "keep_warm": 0.0,  # the process in the background has the configured model
    }
    return settings.model_copy(update={"llm": named.model_copy(update=update)})


def open_trained_model(settings: Settings, trained: str) -> tuple[ServableModel, str]:
    """Return a trained model, verified, and the name to serve it under.

    Args:
        trained: its folder, or ``NAME[:VERSION]`` as the registry has it.

    Raises:
        InvalidInputError: there is no such model, or no such version of it.
        ModelFileError: its files are not those of its manifest.
    """
    if Path(trained).expanduser().is_dir():
        found = open_servable(Path(trained).expanduser())
        return found, f"{found.manifest.name}-{found.manifest.content_hash[:8]}"
    with open_resources(settings) as resources:
        version = find_version(resources.registry, trained)
        return open_version(resources.registry.files, version), version.label


def _with_adapters(settings: Settings, wanted: AdapterServing) -> tuple[Path, dict[str, Any]]:
    """The base's file, and what else the model is made with: adapters and their chat template, which the base is served with
    too."""
    from llm_engineering.infrastructure.model_files import model_path
    from llm_engineering.infrastructure.training.gguf.base import BaseFile, base_file, chat_template

    models = {}
    for name, trained in wanted.adapters.items():
        try:
            models[name] = open_trained_model(settings, trained)[0]
        except InvalidInputError as error:
            raise InvalidInputError(
                f"adapters.{name}: {error}. Name models that were trained here ({POE} list-models), or their folders."
            ) from None
    found = adapter_set(models)
    bundled = {"SmolLM2-135M-Instruct": partial(model_path, "SmolLM2-135M-Instruct", settings.models_dir)}
    cache = settings.models_dir / "servable"
    file = base_file(wanted.base or found.base, bundled, cache, load_template(found.template))
    if file.stem in models:
        raise ConfigurationError(
            f"An adapter is called {file.stem}, as the base is: nobody could ask for one of them. Rename the adapter."
        )
    base = BaseFile(file)
    for name, model in models.items():
        base.check(model.gguf, name)
    first = next(iter(models.values()))
    return file, {"adapters": found.files, "chat_template": chat_template(first.gguf)}
