"""Events as JSON values, for machines (docs/watching.md has the fields)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from shiftbench.watch.events import Counts, Event, Running

if TYPE_CHECKING:
    from shiftbench.graph import Task

SCHEMA = 1


def described(event: Event) -> dict[str, Any]:
    """All of an event but the tasks under way, of which it has the number."""
    outcome = event.outcome
    task = outcome.task if outcome is not None else event.task
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "kind": event.kind,
        "at": stamp(event.at),
        "counts": of_counts(event.counts),
        "under_way": len(event.running),
        "planned_left": round(event.planned_left, 3),
        "seconds_left": rounded(event.seconds_left),
        "jobs": event.jobs,
    }
    if task is not None:
        content["task"] = of_task(task)
    if outcome is not None:
        content |= {"ok": outcome.ok, "seconds": round(outcome.seconds, 3), "status": outcome.status}
        content |= {"reason": outcome.reason or None, "cause": outcome.cause or None, "again": outcome.again}
    if event.words:
        content["words"] = event.words
    return content


def stamp(seconds: float) -> str:
    """A time of `time.time` as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def rounded(seconds: float | None) -> float | None:
    """To the millisecond, None where there is none."""
    return None if seconds is None else round(seconds, 3)


def of_counts(counts: Counts) -> dict[str, int]:
    """With the tasks that are left."""
    return {**asdict(counts), "left": counts.left}


def of_task(task: Task) -> dict[str, str]:
    """What a task is known by."""
    return {"id": task.id, "kind": task.kind, "label": task.label}


def of_running(one: Running) -> dict[str, str]:
    """A task under way."""
    return {**of_task(one.task), "since": stamp(one.since), "words": one.words, "where": one.where}
