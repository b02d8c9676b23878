"""Radiomic features of an outline, and what background inside it does to them.

Definitions are those of the image biomarker standardisation initiative (IBSI): intensities are not discretised, moments
are those of a population (divided by n), percentiles are interpolated linearly. The mesh is that of marching cubes at
0.5 of the mask with a border of background, the axes are those of the voxels' centres.

Reference:
    Zwanenburg et al., The image biomarker standardization initiative, Radiology 295:328-338, 2020, and its reference
    manual, arXiv:1612.07003.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import marching_cubes

from shiftbench.metrics.features import features_of
from shiftbench.metrics.overlap import checked_masks

Features = dict[str, float | None]


def features(image: ArrayLike, mask: ArrayLike, spacing: Sequence[float], unit: Literal["mm", "px"] = "mm") -> Features:
    """Every feature of `shiftbench.metrics.features.features_of` by its name, of one outline in one image.

    Args:
        image: one channel (*s), raw.
        mask: bool (*s), with at least one voxel.
        spacing: voxel size per axis, in `unit`.
        unit: of the spacing; in pixels, and in two dimensions, no shape is defined.

    Returns:
        A value per feature, None where it is undefined: a skewness or kurtosis of equal intensities, a coefficient
        whose denominator is 0, an elongation or flatness of a single voxel, a robust deviation where nothing lies
        between the percentiles.

    Raises:
        ValueError: the mask is empty, not binary or of another shape than the image, or an intensity is not finite.
    """
    picture, (mask, _) = np.asarray(image, float), checked_masks(mask, mask)
    if picture.shape != mask.shape or len(spacing) != mask.ndim or min(spacing) <= 0:
        raise ValueError(f"image {picture.shape}, mask {mask.shape} and spacing {tuple(spacing)} do not fit")
    if not mask.any():
        raise ValueError("an empty mask has no features")
    found = intensity_features(picture[mask])
    return {**found, **shape_features(mask, spacing)} if len(features_of(mask.ndim, unit)) > len(found) else found


def intensity_features(intensities: ArrayLike) -> Features:
    """First-order features of the intensities (n,) inside an outline, in the order of `features.INTENSITY`."""
    x = np.asarray(intensities, float).ravel()
    if not x.size or not np.isfinite(x).all():
        raise ValueError("intensities must be finite, and there must be one")
    mean, deviation = float(x.mean()), x - x.mean()
    variance = float((deviation**2).mean())
    low, first, median, third, high = (float(q) for q in np.percentile(x, (10, 25, 50, 75, 90)))
    inner = x[(x >= low) & (x <= high)]
    level = np.ptp(x) == 0  # all equal: the variance may still be a rounding error above 0
    return {
        "mean": mean,
        "variance": variance,
        "skewness": None if level else float((deviation**3).mean()) / variance**1.5,
        "excess_kurtosis": None if level else float((deviation**4).mean()) / variance**2 - 3,
        "median": median,
        "minimum": float(x.min()),
        "percentile_10": low,
        "percentile_90": high,
        "maximum": float(x.max()),
        "interquartile_range": third - first,
        "range": float(np.ptp(x)),
        "mean_absolute_deviation": float(np.abs(deviation).mean()),
        "robust_mean_absolute_deviation": float(np.abs(inner - inner.mean()).mean()) if inner.size else None,
        "median_absolute_deviation": float(np.abs(x - median).mean()),
        "coefficient_of_variation": _ratio(math.sqrt(variance), mean),
        "quartile_coefficient_of_dispersion": _ratio(third - first, third + first),
        "energy": float((x**2).sum()),
        "root_mean_square": math.sqrt(float((x**2).mean())),
    }


def shape_features(mask: np.ndarray, spacing_mm: Sequence[float]) -> Features:
    """Shape of a mask (d, h, w) with at least one voxel, in the order of `features.SHAPE`."""
    where = np.argwhere(mask)
    inside = mask[tuple(slice(a, b) for a, b in zip(where.min(0), where.max(0) + 1, strict=True))]
    vertices, faces = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5, spacing=tuple(spacing_mm))[:2]
    corners = vertices.astype(float)[faces]  # (faces, 3 corners, 3 axes)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = float(np.linalg.norm(normals, axis=1).sum()) / 2
    volume = abs(float(np.einsum("ij,ij->", corners[:, 0], normals))) / 6
    hull = vertices[ConvexHull(vertices).vertices]
    major, minor, least = _axes(where * np.asarray(spacing_mm, float))
    return {
        "volume_ml": len(where) * math.prod(spacing_mm) / 1000,
        "mesh_volume_ml": volume / 1000,
        "surface_area_mm2": area,
        "surface_to_volume_per_mm": area / volume,
        "sphericity": (36 * math.pi * volume**2) ** (1 / 3) / area,
        "maximum_diameter_mm": float(pdist(hull.astype(float)).max()),
        "major_axis_mm": major,
        "minor_axis_mm": minor,
        "least_axis_mm": least,
        "elongation": _ratio(minor, major),
        "flatness": _ratio(least, major),
    }


def _axes(points: np.ndarray) -> list[float]:
    """Lengths in mm of the axes of the ellipsoid with the covariance of the points (n, 3), the longest first."""
    if len(points) == 1:
        return [0.0, 0.0, 0.0]
    spread = np.linalg.eigvalsh(np.cov(points, rowvar=False))[::-1]
    return [4 * math.sqrt(max(float(value), 0.0)) for value in spread]


def _ratio(a: float, b: float) -> float | None:
    return a / b if b else None


@dataclass(frozen=True)
class Contamination:
    """How much of a prediction P is background, and what that must do to the mean and variance inside it.

    Attributes:
        share: eps, |P without R| / |P|: 1 - precision.
        missed: |R without P| / |R|: 1 - recall.
        mean_bias: eps (mu_B - mu_T).
        variance: (1 - eps) s_T^2 + eps s_B^2 + eps (1 - eps) (mu_T - mu_B)^2.
    """

    share: float
    missed: float
    mean_bias: float
    variance: float


def contamination(image: ArrayLike, prediction: ArrayLike, reference: ArrayLike) -> Contamination | None:
    """The bias of a mixture, from the background that a prediction holds.

    T is all of the reference, B what the prediction holds outside it. Mean and variance of the prediction are exactly
    those of the formula as long as the part of the reference that was found looks like all of it; what is left over
    between formula and observation is due to the voxels that were missed.

    Args:
        image: one channel (*s), raw.
        prediction: bool (*s).
        reference: bool (*s).

    Returns:
        None where one of the two is empty.

    Raises:
        ValueError: shapes differ, or a mask is not binary.
    """
    prediction, reference = checked_masks(prediction, reference)
    picture = np.asarray(image, float)
    if picture.shape != reference.shape:
        raise ValueError(f"the image has shape {picture.shape}, the masks {reference.shape}")
    if not prediction.any() or not reference.any():
        return None
    target, background = picture[reference], picture[prediction & ~reference]
    missed = np.count_nonzero(reference & ~prediction) / target.size
    share = background.size / np.count_nonzero(prediction)
    mu_t, var_t = float(target.mean()), float(target.var())
    if not background.size:
        return Contamination(0.0, missed, 0.0, var_t)
    return Contamination(
        share, missed, *mixed(share, (mu_t, var_t), (float(background.mean()), float(background.var())))
    )


def mixed(share: float, target: tuple[float, float], background: tuple[float, float]) -> tuple[float, float]:
    """Bias of the mean, and the variance, of a target of which a share is background; both by (mean, variance)."""
    (mu_t, var_t), (mu_b, var_b) = target, background
    return share * (mu_b - mu_t), (1 - share) * var_t + share * var_b + share * (1 - share) * (mu_t - mu_b) ** 2
