"""What a tracker is told of a run: parameters and numbers over time."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from shiftbench.graph import Task
from shiftbench.store import Store
from shiftbench.watch.events import Event

POINTS = 500  # of a curve of losses; a longer one is thinned
COUNT_SECONDS = 10.0  # between two points of the counts, while nothing ends that has numbers of its own
SCOPES = ("overall", "family")  # of the lines of a leaderboard that a tracker is given
NUMBERS = ("rank", "dsc", "nsd", "drop", "recovered_percent", "harmed_percent", "seconds_per_case", "failed_cases")
REFUSED = re.compile(r"[^A-Za-z0-9_\-. /]")  # in a name; what both libraries take is kept


@dataclass(frozen=True)
class Point:
    """A number of a run.

    Attributes:
        name: parts with slashes between them.
        at: seconds of `time.time`.
    """

    name: str
    value: float
    step: int
    at: float


class Log(Protocol):
    """A library that keeps numbers; every method may raise."""

    name: str

    def open(self, params: Mapping[str, str]) -> None:
        """Imports the library and begins a run of it."""

    def write(self, points: Sequence[Point]) -> None:
        """Keeps numbers."""

    def close(self, well: bool) -> None:
        """Ends the run of the library."""


class Tracked:
    """An observer that writes into a log: counts over time, seconds per task, losses, in the end the leaderboard."""

    def __init__(self, log: Log, store: Store, params: Mapping[str, object]):
        self.log, self.store, self.name = log, store, log.name
        self.params = {key: _text(value) for key, value in params.items()}
        self.opened = self.ended_well = False
        self.counted_at = float("-inf")
        self.ended: Counter[str] = Counter()  # tasks per kind
        self.last = 0.0
        self.step = 0

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.log.open(self.params)
            self.opened = True
        self.last, self.step = event.at, event.counts.done + event.counts.failed
        points = self._counts(event) + self._of_task(event)
        if points:
            self.log.write(points)
        if event.kind == "done":
            self.ended_well = True

    def table(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Takes in the leaderboard, a mapping per line: what methods reach overall and per family."""
        points = []
        for row in rows:
            if row.get("scope") not in SCOPES:
                continue
            place = row["family"] if row["scope"] == "family" else "overall"
            parts = (row["track"], row["backbone"], row["budget"], row["label"], place)
            points += [
                self._point("/".join(["leaderboard", *map(str, parts), name]), float(row[name]), self.step, self.last)
                for name in NUMBERS
                if _is_number(row.get(name))
            ]
        if points:
            self.log.write(points)

    def close(self) -> None:
        """Ends the log."""
        if self.opened:
            self.log.close(self.ended_well)

    def _counts(self, event: Event) -> list[Point]:
        if event.kind not in ("start", "done", "stopped") and event.at - self.counted_at < COUNT_SECONDS:
            return []
        self.counted_at = event.at
        counts = event.counts
        numbers = {"done": counts.done, "failed": counts.failed, "reused": counts.reused, "left": counts.left}
        numbers["under_way"] = len(event.running)
        return [self._point(f"tasks/{name}", value, self.step, event.at) for name, value in numbers.items()]

    def _of_task(self, event: Event) -> list[Point]:
        outcome = event.outcome
        if event.kind != "end" or outcome is None or not outcome.ok:
            return []
        kind = outcome.task.kind
        self.ended[kind] += 1
        points = [self._point(f"seconds/{kind}", outcome.seconds, self.ended[kind], event.at)]
        return points + self._losses(outcome.task, event.at)

    def _losses(self, task: Task, at: float) -> list[Point]:
        """The losses in the record of a training, thinned to POINTS with the last one among them."""
        if task.kind != "train" or not self.store.done(task.kind, task.key):
            return []
        losses = self.store.record(task.kind, task.key).get("losses", [])
        every = max(1, math.ceil(len(losses) / POINTS))
        chosen = [i for i in range(len(losses)) if (len(losses) - 1 - i) % every == 0]
        name = f"loss/{task.label} {task.key[:8]}"
        return [self._point(name, losses[i], i + 1, at) for i in chosen if _is_number(losses[i])]

    def _point(self, name: str, value: float, step: int, at: float) -> Point:
        return Point(REFUSED.sub("_", name), float(value), step, at)


def _is_number(value: Any) -> bool:
    """Whether a value of a table is there; pandas has several ways to say that it is not."""
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _text(value: object) -> str:
    """A parameter as text, parts of a list with commas."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return str(value)
    return ", ".join(map(str, value))
