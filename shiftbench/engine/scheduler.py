"""Which task is next: what is ready, set aside, tried again or given up. Bookkeeping alone; it starts nothing."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Protocol

from shiftbench.engine.order import followers_of, urgencies
from shiftbench.graph import Outcome, Task
from shiftbench.store import Store
from shiftbench.types import Status
from shiftbench.watch.events import Counts
from shiftbench.worker.perform import Answer

LANE = {
    "anatomy": "data",
    "images": "data",
    "references": "data",
    "score": "data",
    "card": "data",
}  # every other kind: "method"
LANES = ("data", "method")

# How often an attempt that ended for this reason is repeated in the same run. The next run attempts every failure.
RETRIES = {
    "signal": 1,
    "lost": 1,
    "out_of_memory": 1,
    "exception": 0,
    "nan": 0,
    "timeout": 0,
    "input": 0,
}
ALONE = ("out_of_memory",)  # reasons after which nothing else runs beside the next attempt
LOOK_SECONDS = 1.0  # between looks at the tasks that another run holds


class Claiming(Protocol):
    """What is asked of `shiftbench.store.claims.Claims`."""

    def take(self, task_id: str) -> bool:
        """Whether this run may compute the task."""

    def release(self, task_id: str) -> object:
        """Lets other runs have it."""


class Scheduler:
    """What is to be done of a graph, in order of what waits for it: O((V + E) log V) over a run.

    An engine asks `take` for tasks until there is none, tells `ended` (or `lost`) how each attempt went, and passes on
    the outcomes of these and of `settled`, until `finished`. Not for several threads.

    Args:
        tasks: the graph, id to task; it is read, never copied. A need that is not among them counts as met.
        store: what is in it is not computed again.
        claims: which tasks other runs on the same folder hold; None: there are no other runs.
        retries: by reason, how often an attempt is repeated in this run.

    Attributes:
        running: tasks that were taken and have not ended, by id.
        planned_left: seconds of work that the plan guesses for the tasks that have not ended.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        store: Store,
        claims: Claiming | None = None,
        retries: Mapping[str, int] = RETRIES,
    ):
        self.store, self.claims, self.retries = store, claims, retries
        self.running: dict[str, Task] = {}
        self._todo = to_do(tasks, store)
        self._total, self._reused, self._done, self._failed = len(tasks), len(tasks) - len(self._todo), 0, 0
        self._followers = followers_of(self._todo)
        self._missing = {name: sum(need in self._todo for need in set(t.needs)) for name, t in self._todo.items()}
        self._urgency = urgencies(self._todo)
        self._ready: dict[str, list[tuple[float, str]]] = {lane: [] for lane in LANES}
        self._lonely: dict[str, None] = {}  # ready, to run with nothing beside them
        self._aside: dict[str, None] = {}  # ready, held by another run
        self._look_at = 0.0
        self._found: deque[Task] = deque()  # published by another run
        self._doomed: deque[tuple[str, str]] = deque()  # a task that cannot be done, and why
        self._attempts: dict[str, int] = {}
        self._alone: set[str] = set()
        self._stopped = False
        self.planned_left = sum(task.seconds for task in self._todo.values())
        for name, count in self._missing.items():
            if count == 0:
                self._make_ready(name)

    @property
    def finished(self) -> bool:
        """Whether every task has ended and every outcome has been given out, or the folder is of no use."""
        return self._stopped or not self._todo

    @property
    def counts(self) -> Counts:
        """Tasks of the run so far."""
        return Counts(self._total, self._reused, self._done, self._failed)

    def take(self, *lanes: str) -> Task | None:
        """The most urgent ready task of these lanes (of all if none is named), or None where there is none now.

        A task that another run holds is set aside; one that another run has finished is an outcome of `settled`.
        """
        while (name := self._next(lanes or LANES)) is not None:
            task = self._todo[name]
            if self.claims is not None and not self.claims.take(name):
                self._aside[name] = None
                continue
            self.running[name] = task
            if self.claims is None or not self.store.present(task.kind, task.key):
                return task
            self._leave(task)
            self._found.append(task)
        return None

    def settled(self) -> Iterator[Outcome]:
        """Tasks that ended without an attempt: by another run, or for want of an input. To be asked at every turn."""
        if self._aside and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_SECONDS
            self._look_again()
        while self._found:
            yield self._well(self._found.popleft(), 0.0)
        while self._doomed:
            name, cause = self._doomed.popleft()
            if name in self._todo:
                yield self._fail(self._todo[name], unanswered(cause, "input"))

    def ended(self, task: Task, answer: Answer) -> Outcome:
        """How an attempt ended; what follows from it is among the next `settled`.

        Args:
            task: that was taken.
            answer: of `shiftbench.worker.perform`, or of `unanswered`.

        Raises:
            OutputError: the failure cannot be written.
        """
        try:
            if answer["ok"] or self.store.present(task.kind, task.key):  # a worker may die between record and answer
                return self._well(task, answer["seconds"])
            if answer["fatal"]:
                self._stopped = True
                return Outcome(task, False, answer["seconds"], answer["cause"], "fatal", answer["reason"])
            return self._fail(task, answer)
        finally:
            self._leave(task)

    def lost(self, task: Task, cause: str, seconds: float = 0.0) -> Outcome:
        """As `ended`, where the worker or its node is gone."""
        return self.ended(task, unanswered(cause, "lost", seconds=seconds))

    def alone(self, task: Task) -> bool:
        """Whether nothing else may run beside this attempt; `take` sees to it for the tasks of this run."""
        return task.id in self._alone

    def _next(self, lanes: Collection[str]) -> str | None:
        """The most urgent ready task; one that runs alone waits until nothing else is ready or under way."""
        if self._stopped or not self._alone.isdisjoint(self.running):
            return None
        heaps = [self._ready[lane] for lane in lanes if self._ready[lane]]
        if heaps:
            return heapq.heappop(min(heaps, key=lambda heap: heap[0]))[1]
        if self._lonely and not self.running and not any(self._ready.values()):
            name = next((n for n in self._lonely if lane_of(self._todo[n]) in lanes), None)
            if name is not None:
                del self._lonely[name]
            return name
        return None

    def _make_ready(self, name: str) -> None:
        if name in self._alone:
            self._lonely[name] = None
        else:
            heapq.heappush(self._ready[lane_of(self._todo[name])], (-self._urgency[name], name))

    def _look_again(self) -> None:
        """Set-aside tasks that are published have ended; the others are ready again, and `take` asks who holds them."""
        names, self._aside = self._aside, {}
        for name in names:
            task = self._todo[name]
            if self.store.present(task.kind, task.key):
                self._found.append(task)
            else:
                self._make_ready(name)

    def _leave(self, task: Task) -> None:
        self.running.pop(task.id, None)
        if self.claims is not None:
            self.claims.release(task.id)

    def _well(self, task: Task, seconds: float) -> Outcome:
        self._done += 1
        for follower in self._forget(task):
            if follower in self._missing:  # not given up for want of another input
                self._missing[follower] -= 1
                if self._missing[follower] == 0:
                    self._make_ready(follower)
        return Outcome(task, True, seconds)

    def _fail(self, task: Task, answer: Answer) -> Outcome:
        """Records the attempt; the task is tried again, or ends with all that need it."""
        reason, cause = answer["reason"], answer["cause"]
        self.store.publish_failure(task.kind, task.key, self._failure(task, answer))
        self._attempts[task.id] = self._attempts.get(task.id, 0) + 1
        again = self._attempts[task.id] <= self.retries.get(reason, 0)
        if again:
            if reason in ALONE:
                self._alone.add(task.id)
            self._make_ready(task.id)
        else:
            self._failed += 1
            words = cause if reason == "input" else f"not run because {task.kind} failed: {cause}"
            self._doomed.extend((follower, words) for follower in self._forget(task))
        return Outcome(task, False, answer["seconds"], cause, answer["status"], reason, again)

    def _failure(self, task: Task, answer: Answer) -> dict[str, Any]:
        """The record of a failure; the store adds the attempt to those before. A task without its input had none."""
        facts = {name: answer[name] for name in ("cause", "status", "reason", "trace")} | {"label": task.label}
        if answer["reason"] == "input":
            facts["attempts"] = (self.store.failure(task.kind, task.key) or {}).get("attempts", [])
        return {**facts, **answer["record"]}

    def _forget(self, task: Task) -> list[str]:
        """Frees what is known of a task that has ended; returns those that need it."""
        self.planned_left -= task.seconds
        for of_tasks in (self._todo, self._missing, self._urgency, self._attempts):
            of_tasks.pop(task.id, None)
        self._alone.discard(task.id)
        return self._followers.pop(task.id)


def to_do(tasks: Mapping[str, Task], store: Store) -> dict[str, Task]:
    """Tasks that are not in the store, and those whose arrays were dropped and are needed by one to be done."""
    finished = {kind: store.finished(kind) for kind in {task.kind for task in tasks.values()}}
    todo = {name: task for name, task in tasks.items() if task.key not in finished[task.kind]}
    seen, stack = set(todo), list(todo.values())
    while stack:
        for need in stack.pop().needs:
            if need in seen or need not in tasks:
                continue
            seen.add(need)
            if not store.present(tasks[need].kind, tasks[need].key):
                todo[need] = tasks[need]
                stack.append(tasks[need])
    return todo


def lane_of(task: Task) -> str:
    """Which processes do a task: no process that scores ever imports a method."""
    return LANE.get(task.kind, "method")


def unanswered(
    cause: str, reason: str, status: Status = Status.FAILED, seconds: float = 0.0, trace: str = ""
) -> Answer:
    """The answer for a task whose worker gave none."""
    facts = {"cause": cause, "status": str(status), "reason": reason, "trace": trace}
    return {"ok": False, "fatal": False, "seconds": seconds, "record": {}, **facts}
