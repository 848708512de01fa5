"""Tasks of lm-evaluation-harness: has a fine-tuned model unlearned what its base could do?"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError

_PACKAGE, _GROUP = "lm-eval", "harness"


def harness_scores(
    model: str,
    adapter: Path | None,
    tasks: Sequence[str],
    *,
    limit: int | None,
    shots: int,
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """The tasks' metrics by ``task/metric``, without their standard errors. Tasks load their data from the hub.

    Args:
        model: folder or hub name of a whole model.
        adapter: folder of a PEFT adapter over it.

    Raises:
        MissingDependencyError: lm-evaluation-harness is not installed.
        ConfigurationError: there is no task of a name, or its data cannot be had.
    """
    try:
        import lm_eval
    except ImportError:
        raise MissingDependencyError(_PACKAGE, _GROUP, "Evaluation with lm-evaluation-harness") from None
    arguments = f"pretrained={model},trust_remote_code=False"
    if adapter is not None:
        arguments += f",peft={adapter}"
    try:
        found = lm_eval.simple_evaluate(
            model="hf",
            model_args=arguments,
            tasks=list(tasks),
            num_fewshot=shots,
            limit=limit,
            batch_size=batch_size,
            random_seed=seed,
            numpy_random_seed=seed,
            torch_random_seed=seed,
            fewshot_random_seed=seed,
            log_samples=False,
        )
    except (KeyError, ValueError, OSError, ConnectionError) as error:
        raise ConfigurationError(
            f"lm-evaluation-harness could not run {', '.join(tasks)}: {error} Check the names ('lm_eval ls tasks'), and that "
            "their data can be loaded."
        ) from error
    return scores_of(found["results"])


def scores_of(results: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Numbers of the harness's results: ``{"arc": {"acc,none": 0.4, "acc_stderr,none": 0.1}}`` → ``{"arc/acc": 0.4}``."""
    found: dict[str, float] = {}
    for task, values in results.items():
        for key, value in values.items():
            name, _, filtered = key.partition(",")
            if isinstance(value, int | float) and not isinstance(value, bool) and "stderr" not in name:
                shown = f"{task}/{name}" if filtered in ("", "none") else f"{task}/{name},{filtered}"
                found[shown] = float(value)
    return {name: value for name, value in found.items() if not name.endswith("/alias")}
