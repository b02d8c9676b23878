"""Scores of tubes: how much of each centre line lies in the other mask."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from shiftbench.metrics.overlap import checked_masks
from shiftbench.metrics.thinning import thinned


class CentreLines(NamedTuple):
    """Shares of the centre lines: of the prediction's in the reference, and of the reference's in the prediction."""

    precision: float
    sensitivity: float


def cldice(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Centre-line Dice: the harmonic mean of topology precision and topology sensitivity.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D.
        reference: bool, shape (*s).

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, or a mask is not binary.

    Reference:
        Shit et al., clDice: a novel topology-preserving loss function for tubular structure segmentation, CVPR 2021.
    """
    predicted, expected = checked_masks(prediction, reference)
    if not (predicted.any() and expected.any()):
        return 0.0 if predicted.any() or expected.any() else None
    precision, sensitivity = centre_line_shares(predicted, expected)
    total = precision + sensitivity
    return 2 * precision * sensitivity / total if total else 0.0


def centre_line_shares(prediction: np.ndarray, reference: np.ndarray) -> CentreLines:
    """Topology precision and sensitivity of two non-empty boolean masks (*s)."""
    predicted, expected = centre_lines(prediction), centre_lines(reference)
    return CentreLines(float(reference[predicted].mean()), float(prediction[expected].mean()))


def centre_lines(mask: np.ndarray) -> np.ndarray:
    """Centre lines, bool (*s), of a boolean mask (*s): Zhang's thinning in 2-D, `thinned` in 3-D.

    Thinning takes the sides of a mask in a fixed order, so the mask is turned first, by its own shape: the lines of a
    flipped or transposed mask are the flipped or transposed lines (but where its profiles along the axes are alike).

    Reference:
        Zhang, Suen, A fast parallel algorithm for thinning digital patterns, CACM 27, 1984 (scikit-image's variant,
        which keeps at least a pixel of every part).
    """
    flips, order = _orientation(mask)
    turned = np.ascontiguousarray(np.flip(mask, flips).transpose(order))
    lines = thinned(turned) if mask.ndim == 3 else _thinned_plane(turned)
    return np.flip(lines.transpose(np.argsort(order)), flips)


def _thinned_plane(mask: np.ndarray) -> np.ndarray:
    from skimage.morphology import skeletonize  # imported where it is used: it takes 0.3 s

    lines = skeletonize(mask)
    return lines if lines.any() else mask  # were nothing left, the mask stands for its line


def _orientation(mask: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes to be flipped, and the order of the axes, so that a flipped or transposed mask ends up the same."""
    flips, keys = [], []
    for axis in range(mask.ndim):
        profile = np.trim_zeros(np.count_nonzero(mask, axis=tuple(a for a in range(mask.ndim) if a != axis)))
        place = 2 * np.arange(profile.size) - (profile.size - 1)  # from the middle, in half voxels
        moments = [int((profile * place**power).sum()) for power in (1, 2, 3)]
        if (moments[0], moments[2]) < (0, 0):
            flips.append(axis)
        keys.append((profile.size, moments[1], abs(moments[0]), abs(moments[2])))
    return tuple(flips), tuple(sorted(range(mask.ndim), key=lambda axis: keys[axis]))
