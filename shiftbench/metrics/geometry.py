"""Whether a prediction lies on its reference: nothing is resampled, so the two grids must be one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from shiftbench.types import Geometry

SAME_PLACE = 1e-2  # of a voxel side; files round spacings and affines, and less than this moves no label


def geometry_fault(prediction: Geometry, reference: Geometry, shape: Sequence[int]) -> str:
    """Why two grids of one shape do not lie on each other, or an empty string.

    Spacings may differ by `SAME_PLACE` of themselves, and voxel centres (where both have an affine) by as much of the
    smallest voxel side: files round both.
    """
    if prediction.unit != reference.unit:
        return f"prediction is in {prediction.unit}, reference in {reference.unit}"
    sides = reference.spacing_or_pixels(len(shape))
    found = prediction.spacing_or_pixels(len(shape))
    if len(found) != len(sides) or not np.allclose(found, sides, rtol=SAME_PLACE, atol=0):
        return f"prediction has spacing {found}, reference {sides}"
    if prediction.affine is None or reference.affine is None:
        return ""
    ends = [(0, size - 1) for size in shape] + [(0,)] * (3 - len(shape)) + [(1,)]
    corners = np.array(list(product(*ends)), float)
    apart = corners @ (np.asarray(prediction.affine, float) - np.asarray(reference.affine, float)).T
    farthest = float(np.linalg.norm(apart[:, :3], axis=1).max())
    limit = SAME_PLACE * min(sides)
    return f"prediction lies up to {farthest:.3g} {reference.unit} beside the reference" if farthest > limit else ""
