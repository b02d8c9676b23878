"""Training losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DiceLoss
from torch import Tensor
from torch.nn import functional


def dice_ce(logits: Tensor, reference: Tensor, class_weights: Sequence[float] | None = None) -> Tensor:
    """Cross-entropy (weighted) plus soft Dice over the batch's foreground classes.

    Args:
        logits: (b, k, *s).
        reference: integer labels (b, *s).
        class_weights: k weights of the cross-entropy, background first.

    Returns:
        Scalar. A class absent from the batch's reference and prediction adds nothing to the Dice part's gradient.
    """
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
    ce = functional.cross_entropy(logits, reference.long(), weight=weights)
    dice = DiceLoss(
        include_background=False, softmax=True, to_onehot_y=True, batch=True, smooth_nr=1e-5, smooth_dr=1e-5
    )
    return ce + dice(logits, reference[:, None].long())
