"""Source-only with another training loss: what a loss does to the robustness of a model that is never adapted.

`erm_ce`, `erm_bce`, `erm_wce`: cross-entropy, binary cross-entropy and cross-entropy weighted by class frequency.
`erm_focal`: Lin, Goyal, Girshick, He, Dollár, Focal loss for dense object detection, ICCV 2017. `erm_dice`: Milletari,
Navab, Ahmadi, V-Net, 3DV 2016. `erm_tversky`: Salehi, Erdogmus, Gholipour, Tversky loss function for image segmentation
using 3D fully convolutional deep networks, MLMI 2017. `erm_dice_boundary`: Kervadec et al., Boundary loss for highly
unbalanced segmentation, MIDL 2019. `erm_dice_hausdorff`: Karimi, Salcudean, Reducing the Hausdorff distance in medical
image segmentation with convolutional neural networks, IEEE Trans. Medical Imaging 39, 2020.

Differs from the paper:
    Network, patches, steps and learning rate are the budget's, the same for every loss; its class weights are not used.
    erm_bce: the binary logit of a structure is its log-odds under the softmax; for one structure it is erm_ce.
    erm_wce: weights are the inverse frequencies in the source's references, to the power `balance`.
    erm_focal: no class weights (the paper's alpha).
    erm_dice: sums of p and y in the denominator, not of their squares; over the whole batch.
    erm_dice_boundary: the weight grows linearly with the steps and Dice keeps its own.
    erm_dice_hausdorff: the weight grows linearly; the paper makes both terms equal after every epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from shiftbench.api import (
    Access,
    Episode,
    LabelledSet,
    LossTerm,
    Normalised,
    Predictor,
    Prepared,
    Recipe,
    Track,
    fit_supervised,
    predictor,
)

VERSION = 1


OPTIONS = {"focal": ("gamma",), "tversky": ("alpha", "beta")}  # fields that a loss takes


@dataclass(frozen=True)
class Method:
    """A source model of its own, trained with `loss` as the budget trains, and used as it is."""

    loss: str = "cross_entropy"
    beside: str = ""  # a second loss, whose weight grows linearly from 0
    final_weight: float = 0.0  # of the second loss, at the last step
    gamma: float = 2.0  # gamma of the focal loss
    alpha: float = 0.3  # alpha of the Tversky loss, false positives
    beta: float = 0.7  # beta of the Tversky loss, false negatives
    balance: float = 0.0  # power of the inverse class frequencies that weight the loss; 0: every voxel alike
    track: Track = Track.DG
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def terms(self) -> tuple[LossTerm, ...]:
        """The training loss."""
        options = tuple((name, getattr(self, name)) for name in OPTIONS.get(self.loss, ()))
        first = LossTerm(self.loss, options=options)
        return (first, LossTerm(self.beside, 0.0, self.final_weight)) if self.beside else (first,)

    def prepare(
        self,
        source: LabelledSet,
        source_val: LabelledSet,
        build: Callable[[], Normalised],
        *,
        recipe: Recipe,
        rng: np.random.Generator,
    ) -> Prepared:
        """The budget's training with this loss."""
        model = build()
        weights = None
        if self.balance:
            weights = balanced_weights(source.references, model.task.classes, self.balance)
        fit_supervised(model, source, replace(recipe, loss=self.terms(), class_weights=weights), rng=rng)
        return Prepared(model)

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The model that `prepare` trained, as it is."""
        return predictor(model)


def balanced_weights(references: Sequence[Tensor], classes: int, power: float) -> tuple[float, ...]:
    """Inverse frequencies to a power, background's 1; a class that no reference has counts as one voxel."""
    counts = sum(torch.bincount(r.flatten().long(), minlength=classes).cpu().double() for r in references)
    frequencies = counts.clamp_min(1.0)
    return tuple(((frequencies[0] / frequencies) ** power).tolist())


VARIANTS = {
    "erm_ce": Method(),
    "erm_bce": Method(loss="bce"),
    "erm_wce": Method(balance=0.5),
    "erm_focal": Method(loss="focal"),
    "erm_dice": Method(loss="dice"),
    "erm_tversky": Method(loss="tversky"),
    "erm_dice_boundary": Method(loss="dice", beside="boundary", final_weight=0.5),
    "erm_dice_hausdorff": Method(loss="dice", beside="hausdorff", final_weight=0.1),
}
