"""Computing what is missing of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from shiftbench.engine.local import LocalEngine
from shiftbench.errors import DataError, OutputError
from shiftbench.graph import Outcome, Plan, Task
from shiftbench.store import Store

Observer = Callable[[str, Plan, Sequence[Task], Outcome | None], None]  # event, plan, tasks under way, what ended


def compute(graph: Plan, store: Store, engine: LocalEngine, observer: Observer | None) -> None:
    """Runs on `engine` every task that is not in the store yet.

    Raises:
        DataError: a dataset cannot be used; what was finished stays.
        OutputError: the folder can no longer be written.
    """
    if observer:
        observer("start", graph, [], None)
    said = 0
    for outcome in engine.run(graph.tasks, tick=lambda: observer and observer("tick", graph, engine.running(), None)):
        for words in engine.said()[said:]:
            said += 1
            if observer:
                observer("warning", graph, [], replace(outcome, cause=words))
        if observer:
            observer("end", graph, engine.running(), outcome)
        if outcome.status == "fatal":
            raise OutputError(outcome.cause.rstrip("."))
        if not outcome.ok and outcome.task.kind in ("anatomy", "images", "references"):
            raise DataError(outcome.cause.rstrip("."))
    store.sweep()
    if observer:
        observer("done", graph, [], None)
