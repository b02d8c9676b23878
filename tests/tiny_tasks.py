"""Tasks that take milliseconds, for engines: what a handler does is in its payload.

Each computation appends its task to the file "log", where one is named, so that tests can count them; and each adds
the values of what it reads ("reads") to its own ("adds"), so that the last task of a graph tells of all before it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shiftbench.errors import MethodError, OutputError
from shiftbench.graph import Task
from shiftbench.isolation import keeper
from shiftbench.isolation.process import GuestProcess
from shiftbench.rng import digest
from shiftbench.worker.perform import Context

# Kinds of two lanes, so that a graph needs processes of both.
MODULES = dict.fromkeys(("images", "train", "predict", "score"), "tiny_tasks")


def _logged(name: str, task: Mapping[str, Any]) -> int:
    """Notes one more computation of a task; how many there have been."""
    if "log" not in task:
        return 1
    with open(task["log"], "a+", encoding="utf-8") as log:
        log.write(f"{name}\n")
        log.flush()
        log.seek(0)
        return log.read().splitlines().count(name)


def _perform(kind: str, context: Context, key: str, task: Mapping[str, Any]) -> None:
    attempts = _logged(f"{kind}/{key}", task)
    if "does" in task and attempts <= task.get("times", 1):
        _mischief(task["does"])
    if "says" in task:
        context.report(task["says"])
        warnings.warn(f"{task['says']} is worth a warning", stacklevel=1)
    if "guest" in task:
        _guest(task["guest"])
    time.sleep(task.get("sleeps", 0.0))
    value = task["adds"] + sum(context.store.record(*need.split("/"))["value"] for need in task["reads"])
    if not task.get("arrays", True):
        context.store.publish(kind, key, {"value": value})
        return
    with context.store.workspace() as folder:
        np.save(folder / "value.npy", np.full(64, value))
        context.store.publish(kind, key, {"value": value}, folder)


def _guest(seconds: float) -> None:
    """Lives so long in a process of its own, as a method's code does; that process may be killed.

    Raises:
        Killed: it was.
    """
    code = f"import time; time.sleep({seconds})"
    command = [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), sys.executable, "-I", "-S", "-c", code]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    guest = GuestProcess(subprocess.Popen(command, **pipes, start_new_session=True), layers=1)
    guest.process.wait()
    death = guest.ended()
    guest.close()
    if guest.process.returncode and death is not None:
        raise Killed(death.cause, death.status, death.reason)


class Killed(Exception):
    """A guest was killed."""

    def __init__(self, cause: str, status: str, reason: str):
        super().__init__(cause)
        self.status, self.reason = status, reason


def _mischief(deed: str) -> None:
    if deed == "raise":
        raise ValueError("no such luck")
    if deed == "nan":
        raise MethodError("log_probabilities holds NaN or infinity", remedy="return finite values")
    if deed == "memory":
        raise MemoryError("too much")
    if deed == "full":
        raise OutputError("the disk is full")
    if deed == "exit":
        os._exit(3)
    if deed == "hang":
        time.sleep(3600)
    os.kill(os.getpid(), getattr(signal, deed))


def _handler(kind: str) -> Any:
    return lambda context, key, task: _perform(kind, context, key, task)


HANDLERS = {kind: _handler(kind) for kind in MODULES}


def task(kind: str, name: str, needs: tuple[Task, ...] = (), seconds: float = 1.0, **does: Any) -> Task:
    """One task that adds 1 to the sum of what it needs, with `does` in its payload."""
    ids = tuple(need.id for need in needs)
    payload = {"adds": 1, "reads": list(ids), **does}
    return Task(kind, digest(kind, name, ids), payload, ids, f"{kind} {name}", seconds, {"name": name, "reads": ids})


def graph(*tasks: Task) -> dict[str, Task]:
    """Tasks by id."""
    return {one.id: one for one in tasks}


def layered(size: int, log: Path | None = None, **does: Any) -> dict[str, Task]:
    """About `size` tasks: data, trainings that need several of these, predictions of each, and a score of each."""
    if log is not None:
        does["log"] = str(log)
    count = max(1, size // 8)
    images = [task("images", f"chunk {i}", **does) for i in range(count)]
    trains = [task("train", f"seed {i}", tuple(images[i : i + 3]), 5.0, **does) for i in range(count)]
    predicts = [task("predict", f"fold {i}", (trains[i % count], images[i // 3]), **does) for i in range(3 * count)]
    scores = [task("score", f"fold {i}", (one,), **does) for i, one in enumerate(predicts)]
    return graph(*images, *trains, *predicts, *scores)
