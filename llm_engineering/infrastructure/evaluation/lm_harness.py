"""Tasks of lm-evaluation-harness: has a fine-tuned model unlearned what its base could do?

The model is the one that the evaluation has open, with its adapter, precision and device; the harness loads none itself.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from llm_engineering.application.evaluation.models.systems import LoadedModel, System
from llm_engineering.application.ports import Message
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError, ModelError
from llm_engineering.domain.models import Score

_PACKAGE, _GROUP = "lm-eval", "harness"
_NORMAL_95 = 1.96
_DRAWS = 1_000
"""For standard errors of metrics without a formula; the harness's own 100,000 take minutes."""


class LmHarness:
    """Implements :class:`~llm_engineering.application.evaluation.models.systems.Harness`."""

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        include_path: Path | None = None,
        limit: int | None = None,
        num_fewshot: int | None = None,
        chat: bool = False,
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        """
        Args:
            tasks: names of tasks, groups or tags.
            include_path: folder of tasks of one's own (YAML); they go before the harness's.
            limit: items of each task; None: all.
            num_fewshot: worked examples before each question; None: as many as the task says. A task that says 0 stays at 0.
            chat: ask in the system's chat template, with its system message, in place of the bare text.
            seed: of the examples that are drawn, and of sampling where a task samples.
        """
        self._tasks = list(tasks)
        self._include_path = include_path
        self._limit = limit
        self._num_fewshot = num_fewshot
        self._chat = chat
        self._batch_size = batch_size
        self._seed = seed
        self._manager: Any = None

    def prepare(self) -> None:
        """See :meth:`Harness.prepare`."""
        if self._manager is not None:
            return
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            package = _PACKAGE if (error.name or "lm_eval").startswith("lm_eval") else str(error.name)
            raise MissingDependencyError(package, _GROUP, "Evaluation with lm-evaluation-harness") from None
        if self._include_path is not None and not self._include_path.is_dir():
            raise ConfigurationError(f"harness.include_path: there is no folder {self._include_path}.")
        manager = self._own_manager() or TaskManager(include_path=self._include_path)
        self._check_names(manager)
        for task in self._tasks:
            _load(manager, task)
        self._manager = manager

    def compute_scores(self, system: System, model: LoadedModel) -> list[Score]:
        """See :meth:`Harness.compute_scores`. Intervals are 1.96 standard errors, as the harness tells these."""
        import lm_eval

        self.prepare()
        with _without_processes(), _explained(self._tasks):
            found = lm_eval.simple_evaluate(
                model=_adapted(model, self._batch_size),
                tasks=self._tasks,
                task_manager=self._manager,
                num_fewshot=self._num_fewshot,
                limit=self._limit,
                apply_chat_template=self._chat,
                system_instruction=(system.system_message or None) if self._chat else None,
                random_seed=self._seed,
                numpy_random_seed=self._seed,
                torch_random_seed=self._seed,
                fewshot_random_seed=self._seed,
                bootstrap_iters=_DRAWS,
                log_samples=False,
            )
        return scores_of(found["results"], found["higher_is_better"])

    def _own_manager(self) -> Any:
        """Of the tasks of one's own, where no others are asked for: the harness's 16,000 files take ten seconds to read."""
        from lm_eval.tasks import TaskManager

        if self._include_path is None:
            return None
        manager = TaskManager(include_path=self._include_path, include_defaults=False)
        # A group may name tasks of the harness.
        return manager if set(self._tasks) <= set(manager.all_subtasks) else None

    def _check_names(self, manager: Any) -> None:
        unknown = [task for task in self._tasks if task not in manager.task_index]
        if not unknown:
            return
        own = "" if self._include_path is None else f" {self._include_path} has {self._own_tasks(manager)}."
        raise ConfigurationError(
            f"lm-evaluation-harness has no task {', '.join(unknown)}.{own} 'lm_eval ls tasks' lists its own; a file that is no "
            "valid YAML counts as none."
        )

    def _own_tasks(self, manager: Any) -> str:
        folder = Path(str(self._include_path)).resolve()
        names = sorted(
            name
            for name, entry in manager.task_index.items()
            if entry.yaml_path is not None and folder in Path(entry.yaml_path).resolve().parents
        )
        return ", ".join(names) or "none that can be read"


def scores_of(
    results: Mapping[str, Mapping[str, Any]], higher_is_better: Mapping[str, Mapping[str, bool | None]]
) -> list[Score]:
    """Return the harness's results as scores.

    ``{"arc": {"acc,none": 0.4, "acc_stderr,none": 0.1, "sample_len": 20}}`` → ``harness/arc/acc`` 0.4 [0.204, 0.596], n 20.
    """
    found = []
    for task, values in results.items():
        for key, value in values.items():
            name, comma, filtered = key.partition(",")
            if not comma or name.endswith("_stderr") or not _is_number(value):
                continue
            error = values.get(f"{name}_stderr,{filtered}")
            reach = _NORMAL_95 * float(error) if _is_number(error) else None
            found.append(
                Score(
                    metric=f"harness/{task}/{name}" + ("" if filtered == "none" else f",{filtered}"),
                    value=float(value),
                    low=value - reach if reach is not None else None,
                    high=value + reach if reach is not None else None,
                    n=int(values.get("sample_len") or 0),
                    higher_is_better=higher_is_better.get(task, {}).get(name) is not False,
                )
            )
    return found


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _load(manager: Any, task: str) -> None:
    """Load a task with its data."""
    from datasets.exceptions import DatasetsError

    try:
        manager.load([task])
    except ImportError as error:
        raise ConfigurationError(f"The task {task} needs a package that is not installed: {error}") from error
    except (DatasetsError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ConfigurationError(
            f"The task {task} of lm-evaluation-harness cannot be loaded: {reason} Most tasks have their data on the Hugging Face "
            "hub, which must be within reach (and HF_HUB_OFFLINE unset), or their data in its cache. A task of your own over "
            "local files: harness.include_path."
        ) from error


def _adapted(model: LoadedModel, batch_size: int) -> Any:
    """The open model as the harness asks it; conversations are written by the project's template."""
    from lm_eval.models.huggingface import HFLM

    class Templated(HFLM):  # type: ignore[misc]
        def apply_chat_template(
            self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
        ) -> str:
            messages = [Message(turn["role"], turn["content"]) for turn in chat_history]  # type: ignore[arg-type]
            chat = model.template.render(messages, add_generation_prompt=add_generation_prompt)
            if add_generation_prompt:
                return chat.text
            # The last turn is the beginning of an answer, to be gone on with: no stop token, and nothing after it.
            return chat.text[: chat.answers[-1].end].removesuffix(model.template.stop)

    return Templated(pretrained=model.network, tokenizer=model.tokenizer, batch_size=batch_size)


@contextmanager
def _without_processes() -> Iterator[None]:
    """Standard errors in this process: forking one that holds a model and threads may hang."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _explained(tasks: Sequence[str]) -> Iterator[None]:
    """What goes wrong while tasks run, told with the knob to turn."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise ModelError("Out of memory while lm-evaluation-harness ran. Lower 'batch_size'.") from error
        raise
    except (KeyError, ValueError) as error:
        raise ConfigurationError(
            f"lm-evaluation-harness could not run {', '.join(tasks)}: {error}"
        ) from error
