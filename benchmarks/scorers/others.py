"""What others make of the same label maps: DSC, HD95, ASSD and NSD of every structure, as far as a library has them.

Each function takes the maps (*s), the spacing in mm and the structures (name, tolerance), in label order, and returns
the values by structure and metric.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from shiftbench.metrics import score_case

Structures = Sequence[tuple[str, float]]
Values = dict[str, dict[str, float]]
Scorer = Callable[[np.ndarray, np.ndarray, Sequence[float], Structures], Values]
SHOWN = ("dsc", "hd95_mm", "assd_mm", "nsd")


class Competitor(NamedTuple):
    """A way to score: what it is called, the module it needs, the definition it follows, and what it leaves out."""

    name: str
    module: str
    definition: str
    score: Scorer
    lacks: tuple[str, ...] = ()

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None


def ours(*definitions: str) -> Scorer:
    """`score_case`, which has HD, MASD, IoU and volume errors on top; shown is the first definition."""

    def score(
        prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], structures: Structures
    ) -> Values:
        scores = score_case(prediction, reference, spacing, structures, definitions=definitions)
        values: Values = {name: {} for name, _ in structures}
        for found in scores:
            if found.definition in ("counts", definitions[0]) and found.metric in SHOWN:
                values[found.structure][found.metric] = np.inf if found.bound else found.value
        return values

    return score


def per_structure(score: Callable[[np.ndarray, np.ndarray, Sequence[float], float], dict[str, float]]) -> Scorer:
    """A scorer of label maps from one of boolean masks."""

    def each(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], structures: Structures) -> Values:
        return {
            name: score(prediction == label, reference == label, spacing, tolerance)
            for label, (name, tolerance) in enumerate(structures, start=1)
        }

    return each


def surface_distance(p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """google-deepmind/surface-distance, whose release names modules of scipy and numpy that are gone."""
    ndimage.filters = ndimage.morphology = ndimage
    np.Inf = np.inf
    import surface_distance as library

    found = library.compute_surface_distances(r, p, spacing)
    areas = found["surfel_areas_gt"].sum(), found["surfel_areas_pred"].sum()
    return {
        "dsc": library.compute_dice_coefficient(r, p),
        "hd95_mm": library.compute_robust_hausdorff(found, 95),
        "assd_mm": float(np.average(library.compute_average_surface_distance(found), weights=areas)),
        "nsd": library.compute_surface_dice_at_tolerance(found, tolerance),
    }


def monai(prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], structures: Structures) -> Values:
    """One call per metric, as its interface has it, on one-hot tensors."""
    import torch
    from monai.metrics import (
        compute_average_surface_distance,
        compute_dice,
        compute_hausdorff_distance,
        compute_surface_dice,
    )

    torch.set_num_threads(1)
    labels = range(len(structures) + 1)
    pair = [torch.from_numpy(np.stack([labelled == i for i in labels])[None]) for labelled in (prediction, reference)]
    found = {
        "dsc": compute_dice(*pair, include_background=False),
        "hd95_mm": compute_hausdorff_distance(*pair, percentile=95, spacing=spacing),
        "assd_mm": compute_average_surface_distance(*pair, symmetric=True, spacing=spacing),
        "nsd": compute_surface_dice(*pair, class_thresholds=[t for _, t in structures], spacing=spacing),
    }
    return {name: {m: float(found[m][0, i]) for m in SHOWN} for i, (name, _) in enumerate(structures)}


def scipy_transforms(p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """Borders by erosion and one distance transform of the whole volume per mask, as Metrics Reloaded has it."""
    borders = [mask ^ ndimage.binary_erosion(mask) for mask in (p, r)]
    away_r, away_p = (
        ndimage.distance_transform_edt(~border, sampling=spacing)[other]
        for border, other in zip(borders, borders[::-1], strict=True)
    )
    return {"dsc": 2 * np.count_nonzero(p & r) / (np.count_nonzero(p) + np.count_nonzero(r))} | _of_directions(
        away_p, away_r, tolerance
    )


def medpy(p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    from medpy.metric import binary

    return {"dsc": binary.dc(p, r), "hd95_mm": binary.hd95(p, r, spacing), "assd_mm": binary.assd(p, r, spacing)}


def simpleitk(p: np.ndarray, r: np.ndarray, spacing: Sequence[float], tolerance: float) -> dict[str, float]:
    """Contours and Maurer distance maps of the whole volume."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    images = [sitk.GetImageFromArray(mask.view(np.uint8)) for mask in (p, r)]
    for image in images:
        image.SetSpacing([float(side) for side in spacing[::-1]])
    overlap = sitk.LabelOverlapMeasuresImageFilter()
    overlap.Execute(*images)
    contours = [sitk.BinaryContour(image, fullyConnected=False) for image in images]
    maps = [sitk.SignedMaurerDistanceMap(contour, squaredDistance=False, useImageSpacing=True) for contour in contours]
    borders = [sitk.GetArrayViewFromImage(contour) > 0 for contour in contours]
    away_p, away_r = (
        np.abs(sitk.GetArrayViewFromImage(maps[1])[borders[0]]),
        np.abs(sitk.GetArrayViewFromImage(maps[0])[borders[1]]),
    )
    return {"dsc": overlap.GetDiceCoefficient()} | _of_directions(away_p, away_r, tolerance)


def _of_directions(away_p: np.ndarray, away_r: np.ndarray, tolerance: float) -> dict[str, float]:
    both = np.concatenate([away_p, away_r])
    return {
        "hd95_mm": float(max(np.percentile(away_p, 95), np.percentile(away_r, 95))),
        "assd_mm": float(both.mean(dtype=np.float64)),
        "nsd": float((both <= tolerance * (1 + 1e-6)).mean()),
    }


COMPETITORS: tuple[Competitor, ...] = (
    Competitor("ShiftBench V", "shiftbench", "V", ours("V")),
    Competitor("ShiftBench S", "shiftbench", "S", ours("S")),
    Competitor("ShiftBench S and V", "shiftbench", "S", ours("S", "V")),
    Competitor("surface-distance", "surface_distance", "S", per_structure(surface_distance)),
    Competitor("MONAI", "monai", "V", monai),
    Competitor("scipy, as Metrics Reloaded", "scipy", "V", per_structure(scipy_transforms)),
    Competitor("SimpleITK contour, Maurer", "SimpleITK", "V", per_structure(simpleitk)),
    Competitor("medpy", "medpy", "pooled V", per_structure(medpy), ("nsd",)),
)
