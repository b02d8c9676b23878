"""MLflow: a run in a local folder of files, or on the server that the environment or the command names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shiftbench.watch.trackers.tensorboard import missing
from shiftbench.watch.trackers.tracked import Point

FOLDER = "mlruns"
NEEDED = "mlflow-skinny"
EXPERIMENT = "shiftbench"
METRICS_AT_ONCE = 1000  # limits of MLflow's interface
PARAMS_AT_ONCE = 100
LONGEST = 6000  # characters of a parameter


class MlflowLog:
    """Writes with MLflow's client, which leaves what else the process tracks alone.

    Args:
        root: the result folder.
        where: address of a server or folder; default: the variable MLFLOW_TRACKING_URI, or else `mlruns` in `root`.
    """

    name = "MLflow"

    def __init__(self, root: Path, where: str = ""):
        self.title = root.resolve().name
        self.where = where or os.environ.get("MLFLOW_TRACKING_URI", "") or str(root / FOLDER)
        self.client: Any = None
        self.run = ""

    def open(self, params: Mapping[str, str]) -> None:
        """Begins a run in the experiment "shiftbench".

        Raises:
            OutputError: the library is not installed.
        """
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer versions ask for it before a folder is used
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a benchmark tells nobody that it runs
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Param
        except ImportError as error:
            raise missing(NEEDED) from error
        self.client = MlflowClient(tracking_uri=self._address())
        known = self.client.get_experiment_by_name(EXPERIMENT)
        experiment = known.experiment_id if known is not None else self.client.create_experiment(EXPERIMENT)
        self.run = self.client.create_run(experiment, run_name=self.title).info.run_id
        texts = [Param(name, value[:LONGEST]) for name, value in params.items()]
        for i in range(0, len(texts), PARAMS_AT_ONCE):
            self.client.log_batch(self.run, params=texts[i : i + PARAMS_AT_ONCE])

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(p.name, p.value, round(p.at * 1000), p.step) for p in points]
        for i in range(0, len(metrics), METRICS_AT_ONCE):
            self.client.log_batch(self.run, metrics=metrics[i : i + METRICS_AT_ONCE])

    def close(self, well: bool) -> None:
        self.client.set_terminated(self.run, "FINISHED" if well else "FAILED")

    def _address(self) -> str:
        """A folder as an address of its own; what names a protocol already is left as it is."""
        known = "://" in self.where or self.where.startswith(("file:", "databricks"))
        return self.where if known else Path(self.where).resolve().as_uri()
