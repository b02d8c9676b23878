"""Where the time of a suite goes: data, training, adapting and predicting, scoring, the runner's own overhead, report.

    python benchmarks/quick_time.py [SUITE] [--jobs N] [--out FOLDER] [--data ...]

Runs the suite into a fresh folder and prints a table. "Work" is what tasks spend computing, in their processes; "start"
is the import of libraries in each process; the overhead is what is left of jobs x wall time while every job had
something to do: planning, handing out, waiting for records.
"""

from __future__ import annotations

import argparse
import collections
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from shiftbench.watch.events import Event

GROUPS = {
    "anatomy": "anatomies",
    "images": "images",
    "references": "references",
    "train": "training on the source",
    "prepare": "sidecars",
    "score": "scoring",
}


class Clock:
    """An observer that adds up seconds per kind of task and the times at which fewer tasks ran than jobs."""

    def __init__(self, jobs: int, tracks: Mapping[str, str]):
        self.jobs, self.tracks = jobs, tracks
        self.work, self.count = collections.Counter(), collections.Counter()
        self.last, self.idle, self.starved = time.perf_counter(), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        now, outcome = time.perf_counter(), event.outcome
        if event.kind in ("end", "tick"):
            self.starved += (now - self.last) * max(0, self.jobs - len(event.running) - (outcome is not None))
        self.last = now
        if outcome is not None:
            track = self.tracks[outcome.task.payload["method"]["variant"]] if outcome.task.kind == "predict" else ""
            name = GROUPS.get(outcome.task.kind) or f"adapting and predicting: {track}"
            self.work[name] += outcome.seconds
            self.count[name] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", nargs="?", default="quick")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", action="append")
    options = parser.parse_args()

    from shiftbench.report.results import write_tables_and_figures
    from shiftbench.runner import prepare

    out = options.out or Path(tempfile.mkdtemp(prefix="shiftbench-"))
    started = time.perf_counter()
    job = prepare(options.suite, None, data=options.data, out=out, device="cpu", jobs=options.jobs)
    planned = time.perf_counter()
    units = [*job.graph.units, *job.graph.streams]
    clock = Clock(options.jobs, {u.method.payload["variant"]: str(u.row["track"]) for u in units})
    rows = job.rows(clock)
    computed = time.perf_counter()
    write_tables_and_figures(rows, out, job)
    finished = time.perf_counter()
    show(clock, options.jobs, planned - started, computed - planned, finished - computed, len(rows))


def show(clock: Clock, jobs: int, plan: float, compute: float, report: float, rows: int) -> None:
    console = Console(width=100, highlight=False)
    work = sum(clock.work.values())
    capacity = jobs * compute
    console.print(f"{'part':44} {'tasks':>6} {'seconds':>9} {'share':>7}")
    for name, seconds in clock.work.most_common():
        console.print(f"{name:44} {clock.count[name]:6d} {seconds:9.1f} {seconds / capacity:7.1%}")
    console.print(f"{'no task was ready for a job':44} {'':6} {clock.starved:9.1f} {clock.starved / capacity:7.1%}")
    overhead = capacity - work - clock.starved
    console.print(f"{'overhead of the runner':44} {'':6} {overhead:9.1f} {overhead / capacity:7.1%}")
    total = plan + compute + report
    console.print(
        f"wall: planning {plan:.1f} s, tasks {compute:.1f} s on {jobs} jobs, report {report:.1f} s, all {total:.1f} s"
    )
    console.print(f"{rows} rows; the overhead holds the start of the processes with their libraries")


if __name__ == "__main__":
    main()
