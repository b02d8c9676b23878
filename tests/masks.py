"""Masks for the tests of metrics, and their surfaces by loops over every voxel or corner."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shiftbench.rng import generator

SIDES = st.sampled_from([0.5, 0.7, 1.0, 1.5, 3.0])  # of voxels, in mm


def box(shape, low, high) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def ball(shape, spacing, radius, centre=None) -> np.ndarray:
    """Voxels whose centre is at most `radius` mm from `centre` in mm (that of the array if None)."""
    middle = centre or [(n - 1) / 2 * side for n, side in zip(shape, spacing, strict=True)]
    axes = np.ogrid[tuple(slice(0, n) for n in shape)]
    return sum((x * side - c) ** 2 for x, side, c in zip(axes, spacing, middle, strict=True)) <= radius**2


def blob(shape, name, threshold=0.55) -> np.ndarray:
    """A random mask of several connected parts, some of them at the border of the array."""
    noise = generator(0, "blob", list(shape), name).random(shape)
    for axis in range(len(shape)):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 3
    return noise > np.quantile(noise, threshold)


def pairs(ndim: int):
    """Two random masks of one shape, neither of them empty."""
    shapes = hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=7 if ndim == 2 else 5)
    return shapes.flatmap(lambda s: st.tuples(hnp.arrays(bool, s), hnp.arrays(bool, s))).filter(
        lambda pair: pair[0].any() and pair[1].any()
    )


def surface_points(mask, spacing, definition) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a surface."""
    points, weights = zip(*(_borders if definition == "V" else _elements)(np.pad(mask, 1), spacing), strict=True)
    return np.multiply(points, spacing), np.array(weights)


def distances(prediction, reference, spacing, definition) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Distances and weights of both directions, from the matrix of all distances."""
    p, wp = surface_points(prediction, spacing, definition)
    r, wr = surface_points(reference, spacing, definition)
    matrix = np.sqrt(((p[:, None] - r[None]) ** 2).sum(-1))
    return (matrix.min(1), wp), (matrix.min(0), wr)


def _borders(padded, spacing):
    for index in zip(*np.nonzero(padded), strict=True):
        faces = [tuple(np.add(index, step)) for step in _face_steps(padded.ndim)]
        if not all(padded[face] for face in faces):
            yield index, 1.0


def _face_steps(ndim):
    return [[side if other == axis else 0 for other in range(ndim)] for axis in range(ndim) for side in (-1, 1)]


def _elements(padded, spacing):
    size = _length if padded.ndim == 2 else _area
    for index in itertools.product(*(range(n - 1) for n in padded.shape)):
        corner = padded[tuple(slice(i, i + 2) for i in index)]
        if corner.any() and not corner.all():
            yield index, size(corner, spacing)


def _length(corner, spacing) -> float:
    """Of the contour in a neighbourhood of 2 x 2 pixels."""
    dy, dx = spacing
    if int(corner.sum()) in (1, 3):
        return math.hypot(dx, dy) / 2
    if corner[0].all() or corner[1].all():
        return dx
    if corner[:, 0].all() or corner[:, 1].all():
        return dy
    return math.hypot(dx, dy)  # two opposite pixels: two diagonal elements


def _area(corner, spacing) -> float:
    """Of the surface in a neighbourhood of 2 x 2 x 2 voxels, whose bits the published table reads in this order."""
    code = int("".join(str(int(inside)) for inside in corner.ravel()), 2)
    return float(_areas(tuple(spacing))[code])


@lru_cache
def _areas(spacing) -> np.ndarray:
    from surface_distance import lookup_tables

    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing)
