"""From class probabilities and heads to labels and instance ids."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter
from torch import Tensor

from shiftbench.instances.ids import bounding_box, connected, grown, settled, without_small
from shiftbench.tasks import Task

# Of a network trained for minutes on nuclei; with smoothing, results change little between 0.3 and 0.5.
CORE_DISTANCE = 0.4  # relative distance above which a voxel is in the core of an instance
CORE_BOUNDARY = 0.5  # probability of a boundary below which it is
SMOOTHING = 1.0  # voxels, SD of the Gaussian over the heads: speckle would make cores of its own


def decode(log_probabilities: Tensor, heads: Tensor | None, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Labels (*s) uint8, the likeliest class of every voxel, and the instance ids (*s) int32 of its things.

    Args:
        log_probabilities: (k, *s).
        heads: raw outputs (h, *s) of the task's heads; None where a method has none.
        task: the layout.
    """
    labels = log_probabilities.detach().argmax(0).cpu().numpy().astype(np.uint8)
    return separate(labels, None if heads is None else heads.detach().float().cpu().numpy(), task)


def separate(labels: np.ndarray, heads: np.ndarray | None, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Labels (*s) and the instance ids (*s) int32 of their things: 1 to n, each of one class, 0 on all else.

    Markers are the connected cores of a thing, where the distance is large and the boundary improbable. They are
    flooded over the thing: "watershed" along the heads' landscape, "components" at equal pace. A component without any
    core is one instance. Without heads every connected component is one. Instances below `min_voxels` become
    background.

    Args:
        labels: uint8 (*s).
        heads: raw outputs (h, *s) in the order of the task's heads, or None.
        task: the layout.

    Reference:
        Meyer and Beucher, Morphological segmentation, J Vis Commun Image Represent 1, 1990 (markers and watershed).
    """
    ids = None
    if heads is not None and task.heads:
        ids = np.zeros(labels.shape, np.int32)
        for label in task.things:
            where = labels == label
            box = bounding_box(where)
            if box is not None:
                inside = where[box]
                core, landscape = _core_and_landscape(heads[(slice(None), *box)], task)
                flooded = landscape if task.separate == "watershed" else None
                ids[box][inside] = grown(connected(core & inside), inside, flooded)[inside]
    return without_small(labels, settled(labels, ids, task.things), task.min_voxels)


def _core_and_landscape(heads: np.ndarray, task: Task) -> tuple[np.ndarray, np.ndarray]:
    """Where cores of instances are, bool (*s), and a landscape (*s): cores are its valleys, boundaries its ridges."""
    core, landscape = np.ones(heads.shape[1:], bool), np.zeros(heads.shape[1:], np.float32)
    for name, raw in zip(task.heads, heads, strict=True):
        value = gaussian_filter(1 / (1 + np.exp(-np.clip(raw.astype(np.float32), -50, 50))), SMOOTHING)
        core &= value < CORE_BOUNDARY if name == "boundary" else value > CORE_DISTANCE
        landscape += value if name == "boundary" else -value
    return core, landscape
