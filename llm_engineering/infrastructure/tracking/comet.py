"""A training run in Comet: sent as it goes with a key, or kept in an archive without any network.

``comet upload ARCHIVE.zip`` sends an archive later. Code, git state, command line, output and environment of this machine
stay here: only parameters and numbers of the run are told.
"""

import importlib.util
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llm_engineering.application.training.finetune.tracking import flatten
from llm_engineering.domain.errors import ConfigurationError, MissingDependencyError

_QUIET = {
    "COMET_LOGGING_CONSOLE": "ERROR",
    "COMET_DISABLE_AUTO_LOGGING": "1",
}
_TOLD: dict[str, Any] = {
    "log_code": False,
    "log_graph": False,
    "auto_param_logging": False,
    "auto_metric_logging": False,
    "parse_args": False,
    "auto_output_logging": False,
    "log_env_details": False,
    "log_env_gpu": False,
    "log_env_host": False,
    "log_env_cpu": False,
    "log_env_network": False,
    "log_env_disk": False,
    "log_git_metadata": False,
    "log_git_patch": False,
    "auto_log_co2": False,
    "display_summary_level": 0,
}


class CometTracker:
    """One experiment for each run.

    Args:
        api_key: for ``online``.
        archive: folder for the archives of ``offline``.

    Raises:
        ConfigurationError: online without a key.
        MissingDependencyError: Comet's SDK is not installed.
    """

    def __init__(
        self,
        mode: Literal["online", "offline"],
        api_key: str | None,
        project: str,
        workspace: str | None,
        archive: Path,
    ) -> None:
        if mode == "online" and not api_key:
            raise ConfigurationError(
                "Comet online needs TRACKING_COMET_API_KEY; or set TRACKING_COMET=offline for an archive on this machine."
            )
        if importlib.util.find_spec("comet_ml") is None:
            raise MissingDependencyError("comet-ml", "training", "Tracking with Comet")
        self._mode = mode
        self._key = api_key
        self._project = project
        self._workspace = workspace
        self._archive = archive
        self._experiment: Any = None

    def start(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Begin an experiment with these parameters."""
        for variable, value in _QUIET.items():
            os.environ.setdefault(variable, value)
        import comet_ml

        logging.getLogger("comet_ml").setLevel(logging.ERROR)
        where: dict[str, Any] = {"project_name": self._project, "workspace": self._workspace, **_TOLD}
        if self._mode == "online":
            self._experiment = comet_ml.Experiment(api_key=self._key, **where)
            if not self._experiment.alive:
                raise RuntimeError(
                    "Comet did not take the experiment; look at the key, the workspace and the network"
                )
        else:
            self._archive.mkdir(parents=True, exist_ok=True)
            self._experiment = comet_ml.OfflineExperiment(offline_directory=str(self._archive), **where)
        self._experiment.set_name(name)
        self._experiment.log_parameters(flatten(parameters))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a point to the curve of each metric."""
        self._experiment.log_metrics(dict(metrics), step=step)

    def finish(self, status: Literal["finished", "failed", "stopped"], summary: Mapping[str, float]) -> None:
        """End the experiment; what is still to be sent is sent, or the archive is written."""
        self._experiment.log_others({"status": status, **{f"summary.{k}": v for k, v in summary.items()}})
        self._experiment.end()
