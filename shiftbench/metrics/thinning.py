"""Centre lines of 3-D masks by topological thinning.

scikit-image's 3-D thinning (0.26, Lee's method) eats lines and branches that are an even number of voxels thick: its
check of each voxel before it is deleted asks whether the number of parts stays, which is so for the end of a line too.
A bar of 4 x 4 x 20 voxels has no skeleton at all. Here the deletions of a step are of voxels that do not touch one
another, so that each is judged on what is there when it goes.
"""

from __future__ import annotations

import itertools

import numpy as np

SIDES = ((0, 0, 1), (0, 0, -1), (0, 1, 0), (0, -1, 0), (1, 0, 0), (-1, 0, 0))
_STEPS = np.array([step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)])  # of the 26 neighbours
_BITS = np.int32(1) << np.arange(26, dtype=np.int32)
_BY_FACE, _BY_EDGE = np.abs(_STEPS).sum(1) == 1, np.abs(_STEPS).sum(1) < 3  # 6 and 18 of them
_APART = np.abs(_STEPS[:, None] - _STEPS[None])
_CORNERS = (_APART.max(-1) <= 1).astype(np.float32)  # from neighbour to neighbour, or staying
_FACES = ((_APART.sum(-1) <= 1) & _BY_EDGE).astype(np.float32)  # the outside around a voxel hangs together over the 18


def thinned(mask: np.ndarray) -> np.ndarray:
    """The centre lines of a boolean mask (*s), 3-D: one voxel thick, with as many parts, holes and tunnels as the mask.

    Voxels are deleted from each of the six sides in turn while they are simple (their deletion changes no topology) and
    no end of a line, in eight fields of which no two voxels touch. Padding and cropping change nothing; with the order
    of axes or a flip a line may lie a voxel further (`tubes.centre_lines` turns a mask first).

    Reference:
        Lee, Kashyap, Chu, Building skeleton models via 3-D medial surface/axis thinning algorithms, CVGIP 56, 1994 (the
        conditions); Bertrand, Aktouf, A three-dimensional thinning algorithm using subfields, SPIE 2356, 1995 (fields).
    """
    if not mask.any():
        return np.zeros(mask.shape, bool)
    box = tuple(slice(int(axis.min()), int(axis.max()) + 1) for axis in np.nonzero(mask))
    volume = np.pad(mask[box], 1)
    strides = np.array([volume.shape[1] * volume.shape[2], volume.shape[2], 1])
    neighbours, flat = _STEPS @ strides, volume.ravel()
    points = np.flatnonzero(flat)
    field = np.ravel_multi_index([index % 2 for index in np.unravel_index(points, volume.shape)], (2, 2, 2))
    before = len(points) + 1
    while len(points) < before:
        before = len(points)
        for step in SIDES:
            outer = ~flat[points + strides @ step]
            for one in range(8):
                candidates = points[outer & (field == one)]
                if not candidates.size:
                    continue
                codes = flat[candidates[:, None] + neighbours] @ _BITS
                flat[candidates[_deletable(codes)]] = False
            left = flat[points]
            points, field = points[left], field[left]
    result = np.zeros(mask.shape, bool)
    result[box] = flat.reshape(volume.shape)[1:-1, 1:-1, 1:-1]
    return result


def _deletable(codes: np.ndarray) -> np.ndarray:
    """Which neighbourhoods (n,), one bit for each of 26 neighbours, are of a simple voxel that is no end of a line.

    Reference:
        Bertrand, Malandain, A new characterization of three-dimensional simple points, Pattern Recognit. Lett., 1994.
    """
    codes, inverse = np.unique(codes, return_inverse=True)
    inside = (codes[:, None] & _BITS) != 0
    outside = ~inside & _BY_EDGE
    ways = outside & _BY_FACE
    one_part = _connected(inside, inside, _CORNERS)
    one_outside = _connected(ways, outside, _FACES)
    return (one_part & one_outside & (inside.sum(1) > 1))[inverse]


def _connected(ends: np.ndarray, through: np.ndarray, adjacent: np.ndarray) -> np.ndarray:
    """Whether there are `ends` among the neighbours (n, 26) and all are connected by steps within `through` (n, 26)."""
    reached = ends & (np.cumsum(ends, axis=1) == 1)  # the first of them
    while True:
        grown = (reached.astype(np.float32) @ adjacent > 0) & through
        if (grown == reached).all():
            return ends.any(1) & (reached | ~ends).all(1)
        reached = grown
