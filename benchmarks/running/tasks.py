"""Tasks that do next to nothing, for `benchmarks/runner.py`, and the graph of them. Runs under older versions too."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from shiftbench.graph import Task
from shiftbench.rng import digest

KINDS = ("images", "train", "predict", "score")
MODULES = dict.fromkeys(KINDS, "running.tasks")
FSYNC = os.fsync


def _perform(kind: str, context: Any, key: str, task: Mapping[str, Any]) -> None:
    """Sleeps, and publishes what the payload says: nothing, a record, or a record with arrays."""
    time.sleep(task["sleeps"])
    os.fsync = FSYNC if task["flushed"] else not_flushed
    if task["publishes"] == "record":
        context.store.publish(kind, key, {"value": 1})
    if task["publishes"] == "arrays":
        with context.store.workspace() as folder:
            np.save(folder / "value.npy", np.zeros(1024, np.uint8))
            context.store.publish(kind, key, {"value": 1}, folder)


def not_flushed(handle: int) -> None:
    """Stands for fsync where its share is to be told."""


def _handler(kind: str) -> Any:
    return lambda context, key, task: _perform(kind, context, key, task)


HANDLERS = {kind: _handler(kind) for kind in KINDS}


def graph(size: int, sleeps: float = 0.0, publishes: str = "nothing", flushed: bool = True) -> dict[str, Task]:
    """About `size` tasks: data, trainings that need three of these, predictions of these, and a score of each."""
    payload = {"sleeps": sleeps, "publishes": publishes, "flushed": flushed}
    count = max(1, size // 8)

    def task(kind: str, i: int, *needs: Task) -> Task:
        ids = tuple(dict.fromkeys(need.id for need in needs))
        return Task(kind, digest(kind, i, ids), payload, ids, f"{kind} {i}", 1.0, {"number": i})

    images = [task("images", i) for i in range(count)]
    trains = [task("train", i, *images[i : i + 3]) for i in range(count)]
    predicts = [task("predict", i, trains[i % count], images[i // 3]) for i in range(3 * count)]
    scores = [task("score", i, one) for i, one in enumerate(predicts)]
    return {one.id: one for one in (*images, *trains, *predicts, *scores)}
