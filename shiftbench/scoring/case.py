"""One test case as those who score it see it: its prediction, its reference, and what both were made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shiftbench.domains import load_anatomy, load_image, load_instances, load_reference
from shiftbench.metrics.scorers import ScoredStructure
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.types import Status


@dataclass(frozen=True)
class ScoredCase:
    """Where everything lies that a score of one case may need; arrays are read when they are asked for.

    Attributes:
        entry: of the case in the record of the predict task: status, detail, and the facts that were kept.
        stored: name that the prediction was stored under.
        predicted_in: folder of the predictions.
        info: patient, spacing and attributes (see `shiftbench.domains.about`).
        keys: (anatomy, images, references) that the case was published under.
        drawn: whose reference it is scored against, and the key of that (another patient's in the impossible control).
        structures: in label order.
        layout: of the task.
        options: "calibration" and "radiomics", as the scenario has them; "estimates" of an estimator, "selection" of a
            method that is one of several configurations.
    """

    store: Store
    case: str
    entry: Mapping[str, Any]
    stored: str
    predicted_in: Path | None
    info: Mapping[str, Any]
    keys: tuple[str, str, str]
    drawn: tuple[str, str]
    structures: tuple[ScoredStructure, ...]
    layout: Task | None
    options: Mapping[str, Any]

    @property
    def status(self) -> Status:
        """What became of the prediction."""
        return Status(self.entry["status"])

    @property
    def unit(self) -> Literal["mm", "px"]:
        """Of distances."""
        return "mm" if self.info["spacing"] else "px"

    @property
    def spacing(self) -> list[float]:
        """Per axis, in `unit`."""
        return self.info["spacing"] or [1.0] * self.reference.ndim

    @cached_property
    def reference(self) -> np.ndarray:
        """Labels (*s), uint8."""
        return load_reference(self.store, self.drawn[1], self.drawn[0])

    @cached_property
    def reference_instances(self) -> np.ndarray | None:
        """Instance ids (*s); None where none are counted."""
        counted = self.layout is not None and self.layout.counts_instances
        return load_instances(self.store, self.drawn[1], self.drawn[0]) if counted else None

    @cached_property
    def prediction(self) -> dict[str, np.ndarray]:
        """The arrays that were kept of the prediction: "labels" (*s) and what else there is; none after a failure."""
        if self.status is not Status.OK or self.predicted_in is None:
            return {}
        return load_arrays(self.predicted_in, self.stored)

    @cached_property
    def image(self) -> np.ndarray:
        """Raw image (c, *s), float32."""
        return load_image(self.store, self.keys[1], self.case)

    @cached_property
    def body(self) -> np.ndarray | None:
        """Bool (*s): inside the body of a phantom; None for real scans, of which nobody outlined it."""
        anatomy = load_anatomy(self.store, self.keys[0], self.case)
        return anatomy.fine > 0 if anatomy.tissue is not None else None


def load_arrays(folder: Path, stored: str) -> dict[str, np.ndarray]:
    """The arrays of a stored prediction: "labels" (*s) uint8, and where they were kept "instances", ..."""
    with np.load(folder / f"{stored}.npz", allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def row(
    structure: str,
    metric: str,
    definition: str,
    unit: str,
    status: Status,
    *,
    value: float | None = None,
    bound: str | None = None,
    tolerance: float | None = None,
    detail: str = "",
) -> dict[str, Any]:
    """The fields of a row that scoring decides."""
    return {
        "structure": structure,
        "metric": metric,
        "definition": definition,
        "tolerance": tolerance,
        "unit": unit,
        "value": value,
        "bound": bound,
        "status": str(status),
        "detail": detail,
    }
