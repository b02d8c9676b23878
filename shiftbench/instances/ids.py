"""Instance ids that fit a label map: every thing voxel has one, and nothing else has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import cc3d
import numpy as np
from skimage.segmentation import watershed

CONNECTIVITY: dict[int, Literal[8, 26]] = {2: 8, 3: 26}  # by faces, edges and corners, as lesions are counted


def connected(mask: np.ndarray) -> np.ndarray:
    """Connected components of a mask (*s), int32: 0 outside, 1 to n inside; sharing a corner is being connected."""
    connectivity = CONNECTIVITY[mask.ndim]
    # as uint8: for bool, cc3d 4.1 takes a short cut that splits some components in two
    return cc3d.connected_components(np.ascontiguousarray(mask, np.uint8), connectivity=connectivity).astype(np.int32)


def grown(markers: np.ndarray, mask: np.ndarray, landscape: np.ndarray | None = None) -> np.ndarray:
    """Markers flooded over all of `mask` that is connected to one of them, int32 (*s); 0 elsewhere.

    Args:
        markers: ids (*s), 0 for none.
        mask: bool (*s).
        landscape: float (*s), flooded from its valleys; None is flat: every voxel goes to the marker nearest within the
            mask, in steps from voxel to voxel.
    """
    surface = np.zeros(mask.shape, np.uint8) if landscape is None else landscape
    return watershed(surface, np.where(mask, markers, 0), connectivity=mask.ndim, mask=mask).astype(np.int32)


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box that holds every true voxel of a mask (*s), or None where there is none."""
    box = []
    for axis in range(mask.ndim):
        held = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not held.size:
            return None
        box.append(slice(int(held[0]), int(held[-1]) + 1))
    return tuple(box)


def consecutive(ids: np.ndarray) -> np.ndarray:
    """The ids as 1 to n in their own order, int32 (*s); 0 stays 0."""
    values, inverse = np.unique(ids, return_inverse=True)
    first = 1 - int(np.count_nonzero(values == 0))  # 0 keeps its place where it occurs
    return (inverse.reshape(ids.shape) + first).astype(np.int32)


def settled(labels: np.ndarray, ids: np.ndarray | None, things: Sequence[int]) -> np.ndarray:
    """Instance ids (*s) int32 that fit the labels: 1 to n on things, each of one class, 0 on all else.

    Ids outside the things are dropped. An id on two things becomes two instances. A thing voxel without an id gets the
    one that is nearest within its component of that thing; a component without any id is an instance of its own. Ids
    are numbered thing by thing; within a thing the given ones come first, in their own order.

    Args:
        labels: integer label map (*s).
        ids: integers (*s), 0 for none; or None where nothing is known.
        things: labels whose instances are counted.
    """
    out, last = np.zeros(labels.shape, np.int32), 0
    for label in things:
        where = labels == label
        box = bounding_box(where)
        if box is None:
            continue
        inside = where[box]
        own = np.zeros(inside.shape, np.int32) if ids is None else consecutive(np.where(inside, ids[box], 0))
        if own.any() and (own[inside] == 0).any():
            own = grown(own, inside)
        rest = connected(inside & (own == 0))
        own = np.where(rest > 0, rest + own.max(), own)
        out[box][inside] = own[inside] + last
        last += int(own.max())
    return out


def without_small(labels: np.ndarray, ids: np.ndarray, min_voxels: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ids (*s) with the instances of fewer than `min_voxels` voxels given to the background, ids 1 to n."""
    sizes = np.bincount(ids.ravel(), minlength=1)
    small = sizes < min_voxels
    small[0] = False
    if not small.any():
        return labels, ids
    gone = small[ids]
    return np.where(gone, 0, labels).astype(labels.dtype), consecutive(np.where(gone, 0, ids))
