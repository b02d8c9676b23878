"""Scores that count voxels: the Dice similarity coefficient and the volume bias."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def checked_masks(prediction: ArrayLike, reference: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both masks as boolean arrays of one shape.

    Raises:
        ValueError: the shapes differ, the masks are not 2-D or 3-D, or a value is neither 0 nor 1.
    """
    masks = []
    for name, mask in (("prediction", np.asarray(prediction)), ("reference", np.asarray(reference))):
        if mask.ndim not in (2, 3):
            raise ValueError(f"{name} has {mask.ndim} dimensions; a mask has 2 or 3")
        if mask.dtype != bool:
            if not np.isin(mask, (0, 1)).all():
                raise ValueError(f"{name} is not binary: it holds values other than 0 and 1")
            mask = mask.astype(bool)
        masks.append(mask)
    if masks[0].shape != masks[1].shape:
        raise ValueError(f"prediction has shape {masks[0].shape}, reference {masks[1].shape}")
    return masks[0], masks[1]


def dsc(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Dice similarity coefficient 2 |P & R| / (|P| + |R|).

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array or a tensor on the CPU.
        reference: bool, shape (*s).

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    prediction, reference = checked_masks(prediction, reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return float(2.0 * np.count_nonzero(prediction & reference) / total) if total else None


def volume_bias_percent(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Signed volume error 100 (|P| - |R|) / |R|, in percent of the reference volume.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D.
        reference: bool, shape (*s).

    Returns:
        A percentage, -100 for an empty prediction; None if the reference is empty.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    prediction, reference = checked_masks(prediction, reference)
    volume = np.count_nonzero(reference)
    return float(100.0 * (np.count_nonzero(prediction) - volume) / volume) if volume else None


def iou(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Intersection over union |P & R| / |P | R|.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array or a tensor on the CPU.
        reference: bool, shape (*s).

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    prediction, reference = checked_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    return float(np.count_nonzero(prediction & reference) / union) if union else None


def overlap_values(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...]
) -> dict[tuple[str, str], float | None]:
    """The metrics that count voxels, by name and definition, of two boolean masks (*s)."""
    error = (np.count_nonzero(prediction) - np.count_nonzero(reference)) * float(np.prod(spacing)) / 1000.0
    return {
        ("dsc", "counts"): dsc(prediction, reference),
        ("iou", "counts"): iou(prediction, reference),
        ("volume_bias_percent", "counts"): volume_bias_percent(prediction, reference),
        ("volume_error_ml", "counts"): error,
    }
