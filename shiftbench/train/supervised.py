"""The source recipe: supervised training on labelled cases."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from shiftbench.losses import dice_ce
from shiftbench.networks import Normalised
from shiftbench.train.loop import fit
from shiftbench.train.patches import PatchSampler
from shiftbench.types import LabelledSet, Recipe


def fit_supervised(
    model: Normalised,
    cases: LabelledSet,
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    steps: int | None = None,
    learning_rate: float | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
) -> list[float]:
    """The source recipe: Dice and cross-entropy on class-balanced patches of labelled cases; returns the losses."""
    sampler = PatchSampler(model, cases, recipe, rng)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, references = batch
        return dice_ce(network(images), references, recipe.class_weights)

    return fit(
        model,
        sampler,
        loss,
        steps=recipe.steps if steps is None else steps,
        rng=rng,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        parameters=parameters,
    )
