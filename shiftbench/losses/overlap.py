"""Losses of the overlap of a whole batch: soft Dice and Tversky."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from shiftbench.losses.inputs import labels_of, one_hot, structure_mean, wide

SMOOTH = 1e-5  # added to numerator and denominator: a structure that nobody sees has loss 0


def _probabilities(logits: Tensor, reference: Tensor, ignore: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax and reference of the structures, both (b, k - 1, *s) and 0 where ignored."""
    p = wide(logits).softmax(1)
    y = one_hot(labels_of(reference, ignore), p.shape[1], p.dtype)
    if ignore is not None:  # the reference is background there already
        p = p.masked_fill(ignore[:, None], 0.0)
    return p[:, 1:], y[:, 1:]


def dice(
    logits: Tensor, reference: Tensor, *, ignore: Tensor | None = None, class_weights: Sequence[float] | None = None
) -> Tensor:
    """Soft Dice loss: 1 - 2 sum(p y) / (sum p + sum y) per structure, over all voxels of the batch.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing.
        class_weights: k weights, background first; relative weights of the structures (the background's is not used).

    Returns:
        The mean over structures. One that the batch does not have costs nearly 1 as long as it is predicted, and 0 when
        it is not predicted at all.

    Reference:
        Milletari, Navab, Ahmadi, V-Net, 3DV 2016, with sums in place of sums of squares.
    """
    p, y = _probabilities(logits, reference, ignore)
    axes = [0, *range(2, p.ndim)]
    # In the order of MONAI's DiceLoss, whose bits these are; to import that takes longer than a few-shot fine-tuning.
    hit = (p * y).sum(axes)
    false_positive, false_negative = (p.sum(axes) - hit) * 0.5, (y.sum(axes) - hit) * 0.5
    each = 1 - (2 * hit + SMOOTH) / (2 * (hit + false_positive + false_negative) + SMOOTH)
    return structure_mean(each, class_weights)


def tversky(
    logits: Tensor,
    reference: Tensor,
    *,
    ignore: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    alpha: float = 0.3,
    beta: float = 0.7,
) -> Tensor:
    """Tversky loss: 1 - TP / (TP + alpha FP + beta FN) per structure, soft counts over all voxels of the batch.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        ignore: bool (b, *s), voxels that count nothing.
        class_weights: k weights, background first; relative weights of the structures (the background's is not used).
        alpha: weight of false positives.
        beta: weight of false negatives; above alpha it favours recall. Both 1/2: the soft Dice loss.

    Returns:
        The mean over structures. One that the batch does not have costs nearly 1 as long as it is predicted, and 0 when
        it is not predicted at all.

    Reference:
        Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation using 3D fully convolutional deep
        networks, MLMI 2017.
    """
    from monai.losses import TverskyLoss  # seconds to import, which a process without this loss is spared

    p, y = _probabilities(logits, reference, ignore)
    loss = TverskyLoss(batch=True, reduction="none", alpha=alpha, beta=beta, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    return structure_mean(loss(p, y).flatten(), class_weights)
