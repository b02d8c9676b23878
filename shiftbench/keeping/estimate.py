"""What a run will compute and what it has already, and how long the rest will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shiftbench.engine.scheduler import to_do
from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Task
from shiftbench.store import Store
from shiftbench.watch.words import duration

SAMPLE = 40  # finished tasks of a kind whose times are looked at
SHOWN = 20  # trainings that are named one by one

# What is done with a task of each kind, in the order in which a run does it.
VERBS: Mapping[str, str] = {
    "anatomy": "anatomies made",
    "images": "images acquired",
    "references": "references drawn",
    "card": "shifts measured",
    "train": "trained",
    "prepare": "prepared",
    "predict": "adapted and predicted",
    "score": "scored",
}


@dataclass(frozen=True)
class OfKind:
    """Tasks of one kind.

    Attributes:
        seconds: what those to do take together, one at a time.
        measured: finished tasks that the time rests on; 0 where it is the plan's guess.
    """

    kind: str
    to_do: int
    reused: int
    seconds: float
    measured: int


@dataclass(frozen=True)
class Training:
    """A source training and who shares it.

    Attributes:
        methods: how many methods start from it.
        scenarios: names of the scenarios that use it.
    """

    source: str
    backbone: str
    seed: int
    reused: bool
    seconds: float
    methods: int
    scenarios: tuple[str, ...]


@dataclass(frozen=True)
class Estimate:
    """What is to be done.

    Attributes:
        seconds: until the end, with `jobs` tasks at a time.
    """

    kinds: tuple[OfKind, ...]
    trainings: tuple[Training, ...]
    jobs: int
    seconds: float

    def lines(self) -> list[str]:
        """The table for people."""
        return [*self._kinds(), *self._trainings(), *self._total()]

    def _kinds(self) -> list[str]:
        rows = [("", "to do", "reused", "time", "estimated from")]
        for one in self.kinds:
            basis = f"{one.measured} finished ones" if one.measured else "a guess by size"
            time = duration(one.seconds) if one.to_do else ""
            rows.append(
                (VERBS.get(one.kind, one.kind), str(one.to_do), str(one.reused), time, basis if one.to_do else "")
            )
        return in_columns(rows)

    def _trainings(self) -> list[str]:
        rows = [("source", "backbone", "seed", "methods", "scenarios", "")]
        for one in self.trainings[:SHOWN]:
            what = "reused" if one.reused else duration(one.seconds)
            names = one.scenarios[0] if len(one.scenarios) == 1 else str(len(one.scenarios))
            rows.append((one.source, one.backbone, str(one.seed), str(one.methods), names, what))
        more = len(self.trainings) - SHOWN
        return ["", "Trainings, each shared by so many methods", *in_columns(rows)] + (
            [f"and {more} more"] if more > 0 else []
        )

    def _total(self) -> list[str]:
        n = sum(one.to_do for one in self.kinds)
        reused = sum(one.reused for one in self.kinds)
        at_a_time = f"{self.jobs} task{'s' * (self.jobs != 1)} at a time"
        return ["", f"{n} tasks to do, {reused} reused; about {duration(self.seconds)} with {at_a_time}"]


def estimate(plan: Plan, store: Store, jobs: int = 1) -> Estimate:
    """What of a plan is in a folder, what is to be done, and how long that takes.

    A task's time is the plan's guess, times how far the guesses of finished tasks of its kind were from what these
    took, where their records say so. Tasks run `jobs` at a time; the longest one is the least that a run takes.
    """
    todo = to_do(plan.tasks, store)
    by_kind: dict[str, list[Task]] = {}
    for task in plan.tasks.values():
        by_kind.setdefault(task.kind, []).append(task)
    kinds, ratios = [], {}
    for kind in [*(k for k in VERBS if k in by_kind), *sorted(set(by_kind) - set(VERBS))]:
        ratios[kind], measured = _ratio(by_kind[kind], todo, store)
        wanted = [task for task in by_kind[kind] if task.id in todo]
        seconds = ratios[kind] * sum(task.seconds for task in wanted)
        kinds.append(OfKind(kind, len(wanted), len(by_kind[kind]) - len(wanted), seconds, measured))
    longest = max((ratios[task.kind] * task.seconds for task in todo.values()), default=0.0)
    seconds = max(longest, sum(one.seconds for one in kinds) / max(1, jobs))
    return Estimate(tuple(kinds), _trainings(plan, todo, ratios.get("train", 1.0)), jobs, seconds)


def _ratio(tasks: Sequence[Task], todo: Mapping[str, Task], store: Store) -> tuple[float, int]:
    """Measured over guessed seconds of finished tasks, and of how many; 1 where no record has its seconds."""
    guessed = spent = 0.0
    n = 0
    for task in [task for task in tasks if task.id not in todo][:SAMPLE]:
        seconds = _seconds(store, task)
        if seconds is not None:
            guessed, spent, n = guessed + task.seconds, spent + seconds, n + 1
    return (spent / guessed, n) if guessed else (1.0, 0)


def _seconds(store: Store, task: Task) -> float | None:
    """What a finished task took, as far as its record says so."""
    try:
        record: dict[str, Any] = store.record(task.kind, task.key)
    except OutputError:
        return None  # a damaged record is said by who needs it
    setup = float(record.get("seconds_setup", 0.0))
    if task.kind != "predict":
        return setup + float(record["seconds"]) if "seconds" in record else None
    return setup + sum(float(case.get("seconds", 0.0)) for case in record["cases"].values())


def _trainings(plan: Plan, todo: Mapping[str, Task], ratio: float) -> tuple[Training, ...]:
    methods: dict[str, set[str]] = {}
    scenarios: dict[str, dict[str, str]] = {}  # training -> scenario -> source
    for unit in (*plan.units, *plan.streams):
        for predict_id, _, _ in unit.folds:
            train_id = training_of(plan, plan.tasks[predict_id])
            methods.setdefault(train_id, set()).add(unit.row["method"])
            scenarios.setdefault(train_id, {})[unit.row["scenario"]] = unit.row["source"]
    found = []
    for train_id, by_name in scenarios.items():
        task = plan.tasks[train_id]
        source, seconds = next(iter(by_name.values())), ratio * task.seconds
        about = (source, task.payload["backbone"], task.payload["seed"], train_id not in todo, seconds)
        found.append(Training(*about, len(methods[train_id]), tuple(by_name)))
    return tuple(sorted(found, key=lambda t: (t.source, t.backbone, t.seed, t.scenarios)))


def training_of(plan: Plan, predict: Task) -> str:
    """Id of the source training behind a prediction."""
    kind, key = predict.payload["state"]
    return f"train/{plan.tasks[f'{kind}/{key}'].payload['train']}" if kind == "prepare" else f"{kind}/{key}"


def in_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text under each other: numbers to the right, all else to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    numbers = [
        all(row[i].replace(".", "").replace(",", "").isdigit() or not row[i] for row in rows[1:])
        for i in range(len(rows[0]))
    ]
    return [
        "  ".join(
            f"{cell:>{w}}" if number else f"{cell:{w}}" for cell, w, number in zip(row, widths, numbers, strict=True)
        ).rstrip()
        for row in rows
    ]
