"""What a person sees of a run: a bar with the task under way and the time left, or plain lines without a terminal."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from shiftbench.graph import Outcome, Plan, Task
from shiftbench.store import Store

PLAIN_SECONDS = 15.0  # between lines where there is no terminal


class RunProgress:
    """An observer for `shiftbench.run`; the time left is the planned work still to do at the speed seen so far."""

    def __init__(self, console: Console, store: Store, jobs: int):
        self.console, self.store, self.jobs = console, store, jobs
        self.bar: Progress | None = None
        self.line: TaskID | None = None
        self.total = self.done = 0
        self.planned_left = self.planned_done = self.worked = 0.0
        self.since: dict[str, float] = {}  # when a task under way was first seen
        self.started = self.last_plain = time.monotonic()

    def __call__(self, event: str, graph: Plan, running: Sequence[Task], outcome: Outcome | None) -> None:
        if event == "start":
            self._start(graph)
        elif event == "end" and outcome is not None:
            self._count(outcome)
        elif event == "warning" and outcome is not None:
            self.console.print(f"note: {outcome.cause}", highlight=False, markup=False, soft_wrap=True)
        if event in ("end", "tick"):
            self._show(running)

    def close(self) -> None:
        """Takes the bar away."""
        if self.bar is not None:
            self.bar.stop()

    def _start(self, graph: Plan) -> None:
        todo = [t for t in graph.tasks.values() if not self.store.done(t.kind, t.key)]
        self.total, self.planned_left = len(todo), sum(t.seconds for t in todo)
        self.started = time.monotonic()
        if self.console.is_terminal:
            columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TextColumn("{task.description}"))
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.line = self.bar.add_task("starting", total=self.total)
        else:
            self.console.print(
                f"{self.total} tasks to do, {len(graph.tasks) - self.total} done before", highlight=False
            )

    def _count(self, outcome: Outcome) -> None:
        self.done += 1
        self.planned_left -= outcome.task.seconds
        self.planned_done += outcome.task.seconds
        self.worked += outcome.seconds

    def _left(self, running: Sequence[Task]) -> str:
        """Time left: planned work at the pace seen so far, less what the tasks under way have behind them."""
        now = time.monotonic()
        self.since = {t.id: self.since.get(t.id, now) for t in running}
        if self.planned_done <= 0:
            return ""
        pace = self.worked / self.planned_done
        behind = sum(min(now - self.since[t.id], t.seconds * pace) for t in running)
        seconds = max(0.0, self.planned_left * pace - behind) / self.jobs
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {seconds:.0f} s left"

    def _show(self, running: Sequence[Task]) -> None:
        words = " | ".join([self._left(running), *(t.label for t in running)])
        if self.bar is not None and self.line is not None:
            self.bar.update(self.line, completed=self.done, description=words)
        elif time.monotonic() - self.last_plain > PLAIN_SECONDS:
            self.last_plain = time.monotonic()
            elapsed = self.last_plain - self.started
            self.console.print(f"{elapsed:6.0f} s  {self.done}/{self.total} tasks  {words}", highlight=False)
