"""What went wrong in a run and what to do about it: a line per failure, or per many that are alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # records are read without it
    from shiftbench.graph import Outcome

# Reason of a failed task to what to do about it; {file} is the method's file, {trace} the record with the traceback.
REMEDIES = {
    "out_of_memory": "lower --jobs or --jobs-per-device, raise --memory-gb, or lower the recipe's batch or patch",
    "timeout": "raise --time-limit, or give the task a faster device",
    "signal": "look in the system's log for who ended the process, then run the same command again",
    "nan": "look at the learning rate and the numbers that {file} makes",
    "exception": "the traceback is in {trace}",
    "lost": "look at the node that it ran on, then run the same command again",
    "input": "mend that, then run the same command again",
}
NAMED = 3  # tasks that a line about many names
ANY_NUMBER = re.compile(r"0x[0-9a-f]+|\d+(\.\d+)?(e[+-]?\d+)?")
TASKS = {  # kind of task to what people call several of them
    "anatomy": "anatomies",
    "images": "sets of images",
    "references": "sets of references",
    "train": "trainings",
    "prepare": "preparations",
    "predict": "predictions",
    "score": "scorings",
    "card": "measurements of shifts",
    "audit": "audits",
}


@dataclass(frozen=True)
class Failure:
    """A task that failed for good in a run, as far as people are told of it.

    Attributes:
        kind: of task.
        key: of its address.
        reason: see `graph.Outcome`.
        cause: one sentence.
        file: of the method, where one was at work.
    """

    kind: str
    key: str
    label: str
    reason: str
    cause: str
    file: str = ""

    @classmethod
    def of(cls, outcome: Outcome) -> Failure:
        """What an engine said."""
        task = outcome.task
        method = task.payload.get("method")
        file = str(method.get("path", "")) if isinstance(method, Mapping) else ""
        return cls(task.kind, task.key, task.label, outcome.reason or "exception", outcome.cause, file)

    @classmethod
    def of_record(cls, kind: str, key: str, record: Mapping[str, Any]) -> Failure:
        """What a result folder holds of it."""
        cause = str(record.get("cause", ""))
        return cls(
            kind, key, str(record.get("label") or f"{kind} {key[:8]}"), record.get("reason") or "exception", cause
        )

    @property
    def alike(self) -> tuple[str, str, str]:
        """Equal for failures that one line tells of: the same trouble but for the numbers in it."""
        if self.reason == "input":
            return self.reason, "", ""
        return self.reason, self.kind, ANY_NUMBER.sub("#", self.cause)

    @property
    def remedy(self) -> str:
        """What to do about it."""
        words = REMEDIES.get(self.reason, REMEDIES["exception"])
        trace = f"failures/{self.kind}/{self.key[:2]}/{self.key}.json"
        return words.format(file=self.file or "the scenario's recipe", trace=trace)


@dataclass
class _Group:
    first: Failure
    labels: list[str]
    count: int = 0


class Failures:
    """Failures as they come, kept in groups that are alike: what is kept does not grow with their number."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str, str], _Group] = {}

    def add(self, outcome: Outcome) -> int:
        """Takes one in; how many there are that are like it."""
        return self.take(Failure.of(outcome))

    def take(self, failure: Failure) -> int:
        """See `add`."""
        group = self._groups.setdefault(failure.alike, _Group(failure, []))
        group.count += 1
        if failure.label not in group.labels and len(group.labels) <= NAMED:
            group.labels.append(failure.label)
        return group.count

    def __len__(self) -> int:
        return sum(group.count for group in self._groups.values())

    def lines(self) -> list[str]:
        """One line per failure or per group of them, each with what to do; what was only left out comes last."""
        groups = sorted(self._groups.values(), key=lambda g: (g.first.reason == "input", -g.count, g.first.label))
        return [_line(group) for group in groups]


def failure_lines(failures: Iterable[Failure]) -> list[str]:
    """See `Failures.lines`."""
    kept = Failures()
    for failure in failures:
        kept.take(failure)
    return kept.lines()


def _line(group: _Group) -> str:
    first = group.first
    if first.reason == "input":
        was = "task was" if group.count == 1 else "tasks were"
        return f"{group.count} {was} not run, since something before failed ({_names(group)}); {first.remedy}"
    if group.count == 1:
        return f"{first.label}: {first.cause.rstrip('.')}; {first.remedy}"
    what = TASKS.get(first.kind, f"tasks of the kind '{first.kind}'")
    return f"{group.count} {what} alike ({_names(group)}): {first.cause.rstrip('.')}; {first.remedy}"


def _names(group: _Group) -> str:
    shown = group.labels[:NAMED]
    return ", ".join(shown) + (", ..." if len(group.labels) > NAMED else "")
