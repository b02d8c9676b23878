"""Two label maps counted together once: how many voxels of each structure they share, and where it lies."""

from __future__ import annotations

from functools import reduce

import numpy as np
from scipy import ndimage

from shiftbench.metrics.distances import bounding_box
from shiftbench.metrics.overlap import Counts

BLOCK = 1 << 20  # voxels that are counted at once, which need 8 bytes each

Box = tuple[slice, ...]


def label_fault(labels: np.ndarray, n_structures: int) -> str:
    """What keeps `labels` from being a map of 0 to n_structures, or an empty string."""
    if labels.ndim not in (2, 3):
        return f"has {labels.ndim} dimensions; a label map has 2 or 3"
    if not labels.size:
        return f"has the shape {labels.shape}, without a voxel"
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        return f"has values of type {labels.dtype}; labels are integers"
    if labels.min() < 0 or labels.max() > n_structures:
        return f"has labels from {labels.min()} to {labels.max()}; known: 0 to {n_structures}"
    return ""


def id_fault(ids: np.ndarray, labels: np.ndarray, things: tuple[int, ...]) -> str:
    """What keeps `ids` from being the instances of the things of a label map (*s), or an empty string."""
    if ids.shape != labels.shape:
        return f"have the shape {ids.shape}; the labels have {labels.shape}"
    if not np.issubdtype(ids.dtype, np.integer):
        return f"are of type {ids.dtype}; ids are integers"
    if ids.min() < 0:
        return f"hold {ids.min()}; ids are 0 or more"
    seen: dict[int, int] = {}
    for label in things:
        for i in np.unique(ids[labels == label]).tolist():
            if i and seen.setdefault(i, label) != label:
                return f"overlap: {i} is an instance of label {seen[i]} and of label {label}"
    return ""


def counted(labels: np.ndarray, reference: np.ndarray, n_structures: int) -> tuple[list[Counts], list[Box]]:
    """Voxels of each label from 0 to n_structures, and the box around its union in both maps (*s)."""
    values = n_structures + 1
    smallest = np.min_scalar_type(values**2 - 1)
    joint = labels.astype(smallest)
    joint *= smallest.type(values)
    joint += reference.astype(smallest, copy=False)
    box = bounding_box(joint)
    joint = joint[box]
    table = _confusion(joint, values)
    boxes = ndimage.find_objects(joint, values**2 - 1) if joint.size else [None] * (values**2 - 1)
    pairs = np.arange(values**2).reshape(values, values) - 1  # of labels, as `boxes` counts them
    counts = [Counts(*map(int, (table[i, i], table[i].sum(), table[:, i].sum()))) for i in range(values)]
    unions = [_union([boxes[pair] for pair in {*pairs[i], *pairs[:, i]} if pair >= 0]) for i in range(values)]
    return counts, [_shifted(union, box) for union in unions]


def union(first: Box, second: Box) -> Box:
    """The smallest box around two."""
    return tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(first, second, strict=True))


def _confusion(joint: np.ndarray, values: int) -> np.ndarray:
    """Voxels per pair of labels (prediction, reference), counted in blocks so that few are widened at once."""
    counts = np.zeros(values**2, np.int64)
    step = max(1, BLOCK // max(1, joint[:1].size))
    for start in range(0, len(joint), step):
        counts += np.bincount(joint[start : start + step].ravel(order="K"), minlength=values**2)
    return counts.reshape(values, values)


def _union(boxes: list[Box | None]) -> Box:
    filled = [box for box in boxes if box is not None]
    return reduce(union, filled) if filled else ()


def _shifted(box: Box, by: Box) -> Box:
    return tuple(slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, by, strict=True)) if box else ()
