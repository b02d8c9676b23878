"""The loss of a task's heads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.instances.targets import on_things
from shiftbench.tasks import Task

SMALL_ERROR = 0.1  # of a distance in [0, 1]: below it the smooth L1 loss is quadratic


def head_loss(heads: Tensor, targets: Tensor, reference: Tensor, task: Task, *, ignore: Tensor | None = None) -> Tensor:
    """Sum of the losses of the task's heads, a scalar; 0 for a task without heads.

    Boundary: binary cross-entropy of the logit, averaged over boundaries, the rest of the things, and all else.
    Distance: smooth L1 of the sigmoid, averaged over things and all else. The averages weigh the same, so that neither
    thin boundaries nor rare things drown in the background; a batch that lacks one of them has that part 0.

    Args:
        heads: raw outputs (b, h, *s).
        targets: (b, h, *s) of `head_targets`.
        reference: integer labels (b, *s).
        task: the layout; its heads and things.
        ignore: bool (b, *s), voxels that train nothing; None for none.

    Reference:
        Xie and Tu, Holistically-nested edge detection, ICCV 2015 (class-balanced cross-entropy of edges); Scherr et
        al., PLOS ONE 15, 2020 (smooth L1 of distances).
    """
    things = on_things(reference, task)
    rest = ~things if ignore is None else ~(things | ignore)
    things = things if ignore is None else things & ~ignore
    total = heads.new_zeros((), dtype=torch.float32)
    for i, name in enumerate(task.heads):
        output, target = heads[:, i].float(), targets[:, i].float()
        if name == "boundary":
            error = functional.binary_cross_entropy_with_logits(output, target, reduction="none")
            edge = things & (target > 0.5)
            total = total + _balanced(error, (edge, things & ~edge, rest))
        else:
            error = functional.smooth_l1_loss(output.sigmoid(), target, reduction="none", beta=SMALL_ERROR)
            total = total + _balanced(error, (things, rest))
    return total


def _balanced(error: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Mean over the parts (bool masks) of the mean error in each."""
    means = [(error * part).sum() / part.sum().clamp_min(1) for part in parts]
    return torch.stack(means).mean()
