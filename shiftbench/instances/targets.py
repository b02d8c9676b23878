"""What the heads of a task are taught: instance boundaries, and the distance to them."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
import torch
from torch import Tensor

from shiftbench.tasks import Task


def head_targets(reference: Tensor, instances: Tensor, task: Task, *, spacing: Sequence[float] | None = None) -> Tensor:
    """Targets (h, *s), float32 in [0, 1], of the task's heads in their order.

    "boundary" is 1 on the voxels of a thing that share a face with another instance, another structure or the
    background. "distance" is the distance to the next voxel outside the instance, divided by its largest value within
    that instance; 0 outside things. The border of the array is no boundary: what lies beyond it is unknown.

    Args:
        reference: integer labels (*s); a slice for a network that sees slices.
        instances: integer ids (*s), 0 where there is no thing.
        task: the layout; its heads and things.
        spacing: voxel size per axis for the distances; None for voxels.

    Reference:
        Scherr, Löffler, Böhland, Mikut, Cell segmentation and tracking using CNN-based distance predictions and a
        graph-based matching strategy, PLOS ONE 15, 2020 (distance normalised within each cell, markers, watershed);
        Chen, Qi, Yu, Heng, DCAN: deep contour-aware networks, CVPR 2016 (contours beside the class).
    """
    ids = torch.where(on_things(reference, task), instances, torch.zeros_like(instances))
    made = {"boundary": lambda: inner_boundary(ids).float(), "distance": lambda: relative_distance(ids, spacing)}
    return torch.stack([made[name]() for name in task.heads]) if task.heads else ids.new_zeros((0, *ids.shape)).float()


def on_things(reference: Tensor, task: Task) -> Tensor:
    """Where labels of any shape are those of things, bool."""
    where = torch.zeros_like(reference, dtype=torch.bool)
    for label in task.things:
        where |= reference == label
    return where


def inner_boundary(ids: Tensor) -> Tensor:
    """Voxels of an instance (*s) that share a face with something else, bool (*s)."""
    edge = torch.zeros_like(ids, dtype=torch.bool)
    for axis, n in enumerate(ids.shape):
        differs = ids.narrow(axis, 1, n - 1) != ids.narrow(axis, 0, n - 1)
        edge.narrow(axis, 0, n - 1).logical_or_(differs)
        edge.narrow(axis, 1, n - 1).logical_or_(differs)
    return edge & (ids > 0)


def relative_distance(ids: Tensor, spacing: Sequence[float] | None = None) -> Tensor:
    """Distance to the next voxel of something else over its maximum within the instance, float32 (*s); 0 outside.

    An instance that fills the whole array has no boundary in it and is 1 throughout.
    """
    labels = np.ascontiguousarray(ids.cpu().numpy().astype(np.int32))
    distance = edt.edt(labels, anisotropy=tuple(spacing or (1.0,) * labels.ndim), black_border=False, parallel=1)
    distance = np.where(np.isfinite(distance), distance, 1.0)
    most = np.zeros(int(labels.max(initial=0)) + 1, np.float32)
    np.maximum.at(most, labels, distance)
    relative = np.where(labels > 0, distance / np.maximum(most, 1e-12)[labels], 0.0)
    return torch.from_numpy(relative.astype(np.float32)).to(ids.device)
