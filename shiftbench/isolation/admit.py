"""Which tensors a host takes from a guest: judged by name, type and shape before any of their bytes is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from shiftbench.contract import SIDECAR_BYTES, forms
from shiftbench.errors import MethodError
from shiftbench.guest.frames import FLOATS, Shaped
from shiftbench.tasks import Task

Admit = Callable[[Mapping[str, Shaped]], None]
MODEL, SIDECAR = "model.", "sidecar."  # what the names of a prepared method's tensors begin with
DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"},
}


def prediction(image: Any, task: Task) -> Admit:
    """What a Prediction for the image (c, *s) may hold, and no more: its size is limited by the image's."""
    known = forms(image, task.classes, heads=len(task.heads))

    def admit(shaped: Mapping[str, Shaped]) -> None:
        for name, found in shaped.items():
            shape, floating = known.get(name, (None, False))
            if found.shape != shape or (found.dtype in FLOATS) != floating:
                raise MethodError(f"{name[:40]} has the shape {found.shape} and the dtype {found.dtype}")

    return admit


def estimates(cases: int, structures: int) -> Admit:
    """One floating value per image and structure."""

    def admit(shaped: Mapping[str, Shaped]) -> None:
        found = shaped.get("estimates")
        if len(shaped) != 1 or found is None or found.dtype not in FLOATS or found.shape != (cases, structures):
            raise MethodError("what came is no table of estimates", remedy=f"return floats, {(cases, structures)}")

    return admit


def preparation(built: Mapping[str, Tensor]) -> Admit:
    """A sidecar, and a model like the one that `build` gives, or none.

    Args:
        built: state of an untrained model.
    """
    wanted = {MODEL + name: Shaped(DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in built.items()}

    def admit(shaped: Mapping[str, Shaped]) -> None:
        own = {name: found for name, found in shaped.items() if name.startswith(MODEL)}
        beside = {name: found for name, found in shaped.items() if name not in own}
        if own and own != wanted:
            differing = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
            name = differing[0].removeprefix(MODEL)[:80]
            problem = f"the prepared model differs from the backbone in '{name}'"
            raise MethodError(problem, remedy="train and return what build() gives")
        if not all(name.startswith(SIDECAR) for name in beside):
            raise MethodError("what came is neither a model nor a sidecar")
        size = sum(found.bytes for found in beside.values())
        if size > SIDECAR_BYTES:
            remedy = f"declare at most {SIDECAR_BYTES} bytes of statistics"
            raise MethodError(f"the sidecar holds {size} bytes", remedy=remedy)

    return admit
