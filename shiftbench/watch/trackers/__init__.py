"""TensorBoard and MLflow as observers of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from shiftbench.errors import SpecError, nearest
from shiftbench.store import Store
from shiftbench.watch.trackers.mlflow import MlflowLog
from shiftbench.watch.trackers.tensorboard import TensorBoardLog
from shiftbench.watch.trackers.tracked import Log, Tracked

TRACKERS: dict[str, Callable[[Path, str], Log]] = {"tensorboard": TensorBoardLog, "mlflow": MlflowLog}


def trackers(names: Sequence[str], store: Store, params: Mapping[str, object]) -> list[Tracked]:
    """Observers for `Watch(apart=...)`; their libraries are imported when the run starts, in their threads.

    Args:
        names: of TRACKERS, each with a place of its own where wanted: "mlflow:http://host:5000".
        store: of the run; trackers write beside it by default, and read the losses of trainings from it.
        params: what the run is of, by name.

    Raises:
        SpecError: there is no tracker of a name.
    """
    made = []
    for text in dict.fromkeys(names):
        name, _, where = text.partition(":")
        if name not in TRACKERS:
            raise SpecError(f"unknown tracker '{name}'", remedy=nearest(name, TRACKERS))
        made.append(Tracked(TRACKERS[name](store.root, where), store, params))
    return made


__all__ = ["TRACKERS", "Tracked", "trackers"]
