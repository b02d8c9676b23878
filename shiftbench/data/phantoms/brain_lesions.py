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

EXPECTED = 9.0  # mean of the Poisson count at load 1
MOST = 80
LOG_SD = 0.9  # of the volume; its median is `lesion_median_mm3`
SMALLEST_MM3, LARGEST_MM3 = 8.0, 12_000.0
CANDIDATES = 256  # positions from which each lesion takes the one that suits it best
# relative radius**2 up to which a shell reaches, its share of lesion; the contour is drawn at 1
CORE, EDGE, RIM = (0.72, 1.0), (1.0, 0.7), (1.55, 0.33)


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
    found: list[tuple[int, ...]] = []
    for i in range(count(canvas.draw("lesions"), burden.load, burden.empty_prevalence)):
        rng = canvas.draw(f"lesion {i}")
        found.append(_lesion(canvas, (white, rim), tissues, depths, burden, mm, rng))
    return found


def _lesion(
    canvas: Canvas,
    free: tuple[int, int],
    tissues: Mapping[str, Tissue],
    depths: Depths,
    burden: Burden,
    mm: float,
    rng: np.random.Generator,
) -> tuple[int, ...]:
    uniform, size, flat = rng.random(), rng.standard_normal(), rng.uniform(0.55, 1.0, 2)
    volume = burden.median_mm3 * np.exp(LOG_SD * size) * np.sqrt(burden.load)
    radius = (np.clip(volume, SMALLEST_MM3, LARGEST_MM3) * 0.75 / np.pi) ** (1 / 3) / mm
    shape = np.array([flat[0], 1.0, flat[1]])
    radii = radius * shape / shape.prod() ** (1 / 3)
    turn = rotation(*rng.uniform(0, 180, 3))
    own = lesion_tissue(tissues["ms_lesion"], rng)
    centre = _position(depths, uniform < burden.periventricular, rng)
    margin = float(np.sqrt(RIM[0]))
    box, level = ellipsoid(canvas.grid, centre, radii, turn, margin=margin)
    edge = mix(((own, EDGE[1]), (tissues["white_matter"], 1 - EDGE[1])), "edge of a lesion")
    indices = (canvas.add("lesion", edge), canvas.add("lesion", own))
    canvas.fill_only(box, level <= RIM[0], free[1], free[:1])
    for index, (reach, _) in zip(indices, (EDGE, CORE), strict=True):
        canvas.fill_only(box, level <= reach, index, (*free, *indices))
    return indices


def _position(depths: Depths, periventricular: bool, rng: np.random.Generator) -> np.ndarray:
    """Where a lesion is: in white matter, some mm from the ventricles or from the cortex (z, y, x)."""
    points = (rng.uniform(-1, 1, (3, CANDIDATES)) * np.array([[42.0], [66.0], [52.0]])).astype(np.float32)
    points[0] += 12
    distance = rng.gamma(2.0, 1.6 if periventricular else 0.9)  # most touch, some are deeper
    inside, ventricle, cortex = depths(points)
    chosen, other = (ventricle, cortex) if periventricular else (cortex, ventricle)
    cost = np.abs(chosen - np.float32(distance)) + 10 * np.maximum(1.0 - inside, 0) + 10 * np.maximum(4 - other, 0)
    cost += 10 * np.maximum(8 - np.abs(points[2]), 0)  # not at the third ventricle
    return points[:, int(np.argmin(cost))]
