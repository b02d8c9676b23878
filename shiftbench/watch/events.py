"""What happens in a run, as those who watch it are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # `shiftbench status` reads of tasks without what plans and runs them
    from shiftbench.graph import Outcome, Task

Kind = Literal["start", "begin", "tick", "retry", "end", "warning", "done", "stopped"]


@dataclass(frozen=True)
class Running:
    """A task under way: when it began (seconds of `time.time`), how far it is in words, and where it runs."""

    task: Task
    since: float
    words: str = ""
    where: str = ""


@dataclass(frozen=True)
class Counts:
    """Tasks of a run: all of them, of these reused from the store, and ended well or not in this run."""

    total: int = 0
    reused: int = 0
    done: int = 0
    failed: int = 0

    @property
    def left(self) -> int:
        """Tasks still to end."""
        return self.total - self.reused - self.done - self.failed

    def plus(self, *, total: int = 0, reused: int = 0, done: int = 0, failed: int = 0) -> Counts:
        """With more tasks of each sort."""
        return Counts(self.total + total, self.reused + reused, self.done + done, self.failed + failed)


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: "start" (planned), "begin" (a task), "tick" (nothing new, a few times a second), "retry" and "end" (of an
            attempt), "warning", "done" (all tasks ended), "stopped" (by a signal or an error).
        counts: after it.
        kinds: the same for every kind of task.
        task: that began; the others have it in `outcome`.
        running: tasks under way.
        planned_left: seconds of work that the plan guesses for the tasks that have not ended.
        seconds_left: until the run ends, by the pace seen so far; None before any task has ended well.
        jobs: tasks at a time.
        words: of a warning, or why the run stopped.
        at: seconds of `time.time`.
    """

    kind: Kind
    counts: Counts
    kinds: Mapping[str, Counts] = field(default_factory=dict)
    task: Task | None = None
    outcome: Outcome | None = None
    running: tuple[Running, ...] = ()
    planned_left: float = 0.0
    seconds_left: float | None = None
    jobs: int = 1
    words: str = ""
    at: float = field(default_factory=time.time)


Observer = Callable[[Event], None]
