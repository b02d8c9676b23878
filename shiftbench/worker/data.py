"""Data tasks: anatomies to scores and shift cards. A process that runs these never imports a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from shiftbench import materialise
from shiftbench.cards import shift_card
from shiftbench.domains import DatasetRef, Part
from shiftbench.metrics import ScoredStructure
from shiftbench.scoring import score_fold
from shiftbench.selftest import refuse_broken_backends
from shiftbench.shifts.settings import Step
from shiftbench.store import Store
from shiftbench.tasks import Task

Report = Callable[[str], None]  # told in words how far a task is; these tasks are short


def anatomy(store: Store, key: str, task: Mapping[str, Any], _: Report) -> None:
    """Anatomies of a chunk of cases."""
    materialise.make_anatomies(store, key, DatasetRef(**task["dataset"]), task["cases"], task["population"])


def images(store: Store, key: str, task: Mapping[str, Any], _: Report) -> None:
    """Images of a chunk of cases under an acquisition."""
    steps = [Step(**step) for step in task["steps"]]
    materialise.make_images(store, key, task["anatomy"], task["cases"], task["acquisition"], steps, task["domain_seed"])


def references(store: Store, key: str, task: Mapping[str, Any], _: Report) -> None:
    """References of a chunk of cases under a protocol, moved as the anatomy was and with the annotators' noise."""
    drawing = {name: task[name] for name in ("domain_seed", "annotator_noise_mm", "instances") if name in task}
    if "steps" in task:
        drawing["steps"] = [Step(**step) for step in task["steps"]]
    materialise.make_references(
        *(store, key, task["anatomy"], DatasetRef(**task["dataset"])),
        *(task["cases"], task["structures"], task["protocol"]),
        **drawing,
    )


def score(store: Store, key: str, task: Mapping[str, Any], _: Report) -> None:
    """Scores of finished predictions, by libraries that are seen to compute right."""
    refuse_broken_backends({ScoredStructure(*structure).form for structure in task["structures"]})
    prediction = store.record("predict", task["predict"])
    test = Part.of(task["test"])
    rows = score_fold(
        *(store, prediction, task["predict"], test, task["structures"]),
        names=task.get("names"),
        donors=task.get("donors"),
        layout=Task.of(task["layout"]) if "layout" in task else None,
        options=task.get("options"),
    )
    store.publish("score", key, {"rows": rows})


def card(store: Store, key: str, task: Mapping[str, Any], _: Report) -> None:
    """How far a target moved from its source."""
    parts = {name: Part.of(task[name]) for name in ("source", "target", "redrawn")}
    store.publish("card", key, {"card": shift_card(store, **parts, structures=task["structures"])})


HANDLERS = {"anatomy": anatomy, "images": images, "references": references, "score": score, "card": card}
