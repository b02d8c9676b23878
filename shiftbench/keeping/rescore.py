"""Scores made anew from kept predictions after a metric's fix, and predictions that are dropped once scored."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from shiftbench.errors import OutputError
from shiftbench.graph import Outcome, Plan, Task, Unit
from shiftbench.keeping import plans
from shiftbench.keeping.tables import write_tables
from shiftbench.plan.versions import metric_versions
from shiftbench.runner import collect
from shiftbench.store import Store


class Runs(Protocol):
    """What is needed of an engine."""

    def run(self, tasks: Mapping[str, Task]) -> Iterator[Outcome]:
        """Computes the tasks, whose needs are all in the store."""


@dataclass(frozen=True)
class Rescored:
    """What came of it.

    Attributes:
        plan: with the score tasks of now; it is the latest of its folder.
        rows: of all units.
        scored: how many folds were scored anew.
        lines: what was done and what could not be, for people.
    """

    plan: Plan
    rows: pd.DataFrame
    scored: int
    lines: tuple[str, ...]


def rescore(
    folder: Path, engine: Runs, digest: str | None = None, observer: Callable = lambda outcome: None
) -> Rescored:
    """Scores the kept predictions of a plan with the metrics as they are now, and writes the tables.

    Only score tasks are run: no method, no training, and nothing that needs a scenario file or a method's file.
    Predictions that failed keep their failure rows. Where a prediction's arrays were dropped, its rows are those of the
    metrics before.

    Args:
        folder: a result folder.
        engine: what runs the score tasks.
        digest: of the plan; the one that was run last if None.
        observer: told of every outcome.

    Raises:
        OutputError: there is no plan, a fold could not be scored, or the folder can no longer be written.
    """
    store = Store(folder)
    before = plans.latest(store) if digest is None else plans.load(store, digest)
    new = renewed(before)
    changed = {task_id: new[task_id] for task_id in new if new[task_id].id != task_id}
    dropped = {old for old, task in changed.items() if _is_dropped(store, task)}
    after = _with_scores(before, {old: task for old, task in changed.items() if old not in dropped})
    wanted = {t.id: t for old, t in changed.items() if old not in dropped and _can_be_scored(store, t)}
    for outcome in engine.run(wanted):
        observer(outcome)
        if not outcome.ok and not outcome.again:
            raise OutputError(
                outcome.cause.rstrip("."), where=outcome.task.label, remedy="run `shiftbench rescore` again"
            )
    digest_before = digest or plans.known(store)[0]
    plans.save(after, store, plans.request_of(store, digest_before) | {"rescored": digest_before})
    rows = collect(after, store)
    write_tables(rows, folder)
    return Rescored(after, rows, len(wanted), tuple(_told(before, store, new, wanted, dropped)))


def renewed(plan: Plan) -> dict[str, Task]:
    """Id of every score task to the task with the metrics' versions of now; its own where they are the same."""
    found: dict[str, Task] = {}
    fresh = Plan()
    versions: dict[str, Any] = {}
    for unit in (*plan.units, *plan.streams):
        name = unit.scenario.name
        if name not in versions:
            versions[name] = fresh.common(metric_versions(unit.scenario))
        for _, score_id, _ in unit.folds:
            if score_id not in found:
                found[score_id] = _renewed(plan.tasks[score_id], versions[name], fresh)
    return found


def _renewed(task: Task, versions: Mapping[str, int], fresh: Plan) -> Task:
    if task.made_of["metrics"] == versions:
        return task
    made_of = {**task.made_of, "metrics": versions}
    return fresh.add(task.kind, task.payload, task.needs, task.label, task.seconds, made_of)


def _with_scores(plan: Plan, changed: Mapping[str, Task]) -> Plan:
    """The plan with other score tasks."""
    tasks = [changed.get(task_id, task) for task_id, task in plan.tasks.items()]
    units, streams = ([_with_folds(u, changed) for u in several] for several in (plan.units, plan.streams))
    return Plan({task.id: task for task in tasks}, units, streams, dict(plan.cards))


def _with_folds(unit: Unit, changed: Mapping[str, Task]) -> Unit:
    folds = tuple((p, changed[s].id if s in changed else s, test) for p, s, test in unit.folds)
    return dataclasses.replace(unit, folds=folds)


def _is_dropped(store: Store, task: Task) -> bool:
    return not store.done(task.kind, task.key) and store.dropped("predict", task.payload["predict"])


def _can_be_scored(store: Store, task: Task) -> bool:
    """Whether the score is not there and all that it reads is; of a failed prediction there is nothing to read."""
    return not store.done(task.kind, task.key) and all(store.present(*need.split("/")) for need in task.needs)


def _told(
    plan: Plan, store: Store, new: Mapping[str, Task], wanted: Mapping[str, Task], dropped: set[str]
) -> Iterator[str]:
    yield f"{len(wanted)} of {len(new)} predictions were scored again"
    yield from _raised(plan, new)
    reused = sum(task.id not in wanted and store.done(task.kind, task.key) for task in new.values())
    if reused:
        yield f"{reused} have the scores of these metrics already"
    if dropped:
        yield f"{len(dropped)} predictions were dropped: their rows are those of the metrics before; run again to score"
    failures = Counter(
        _cause(store, task) for task in new.values() if not store.done("predict", task.payload["predict"])
    )
    for cause, n in sorted(failures.items()):
        yield f"{n} predictions failed and keep their failure rows: {cause}"


def _cause(store: Store, score: Task) -> str:
    failure = store.failure("predict", score.payload["predict"]) or {"cause": "the task did not run"}
    return str(failure["cause"])


def _raised(plan: Plan, new: Mapping[str, Task]) -> Iterator[str]:
    """The metrics whose version is another than in the plan."""
    changes: dict[str, tuple[Any, Any]] = {}
    for old, task in new.items():
        before, now = plan.tasks[old].made_of["metrics"], task.made_of["metrics"]
        if before is not now:
            for name in {*before, *now}:
                if before.get(name) != now.get(name):
                    changes[name] = before.get(name), now.get(name)
    for name, (before, now) in sorted(changes.items()):
        yield f"{name}: version {before} before, {now} now"


def drop_predictions(plan: Plan, store: Store) -> int:
    """Removes the arrays of those predictions whose every reader is done, and says of how many; the records stay.

    Scores, tables and leaderboards need them no more; examples in figures do, and are drawn before.
    """
    readers: dict[str, list[Task]] = {}
    for task in plan.tasks.values():
        for need in task.needs:
            if need.startswith("predict/"):
                readers.setdefault(need, []).append(task)
    finished = {task.kind: store.finished(task.kind) for several in readers.values() for task in several[:1]}
    n = 0
    for task_id, several in readers.items():
        kind, key = task_id.split("/")
        if all(reader.key in finished[reader.kind] for reader in several) and store.present(kind, key):
            store.drop(kind, key)
            n += 1
    return n
