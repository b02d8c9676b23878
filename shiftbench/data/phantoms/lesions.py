"""Liver lesions of the abdominal phantom: how many, of what kind, how large, where, and how conspicuous."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.body import Body
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.liver import Liver
from shiftbench.data.phantoms.shapes import ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, Tissue, mix, vary

EXPECTED = 3.5  # mean of the Poisson count at load 1
MOST = 40
MEDIAN_MM3 = 32_000.0  # of a tumour
CYST_SIZE = 0.25  # volume of a cyst relative to that of a tumour
LOG_SD = 0.6
SMALLEST, LARGEST = 0.2, 12.0  # volumes relative to the median
CONSPICUITY = (1.8, 2.4)  # range of the contrast to the liver, relative to the tabulated one
NEAR_CENTRE_MM = 42.0  # lesions lie this near the centre of the field of view along z, where a short stack sees them
# relative radius**2 up to which a shell reaches, its share of tumour, its fine label; the contour is drawn at 1
SHELLS = ((1.30, 0.32, "liver"), (1.0, 0.75, "tumour_rim"), (0.75, 1.0, "tumour"))


@dataclass(frozen=True)
class Lesion:
    """One lesion: its kind (hcc, metastasis or cyst) and the tissue indices of what lies inside its contour."""

    kind: str
    indices: tuple[int, ...]


def count(rng: np.random.Generator, load: float, empty_prevalence: float) -> int:
    """Number of lesions of a patient: 0 with `empty_prevalence`, else Poisson, at least 1.

    Quantiles of two uniform numbers, so that in the same patient the number never falls as the load grows and a
    patient without lesion stays without when the prevalence of empty patients grows.
    """
    empty, uniform = rng.random(2)
    if empty < empty_prevalence:
        return 0
    return min(max(poisson_quantile(uniform, EXPECTED * math.sqrt(load)), 1), MOST)


def poisson_quantile(uniform: float, mean: float) -> int:
    """Smallest n at which the distribution function of a Poisson variable reaches `uniform`."""
    n, probability = 0, math.exp(-mean)
    below = probability
    while below < uniform and n < 10 * MOST:
        n += 1
        probability *= mean / n
        below += probability
    return n


def lesions(canvas: Canvas, body: Body, liver: Liver, population: Mapping[str, float]) -> list[Lesion]:
    """Paint the lesions of a patient inside the liver; they are the last tissues of the canvas.

    The expected volume is proportional to `lesion_load`: the count by its square root, each volume by its square root.
    Lesion i has a generator of its own, so a larger load keeps the lesions there are, grows them and adds others, and
    another mix of kinds moves none. Where two overlap the earlier one keeps the voxel.
    """
    free = list(liver.parts)
    number = count(canvas.draw("lesions"), population["lesion_load"], population["empty_prevalence"])
    return [_lesion(canvas, body, liver, population, canvas.draw(f"lesion {i}"), free) for i in range(number)]


def _lesion(
    canvas: Canvas, body: Body, liver: Liver, population: Mapping[str, float], rng: np.random.Generator, free: list[int]
) -> Lesion:
    """Every lesion draws the same numbers, whatever its kind."""
    centre = _place(body, liver, rng)
    kind = _kind(rng.random(2), population)
    relative = float(np.clip(np.exp(LOG_SD * rng.standard_normal()), SMALLEST, LARGEST))
    volume = relative * population["lesion_median_mm3"] * math.sqrt(population["lesion_load"])
    radius = (volume * (CYST_SIZE if kind == "cyst" else 1.0) * 0.75 / math.pi) ** (1 / 3)
    radii, turn = radius * np.exp(rng.normal(0, 0.12, 3)), rotation(*rng.uniform(0, 180, 3))
    own, factor = vary(TISSUES[kind], rng, times=0.07, hu=8 if kind != "cyst" else 3), rng.uniform(*CONSPICUITY)
    box, out = ellipsoid(canvas.grid, centre, radii, turn, margin=math.sqrt(SHELLS[0][0]))
    if kind == "cyst":
        index = canvas.add("cyst", own)
        canvas.fill_only(box, out <= 1, index, free)
        return Lesion(kind, (index,))
    return Lesion(kind, _shells(canvas, box, out, _conspicuous(own, liver.healthy, factor), liver.tissue, free))


def _shells(
    canvas: Canvas, box: tuple, out: np.ndarray, own: Tissue, around: Tissue, free: list[int]
) -> tuple[int, ...]:
    """Paint a tumour from its blurred edge inwards; returns the tissues inside the contour."""
    inner: list[int] = []
    over = list(free)
    for reach, share, label in SHELLS:
        tissue = mix(((own, share), (around, 1 - share)), "edge of a tumour") if share < 1 else own
        index = canvas.add(label, tissue)
        canvas.fill_only(box, out <= reach, index, over)
        over.append(index)
        (free if label == "liver" else inner).append(index)
    return tuple(inner)


def _place(body: Body, liver: Liver, rng: np.random.Generator) -> np.ndarray:
    """A point (z, y, x) inside a lobe and the cavity and beside the porta hepatis, the same on every grid."""
    candidates = rng.standard_normal((60, 3))
    candidates *= (rng.random(60) ** (1 / 3) / np.linalg.norm(candidates, axis=1))[:, None]
    centres, radii, turns = (
        np.stack([getattr(lobe, name) for lobe in liver.lobes]) for name in ("centre", "radii", "turn")
    )
    volumes = radii.prod(axis=1)
    which = (rng.random(60) > volumes[0] / volumes.sum()).astype(int)
    points = centres[which] + np.einsum("nij,nj->ni", turns[which], 0.82 * candidates * radii[which])
    inside = np.abs(points[:, 1] / body.b) ** 2.3 + np.abs(points[:, 2] / body.a) ** 2.3 < 0.8
    beside = np.linalg.norm((points - liver.porta) / (30, 24, 32), axis=1) > 1
    good = inside & beside & (np.abs(points[:, 0]) < NEAR_CENTRE_MM)
    return points[int(np.argmax(good))]


def _kind(uniform: np.ndarray, population: Mapping[str, float]) -> str:
    if uniform[0] < population["cyst_share"]:
        return "cyst"
    return "metastasis" if uniform[1] < population["hypovascular_share"] else "hcc"


def _conspicuous(tumour: Tissue, liver: Tissue, factor: float) -> Tissue:
    """A tumour whose difference from the liver is `factor` times the tabulated one."""

    def between(a: float, b: float) -> float:
        return a * (b / a) ** factor

    def times(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
        return between(a[0], b[0]), between(a[1], b[1])

    a, b, c, d = (x + factor * (y - x) for x, y in zip(liver.hu, tumour.hu, strict=True))
    return tumour._replace(
        t1_ms=times(liver.t1_ms, tumour.t1_ms),
        t2_ms=times(liver.t2_ms, tumour.t2_ms),
        t2star_ms=times(liver.t2star_ms, tumour.t2star_ms),
        pd=min(1.0, between(liver.pd, tumour.pd)),
        hu=(a, b, c, d),
        gd=liver.gd + factor * (tumour.gd - liver.gd),
    )
