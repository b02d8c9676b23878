"""What every loss does with its inputs: precision, the ignore mask, class weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from shiftbench.errors import SpecError

HALF = (torch.float16, torch.bfloat16)


def wide(logits: Tensor) -> Tensor:
    """Logits in single precision where they are in half: 256^3 voxels overflow a sum in half precision."""
    return logits.float() if logits.dtype in HALF else logits


def labels_of(reference: Tensor, ignore: Tensor | None) -> Tensor:
    """The reference (b, *s) as int64, with ignored voxels as background: what is written there may be no class."""
    labels = reference.long()
    return labels if ignore is None else labels.masked_fill(ignore, 0)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """Labels (b, *s) as (b, k, *s) of zeros and ones."""
    shape = (labels.shape[0], classes, *labels.shape[1:])
    return torch.zeros(shape, dtype=dtype, device=labels.device).scatter_(1, labels[:, None], 1)


def checked_weights(class_weights: Sequence[float] | None, classes: int) -> tuple[float, ...]:
    """Class weights, ones by default.

    Raises:
        SpecError: not one finite weight of zero or more per class, or no weight above zero.
    """
    if class_weights is None:
        return (1.0,) * classes
    weights = tuple(float(w) for w in class_weights)
    if len(weights) != classes:
        raise SpecError(
            f"there are {len(weights)} class weights for {classes} classes",
            remedy="give one per class, background first",
        )
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise SpecError(f"the class weights are {weights}", remedy="give numbers of zero or more, one of them above")
    return weights


@functools.lru_cache(maxsize=64)
def _on_device(weights: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights (k,) as a tensor, kept: a copy to a GPU at every step would make the step wait for it."""
    with torch.inference_mode(False):  # a tensor of inference mode could never be trained with
        return torch.tensor(weights, dtype=dtype, device=device)


def voxel_mean(values: Tensor, labels: Tensor, ignore: Tensor | None, weights: tuple[float, ...]) -> Tensor:
    """Mean of values (b, *s), each with the weight of its voxel's class; 0 where all voxels are ignored."""
    if ignore is None and len(set(weights)) == 1:
        return values.mean()
    share = _on_device(weights, values.dtype, values.device)[labels]
    if ignore is not None:
        share = share.masked_fill(ignore, 0.0)
    return (share * values).sum() / share.sum().clamp_min(torch.finfo(values.dtype).tiny)


def structure_mean(values: Tensor, class_weights: Sequence[float] | None) -> Tensor:
    """Mean over structures of values (k - 1,), weighted by the class weights without the background's.

    Raises:
        SpecError: every structure has weight 0.
    """
    weights = checked_weights(class_weights, len(values) + 1)[1:]
    if not any(weights):
        raise SpecError("every structure has the class weight 0", remedy="give one of them more")
    share = _on_device(weights, values.dtype, values.device)
    return (share * values).sum() / share.sum()
