"""The nouns of a plan: methods as cards, options, tasks, units and the graph of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

    @property
    def identity(self) -> list[Any]:
        """What the method's results are addressed by."""
        return [self.stem, self.version, str(self.track), self.episode, dict(self.parameters)]


@dataclass(frozen=True)
class Options:
    """What the caller of a run chooses; all but where the data lie is part of the keys."""

    folders: Mapping[str, Path] = field(default_factory=dict)  # dataset name -> folder
    roots: tuple[Path, ...] = ()  # folders that are searched for a dataset by name
    seeds: tuple[int, ...] | None = None
    backbones: tuple[str, ...] | None = None
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class Task:
    """One node of the graph: what to compute (`kind`, `payload`), its address, and what must be there before."""

    kind: str
    key: str
    payload: Mapping[str, Any]
    needs: tuple[str, ...]
    label: str
    seconds: float  # a guess, for the order of work and the time left
    made_of: Any = None  # what the key is the hash of

    @property
    def id(self) -> str:
        """Address of the task's record."""
        return f"{self.kind}/{self.key}"


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


@dataclass(frozen=True)
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

    def add(
        self, kind: str, payload: Mapping[str, Any], needs: Sequence[str], label: str, seconds: float, key: Any
    ) -> Task:
        """The task with this address, made once however often it is asked for."""
        task = Task(kind, digest(kind, key), payload, tuple(dict.fromkeys(needs)), label, seconds, key)
        return self.tasks.setdefault(task.id, task)
