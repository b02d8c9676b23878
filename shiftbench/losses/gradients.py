"""Which voxels a loss learns from: their share of the gradient with respect to the logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def background_gradient_share(
    loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, reference: Tensor, *, ignore: Tensor | None = None
) -> float | None:
    """Share of sum |dL/dlogits| that voxels of the background hold.

    For a log during training, on a batch that the step has computed already: the network is not run again, and no
    parameter's gradient is touched.

    Args:
        loss: scalar of logits and reference, an Objective for example.
        logits: (b, k, *s), with or without a graph behind them.
        reference: integer labels (b, *s); 0 is the background.
        ignore: bool (b, *s), voxels that are not counted.

    Returns:
        A value in [0, 1]; None where no voxel has a gradient.
    """
    leaf = logits.detach().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(leaf, reference), leaf)
    size = gradient.double().abs().sum(1)
    if ignore is not None:
        size = size.masked_fill(ignore, 0.0)
    total, background = torch.stack([size.sum(), size.masked_fill(reference != 0, 0.0).sum()]).tolist()
    return background / total if total > 0 else None
