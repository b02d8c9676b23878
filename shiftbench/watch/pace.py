"""How long a run still takes: planned work at the pace seen so far, per kind of task."""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence

from shiftbench.graph import Outcome, Task
from shiftbench.watch.events import Running

SHORTEST = 0.01  # seconds, of a guess: a pace is taken against it
TRUST = 60.0  # planned seconds that must have ended before their pace says more of other kinds than the plan does
OVERTIME = 0.1  # of the time that a task has taken: what it is given when it has taken all that was expected
CHANGED = 1.2  # factor by which a pace must move before the paths through the graph are measured again


class Pace:
    """What is left of a plan, and how its guesses compare with what tasks have taken.

    A guess is scaled by what ended tasks of its kind have taken. A kind of which nothing has ended is scaled by all
    others, the less the fewer of them there are. A task that has taken longer than that is expected to take a little
    more, and others of its kind as long, as long as none has ended.

    Args:
        tasks: those of the run that are not in the store, by id.
    """

    def __init__(self, tasks: Mapping[str, Task]):
        self.tasks = tasks
        self.left: dict[str, float] = {}  # planned seconds per kind, of tasks that have not ended
        for task in tasks.values():
            self.left[task.kind] = self.left.get(task.kind, 0.0) + guess(task)
        self.planned: dict[str, float] = {}  # of tasks that ended well
        self.worked: dict[str, float] = {}  # and what they took
        self._order = _each_before_its_needs(tasks)
        self._after: dict[str, float] = {}  # per task, seconds on the longest path behind it
        self._measured_at: dict[str, float] = {}  # the paces of those paths

    def end(self, outcome: Outcome) -> None:
        """A task has ended for good."""
        kind, planned = outcome.task.kind, guess(outcome.task)
        if outcome.task.id in self.tasks:
            self.left[kind] -= planned
        if outcome.ok and outcome.seconds > 0:  # what failed at once says nothing of how long the work takes
            self.planned[kind] = self.planned.get(kind, 0.0) + planned
            self.worked[kind] = self.worked.get(kind, 0.0) + outcome.seconds

    @property
    def planned_left(self) -> float:
        """Seconds of work that the plan guesses for the tasks that have not ended."""
        return max(0.0, sum(self.left.values()))

    def seconds_left(self, running: Sequence[Running], jobs: int, now: float) -> float | None:
        """Seconds until the run ends, None before a task has ended well.

        The larger of what is left shared by all jobs, and the longest path behind a task under way.

        Args:
            running: tasks under way.
            jobs: tasks at a time.
            now: seconds of `time.time`.
        """
        if not self.planned:
            return None
        paces = self._paces(running, now)
        after = self._paths(paces)
        waiting = dict(self.left)
        shared = longest = 0.0
        for one in running:
            took = max(0.0, now - one.since)
            remaining = max(guess(one.task) * paces[one.task.kind] - took, OVERTIME * took)
            waiting[one.task.kind] = waiting.get(one.task.kind, 0.0) - guess(one.task)
            shared += remaining
            longest = max(longest, remaining + after.get(one.task.id, 0.0))
        shared += sum(max(0.0, planned) * paces[kind] for kind, planned in waiting.items())
        return max(shared / max(1, jobs), longest)

    def _paces(self, running: Sequence[Running], now: float) -> dict[str, float]:
        """Seconds that a planned second of each kind takes."""
        planned, worked = sum(self.planned.values()), sum(self.worked.values())
        other = (worked + TRUST) / (planned + TRUST)
        kinds = {*self.left, *(one.task.kind for one in running)}
        paces = {kind: self.worked[kind] / self.planned[kind] if kind in self.planned else other for kind in kinds}
        for one in running:
            kind = one.task.kind
            if kind not in self.planned:
                paces[kind] = max(paces[kind], (now - one.since) / guess(one.task))
        return paces

    def _paths(self, paces: Mapping[str, float]) -> Mapping[str, float]:
        """Per task, seconds on the longest path from its end to the end of the graph; measured when a pace moves."""
        before = self._measured_at
        if all(before.get(k, 0.0) / CHANGED <= pace <= before.get(k, 0.0) * CHANGED for k, pace in paces.items()):
            return self._after
        after: dict[str, float] = dict.fromkeys(self.tasks, 0.0)
        for name in self._order:
            task = self.tasks[name]
            path = after[name] + guess(task) * paces[task.kind]
            for need in task.needs:
                if path > after.get(need, path):
                    after[need] = path
        self._after, self._measured_at = after, dict(paces)
        return after


def guess(task: Task) -> float:
    """Seconds that the plan guesses for a task."""
    return max(task.seconds, SHORTEST)


def _each_before_its_needs(tasks: Mapping[str, Task]) -> list[str]:
    graph = {name: [need for need in task.needs if need in tasks] for name, task in tasks.items()}
    order = list(graphlib.TopologicalSorter(graph).static_order())
    order.reverse()
    return order
