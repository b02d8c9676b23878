"""The nouns of a plan: methods as cards, options, tasks, units and the graph of them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from shiftbench.domains import Part
from shiftbench.rng import digest
from shiftbench.spec import Scenario
from shiftbench.types import Status, Track


@dataclass(frozen=True)
class MethodCard:
    """What a plan knows of a method without importing it: its leaderboard key, identity and wishes.

    Attributes:
        parameters: hyper-parameters by name (JSON values).
        prepares: of "prepare" and "summarise", what the method has.
        payload: what a worker loads it from.
    """

    name: str
    stem: str
    version: str
    track: Track
    episode: str
    parameters: Mapping[str, Any]
    prepares: tuple[str, ...]
    payload: Mapping[str, Any]

    @property
    def k(self) -> int | None:
        """Number of labelled target cases of a few-shot method."""
        return self.parameters.get("k")

    @cached_property
    def identity(self) -> tuple[Any, ...]:
        """What the method's results are addressed by."""
        return (self.stem, self.version, str(self.track), self.episode, frozen(dict(self.parameters)))


@dataclass(frozen=True)
class Options:
    """What the caller of a run chooses; all but where the data lie is part of the keys."""

    folders: Mapping[str, Path] = field(default_factory=dict)  # dataset name -> folder
    roots: tuple[Path, ...] = ()  # folders that are searched for a dataset by name
    seeds: tuple[int, ...] | None = None
    backbones: tuple[str, ...] | None = None
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Task:
    """One node of the graph: what to compute (`kind`, `payload`), its address, and what must be there before.

    Attributes:
        seconds: a guess, for the order of work and the time left.
        made_of: what the key is the hash of, by name; tasks that it is made from are named by their ids.
        id: address of the task's record.
    """

    kind: str
    key: str
    payload: Mapping[str, Any]
    needs: tuple[str, ...]
    label: str
    seconds: float
    made_of: Mapping[str, Any] = field(default_factory=dict)
    id: str = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.kind}/{self.key}")  # one string for all who name the task


@dataclass(frozen=True)
class Settings:
    """How tasks are run; nothing of it is part of a key.

    Attributes:
        isolate: "auto" (a sandbox where there is bubblewrap), "strict" (a sandbox or nothing), "off" (a process).
        seconds: wall-clock limit of a task.
        memory_mb: limit of the memory of a method's process, MiB; None for the machine's.
    """

    isolate: str = "auto"
    seconds: float = 6 * 3600.0
    memory_mb: float | None = None


@dataclass(frozen=True)
class Outcome:
    """How an attempt at a task ended.

    Attributes:
        seconds: wall-clock of the attempt.
        cause: of a failure, one sentence.
        status: of `Status`, or "fatal" where the result folder itself is the trouble.
        reason: of a failure, what a retry rule goes by: "exception", "out_of_memory", "signal", "timeout", "nan",
            "lost" (the worker or its node is gone) or "input" (a task that it needs failed).
        again: the task will be attempted again in this run, so that this is not its end.
    """

    task: Task
    ok: bool
    seconds: float
    cause: str = ""
    status: str = str(Status.OK)
    reason: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows of one method on one target with one seed: row fields that are known before, and the folds to collect.

    Attributes:
        folds: (predict task id, score task id, test part).
        positions: case to its place in a stream; None outside streams.
    """

    row: Mapping[str, Any]
    folds: tuple[tuple[str, str, Part], ...]
    method: MethodCard
    scenario: Scenario
    positions: Mapping[str, int] | None = None


@dataclass
class Plan:
    """The graph and its units.

    Attributes:
        units: of targets on their own.
        streams: of targets inside streams, apart so that nothing counts a case of a target twice.
        cards: (scenario, target) to the id of the task that measures how far the target moved.
    """

    tasks: dict[str, Task] = field(default_factory=dict)
    units: list[Unit] = field(default_factory=list)
    streams: list[Unit] = field(default_factory=list)
    cards: dict[tuple[str, str], str] = field(default_factory=dict)
    _common: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # digest -> value
    _digests: dict[int, str] = field(default_factory=dict, repr=False, compare=False)  # id() of those values -> digest
    _needs: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict, repr=False, compare=False)

    def common(self, value: Any) -> Any:
        """The one object that stands for all values (JSON, with tuples for lists) equal to this: held and hashed once.

        Many tasks share recipes, parts and identities of methods.
        """
        address = digest(value)
        kept = self._common.setdefault(address, value)
        self._digests[id(kept)] = address
        return kept

    def add(
        self,
        kind: str,
        payload: Mapping[str, Any],
        needs: Sequence[str],
        label: str,
        seconds: float,
        made_of: Mapping[str, Any],
    ) -> Task:
        """The task that is made of these named parts, made once however often it is asked for."""
        known = self._digests
        key = _address(kind, {n: _short(v, known) for n, v in made_of.items()})
        task = self.tasks.get(f"{kind}/{key}")
        if task is None:
            unique = tuple(dict.fromkeys(needs))
            shared = self._needs.setdefault(unique, unique)
            task = Task(kind, key, payload, shared, sys.intern(label), seconds, made_of)
            self.tasks[task.id] = task
        return task

    def digest(self) -> str:
        """Changes whenever other rows or cards would come out, and with nothing else."""
        whole = hashlib.sha256()
        rows = (digest(dict(u.row), [fold[:2] for fold in u.folds]) for u in (*self.units, *self.streams))
        for line in (*sorted(rows), digest([[*where, task] for where, task in sorted(self.cards.items())])):
            whole.update(line.encode())
        return whole.hexdigest()


def address(kind: str, made_of: Mapping[str, Any]) -> str:
    """The key of a task of this kind that is made of these named parts.

    Nested parts enter by their own digests, so that one that many tasks share is hashed once.
    """
    return _address(kind, {name: _short(value, {}) for name, value in made_of.items()})


def _address(kind: str, made_of: Mapping[str, Any]) -> str:
    return digest(kind, made_of)


def _short(value: Any, known: Mapping[int, str]) -> Any:
    """A plain value as it is; of a nested one its digest, which is wrapped so that it is no plain text's equal."""
    if isinstance(value, str | int | float | None):
        return value
    return [known.get(id(value)) or digest(value)]


def frozen(value: Any) -> Any:
    """A JSON value with tuples for lists, all the way down."""
    if isinstance(value, Mapping):
        return {str(name): frozen(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return tuple(frozen(part) for part in value)
    return value
