"""Lesions of multiple sclerosis in the white matter: how many, how large, where, and how conspicuous."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

from shiftbench.data.phantoms.brain_tissues import lesion_tissue
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import ellipsoid, rotation
from shiftbench.data.phantoms.tissues import Tissue, mix

EXPECTED = 10.0  # mean of the Poisson count at load 1
MOST = 80
LOG_SD = 0.85  # of the volume; its median is `lesion_median_mm3`
SMALLEST_MM3, LARGEST_MM3 = 8.0, 12_000.0
CANDIDATES = 160  # positions from which each lesion takes the one that suits it best
# relative radius**2 up to which a shell reaches, its share of lesion; the contour is drawn at 1
CORE, EDGE, RIM = (0.76, 1.0), (1.0, 0.8), (1.5, 0.33)


@dataclass(frozen=True)
class Burden:
    """How many lesions, how large and where: the population's keys.

    Attributes:
        load: factor of the expected lesion volume.
        median_mm3: median of the volume of a lesion at load 1.
        periventricular: share of lesions at the ventricles; the others are at the cortex.
        empty_prevalence: share of patients without lesion.
    """

    load: float
    median_mm3: float
    periventricular: float
    empty_prevalence: float


# positions (3, n) -> distances (n,) in mm into the white matter, from the ventricles, and from the cortex
Depths = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray, np.ndarray]]


def count(rng: np.random.Generator, load: float, empty_prevalence: float) -> int:
    """Number of lesions of a patient: 0 with `empty_prevalence`, else Poisson, at least 1.

    Quantiles of two uniform numbers, so that in the same patient the number never falls as the load grows and a
    patient without lesion stays without when the prevalence of empty patients grows.
    """
    empty, uniform = rng.random(2)
    if empty < empty_prevalence:
        return 0
    return int(np.clip(poisson.ppf(uniform, EXPECTED * np.sqrt(load)), 1, MOST))


def lesions(
    canvas: Canvas, white: int, tissues: Mapping[str, Tissue], depths: Depths, burden: Burden, mm: float
) -> list[tuple[int, ...]]:
    """Paints the lesions of a patient over the white matter; they are the last tissues of the canvas.

    The expected volume of all is proportional to `burden.load`: the count by its square root, each volume by its
    square root. Lesion i has a generator of its own, so a larger load keeps the lesions there are, grows them and adds
    others, and a position depends on no grid. Where two overlap the earlier one keeps the voxel.

    Args:
        canvas: with the white matter painted.
        white: tissue index of the white matter.
        tissues: of the patient.
        depths: of the patient without atrophy, so that lesions stay where they are as the brain ages.
        burden: how many, how large and where.
        mm: real mm per mm of the canvas.

    Returns:
        Tissue indices of each lesion.
    """
    rim = canvas.add("lesion_rim", mix(((tissues["ms_lesion"], RIM[1]), (tissues["white_matter"], 1 - RIM[1])), "rim"))
    number = count(canvas.draw("lesions"), burden.load, burden.empty_prevalence)
    drawn = [_drawn(canvas.draw(f"lesion {i}"), tissues["ms_lesion"], burden, mm) for i in range(number)]
    if not drawn:
        return []
    far = depths(np.concatenate([lesion.candidates for lesion in drawn], axis=1))
    inside, ventricle, cortex = (distance.reshape(number, CANDIDATES) for distance in far)
    places = [_place(lesion, *at) for lesion, *at in zip(drawn, inside, ventricle, cortex, strict=True)]
    return [_painted(canvas, white, rim, tissues["white_matter"], *of) for of in zip(drawn, places, strict=True)]


@dataclass(frozen=True)
class _Lesion:
    """What is drawn of one lesion: its tissue, semi-axes (mm of the canvas), turn, and where it may be."""

    tissue: Tissue
    radii: np.ndarray
    turn: np.ndarray
    periventricular: bool
    distance: float  # mm from the ventricles or the cortex
    candidates: np.ndarray  # (3, n)


def _drawn(rng: np.random.Generator, tissue: Tissue, burden: Burden, mm: float) -> _Lesion:
    uniform, size, flat = rng.random(), rng.standard_normal(), rng.uniform(0.6, 1.0, 2)
    volume = np.clip(burden.median_mm3 * np.exp(LOG_SD * size) * np.sqrt(burden.load), SMALLEST_MM3, LARGEST_MM3)
    shape = np.array([flat[0], 1.0, flat[1]])
    points = (rng.uniform(-1, 1, (3, CANDIDATES)) * np.array([[42.0], [66.0], [52.0]])).astype(np.float32)
    points[0] += 12
    periventricular = uniform < burden.periventricular
    return _Lesion(
        tissue=lesion_tissue(tissue, rng),
        radii=(volume * 0.75 / np.pi) ** (1 / 3) / mm * shape / shape.prod() ** (1 / 3),
        turn=rotation(*rng.uniform(0, 180, 3)),
        periventricular=periventricular,
        distance=float(rng.gamma(2.0, 1.0)) * (1.6 if periventricular else 0.9),  # most touch, some are deeper
        candidates=points,
    )


def _place(lesion: _Lesion, inside: np.ndarray, ventricle: np.ndarray, cortex: np.ndarray) -> np.ndarray:
    """Where a lesion is (z, y, x): in white matter, as far as drawn from the ventricles or from the cortex."""
    chosen, other = (ventricle, cortex) if lesion.periventricular else (cortex, ventricle)
    cost = np.abs(chosen - np.float32(lesion.distance))
    cost += 10 * np.maximum(1 - inside, 0) + 10 * np.maximum(4 - other, 0)
    cost += 10 * np.maximum(8 - np.abs(lesion.candidates[2]), 0)  # not at the third ventricle
    return lesion.candidates[:, int(np.argmin(cost))]


def _painted(
    canvas: Canvas, white: int, rim: int, around: Tissue, lesion: _Lesion, place: np.ndarray
) -> tuple[int, ...]:
    """Paints rim, edge and core of one lesion; returns the tissue indices of edge and core."""
    box, level = ellipsoid(canvas.grid, place, lesion.radii, lesion.turn, margin=float(np.sqrt(RIM[0])))
    mixed = mix(((lesion.tissue, EDGE[1]), (around, 1 - EDGE[1])), "edge of a lesion")
    edge, core = canvas.add("lesion", mixed), canvas.add("lesion", lesion.tissue)
    canvas.fill_only(box, level <= RIM[0], rim, (white,))
    canvas.fill_only(box, level <= EDGE[0], edge, (white, rim))
    canvas.fill_only(box, level <= CORE[0], core, (edge,))
    return edge, core
