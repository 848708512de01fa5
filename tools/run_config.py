"""Read a run's YAML and check all of it before anything starts."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from llm_engineering.application.features.links import hide_credentials
from llm_engineering.domain.errors import ConfigurationError
from llm_engineering.settings_errors import describe_error, list_problems, suggest_name

ModelT = TypeVar("ModelT", bound=BaseModel)
_ALIKE = 0.6
"""Likeness of names, 0 to 1, from which one may be a typing error of the other."""


def read_run_config(path: Path, model: type[ModelT]) -> tuple[ModelT, dict[str, Any]]:
    """Read the run's parameters, and the rest of the file, which is ZenML's own (settings, run_name, tags …).

    Raises:
        ConfigurationError: the file is missing, is not YAML, or holds an unknown key or a wrong type; the message gives
            the path to each key and what was expected.
    """
    content = _mapping(path, model, "a mapping with the key 'parameters'")
    parameters = content.pop("parameters", {})
    problems = [*_unknown_sections(content), *_not_a_mapping(parameters)]
    if problems:
        raise _error(path, problems)
    return check_parameters(parameters, model, path), content


def read_service_config(path: Path, model: type[ModelT]) -> ModelT:
    """Read the configuration of a service, whose sections stand at the top of its file.

    Raises:
        ConfigurationError: see :func:`read_run_config`.
    """
    return _validated(_mapping(path, model, "a mapping of sections"), model, path, root=())


def _mapping(path: Path, model: type[BaseModel], expected: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise ConfigurationError(
            f"Cannot read the run's configuration {_relative(path)}: {error.strerror}.{_name_files(path, model)}"
        ) from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: expected {expected}, got {type(content).__name__}.")
    return content


def _name_files(path: Path, model: type[BaseModel]) -> str:
    """The files beside a missing one, or in ``configs/``, that such a run can read, those of the closest name first."""
    folder = path.parent if path.parent.is_dir() and path.parent != Path() else Path("configs")
    fitting = [file for file in sorted(folder.glob("*.yaml")) if _fits(file, model)]
    if not fitting:
        return ""
    alike = {file: difflib.SequenceMatcher(None, path.stem, file.stem).ratio() for file in fitting}
    first, *others = (str(_relative(file)) for file in sorted(fitting, key=lambda file: -alike[file]))
    if max(alike.values()) >= _ALIKE:
        return f" Did you mean {first}?" + (f" There are also: {', '.join(others)}" if others else "")
    return f" There are: {', '.join([first, *others])}"


def _fits(file: Path, model: type[BaseModel]) -> bool:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
        return set(content.get("parameters", content) or {}) <= set(model.model_fields)
    except (OSError, ValueError, yaml.YAMLError, AttributeError, TypeError):
        return False


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def check_parameters(parameters: Mapping[str, Any], model: type[ModelT], path: Path) -> ModelT:
    """Check parameters against the pipeline's model.

    Raises:
        ConfigurationError: see :func:`read_run_config`.
    """
    return _validated(parameters, model, path, root=("parameters",))


def _validated(
    values: Mapping[str, Any], model: type[ModelT], path: Path, *, root: tuple[str, ...]
) -> ModelT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = [dict(item) for item in error.errors(include_url=False)]
        problems = [_explain(item, model, root) for item in found if not _follows(item, found)]
        raise _error(path, problems) from None


def _follows(error: Mapping[str, Any], errors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a list is too short only because items of it were refused, each with an error of its own."""
    where = error["loc"]
    inner = (other["loc"] for other in errors if other is not error)
    return error["type"] == "too_short" and any(loc[: len(where)] == where for loc in inner)


def _error(path: Path, problems: list[str]) -> ConfigurationError:
    # Problems quote what was given, and a link may carry a password.
    return ConfigurationError(f"{path} has {hide_credentials(list_problems(problems))}")


def _unknown_sections(content: Mapping[str, Any]) -> Iterator[str]:
    if not content:
        return  # nothing to hold against what ZenML knows, which takes seconds to import
    from zenml.config.pipeline_run_configuration import PipelineRunConfiguration

    known = {"parameters", *PipelineRunConfiguration.model_fields}
    for key in content:
        if key not in known:
            yield f"{key}: unknown key.{_closest(str(key), known)} Parameters of the pipeline go under 'parameters'."


def _not_a_mapping(parameters: object) -> Iterator[str]:
    if not isinstance(parameters, Mapping):
        yield f"parameters: expected a mapping, got {type(parameters).__name__}"


def _explain(error: Mapping[str, Any], model: type[BaseModel], root: tuple[str, ...]) -> str:
    where = ".".join([*root, *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, error["loc"][:-1])
        return f"{where}: unknown key.{_closest(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: missing, and it has no default"
    return describe_error(where, error)


def _fields_at(model: type[BaseModel], location: tuple[str | int, ...]) -> set[str]:
    """Field names of the model that a location of a validation error lies in."""
    annotation: Any = model
    for part in location:
        if isinstance(part, str) and isinstance(annotation, type) and issubclass(annotation, BaseModel):
            field = annotation.model_fields.get(part)
            annotation = field.annotation if field else None
        annotation = next((a for a in getattr(annotation, "__args__", ()) if isinstance(a, type)), annotation)
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return set(annotation.model_fields) if is_model else set()


def _closest(key: str, known: set[str]) -> str:
    if suggestion := suggest_name(key, known):
        return suggestion
    return f" Known keys: {', '.join(sorted(known))}." if known else ""
