"""Data tasks: anatomies to scores and shift cards. A process that runs these never imports a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shiftbench import materialise
from shiftbench.cards import shift_card
from shiftbench.domains import DatasetRef, Part
from shiftbench.metrics import ScoredStructure
from shiftbench.scoring import score_fold
from shiftbench.selftest import refuse_broken_backends
from shiftbench.shifts.settings import Step
from shiftbench.tasks import Task
from shiftbench.worker.perform import Context


def anatomy(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """Anatomies of a chunk of cases."""
    materialise.make_anatomies(context.store, key, DatasetRef(**task["dataset"]), task["cases"], task["population"])


def images(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """Images of a chunk of cases under an acquisition."""
    steps = [Step(**step) for step in task["steps"]]
    materialise.make_images(
        context.store, key, task["anatomy"], task["cases"], task["acquisition"], steps, task["domain_seed"]
    )


def references(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """References of a chunk of cases under a protocol, moved as the anatomy was and with the annotators' noise."""
    drawing = {name: task[name] for name in ("domain_seed", "annotator_noise_mm", "instances") if name in task}
    if "steps" in task:
        drawing["steps"] = [Step(**step) for step in task["steps"]]
    materialise.make_references(
        *(context.store, key, task["anatomy"], DatasetRef(**task["dataset"])),
        *(task["cases"], task["structures"], task["protocol"]),
        **drawing,
    )


def score(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """Scores of finished predictions, by libraries that are seen to compute right."""
    refuse_broken_backends({ScoredStructure(*structure).form for structure in task["structures"]})
    prediction = context.store.record("predict", task["predict"])
    test = Part.of(task["test"])
    rows = score_fold(
        *(context.store, prediction, task["predict"], test, task["structures"]),
        names=task.get("names"),
        donors=task.get("donors"),
        layout=Task.of(task["layout"]) if "layout" in task else None,
        options=task.get("options"),
    )
    context.store.publish("score", key, {"rows": rows})


def card(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """How far a target moved from its source."""
    parts = {name: Part.of(task[name]) for name in ("source", "target", "redrawn")}
    context.store.publish("card", key, {"card": shift_card(context.store, **parts, structures=task["structures"])})


HANDLERS = {"anatomy": anatomy, "images": images, "references": references, "score": score, "card": card}
