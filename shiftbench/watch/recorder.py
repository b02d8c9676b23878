"""The events of a run, made from its plan, from what an engine says is under way, and from how tasks end."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from types import TracebackType
from typing import Any

from shiftbench.graph import Outcome, Task
from shiftbench.watch.events import Counts, Event, Kind, Observer, Running
from shiftbench.watch.failures import Failures
from shiftbench.watch.pace import Pace


class Recorder:
    """Tells an observer of a run from "start" to "done" or "stopped".

        with Recorder(watch, plan.tasks, reused, running=engine.running, said=engine.said, jobs=jobs) as recorder:
            for outcome in engine.run(plan.tasks, tick=recorder.tick):
                recorder.end(outcome)

    Args:
        tell: whom to tell, a `Watch` as a rule.
        tasks: of the run, by id.
        reused: ids of those that are in the store already.
        running: what is under way.
        said: what tasks have warned of so far; each new sentence is told once.
        jobs: tasks at a time; may be set anew when a cluster grows.
    """

    def __init__(
        self,
        tell: Observer,
        tasks: Mapping[str, Task],
        reused: Set[str],
        *,
        running: Callable[[], Sequence[Running]],
        said: Callable[[], Sequence[str]] = lambda: (),
        jobs: int = 1,
    ):
        self.tell, self.running, self.said, self.jobs = tell, running, said, jobs
        self.pace = Pace({name: task for name, task in tasks.items() if name not in reused})
        self.failures = Failures()
        total = Counter(task.kind for task in tasks.values())
        done_before = Counter(task.kind for name, task in tasks.items() if name in reused)
        self.kinds = {kind: Counts(total[kind], done_before[kind]) for kind in total}
        self.counts = Counts(total.total(), done_before.total())
        self._under: set[str] = set()  # ids of tasks whose "begin" has been told
        self._running: tuple[Running, ...] = ()
        self._warned = 0

    def __enter__(self) -> Recorder:
        self._say("start")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._pass_on_warnings()
        self._running = ()
        if error is None:
            self._say("done")
        else:
            self._say("stopped", words=_why(error))

    def tick(self) -> None:
        """Nothing has ended; tells of tasks that have begun, of warnings, and how far all is."""
        self._running = tuple(self.running())
        for one in self._running:
            if one.task.id not in self._under:
                self._begin(one.task, one.since)
        self._pass_on_warnings()
        self._say("tick")

    def end(self, outcome: Outcome) -> None:
        """An attempt at a task has ended."""
        task = outcome.task
        if task.id not in self._under and outcome.seconds > 0:  # too short to be seen under way
            self._begin(task, time.time() - outcome.seconds)
        self._under.discard(task.id)
        self._running = tuple(self.running())
        if outcome.again:
            self._say("retry", outcome=outcome)
            return
        if task.id not in self.pace.tasks:  # it was in the store, and had to be made again
            self._count(task.kind, reused=-1)
        self.pace.end(outcome)
        if outcome.ok and outcome.seconds == 0:  # by another run on the same folder
            self._count(task.kind, reused=1)
        elif outcome.ok:
            self._count(task.kind, done=1)
        else:
            self._count(task.kind, failed=1)
            self.failures.add(outcome)
        self._say("end", outcome=outcome)

    def warn(self, words: str) -> None:
        """Tells people something."""
        self._say("warning", words=words)

    def _begin(self, task: Task, since: float) -> None:
        self._under.add(task.id)
        self._say("begin", task=task, at=since)

    def _pass_on_warnings(self) -> None:
        sentences = self.said()
        for words in sentences[self._warned :]:
            self.warn(words)
        self._warned = len(sentences)

    def _count(self, kind: str, **more: int) -> None:
        self.counts = self.counts.plus(**more)
        self.kinds = {**self.kinds, kind: self.kinds.get(kind, Counts()).plus(**more)}  # events keep the old one

    def _say(self, kind: Kind, **what: Any) -> None:
        seconds_left = self.pace.seconds_left(self._running, self.jobs, time.time())
        self.tell(
            Event(
                kind,
                self.counts,
                self.kinds,
                running=self._running,
                planned_left=self.pace.planned_left,
                seconds_left=seconds_left,
                jobs=self.jobs,
                **what,
            )
        )


def _why(error: BaseException) -> str:
    """Why a run stopped, for people."""
    if isinstance(error, KeyboardInterrupt):
        return "ended by SIGTERM" if getattr(error, "exit_code", None) == 128 + signal.SIGTERM else "interrupted"
    if isinstance(error, SystemExit | GeneratorExit):
        return "ended from outside"
    return str(error).rstrip(".") or type(error).__name__
