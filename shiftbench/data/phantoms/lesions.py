"""Liver tumours of the abdominal phantom: how many, how large, where, and how conspicuous."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import poisson

from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.liver import Liver
from shiftbench.data.phantoms.shapes import ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, Tissue, mix, vary

EXPECTED = 3.0  # mean of the Poisson count at load 1
MOST = 40
MEDIAN_ML, LOG_SD_ML = 32.0, 0.6
SMALLEST_ML, LARGEST_ML = 6.0, 400.0
CONSPICUITY = (1.1, 1.6)  # range of the contrast to the liver, relative to the tabulated one
# relative radius**2 up to which a shell reaches, its share of tumour; the contour is drawn at 1
SHELLS = ((0.75, 1.0), (1.0, 0.68), (1.30, 0.32))


@dataclass(frozen=True)
class Lesion:
    """One tumour: tissue indices of its inner shells (those that are labelled tumour)."""

    indices: tuple[int, ...]


def count(rng: np.random.Generator, load: float, empty_prevalence: float) -> int:
    """Number of tumours of a patient: 0 with `empty_prevalence`, else Poisson, at least 1.

    Quantiles of two uniform numbers, so that in the same patient the number never falls as the load grows and a
    patient without tumour stays without when the prevalence of empty patients grows.
    """
    empty, uniform = rng.random(2)
    if empty < empty_prevalence:
        return 0
    return int(np.clip(poisson.ppf(uniform, EXPECTED * np.sqrt(load)), 1, MOST))


def tumours(canvas: Canvas, liver: Liver, load: float, empty_prevalence: float) -> list[Lesion]:
    """Paint the tumours of a patient inside the liver; they are the last tissues of the canvas.

    The expected tumour volume is proportional to `load`: the count by its square root, each volume by its square root.
    Tumour i has a generator of its own, so a larger load keeps the tumours there are, grows them and adds others.
    Where two overlap the earlier one keeps the voxel.
    """
    voxels = np.flatnonzero(canvas.tissue == liver.parenchyma)
    free = list(liver.parts)
    lesions: list[Lesion] = []
    if voxels.size == 0:
        return lesions
    for i in range(count(canvas.draw("tumours"), load, empty_prevalence)):
        lesions.append(_tumour(canvas, liver, voxels, load, canvas.draw(f"tumour {i}"), free))
    return lesions


def _tumour(
    canvas: Canvas, liver: Liver, voxels: np.ndarray, load: float, rng: np.random.Generator, free: list[int]
) -> Lesion:
    at = np.unravel_index(int(voxels[int(rng.random() * voxels.size)]), canvas.grid.shape)
    centre = canvas.grid.where[:, at[0], at[1], at[2]]
    volume_ml = float(np.clip(MEDIAN_ML * np.exp(LOG_SD_ML * rng.standard_normal()), SMALLEST_ML, LARGEST_ML))
    radius = (volume_ml * np.sqrt(load) * 1000 * 0.75 / np.pi) ** (1 / 3)
    radii = radius * np.exp(rng.normal(0, 0.12, 3))
    turn = rotation(*rng.uniform(0, 180, 3))
    own = _conspicuous(vary(TISSUES["tumour"], rng, times=0.07, hu=8), liver.tissue, rng.uniform(*CONSPICUITY))
    box, out = ellipsoid(canvas.grid, centre, radii, turn, margin=float(np.sqrt(SHELLS[-1][0])))
    inner = []
    for reach, share in reversed(SHELLS):
        label = "tumour" if reach <= 1 else "liver"
        index = canvas.add(
            label, mix(((own, share), (liver.tissue, 1 - share)), "edge of a tumour") if share < 1 else own
        )
        canvas.fill_only(box, out <= reach, index, free)
        free.append(index)
        if label == "tumour":
            inner.append(index)
    for index in inner:
        free.remove(index)
    return Lesion(tuple(inner))


def _conspicuous(tumour: Tissue, liver: Tissue, factor: float) -> Tissue:
    """A tumour whose difference from the liver is `factor` times the tabulated one."""

    def between(a: float, b: float) -> float:
        return a * (b / a) ** factor

    def times(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        return between(a[0], b[0]), between(a[1], b[1])

    a, b, c, d = (x + factor * (y - x) for x, y in zip(liver.hu, tumour.hu, strict=True))
    return Tissue(
        times(liver.t1_ms, tumour.t1_ms),
        times(liver.t2_ms, tumour.t2_ms),
        times(liver.t2star_ms, tumour.t2star_ms),
        min(1.0, between(liver.pd, tumour.pd)),
        (a, b, c, d),
        tumour.source,
    )
