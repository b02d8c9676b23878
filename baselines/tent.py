"""Tent: test-time entropy minimisation over the scales and shifts of norm layers.

Wang, Shelhamer, Liu, Olshausen, Darrell, Tent: fully test-time adaptation by entropy minimization, ICLR 2021.

Differs from the paper:
    One optimiser step per case, its gradient added up over the case's tiles; a case that needs several tiles has
        the batch statistics of each tile (`approximate_stats`).
    The entropy of predicted foreground and background count one half each (`faithful` takes the plain mean, which the
        background rules).
    Adam at 1e-4 (the paper's 1e-3 is for batches of 200 images).
    `tent_in` trains affine instance norm, which the paper does not have; `tent_bn_episodic` forgets after each case,
        takes 10 steps and predicts after them (the online variants predict before the update, as the paper does).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from shiftbench.api import (
    Access,
    Episode,
    Normalised,
    Prediction,
    Predictor,
    Track,
    balanced_entropy,
    batch_norm_layers,
    copies,
    device_of,
    entropy,
    instance_norm_layers,
    norm_parameters,
    predictor,
    require,
    require_moved,
    tiles,
    train_only_,
    use_batch_statistics_,
)

VERSION = 1


@dataclass(frozen=True)
class Method:
    """Minimises the entropy of its own predictions, case by case, over norm scales and shifts."""

    lr: float = 1e-4
    steps: int = 1  # per case
    faithful: bool = False
    predict_after: bool = False
    track: Track = Track.TTA
    episode: Episode = Episode.ONLINE
    requires: tuple[str, ...] = ("batch_norm",)

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """A predictor that learns from each case it is given."""
        require(model, *self.requires)
        layers = batch_norm_layers(model) if "batch_norm" in self.requires else instance_norm_layers(model)
        use_batch_statistics_(model)
        parameters = train_only_(model, norm_parameters(layers))
        optimiser = torch.optim.Adam(parameters, lr=self.lr)
        loss = mean_entropy if self.faithful else balanced_entropy
        predict = predictor(model)

        def predict_and_learn(image: Tensor) -> Prediction:
            before = None if self.predict_after else predict(image)
            self._learn_(model, image, loss, optimiser, parameters)
            return predict(image) if before is None else before

        return predict_and_learn

    def _learn_(
        self,
        model: Normalised,
        image: Tensor,
        loss: Callable[[Tensor], Tensor],
        optimiser: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
    ) -> None:
        start = copies(parameters)
        for _ in range(self.steps):
            optimiser.zero_grad(set_to_none=True)
            descend(model, image.to(device_of(model)), loss)
            optimiser.step()
        if self.steps and self.lr:
            require_moved(start, parameters)


def mean_entropy(logits: Tensor) -> Tensor:
    """The paper's loss: the plain mean over all positions."""
    return entropy(logits).mean()


def descend(model: Normalised, image: Tensor, loss: Callable[[Tensor], Tensor]) -> float:
    """Adds the gradient of a raw case's loss to the parameters: each tile's, weighted by its size; returns the loss."""
    total, value = sum(tile.numel() for tile in tiles(model, image)), 0.0
    with torch.enable_grad():
        for tile in tiles(model, image):
            part = loss(model(tile)) * (tile.numel() / total)
            part.backward()
            value += float(part.detach())
    return value


VARIANTS = {
    "tent_bn": Method(),
    "tent_in": Method(requires=("instance_norm_affine",)),
    "tent_bn_episodic": Method(steps=10, predict_after=True, episode=Episode.EPISODIC),
}
