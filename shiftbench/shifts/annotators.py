"""Random annotator noise: a control family, never a concept shift. No rule could be learnt from it.

Two annotators under one protocol draw differently, and so does one annotator twice. Each noise has a magnitude; chance
picks directions and places, from the generator alone, so that severities of one patient share them. Numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from shiftbench.errors import OperatorError, nearest
from shiftbench.shifts.distances import pieces
from shiftbench.types import Family

CORRELATION_MM = 12.0  # correlation length of an annotator's displacement
HALF_MISSED_MM3 = 64.0  # a lesion of that volume is missed half as often as the smallest
FALSE_LESION_MM3 = (3.0, 64.0)  # volumes of lesions that are none, log-uniform


@dataclass(frozen=True)
class Noise:
    """One kind of annotator noise.

    Attributes:
        name: the key in a target's `annotator_noise` table.
        version: raised when the same value and generator give other references.
        parameter: what the value means; 0 is the identity.
        unit: of the value.
        levels: values of severity 1 to 5.
        range: smallest and largest value.
        reference: source.
        family: always a control.
    """

    name: str
    version: int
    parameter: str
    unit: str
    levels: tuple[float, float, float, float, float]
    range: tuple[float, float]
    reference: str
    family: Family = Family.CONTROL


ANNOTATOR_NOISES: dict[str, Noise] = {
    "boundary_mm": Noise(
        name="boundary_mm",
        version=1,
        parameter="SD of the smooth random displacement of the contour",
        unit="mm",
        levels=(0.5, 1.0, 1.5, 2.0, 3.0),
        range=(0.0, 10.0),
        reference="inter-rater variability as a Gaussian process: Nichyporuk et al., MELBA 2022:029",
    ),
    "slice_jitter_mm": Noise(
        name="slice_jitter_mm",
        version=1,
        parameter="SD of the in-plane shift of each slice's contour by itself (stairs in sagittal view)",
        unit="mm",
        levels=(0.5, 1.0, 1.5, 2.0, 3.0),
        range=(0.0, 10.0),
        reference="contours of radiotherapy are drawn in axial slices",
    ),
    "missed_share": Noise(
        name="missed_share",
        version=1,
        parameter="probability that a very small lesion is missed; it halves with every 64 mm3 (mm2 in 2-D)",
        unit="share",
        levels=(0.1, 0.2, 0.4, 0.6, 0.8),
        range=(0.0, 1.0),
        reference="lesion detection by raters falls with size: Nichyporuk et al., MELBA 2022:029",
    ),
    "false_share": Noise(
        name="false_share",
        version=1,
        parameter="lesions drawn that are none, per lesion",
        unit="share",
        levels=(0.1, 0.2, 0.4, 0.6, 0.8),
        range=(0.0, 1.0),
        reference="false positives of raters: Nichyporuk et al., MELBA 2022:029",
    ),
}


def annotator_noise(
    reference: np.ndarray,
    structures: Sequence[str],
    spacing: Sequence[float] | None,
    name: str,
    value: float,
    rng: np.random.Generator,
    *,
    things: Collection[str] = (),
) -> np.ndarray:
    """The reference as a noisy annotator draws it, uint8 (*s).

    Args:
        reference: labels (*s), i + 1 for `structures[i]`.
        structures: names in label order.
        spacing: per axis in mm, or None (then values in mm are pixels).
        name: a key of `ANNOTATOR_NOISES`.
        value: in its unit; 0 gives the reference unchanged.
        rng: keyed by patient and noise, never by value.
        things: structures made of lesions, for missed and false lesions.

    Raises:
        OperatorError: unknown noise, value out of range, or lesions asked for where no structure is made of them.
    """
    if name not in ANNOTATOR_NOISES:
        raise OperatorError(f"unknown annotator noise '{name}'", remedy=nearest(name, ANNOTATOR_NOISES))
    noise = ANNOTATOR_NOISES[name]
    low, high = noise.range
    if not low <= value <= high:
        raise OperatorError(
            f"value {value} {noise.unit}", where=name, remedy=f"use a value from {low:g} to {high:g} {noise.unit}"
        )
    lesions = [i for i, structure in enumerate(structures, start=1) if structure in things]
    if name in ("missed_share", "false_share") and not lesions:
        raise OperatorError(
            "no structure is made of lesions", where=name, remedy="use 'boundary_mm', or segment lesions"
        )
    if value == 0:
        return reference
    mm = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * reference.ndim
    return _DRAW[name](reference, lesions, mm, value, rng)


def _boundary(
    reference: np.ndarray, lesions: list[int], spacing: tuple[float, ...], value: float, rng: np.random.Generator
) -> np.ndarray:
    """Every label pulled along one smooth random field, so that neighbours keep their common border."""
    return _pulled(reference, [value * _smooth_field(reference.shape, spacing, rng) for _ in spacing], spacing)


def _smooth_field(shape: tuple[int, ...], spacing: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A Gaussian process (*s) of SD 1 everywhere, with nodes in mm: the same field on every grid of one field of view.

    Nodes lie at half the correlation length; each axis is smoothed by a matrix whose rows have norm 1.
    """
    step = CORRELATION_MM / 2
    counts = [int(np.ceil(n * mm / step)) + 7 for n, mm in zip(shape, spacing, strict=True)]
    field = rng.standard_normal(counts)
    for axis, (n, mm, nodes) in enumerate(zip(shape, spacing, counts, strict=True)):
        at = (np.arange(n) + 0.5) * mm
        distance = at[:, None] - (np.arange(nodes) - 3)[None, :] * step
        weights = np.exp(-((distance / CORRELATION_MM) ** 2))
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
    return field


def _slice_jitter(
    reference: np.ndarray, lesions: list[int], spacing: tuple[float, ...], value: float, rng: np.random.Generator
) -> np.ndarray:
    slices = reference.shape[0] if reference.ndim == 3 else 1
    shifts = value * rng.standard_normal((2, slices))
    across = (slices, 1, 1) if reference.ndim == 3 else (1, 1)
    still = [np.zeros((1,) * reference.ndim)] * (reference.ndim - 2)
    return _pulled(reference, [*still, *(shift.reshape(across) for shift in shifts)], spacing)


def _pulled(reference: np.ndarray, displacement: Sequence[np.ndarray], spacing: tuple[float, ...]) -> np.ndarray:
    """Labels pulled by nearest neighbour: output at x takes input at x + u(x); beyond the edge lies what is at it."""
    index = []
    for axis, (u, mm) in enumerate(zip(displacement, spacing, strict=True)):
        n = reference.shape[axis]
        at = np.arange(n).reshape([-1 if a == axis else 1 for a in range(reference.ndim)])
        index.append(np.clip(np.floor(at + u / mm + 0.5).astype(np.intp), 0, n - 1))
    return reference[tuple(index)]


def _missed(
    reference: np.ndarray, lesions: list[int], spacing: tuple[float, ...], value: float, rng: np.random.Generator
) -> np.ndarray:
    """Without the lesions that were missed; their place goes to the label around them, most of all."""
    out = reference.copy()
    for label in lesions:
        found = pieces(reference == label)
        count = int(found.max())
        sizes = np.bincount(found.ravel(), minlength=count + 1)[1:] * float(np.prod(spacing))
        missed = rng.random(count) < value * 0.5 ** (sizes / HALF_MISSED_MM3)
        for number in np.flatnonzero(missed) + 1:
            out[found == number] = _label_around(reference, found == number)
    return out


def _label_around(reference: np.ndarray, lesion: np.ndarray) -> int:
    """The label that most voxels beside the lesion have, background included; the lowest of equals."""
    beside = np.zeros_like(lesion)
    for axis in range(lesion.ndim):
        low, high = [slice(None)] * lesion.ndim, [slice(None)] * lesion.ndim
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        beside[tuple(low)] |= lesion[tuple(high)]
        beside[tuple(high)] |= lesion[tuple(low)]
    return int(np.argmax(np.bincount(reference[beside & ~lesion], minlength=1)))


def _false(
    reference: np.ndarray, lesions: list[int], spacing: tuple[float, ...], value: float, rng: np.random.Generator
) -> np.ndarray:
    """With balls drawn as lesions, inside the other structures; nothing where there are none."""
    out = reference.copy()
    inside = np.flatnonzero((reference > 0) & ~np.isin(reference, lesions))
    grid = np.meshgrid(
        *(np.arange(n) * mm for n, mm in zip(reference.shape, spacing, strict=True)), indexing="ij", sparse=True
    )
    for label in lesions:
        count = int(pieces(reference == label).max())
        chance, place, size = rng.random((3, count))
        for i in np.flatnonzero(chance < value) if inside.size else ():
            at = np.unravel_index(inside[int(place[i] * inside.size)], reference.shape)
            low, high = np.log(FALSE_LESION_MM3)
            radius = (3 * np.exp(low + size[i] * (high - low)) / (4 * np.pi)) ** (1 / 3)
            squared = sum((g - float(k) * mm) ** 2 for g, k, mm in zip(grid, at, spacing, strict=True))
            out[(squared <= max(radius, 0.5 * min(spacing)) ** 2) & (reference > 0)] = label
    return out


_DRAW: dict[str, Callable[..., np.ndarray]] = {
    "boundary_mm": _boundary,
    "slice_jitter_mm": _slice_jitter,
    "missed_share": _missed,
    "false_share": _false,
}
