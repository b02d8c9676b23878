"""Estimators: what they expect of the source-only model on the images of one target."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from shiftbench.contract import validate_estimates
from shiftbench.domains import load_image
from shiftbench.errors import MethodError
from shiftbench.isolation.session import Session
from shiftbench.isolation.talk import GuestError
from shiftbench.store import Store
from shiftbench.types import Status
from shiftbench.worker.memory import PeakMemory
from shiftbench.worker.places import Place


class StoredImages(Sequence[torch.Tensor]):
    """Images (c, *s) of a target, each read when it is asked for: a whole target need not fit into memory."""

    def __init__(self, store: Store, places: Sequence[Place]):
        self.store, self.places = store, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> StoredImages: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | StoredImages:
        if isinstance(index, slice):
            return StoredImages(self.store, self.places[index])
        _, images_key, case = self.places[index]
        return torch.from_numpy(load_image(self.store, images_key, case))


def estimates(
    session: Session, images: Sequence[torch.Tensor], structures: int
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The entry of every image for the record, and what a failure keeps beside them.

    An entry holds status, detail, costs, and `estimate` (one value per structure). The estimator is called once for all
    images, so an error is one of every image; values that are no DSC are an error of their image alone. Seconds are
    shared equally.

    Raises:
        NotApplicable: the estimator has no meaning for this model.
    """
    path, device = session.terms.path, session.terms.device
    peak, started = PeakMemory(device, session.talk), time.perf_counter()
    failed: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    found = []
    try:
        values, faults = validate_estimates(session.estimate(images, structures), len(images), structures)
        found = [_judged(path, of_case.tolist(), fault) for of_case, fault in zip(values, faults, strict=True)]
    except GuestError as error:
        failed, kept = {"status": str(error.status), "detail": str(error)}, failure_facts(error)
    costs = {"seconds": (time.perf_counter() - started) / max(len(images), 1), "peak_mb": peak.megabytes()}
    return [{**entry, **costs} for entry in found or [failed] * len(images)], kept


def failure_facts(error: GuestError) -> dict[str, Any]:
    """What a failure keeps of an error beside the cases: the trace and line of the method's code, and the reason."""
    return {**error.record, **({"reason": error.reason} if error.reason else {})}


def _judged(path: Path, values: list[float], fault: MethodError | None) -> dict[str, Any]:
    if fault is not None:
        named = MethodError(fault.problem, where=path, remedy=fault.remedy)
        return {"status": str(Status.INVALID_OUTPUT), "detail": str(named)}
    return {"status": str(Status.OK), "detail": "", "estimate": values}
