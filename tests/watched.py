"""Runs to be watched, without processes: a small graph, an engine's view of it, and outcomes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from shiftbench.graph import Outcome, Task
from shiftbench.watch.events import Event, Running
from shiftbench.watch.recorder import Recorder


def task(kind: str, name: str, needs=(), seconds: float = 1.0, **payload) -> Task:
    return Task(kind, name, payload, tuple(needs), f"{kind} {name}", seconds)


def graph(*tasks: Task) -> dict[str, Task]:
    return {one.id: one for one in tasks}


def chain() -> dict[str, Task]:
    """A training, two predictions that need it, and their scores."""
    made = [task("train", "t", seconds=60.0)]
    for i in "12":
        made.append(task("predict", f"p{i}", ["train/t"], seconds=10.0))
        made.append(task("score", f"s{i}", [f"predict/p{i}"]))
    return graph(*made)


def well(one: Task, seconds: float = 1.0) -> Outcome:
    return Outcome(one, True, seconds)


def badly(one: Task, reason: str = "exception", cause: str = "ValueError: no", *, seconds=1.0, again=False) -> Outcome:
    return Outcome(one, False, seconds, cause, "failed", reason, again)


@dataclass
class View:
    """What an engine says of itself; set by a test."""

    running: list[Running] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def under(one: Task, since: float | None = None, words: str = "", where: str = "") -> Running:
    return Running(one, time.time() if since is None else since, words, where)


def recorder(tell, tasks, reused=(), jobs: int = 2, view: View | None = None) -> tuple[Recorder, View]:
    view = view or View()
    made = Recorder(tell, tasks, set(reused), running=lambda: view.running, said=lambda: view.said, jobs=jobs)
    return made, view


def events_of_a_run() -> list[Event]:
    """A whole run of the chain in which one prediction is tried twice and fails, and its score is left out."""
    told: list[Event] = []
    tasks = chain()
    made, view = recorder(told.append, tasks)
    with made:
        view.running = [under(tasks["train/t"], words="step 3 of 9", where="GPU 0")]
        made.tick()
        view.running, view.said = [under(tasks["predict/p2"])], ["the patch was rounded"]
        made.end(well(tasks["train/t"], 30.0))
        made.tick()
        made.end(badly(tasks["predict/p2"], "signal", "the process was killed by SIGSEGV", again=True))
        made.end(badly(tasks["predict/p2"], "signal", "the process was killed by SIGSEGV"))
        made.end(badly(tasks["score/s2"], "input", "not run because predict failed", seconds=0.0))
        view.running = []
        made.end(well(tasks["predict/p1"], 5.0))
        made.end(well(tasks["score/s1"], 0.1))
    return told
