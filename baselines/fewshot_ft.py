"""Fine-tuning of the source model on K labelled target cases.

Karani, Chaitanya, Baumgartner, Konukoglu, A lifelong learning approach to brain MR segmentation across scanners and
protocols, MICCAI 2018 (norm layers from a few labelled volumes); Shirokikh, Zakazov, Chernyavskiy, Fedulova, Belyaev,
First U-Net layers contain more domain specific information than the last ones, DART at MICCAI 2020 (part to train).

Differs from the paper:
    AdamW at 1e-3 with the source recipe's one-cycle schedule; the recipe's few-shot steps, no validation.
    Patches are class-balanced as in the source's training, so that small structures are not forgotten.
    Batch-norm statistics follow the fine-tuning where norm layers are trained ("full", "norm") and stay the source's
        otherwise ("head", "first").
    `fewshot_ft_k5_replay` draws half of every batch from the source's training cases.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shiftbench.api import (
    Access,
    Episode,
    Normalised,
    NotApplicable,
    PatchSampler,
    Predictor,
    Supervised,
    Track,
    batch_norm_layers,
    copies,
    fit,
    norm_layers,
    norm_parameters,
    predictor,
    require_moved,
    train_only_,
)

VERSION = 1
CONVOLUTIONS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Method:
    """Trains all of the source model, or a named part, on K labelled target cases."""

    k: int = 5  # K, labelled target cases
    part: Literal["full", "norm", "head", "first"] = "full"
    lr: float = 1e-3
    steps: int | None = None  # default: the recipe's
    replay: bool = False
    track: Track = Track.FEWSHOT
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The fine-tuned model."""
        if access.fewshot is None or not len(access.fewshot):
            raise NotApplicable("there is no labelled target case", remedy="choose a target with labelled adapt cases")
        parameters = train_only_(model, part_of(model, self.part))
        statistics_follow = self.part in ("full", "norm")
        steps = access.recipe.fewshot_steps if self.steps is None else self.steps
        samplers = self._samplers(model, access, rng)
        supervised = Supervised(samplers[0], access.recipe, steps)

        def loss(network: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
            if not statistics_follow:
                for layer in batch_norm_layers(network):
                    layer.eval()
            return supervised(network, batch)

        before, batches = copies(parameters), _together(samplers)
        fit(model, batches, loss, steps=steps, rng=rng, learning_rate=self.lr, parameters=parameters)
        if steps and self.lr:
            require_moved(before, parameters)
        return predictor(model)

    def _samplers(self, model: Normalised, access: Access, rng: np.random.Generator) -> list[PatchSampler]:
        """The sampler of the labelled target cases and, for replay, that of the source, with half a batch each."""
        if not self.replay:
            return [PatchSampler(model, access.fewshot, access.recipe, rng)]
        if access.source is None:
            raise NotApplicable("there are no source cases to replay")
        half = replace(access.recipe, batch=max(1, access.recipe.batch // 2))
        return [PatchSampler(model, cases, half, rng) for cases in (access.fewshot, access.source)]


def _together(samplers: Sequence[PatchSampler]) -> Iterator[tuple[Tensor, ...]]:
    """Batches of all samplers as one."""
    for batches in zip(*samplers, strict=False):
        yield tuple(torch.cat(parts) for parts in zip(*batches, strict=True))


def part_of(model: Normalised, part: str) -> list[nn.Parameter]:
    """Parameters of the named part: all, norm layers, the last convolution (head) or the first one."""
    convolutions = [m for m in model.modules() if isinstance(m, CONVOLUTIONS)]
    return {
        "full": list(model.parameters()),
        "norm": norm_parameters(norm_layers(model)),
        "head": list(convolutions[-1].parameters()),
        "first": list(convolutions[0].parameters()),
    }[part]


VARIANTS = {
    "fewshot_ft_k1": Method(k=1),
    "fewshot_ft_k5": Method(k=5),
    "fewshot_ft_k5_replay": Method(k=5, replay=True),
}
