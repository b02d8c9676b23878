"""A result folder for tests without a run: real data and score tasks, made-up trainings and predictions."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from scenarios import TINY, write
from shiftbench import plan as planning
from shiftbench.domains import Part, load_reference
from shiftbench.graph import MethodCard, Options, Outcome, Plan, Task
from shiftbench.rng import generator
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import Track
from shiftbench.worker.perform import Context, perform

SMALL = TINY[: TINY.index('[[target]]\nname = "identity"')] + TINY[TINY.index('[[target]]\nname = "noise"') :]
SMALL = SMALL[: SMALL.index('[[target]]\nname = "hilum-in"')] + SMALL[SMALL.index('[[target]]\nname = "load"') :]
BROKEN = "pred_bn"  # whose predictions all fail


def card(name: str = "erm", track: Track = Track.DG, version: str = "1", **parameters: object) -> MethodCard:
    """A method that no file has to be read for."""
    return MethodCard(name, name, version, track, "offline", parameters, (), {"path": name})


METHODS = (card(), card(BROKEN, Track.TTA))


def planned(folder: Path, text: str = TINY, methods=METHODS, **options: object) -> Plan:
    """The plan of a tiny scenario."""
    return planning.plan([load_scenario(write(folder, text))], list(methods), Options(**options), "tiny")


class InThisProcess:
    """An engine that does data tasks here and makes up the others; it knows what it was given.

    Attributes:
        ran: ids of the tasks, in order.
    """

    def __init__(self, store: Store):
        self.store, self.ran = store, []

    def run(self, tasks: Mapping[str, Task], **_: object) -> Iterator[Outcome]:
        """Does every task that is not in the store, in the order of the plan."""
        for task in tasks.values():
            if self.store.done(task.kind, task.key):
                continue
            self.ran.append(task.id)
            yield Outcome(task, *self._did(task))

    def _did(self, task: Task) -> tuple:
        if task.kind == "train":
            self.store.publish("train", task.key, {"seconds": 4.0})
        elif task.kind == "predict" and task.payload["identity"][0] == BROKEN:
            failure = {"cause": "no such luck", "status": "failed", "reason": "exception", "label": task.label}
            self.store.publish_failure("predict", task.key, failure)
            return False, 0.1, "no such luck", "failed", "exception"
        elif task.kind == "predict":
            self._predict(task)
        elif task.kind == "score" and not self.store.done("predict", task.payload["predict"]):
            return False, 0.0, "a prediction is missing", "failed", "input"
        else:
            answer = perform(Context(self.store), task.kind, task.key, task.payload)
            return answer["ok"], answer["seconds"], answer.get("cause", "")
        return True, 0.1

    def _predict(self, task: Task) -> None:
        """The reference of each case, with some voxels changed: another for every task and case."""
        cases = {}
        with self.store.workspace() as folder:
            for case, (_, _, references) in Part.of(task.payload["test"]).where().items():
                labels = load_reference(self.store, references, case)
                wrong = generator(0, task.key, case).random(labels.shape) < 0.05
                np.savez_compressed(folder / f"{case}.npz", labels=np.where(wrong, 1, labels).astype(np.uint8))
                cases[case] = {"status": "ok", "detail": "", "seconds": 0.5, "peak_mb": 1.0}
            self.store.publish("predict", task.key, {"cases": cases}, folder)


def finished(plan: Plan, folder: Path) -> Store:
    """The folder of the plan after a run."""
    store = Store(folder)
    list(InThisProcess(store).run(plan.tasks))
    return store
