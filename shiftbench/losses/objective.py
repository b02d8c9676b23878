"""The table of losses, and weighted sums of them whose weights change in the course of training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shiftbench.losses.overlap import dice, tversky
from shiftbench.losses.surface import boundary, hausdorff
from shiftbench.losses.terms import check_terms
from shiftbench.losses.voxel import bce, cross_entropy, focal
from shiftbench.types import LossTerm


def dice_ce(
    logits: Tensor, reference: Tensor, class_weights: Sequence[float] | None = None, *, ignore: Tensor | None = None
) -> Tensor:
    """Cross-entropy plus soft Dice over the batch's structures; `class_weights` are those of the cross-entropy alone.

    The two terms "cross_entropy" and "dice" of an Objective weight both.
    """
    ce = cross_entropy(logits, reference, ignore=ignore, class_weights=class_weights)
    return ce + dice(logits, reference, ignore=ignore)


def dice_focal(
    logits: Tensor,
    reference: Tensor,
    *,
    ignore: Tensor | None = None,
    class_weights: Sequence[float] | None = None,
    gamma: float = 2.0,
) -> Tensor:
    """Focal loss plus soft Dice over the batch's structures; `class_weights` are those of the focal loss alone."""
    by_voxel = focal(logits, reference, ignore=ignore, class_weights=class_weights, gamma=gamma)
    return by_voxel + dice(logits, reference, ignore=ignore)


LOSSES: Mapping[str, Callable[..., Tensor]] = {
    "cross_entropy": cross_entropy,
    "bce": bce,
    "focal": focal,
    "dice": dice,
    "tversky": tversky,
    "boundary": boundary,
    "hausdorff": hausdorff,
    "dice_ce": dice_ce,
    "dice_focal": dice_focal,
}


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses.

    Attributes:
        terms: weight of each from the first step to the last, linear between.
        class_weights: given to every term; background first.

    Raises:
        SpecError: an unknown loss or option, or a weight that is no finite number of zero or more.
    """

    terms: Sequence[LossTerm]
    class_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        check_terms(self.terms)

    def weights(self, progress: float) -> tuple[float, ...]:
        """Weight of every term after a share of the training.

        Raises:
            ValueError: `progress` is not in [0, 1].
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is {progress}; it goes from 0 to 1")
        return tuple(
            t.weight if t.final_weight is None else (1 - progress) * t.weight + progress * t.final_weight
            for t in self.terms
        )

    def __call__(
        self, logits: Tensor, reference: Tensor, *, ignore: Tensor | None = None, progress: float = 0.0
    ) -> Tensor:
        """The sum (scalar); terms whose weight is 0 are not computed.

        Args:
            logits: (b, k, *s).
            reference: integer labels (b, *s).
            ignore: bool (b, *s), voxels that count nothing.
            progress: share of the training that is done, in [0, 1].
        """
        parts = [
            weight
            * LOSSES[term.name](
                logits, reference, ignore=ignore, class_weights=self.class_weights, **dict(term.options)
            )
            for term, weight in zip(self.terms, self.weights(progress), strict=True)
            if weight
        ]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]
