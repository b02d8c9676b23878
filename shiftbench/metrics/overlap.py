"""Scores that count voxels: Dice similarity coefficient, intersection over union, and errors of the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MM3_PER_ML = 1000


@dataclass(frozen=True)
class Counts:
    """Voxels of two masks: in both, in the prediction, in the reference."""

    both: int
    prediction: int
    reference: int

    def dsc(self) -> float | None:
        """2 |P & R| / (|P| + |R|)."""
        total = self.prediction + self.reference
        return 2.0 * self.both / total if total else None

    def iou(self) -> float | None:
        """|P & R| / |P | R|."""
        union = self.prediction + self.reference - self.both
        return self.both / union if union else None

    def volume_bias_percent(self) -> float | None:
        """100 (|P| - |R|) / |R|."""
        return 100.0 * (self.prediction - self.reference) / self.reference if self.reference else None

    def volume_error(self, voxel: float) -> float:
        """(|P| - |R|) times the volume of a voxel."""
        return (self.prediction - self.reference) * voxel


def as_array(values: ArrayLike) -> np.ndarray:
    """An array of what may be a tensor, on any device, with or without a gradient."""
    tensor: Any = values
    return tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else np.asarray(values)


def checked_masks(prediction: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as boolean arrays of one shape.

    Raises:
        ValueError: the shapes differ, the masks are not 2-D or 3-D, or a value is neither 0 nor 1.
    """
    masks = []
    for name, mask in (("prediction", as_array(prediction)), ("reference", as_array(reference))):
        if mask.ndim not in (2, 3):
            raise ValueError(f"{name} has {mask.ndim} dimensions; a mask has 2 or 3")
        if mask.dtype != bool:
            if not ((mask == 0) | (mask == 1)).all():
                raise ValueError(f"{name} is not binary: it holds values other than 0 and 1")
            mask = mask.astype(bool)
        masks.append(mask)
    if masks[0].shape != masks[1].shape:
        raise ValueError(f"prediction has shape {masks[0].shape}, reference {masks[1].shape}")
    return masks[0], masks[1]


def checked_spacing(spacing: Sequence[float], ndim: int) -> tuple[float, ...]:
    """Spacing as a tuple of floats.

    Raises:
        ValueError: not one finite positive entry per axis.
    """
    checked = tuple(float(size) for size in spacing)
    if len(checked) != ndim:
        raise ValueError(f"spacing has {len(checked)} entries for {ndim} axes")
    if not all(np.isfinite(size) and size > 0 for size in checked):
        raise ValueError(f"spacing {checked} has an entry that is not a positive number")
    return checked


def dsc(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Dice similarity coefficient 2 |P & R| / (|P| + |R|).

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array, or a tensor on any device.
        reference: bool, shape (*s).

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    return _counts(prediction, reference).dsc()


def iou(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Intersection over union |P & R| / |P | R|.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array, or a tensor on any device.
        reference: bool, shape (*s).

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    return _counts(prediction, reference).iou()


def volume_bias_percent(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Signed volume error 100 (|P| - |R|) / |R|, in percent of the reference volume.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array, or a tensor on any device.
        reference: bool, shape (*s).

    Returns:
        A percentage, -100 for an empty prediction; None if the reference is empty.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    return _counts(prediction, reference).volume_bias_percent()


def volume_error_ml(prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float]) -> float:
    """Signed volume error |P| - |R| in millilitres; the absolute error is its absolute value.

    Args:
        prediction: bool, shape (*s), 3-D; an array, or a tensor on any device.
        reference: bool, shape (*s).
        spacing_mm: voxel size per spatial axis, in axis order.

    Returns:
        Millilitres, 0 if both masks are empty.

    Raises:
        ValueError: shapes differ, a mask is not binary or has no volume because it is 2-D, or spacing has not one
            positive entry per axis.
    """
    prediction, reference = checked_masks(prediction, reference)
    if reference.ndim != 3:
        raise ValueError(f"the masks have {reference.ndim} dimensions; only a 3-D mask has a volume")
    voxel = float(np.prod(checked_spacing(spacing_mm, 3)))
    return _counts(prediction, reference).volume_error(voxel / MM3_PER_ML)


def _counts(prediction: ArrayLike, reference: ArrayLike) -> Counts:
    prediction, reference = checked_masks(prediction, reference)
    both, n_prediction, n_reference = (
        int(np.count_nonzero(mask)) for mask in (prediction & reference, prediction, reference)
    )
    return Counts(both, n_prediction, n_reference)
