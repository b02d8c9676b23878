"""Losses that are sums over voxels: cross-entropy, binary cross-entropy, focal loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.losses.inputs import checked_weights, labels_of, voxel_mean, wide


def cross_entropy(
    logits: Tensor, reference: Tensor, *, ignore: Tensor | None = None, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Cross-entropy of the softmax; with class weights, weighted cross-entropy.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing.
        class_weights: k weights, background first; a voxel has the weight of its reference class.

    Returns:
        The weighted mean over voxels; 0 where all are ignored.
    """
    weights, labels = checked_weights(class_weights, logits.shape[1]), labels_of(reference, ignore)
    return voxel_mean(functional.cross_entropy(wide(logits), labels, reduction="none"), labels, ignore, weights)


def log_odds(logits: Tensor) -> Tensor:
    """Log-odds of every structure against all other classes, (b, k, *s) to (b, k - 1, *s).

    Their sigmoid is the softmax probability; for two classes they are the difference of the two logits.
    """
    others = [torch.cat([logits[:, :i], logits[:, i + 1 :]], 1).logsumexp(1) for i in range(1, logits.shape[1])]
    return logits[:, 1:] - torch.stack(others, 1)


def bce(
    logits: Tensor, reference: Tensor, *, ignore: Tensor | None = None, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Binary cross-entropy of every structure against the rest, added up over the structures.

    The binary logit of a structure is its log-odds under the softmax, so that what is trained are the probabilities
    that are predicted; a loss on k independent sigmoids would train others. The gradient with respect to that logit is
    p - y (over the number of voxels), and for two classes the loss is the cross-entropy.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing.
        class_weights: k weights, background first; a voxel has the weight of its reference class.

    Returns:
        The weighted mean over voxels; 0 where all are ignored.
    """
    weights, labels = checked_weights(class_weights, logits.shape[1]), labels_of(reference, ignore)
    odds = log_odds(wide(logits))
    structures = torch.arange(1, logits.shape[1], device=labels.device).reshape(1, -1, *(1,) * (labels.ndim - 1))
    target = (labels[:, None] == structures).to(odds.dtype)
    values = functional.binary_cross_entropy_with_logits(odds, target, reduction="none").sum(1)
    return voxel_mean(values, labels, ignore, weights)


def focal(
    logits: Tensor,
    reference: Tensor,
    *,
    ignore: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss: the cross-entropy of each voxel times (1 - p)^gamma, p being the probability of its class.

    MONAI's is this divided by k (a mean over the channels too) and its gradient is not finite for p = 1 and gamma < 1.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing.
        class_weights: k weights, background first (the paper's alpha); a voxel has the weight of its reference class.
        gamma: 0 is the cross-entropy.

    Returns:
        The weighted mean over voxels; 0 where all are ignored.

    Reference:
        Lin, Goyal, Girshick, He, Dollár, Focal loss for dense object detection, ICCV 2017, eq. 4.
    """
    weights, labels = checked_weights(class_weights, logits.shape[1]), labels_of(reference, ignore)
    nll = functional.cross_entropy(wide(logits), labels, reduction="none")
    missing = (-torch.expm1(-nll)).clamp_min(torch.finfo(nll.dtype).tiny)  # 1 - p, exact near p = 1
    return voxel_mean(missing**gamma * nll, labels, ignore, weights)
