"""Distances from points of a grid to the nearest of a set of its points: exact, and fast where the two are close.

Most surface points of a prediction lie on the reference's surface or a few voxels from it. So the neighbourhood of a
point is looked at first, place by place in order of distance, and only what is left goes to a KD-tree or, where much is
left, to a distance transform of the grid.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import edt
import numpy as np
from scipy.spatial import cKDTree

REACH = {2: 8, 3: 5}  # by axes: places that are looked at lie up to so many voxels away along the finest axis
LOOKS_PER_POINT = 64  # on average, so that looking in vain costs a small share of what a tree would
DENSE = 0.1  # points per voxel of the grid, above which nothing is looked at: a transform costs less
BLOCK = 1 << 16  # looks at once, few enough for the cache
PLACES_AT_ONCE = 48  # at most, so that few are looked at after a target has been found
TREE_BELOW = 0.007  # cost of a tree per voxel of the grid, in points searched, under which it is the faster engine
SEARCH = 20  # targets that are put into a tree in the time of a search


class Places(NamedTuple):
    """Steps (n, axes) from a point to the places around it, nearest first, and their lengths (n,)."""

    steps: np.ndarray
    lengths: np.ndarray


@lru_cache(maxsize=256)
def places(spacing: tuple[float, ...]) -> Places:
    """All places closer than REACH + 1 voxels of the finest axis, but for the point itself.

    Within that distance none is left out, so that the first one that holds a target holds the nearest.
    """
    reach = (REACH[len(spacing)] + 0.999) * min(spacing)
    spans = [range(-int(reach / side), int(reach / side) + 1) for side in spacing]
    steps = np.array(list(product(*spans)))
    lengths = np.sqrt(((steps * np.asarray(spacing)) ** 2).sum(axis=1))
    order = np.argsort(lengths, kind="stable")
    order = order[(lengths[order] > 0) & (lengths[order] <= reach)]
    return Places(steps[order], lengths[order])


@lru_cache(maxsize=256)
def margin(spacing: tuple[float, ...]) -> tuple[int, ...]:
    """Empty voxels per axis that a grid needs around its points, so that no place lies outside of it."""
    return tuple(int(size) for size in places(spacing).steps.max(axis=0))


def nearest_distances(
    points: np.ndarray, targets: np.ndarray, is_target: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    """Distance from each point to the nearest target.

    Args:
        points: flat indices (n,) into the grid, none of them within `margin(spacing)` of its end.
        targets: flat indices (m,), at least one.
        is_target: bool (*s), the same as a grid.
        spacing: voxel size per axis.

    Returns:
        Distances (n,) in the unit of `spacing`, float64.
    """
    alone = ~is_target.ravel()[points]  # a point that is a target needs no search
    if np.count_nonzero(alone) > DENSE * is_target.size:
        return _by_transform(points, targets, is_target, spacing)
    distances = np.zeros(points.size)
    left = np.flatnonzero(alone)
    if left.size:
        left = _look_around(distances, left, points, is_target, spacing)
    if left.size:
        sparse = left.size + targets.size / SEARCH < TREE_BELOW * is_target.size
        engine = _by_tree if sparse else _by_transform
        distances[left] = engine(points[left], targets, is_target, spacing)
    return distances


def _look_around(
    distances: np.ndarray, left: np.ndarray, points: np.ndarray, is_target: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    """Fills in the distances of points with a target near by; returns which of `left` have none, or were given up."""
    flat, at = is_target.ravel(), points[left]
    around = places(spacing)
    steps = around.steps @ np.cumprod((1, *is_target.shape[:0:-1]))[::-1]  # of flat indices
    looks = LOOKS_PER_POINT * left.size
    start = 0
    while left.size and looks > 0 and start < steps.size:
        block = slice(start, start + max(1, min(PLACES_AT_ONCE, BLOCK // left.size)))
        seen = flat[at + steps[block, None]]  # (places, points)
        found = seen.any(axis=0)
        distances[left[found]] = around.lengths[block][seen[:, found].argmax(axis=0)]
        left, at = left[~found], at[~found]
        looks -= seen.size
        start = block.stop
    return left


def _by_tree(points: np.ndarray, targets: np.ndarray, is_target: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    tree = cKDTree(_positions(targets, is_target.shape, spacing), balanced_tree=False, compact_nodes=False)
    return tree.query(_positions(points, is_target.shape, spacing))[0]


def _by_transform(
    points: np.ndarray, targets: np.ndarray, is_target: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    squared = edt.edtsq(~is_target, anisotropy=spacing, black_border=False, parallel=1)
    return np.sqrt(squared.ravel()[points].astype(np.float64))


def _positions(points: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(points, shape), axis=1) * np.asarray(spacing)
