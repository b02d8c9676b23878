"""What people see of a run: a bar with the tasks under way, or plain lines with timestamps without a terminal."""

from __future__ import annotations

import time
from collections import Counter

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shiftbench.graph import Outcome
from shiftbench.watch.events import Event, Observer
from shiftbench.watch.failures import Failure
from shiftbench.watch.words import counted, duration, time_left, under_way

PLAIN_SECONDS = 15.0  # between plain lines
DRAW_SECONDS = 0.2  # between two drawings of the bar
SHOWN = 8  # tasks under way below the bar
NAMED = 3  # tasks under way in a plain line
AT_ONCE = 3  # failures that are alike and are told of when they happen; the end of the run has one line for all


def for_people(console: Console) -> Observer:
    """What fits the console: a bar on a terminal, else plain lines."""
    return Bar(console) if console.is_terminal else PlainLines(console)


class _Failed:
    """A line for each failure when it happens, as long as there are few of its sort."""

    def __init__(self) -> None:
        self.seen: Counter[tuple[str, str, str]] = Counter()

    def line(self, outcome: Outcome | None) -> str:
        """Nothing for a task that ended well, or was only left out because another one failed."""
        if outcome is None or outcome.ok or outcome.reason == "input":
            return ""
        failure = Failure.of(outcome)
        self.seen[failure.alike] += 1
        count = self.seen[failure.alike]
        more = "; more like it are only counted" if count == AT_ONCE else ""
        return f"failed: {failure.label}: {failure.cause.rstrip('.')}{more}" if count <= AT_ONCE else ""


def _again(outcome: Outcome | None) -> str:
    return f"tried again: {outcome.task.label}: {outcome.cause.rstrip('.')}" if outcome is not None else ""


class Bar:
    """A bar over all tasks on a terminal, and below it the tasks under way; it is gone when the run is over."""

    name = "the progress bar"

    def __init__(self, console: Console):
        self.console = console
        self.live = Live(console=console, transient=True, auto_refresh=False)
        self.drawn = 0.0
        self.failed = _Failed()

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.live.start()
        words = {"warning": f"note: {event.words}", "retry": _again(event.outcome)}.get(event.kind, "")
        words = words or (self.failed.line(event.outcome) if event.kind == "end" else "")
        if words:
            self.console.print(words, highlight=False, markup=False, soft_wrap=True)
        if event.kind in ("done", "stopped"):
            self.close()
        elif self.live.is_started and time.monotonic() - self.drawn >= DRAW_SECONDS:
            self.drawn = time.monotonic()
            self.live.update(self.picture(event), refresh=True)

    def close(self) -> None:
        """Takes the bar away."""
        if self.live.is_started:
            self.live.stop()

    def picture(self, event: Event) -> RenderableType:
        """The bar and the tasks under way, no higher than the terminal."""
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=max(1, event.counts.total), completed=event.counts.total - event.counts.left, width=24)
        words = ", ".join(filter(None, [counted(event.counts), time_left(event.seconds_left)]))
        head.add_row(bar, Text(words, no_wrap=True, overflow="ellipsis", style="red" if event.counts.failed else ""))
        most = max(1, min(SHOWN, self.console.height - 3))
        lines = under_way(event.running, time.time(), most)
        return Group(head, *(Text(f"  {line}", no_wrap=True, overflow="ellipsis", style="dim") for line in lines))


class PlainLines:
    """A line with the time at the start and the end, at once for a failure or a warning, and now and then between."""

    name = "the lines of progress"

    def __init__(self, console: Console):
        self.console = console
        self.started = self.printed = time.monotonic()
        self.failed = _Failed()

    def __call__(self, event: Event) -> None:
        spent = duration(time.monotonic() - self.started)
        if event.kind == "start":
            self.started = time.monotonic()
            words = f"{event.counts.left} tasks to do, {event.counts.reused} reused, {event.jobs} at a time"
        elif event.kind == "done":
            words = f"done after {spent}: {counted(event.counts)}"
        elif event.kind == "stopped":
            words = f"stopped after {spent}, {event.words}: {counted(event.counts)}"
        elif event.kind == "warning":
            words = f"note: {event.words}"
        elif event.kind == "retry":
            words = _again(event.outcome)
        else:
            words = self.failed.line(event.outcome) or self._now_and_then(event)
        if words:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime())
            self.console.print(f"{stamp}  {words}", highlight=False, markup=False, soft_wrap=True)

    def _now_and_then(self, event: Event) -> str:
        if time.monotonic() - self.printed < PLAIN_SECONDS:
            return ""
        self.printed = time.monotonic()
        lines = under_way(event.running, time.time(), NAMED)
        words = ", ".join(filter(None, [counted(event.counts), time_left(event.seconds_left)]))
        return f"{words}; {'; '.join(lines)}" if lines else words
