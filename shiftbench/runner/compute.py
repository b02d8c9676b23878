"""Computing what is missing of a plan."""

from __future__ import annotations

import contextlib

from shiftbench.engine import Engine
from shiftbench.engine.scheduler import to_do
from shiftbench.errors import DataError, OutputError
from shiftbench.graph import Outcome, Plan
from shiftbench.store import Store
from shiftbench.watch.events import Observer
from shiftbench.watch.recorder import Recorder

DATA = ("anatomy", "images", "references")


def compute(graph: Plan, store: Store, engine: Engine, tell: Observer, jobs: int) -> Recorder:
    """Runs on `engine` every task that is not in the store yet.

    Returns:
        What was counted, and which tasks failed.

    Raises:
        DataError: a dataset cannot be used; what was finished stays.
        OutputError: the folder can no longer be written.
    """
    reused = set(graph.tasks) - set(to_do(graph.tasks, store))
    recorder = Recorder(tell, graph.tasks, reused, running=engine.running, said=engine.said, jobs=jobs)
    with contextlib.closing(engine), recorder:
        for outcome in engine.run(graph.tasks, tick=recorder.tick):
            recorder.end(outcome)
            _refuse(outcome)
        store.sweep()
    return recorder


def _refuse(outcome: Outcome) -> None:
    """Ends the run where going on would be of no use."""
    if outcome.status == "fatal":
        raise OutputError(outcome.cause.rstrip("."))
    if not outcome.ok and not outcome.again and outcome.task.kind in DATA:
        raise DataError(outcome.cause.rstrip("."))
