"""Words for times, counts and tasks, shared by all that people read of a run."""

from __future__ import annotations

from collections.abc import Sequence

from shiftbench.watch.events import Counts, Running


def duration(seconds: float) -> str:
    """A length of time with as much precision as is of use: "45 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    seconds = max(0.0, seconds)
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 36:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def time_left(seconds: float | None) -> str:
    """How long a run still takes; nothing where that is not known yet."""
    return "" if seconds is None else f"about {duration(seconds)} left"


def counted(counts: Counts) -> str:
    """How far a run is: "37 of 120 tasks, 3 failed, 12 reused"."""
    ended = counts.total - counts.left
    parts = [f"{ended} of {counts.total} task{'s' * (counts.total != 1)}"]
    parts += [f"{n} {what}" for n, what in ((counts.failed, "failed"), (counts.reused, "reused")) if n]
    return ", ".join(parts)


def under_way(running: Sequence[Running], now: float, most: int) -> list[str]:
    """A line per task under way, the oldest first; of a long list the first ones and how many more there are."""
    oldest = sorted(running, key=lambda one: (one.since, one.task.id))
    shown = oldest if len(oldest) <= most else oldest[: max(0, most - 1)]
    lines = [task_line(one.task.label, one.words, now - one.since, one.where) for one in shown]
    more = len(oldest) - len(shown)
    return [*lines, f"and {more} more"] if more else lines


def task_line(label: str, words: str, seconds: float, where: str = "") -> str:
    """A task under way: its label, how far it is, for how long it has run, and where."""
    place = f" ({where})" if where else ""
    return f"{label}: {f'{words}, ' if words else ''}for {duration(seconds)}{place}"
