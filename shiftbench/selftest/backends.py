"""What each library that scores are computed with must give, by closed forms.

Every one is called as the metrics call it. Their known failures are among the checks: a distance transform that invents
background outside the array, connectivity that is not the one asked for, a table of surfaces of another definition.
"""

from __future__ import annotations

from math import hypot, inf, sqrt
from typing import Literal

import cc3d
import edt
import numpy as np
from scipy.ndimage import binary_dilation, find_objects
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import ConvexHull, cKDTree
from scipy.special import fdtri, nctdtrit, ndtri, stdtr, stdtrit
from surface_distance import lookup_tables

from shiftbench.selftest.check import Golden

_Connectivity = Literal[4, 6, 8, 18, 26]
_SPACING = (0.7, 0.8, 5.0)
_Z, _Y, _X = _SPACING
_CORNER = sqrt((_Z * _Y) ** 2 + (_Z * _X) ** 2 + (_Y * _X) ** 2) / 8  # triangle between the middles of three edges


def _transform(inside: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    return edt.edtsq(inside, anisotropy=spacing, black_border=False, parallel=1)


def _to_one_voxel() -> list[float]:
    inside = np.ones((4, 5, 6), bool)
    inside[0, 0, 0] = False
    found = _transform(inside, _SPACING)
    return [float(found[index]) for index in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (3, 4, 5))]


def _to_one_pixel() -> list[float]:
    inside = np.ones((9, 9), bool)
    inside[4, 4] = False
    found = _transform(inside, (0.5, 1.5))
    return [float(found[index]) for index in ((4, 4), (0, 4), (4, 0), (8, 8))]


def _without_background() -> list[float]:
    return [float(_transform(np.ones(shape, bool), (1.0,) * len(shape)).min()) for shape in ((3, 4), (3, 4, 5))]


def _inside_a_bar() -> list[float]:
    bar = np.zeros((7, 3), bool)
    bar[1:6] = True
    return edt.edt(bar, anisotropy=(2.0, 1.0), black_border=False, parallel=1)[:, 1].tolist()


def _nearest() -> list[float]:
    places = np.array([[0, 0, 0], [3, 0, 0], [0, 4, 0]]) * np.asarray(_SPACING)
    tree = cKDTree(places, balanced_tree=False, compact_nodes=False)
    first = tree.query(np.array([[3.0, 0.0, 1.0]]) * _SPACING)[0]
    return [float(first[0]), *tree.query(np.zeros((1, 3)), k=3)[0][0].tolist()]


def _boxes() -> list[int | None]:
    labels = np.zeros((5, 6), np.int32)
    labels[1:3, 2:6], labels[4, 0] = 1, 3
    found: list[int | None] = []
    for box in find_objects(labels, 4):
        found += [None] if box is None else [edge for side in box for edge in (side.start, side.stop)]
    return found


def _lengths() -> list[float]:
    table = lookup_tables.create_table_neighbour_code_to_contour_length((0.5, 1.5))
    return [float(table[code]) for code in (0b0000, 0b1100, 0b1010, 0b1000, 0b0111, 0b1001, 0b1111)]


def _areas() -> list[float]:
    table = lookup_tables.create_table_neighbour_code_to_surface_area(_SPACING)
    codes = (0, 0b11110000, 0b11001100, 0b10101010, 0b11000000, 0b10001000, 0b10000000, 0b00000001, 0b10000001, 255)
    return [float(table[code]) for code in codes]


def three_blocks() -> np.ndarray:
    """Three blocks (uint8): the second shares an edge with the first, the third a corner with the second."""
    blocks = np.zeros((6, 6, 6), np.uint8)
    blocks[0:2, 0:2, 0:2] = blocks[2:4, 2:4, 0:2] = blocks[4:6, 4:6, 2:4] = 1
    return blocks


def _counts(mask: np.ndarray, connectivities: tuple[_Connectivity, ...]) -> list[int]:
    return [int(cc3d.connected_components(mask, connectivity=n).max()) for n in connectivities]


def _checkerboard() -> np.ndarray:
    return (np.indices((8, 8, 8)).sum(0) % 2).astype(np.uint8)


def _assigned() -> list[int]:
    weights = np.array([[4.9, 4.3, 0.0], [4.8, 0.0, 0.0], [0.0, 0.0, 4.1]])  # the best pair alone loses a pair
    return linear_sum_assignment(weights, maximize=True)[1].tolist()


def _grouped() -> list[int]:
    graph = coo_array((np.ones(3, np.int8), ([0, 1, 2], [3, 3, 4])), shape=(6, 6))
    count, groups = connected_components(graph, directed=False)
    return [int(count), int(groups[0] == groups[1]), int(groups[0] == groups[2])]


def _percentiles() -> list[float]:
    return [float(np.percentile(values, 95)) for values in (np.arange(11.0), np.r_[np.zeros(20), 30.0, 30.0])]


MASKS = (
    Golden(
        "distance to one voxel, squared",
        "edt",
        [0, _Z**2, _Y**2, _X**2, 9 * _Z**2 + 16 * _Y**2 + 25 * _X**2],
        _to_one_voxel,
    ),
    Golden("distance to one pixel, squared", "edt", [0, 4, 36, 40], _to_one_pixel),
    Golden("no background, no distance", "edt", [inf, inf], _without_background),
    Golden("depth in a bar", "edt", [0, 2, 4, 6, 4, 2, 0], _inside_a_bar),
    Golden("nearest points", "scipy", [hypot(0, _X), 0, 3 * _Z, 4 * _Y], _nearest),
    Golden("boxes of labels", "scipy", [1, 3, 2, 6, None, 4, 5, 0, 1, None], _boxes),
    Golden(
        "contour lengths",
        "surface-distance",
        [0, 1.5, 0.5, hypot(0.5, 1.5) / 2, hypot(0.5, 1.5) / 2, hypot(0.5, 1.5), 0],
        _lengths,
    ),
    Golden(
        "surface areas",
        "surface-distance",
        [
            0,
            _Y * _X,
            _Z * _X,
            _Z * _Y,
            _X * hypot(_Z, _Y) / 2,
            _Z * hypot(_Y, _X) / 2,
            _CORNER,
            _CORNER,
            2 * _CORNER,
            0,
        ],
        _areas,
    ),
    Golden("95th percentile", "numpy", [9.5, 28.5], _percentiles),
)
LESIONS = (
    Golden(
        "touching blocks at connectivity 6, 18, 26",
        "connected-components-3d",
        [3, 2, 1],
        lambda: _counts(three_blocks(), (6, 18, 26)),
    ),
    Golden(
        "touching pixels at connectivity 4, 8",
        "connected-components-3d",
        [3, 1],
        lambda: _counts(np.eye(3, dtype=np.uint8), (4, 8)),
    ),
    Golden(
        "checkerboard at connectivity 6, 18, 26",
        "connected-components-3d",
        [256, 1, 1],
        lambda: _counts(_checkerboard(), (6, 18, 26)),
    ),
    Golden("one-to-one assignment", "scipy", [1, 0, 2], _assigned),
    Golden("parts of a graph", "scipy", [3, 1, 0], _grouped),
)


def _thinned() -> list[int]:
    from skimage.morphology import skeletonize

    line, bar, square, ring = np.zeros((4, 7, 25), bool)
    line[3, 2:22] = bar[2:5, 2:23] = square[2:4, 2:4] = ring[1:6, 1:20] = True
    ring[3, 4:17] = False
    kept = skeletonize(bar)
    parts = [_counts(np.pad(mask, 1).astype(np.uint8), (n,))[0] for mask, n in _ring_and_hole(skeletonize(ring))]
    moved, outside = (skeletonize(line) ^ line).sum(), (kept & ~bar).sum()
    return [
        int(moved),
        int(outside),
        int(kept[3].sum() > 16 and kept.sum() < 22),
        int(skeletonize(square).any()),
        *parts,
    ]


def _ring_and_hole(ring: np.ndarray) -> list[tuple[np.ndarray, _Connectivity]]:
    return [(ring, 8), (~np.pad(ring, 1), 4)]


def _flooded() -> list[int]:
    from skimage.segmentation import watershed

    markers, bar = np.zeros((3, 12), np.int32), np.zeros((3, 12), bool)
    bar[1, 1:11] = True
    markers[1, 1], markers[1, 10] = 1, 2
    flat = watershed(np.zeros(bar.shape, np.uint8), markers, connectivity=2, mask=bar)
    ridge = np.where(np.arange(12) == 7, 1.0, 0.0) * np.ones((3, 1))
    steep = watershed(ridge, markers, connectivity=2, mask=bar)
    return [*np.bincount(flat.ravel()).tolist(), *np.bincount(steep[:, :7].ravel()).tolist(), int(steep[1, 8])]


TUBES = (Golden("lines, bars and rings thinned in 2-D", "scikit-image", [0, 0, 1, 1, 1, 2], _thinned),)
INSTANCES = (Golden("markers flooded", "scikit-image", [26, 5, 5, 15, 6, 2], _flooded),)


def _quantiles() -> list[float]:
    t, f = stdtrit(10, 0.975), fdtri(1, 10, 0.95)  # the square of a t is an F with one degree of freedom
    return [float(value) for value in (t, stdtr(10, t), ndtri(0.975), f - t**2, nctdtrit(10, 0.0, 0.975))]


def _hull() -> list[float]:
    hull = ConvexHull(np.argwhere(np.ones((2, 2, 2))) * np.asarray(_SPACING))
    return [float(hull.volume), float(hull.area)]


def _octahedron() -> list[float]:
    """Area and volume of the surface around one voxel of long sides: an octahedron."""
    from skimage.measure import marching_cubes, mesh_surface_area

    voxel = np.zeros((3, 3, 3))
    voxel[1, 1, 1] = 1
    vertices, faces, _, _ = marching_cubes(voxel, 0.5, spacing=_SPACING)
    corners = vertices[faces] - np.asarray(_SPACING)
    return [float(mesh_surface_area(vertices, faces)), abs(float(np.linalg.det(corners).sum())) / 6]


def _dilated() -> list[int]:
    point = np.zeros((5, 5, 5), bool)
    point[2, 2, 2] = True
    return [int(binary_dilation(point).sum()), int(binary_dilation(point, np.ones((3, 3, 3), bool)).sum())]


def _told_apart() -> list[float]:
    """A classifier of points that lie alike on both sides of zero, which is as sure of one class as of the other."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score

    places, types = np.array([[-2.0], [-1.0], [1.0], [2.0]]), [0, 0, 1, 1]
    model = LogisticRegression(class_weight="balanced").fit(places, types)
    middle = float(model.predict_proba([[0.0]])[0, 1])
    right = balanced_accuracy_score([0, 0, 0, 1], model.predict(places))  # one of three and one of one
    return [round(middle, 5), float(right), float(roc_auc_score(types, [0.1, 0.4, 0.35, 0.8]))]


REST = (
    Golden(
        "quantiles of t, F and normal",
        "scipy",
        [2.2281388519649385, 0.975, 1.959963984540054, 0, 2.2281388519649385],
        _quantiles,
    ),
    Golden(
        "surface around a voxel",
        "scikit-image",
        [sqrt((_Z * _Y) ** 2 + (_Z * _X) ** 2 + (_Y * _X) ** 2), _Z * _Y * _X / 6],
        _octahedron,
    ),
    Golden("a point dilated", "scipy", [7, 27], _dilated),
    Golden("two types told apart", "scikit-learn", [0.5, 5 / 6, 0.75], _told_apart),
    Golden("convex hull of a box", "scipy", [_Z * _Y * _X, 2 * (_Z * _Y + _Z * _X + _Y * _X)], _hull),
)
