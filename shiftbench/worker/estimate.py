"""Estimators: what they expect of the source-only model on the images of one target."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, overload

import torch

from shiftbench.contract import validate_estimates
from shiftbench.domains import load_image
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.methods import LoadedMethod
from shiftbench.networks import Normalised
from shiftbench.store import Store
from shiftbench.types import Access, Status
from shiftbench.worker.memory import PeakMemory

Place = tuple[str, str, str]  # name of the result, images key, case


class StoredImages(Sequence[torch.Tensor]):
    """Images (c, *s) of a target, each read when it is asked for: a whole target need not fit into memory."""

    def __init__(self, store: Store, places: Sequence[Place], device: str):
        self.store, self.places, self.device = store, places, device

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> StoredImages: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | StoredImages:
        if isinstance(index, slice):
            return StoredImages(self.store, self.places[index], self.device)
        _, images_key, case = self.places[index]
        return torch.from_numpy(load_image(self.store, images_key, case)).to(self.device)


def estimates(
    loaded: LoadedMethod, model: Normalised, access: Access, images: Sequence[torch.Tensor], device: str
) -> list[dict[str, Any]]:
    """The entry of every image for the record: status, detail, costs, and `estimate` (one value per structure).

    The estimator is called once for all images, so an error is one of every image; values that are no DSC are an
    error of their image alone. Seconds are shared equally.

    Raises:
        NotApplicable: the estimator has no meaning for this model.
    """
    peak, started = PeakMemory(device), time.perf_counter()
    status, detail, found = Status.OK, "", []
    try:
        given = loaded.method.estimate(copy.deepcopy(model), access, images)  # type: ignore[attr-defined]
        values, faults = validate_estimates(given, len(images), model.task.classes - 1)
        found = [_judged(loaded, of_case.tolist(), fault) for of_case, fault in zip(values, faults, strict=True)]
    except NotApplicable:
        raise
    except (MemoryError, torch.OutOfMemoryError) as error:
        status, detail = Status.OUT_OF_MEMORY, str(error)
    except MethodError as error:
        status, detail = Status.INVALID_OUTPUT, _named(loaded, error)
    except Exception as error:  # whatever an estimator's code does is its result
        status, detail = Status.FAILED, f"{type(error).__name__}: {error}"
    costs = {"seconds": (time.perf_counter() - started) / max(len(images), 1), "peak_mb": peak.megabytes()}
    failed = {"status": str(status), "detail": detail}
    return [{**entry, **costs} for entry in found or [failed] * len(images)]


def _judged(loaded: LoadedMethod, values: list[float], fault: MethodError | None) -> dict[str, Any]:
    if fault is not None:
        return {"status": str(Status.INVALID_OUTPUT), "detail": _named(loaded, fault)}
    return {"status": str(Status.OK), "detail": "", "estimate": values}


def _named(loaded: LoadedMethod, error: MethodError) -> str:
    return str(MethodError(error.problem, where=error.where or loaded.path, remedy=error.remedy))
