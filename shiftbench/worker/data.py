"""Data tasks: anatomies, images, references and scores. A process that runs these never imports a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shiftbench import materialise
from shiftbench.domains import DatasetRef, Part
from shiftbench.scoring import score_fold
from shiftbench.shifts.settings import Step
from shiftbench.store import Store


def anatomy(store: Store, key: str, task: Mapping[str, Any]) -> None:
    """Anatomies of a chunk of cases."""
    materialise.make_anatomies(store, key, DatasetRef(**task["dataset"]), task["cases"], task["population"])


def images(store: Store, key: str, task: Mapping[str, Any]) -> None:
    """Images of a chunk of cases under an acquisition."""
    steps = [Step(**step) for step in task["steps"]]
    materialise.make_images(store, key, task["anatomy"], task["cases"], task["acquisition"], steps, task["domain_seed"])


def references(store: Store, key: str, task: Mapping[str, Any]) -> None:
    """References of a chunk of cases under a protocol."""
    materialise.make_references(
        store, key, task["anatomy"], DatasetRef(**task["dataset"]), task["cases"], task["structures"], task["protocol"]
    )


def score(store: Store, key: str, task: Mapping[str, Any]) -> None:
    """Scores of finished predictions."""
    prediction = store.record("predict", task["predict"])
    rows = score_fold(store, prediction, task["predict"], Part.of(task["test"]), task["structures"])
    store.publish("score", key, {"rows": rows})


HANDLERS = {"anatomy": anatomy, "images": images, "references": references, "score": score}
