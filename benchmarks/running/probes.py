"""Measurements that need a process of their own: `python -m running.probes WHAT FOLDER SIZE` prints what it found.

The package is the one that Python finds, so that an earlier version can be measured by the same code.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from running import tasks
from shiftbench.engine.local import LocalEngine
from shiftbench.graph import Outcome

WARM = 0.1  # share of a graph's tasks that end before the clock starts
HERE = Path(__file__).parents[1]


def timed(run: Iterable[Outcome], size: int) -> tuple[float, int, float]:
    """Seconds of wall-clock after the start of all processes, tasks that ended in them, and seconds inside these."""
    ends: list[float] = []
    inside: list[float] = []
    for outcome in run:
        assert outcome.ok, outcome.cause
        ends.append(time.perf_counter())
        inside.append(outcome.seconds)
    first = int(size * WARM)
    return ends[-1] - ends[first], len(ends) - first - 1, sum(inside[first + 1 :])


def local(folder: Path, jobs: int) -> Any:
    """The engine of one machine; that of an earlier version has its modules in its own files."""
    takes = inspect.signature(LocalEngine).parameters
    modules: dict[str, Any] = {"modules": tasks.MODULES} if "modules" in takes else {}
    return LocalEngine(folder, jobs=jobs, threads=1, **modules)


def through(folder: Path, size: int) -> dict[str, float]:
    """Of a graph of empty tasks through two processes: seconds, and those that the driver itself computes."""
    graph = tasks.graph(size)
    before = time.process_time()
    wall, count, _ = timed(local(folder, 2).run(graph), len(graph))
    return {"seconds": wall, "tasks": count, "driver": time.process_time() - before}


def memory(folder: Path, size: int) -> dict[str, float]:
    """Bytes of this process before there is a graph, with it, and while it is computed."""
    this = psutil.Process()
    engine, empty = local(folder, 2), this.memory_info().rss
    graph = tasks.graph(size)
    planned = this.memory_info().rss
    seen: list[int] = []
    for _ in engine.run(graph, tick=lambda: seen.append(this.memory_info().rss)):
        pass
    last = this.memory_info().rss
    known = {"tasks": len(graph), "empty": empty, "planned": planned}
    return {**known, "first": seen[0], "last": last, "peak": max(*seen, last)}


def asked(what: str, folder: Path, size: int, tree: Path = HERE.parent) -> dict[str, float]:
    """What a measurement of this module finds in a process of its own, with the package in `tree`."""
    command = [sys.executable, "-m", "running.probes", what, str(folder), str(size)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), str(HERE)])}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps({"through": through, "memory": memory}[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))))
