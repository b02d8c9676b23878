"""How far probabilities can be believed: of one structure against the rest, in a region that no prediction decides.

How much background a region holds changes every figure, so the region is fixed by the reference alone: its voxels and
those within a distance of them. The whole volume is scored beside it. All values are of one case; they are averaged
over cases and never pooled over their voxels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import edt
import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from shiftbench.metrics.overlap import checked_spacing

CLIP = 1e-7  # the least probability of what is true that the NLL counts
BINS = 15
SUM_TOLERANCE = 1e-3  # of the probabilities of a voxel, around one
SLACK = 1e-6  # relative: whether a voxel is within a distance must not hang on the last bit


class Bins(NamedTuple):
    """Per bin: number of voxels, mean probability, and observed frequency of the structure (0 in an empty bin)."""

    voxels: np.ndarray
    confidence: np.ndarray
    frequency: np.ndarray


def around(reference: ArrayLike, spacing: Sequence[float], distance: float) -> np.ndarray:
    """Bool (*s): the voxels whose centres lie within `distance` of the centre of a voxel of the reference.

    Args:
        reference: bool, shape (*s), 2-D or 3-D; nothing lies around an empty one.
        spacing: voxel size per axis, in axis order.
        distance: in the unit of the spacing, inclusive.

    Raises:
        ValueError: spacing has not one positive entry per axis, or the distance is negative.
    """
    mask = np.asarray(reference).astype(bool)
    sizes = checked_spacing(spacing, mask.ndim)
    if distance < 0:
        raise ValueError(f"a region cannot reach {distance} around a structure")
    region = np.zeros(mask.shape, bool)
    (box,) = ndimage.find_objects(mask.astype(np.uint8), 1) or (None,)
    if box is None:
        return region
    margins = [int(distance / size * (1.0 + SLACK)) for size in sizes]
    wide = tuple(slice(max(0, s.start - margin), s.stop + margin) for s, margin in zip(box, margins, strict=True))
    outside = np.ascontiguousarray(~mask[wide])
    squared = edt.edtsq(outside, anisotropy=sizes, black_border=False, parallel=1)
    region[wide] = squared <= (distance * (1.0 + SLACK)) ** 2
    return region


def brier(probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None) -> float | None:
    """Mean squared difference between the probability of a structure and its presence; 0 is best, 1 worst.

    Args:
        probabilities: of the structure, shape (*s), in [0, 1].
        reference: bool, shape (*s).
        region: bool, shape (*s): the voxels that count; all if None.

    Returns:
        A value in [0, 1]; None where the region is empty.

    Raises:
        ValueError: shapes differ, or a probability is NaN or outside [0, 1].

    Reference:
        Brier, Verification of forecasts expressed in terms of probability, Monthly Weather Review 78, 1950.
    """
    p, y = _checked(probabilities, reference, region)
    return float(np.square(p - y).mean()) if p.size else None


def nll(probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None) -> float | None:
    """Mean negative log-likelihood of presence and absence, in nats, each voxel's probability being at least `CLIP`.

    Arguments, result and errors are those of `brier`; the worst value is -log(CLIP), about 16.1. See `clipped_share`.
    """
    p, y = _checked(probabilities, reference, region)
    return float(-np.log(np.maximum(_of_truth(p, y), CLIP)).mean()) if p.size else None


def clipped_share(probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None) -> float | None:
    """Share of the voxels that gave what is true a probability below `CLIP`, so that the NLL understates their loss.

    Arguments, result and errors are those of `brier`.
    """
    p, y = _checked(probabilities, reference, region)
    return float((_of_truth(p, y) < CLIP).mean()) if p.size else None


def ece(
    probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None, *, bins: int = BINS
) -> float | None:
    """Class-wise expected calibration error: |mean probability - frequency| over bins of equal width.

    Bins are (l, r] and weigh as many voxels as they hold; a probability of 0 belongs to the first one.

    Args:
        probabilities: of the structure, shape (*s), in [0, 1].
        reference: bool, shape (*s).
        region: bool, shape (*s): the voxels that count; all if None.
        bins: their number.

    Returns:
        A value in [0, 1]; None where the region is empty.

    Raises:
        ValueError: shapes differ, a probability is NaN or outside [0, 1], or there is no bin.

    Reference:
        Nixon et al., Measuring calibration in deep learning, CVPR Workshops 2019.
    """
    found = reliability(probabilities, reference, region, bins=bins)
    n = found.voxels.sum()
    return float((found.voxels * np.abs(found.confidence - found.frequency)).sum() / n) if n else None


def reliability(
    probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None, *, bins: int = BINS
) -> Bins:
    """The bins of equal width that `ece` is made of; arguments and errors are the same."""
    p, y = _checked(probabilities, reference, region)
    edges = np.linspace(0.0, 1.0, _checked_bins(bins) + 1)
    index = np.searchsorted(edges[1:-1], p, side="left")  # edges[i] < p <= edges[i + 1]
    count = np.bincount(index, minlength=bins)
    held = np.maximum(count, 1)
    return Bins(
        count,
        np.bincount(index, weights=p, minlength=bins) / held,
        np.bincount(index, weights=y, minlength=bins) / held,
    )


def ace(
    probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None = None, *, bins: int = BINS
) -> float | None:
    """Class-wise adaptive calibration error: as `ece` over bins of equal mass, which weigh the same.

    Voxels of one probability that a limit divides are taken to hold the structure as often on either side, so the
    order of voxels does not matter. With fewer voxels than bins each voxel is a bin.

    Arguments, result and errors are those of `ece`.

    Reference:
        Nixon et al., Measuring calibration in deep learning, CVPR Workshops 2019.
    """
    p, y = _checked(probabilities, reference, region)
    n = min(_checked_bins(bins), p.size)
    if not n:
        return None
    ordered, held = np.sort(p), np.sort(p[y])
    limits = np.arange(n + 1) * p.size // n  # ranks at which the bins begin, and the end
    gaps = np.add.reduceat(ordered, limits[:-1]) - np.diff(_held_below(limits, ordered, held))
    return float(np.abs(gaps / np.diff(limits)).mean())


def _held_below(ranks: np.ndarray, ordered: np.ndarray, held: np.ndarray) -> np.ndarray:
    """How many of the first so many probabilities in order belong to the structure, whose own are `held`, in order."""
    at = ordered[np.minimum(ranks, ordered.size - 1)]
    first, last = np.searchsorted(ordered, at, "left"), np.searchsorted(ordered, at, "right")
    below, up_to = np.searchsorted(held, at, "left"), np.searchsorted(held, at, "right")
    return below + (up_to - below) * (ranks - first) / (last - first)


def checked_classes(probabilities: ArrayLike) -> np.ndarray:
    """Probabilities of background and structures, shape (k, *s), that add up to one in every voxel.

    Raises:
        ValueError: a value is NaN or outside [0, 1], or the sum of a voxel is not one.
    """
    stack = np.asarray(probabilities)
    _refuse_no_probability(stack)
    total = stack.sum(axis=0, dtype=np.float64)
    worst = total.flat[np.abs(total - 1.0).argmax()] if total.size else 1.0
    if abs(worst - 1.0) > SUM_TOLERANCE:
        raise ValueError(f"the probabilities of a voxel add up to {worst:.4g}, not to one; give a softmax over classes")
    return stack


def calibration_values(
    probabilities: ArrayLike, reference: ArrayLike, spacing: Sequence[float], distance: float, *, bins: int = BINS
) -> list[dict[tuple[str, str], float | None]]:
    """Every calibration metric of each structure, by name and definition, and its ("clipped_share", "region").

    Args:
        probabilities: of background and structures, shape (k, *s); see `checked_classes`.
        reference: labels, shape (*s).
        spacing: voxel size per axis.
        distance: how far the region reaches around a structure; see `around`.
        bins: of ECE and ACE.

    Returns:
        One dictionary for each label from 1 to k - 1; all of its values are None where the reference has no such label.

    Raises:
        ValueError: the probabilities are none, shapes differ, or spacing does not fit.
    """
    stack, labels = checked_classes(probabilities), np.asarray(reference)
    found: list[dict[tuple[str, str], float | None]] = []
    for label in range(1, len(stack)):
        p, y = stack[label], labels == label
        region, whole = around(y, spacing, distance), np.full(y.shape, y.any())
        found.append(
            {
                ("brier", "region"): brier(p, y, region),
                ("nll", "region"): nll(p, y, region),
                ("ece", "region"): ece(p, y, region, bins=bins),
                ("ece", "volume"): ece(p, y, whole, bins=bins),
                ("ace", "region"): ace(p, y, region, bins=bins),
                ("ace", "volume"): ace(p, y, whole, bins=bins),
                ("clipped_share", "region"): clipped_share(p, y, region),
            }
        )
    return found


def _of_truth(p: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y, p, 1.0 - p)


def _checked(probabilities: ArrayLike, reference: ArrayLike, region: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (n,), float64, and presence (n,), bool, of the voxels that count."""
    p, y = np.asarray(probabilities), np.asarray(reference)
    shapes: dict[str, Any] = {"probabilities": p.shape, "reference": y.shape}
    if region is not None:
        shapes["region"] = np.asarray(region).shape
    if len(set(shapes.values())) > 1:
        raise ValueError("shapes differ: " + ", ".join(f"{name} {shape}" for name, shape in shapes.items()))
    _refuse_no_probability(p)
    counted = slice(None) if region is None else np.asarray(region).astype(bool).reshape(-1)
    return p.reshape(-1)[counted].astype(np.float64), y.reshape(-1)[counted].astype(bool)


def _refuse_no_probability(p: np.ndarray) -> None:
    if p.size and not (p.min() >= 0.0 and p.max() <= 1.0):  # NaN fails both
        raise ValueError(f"probabilities run from {p.min():.4g} to {p.max():.4g}; give values from 0 to 1, without NaN")


def _checked_bins(bins: int) -> int:
    if bins < 1:
        raise ValueError(f"{bins} bins hold nothing; give at least one")
    return bins
