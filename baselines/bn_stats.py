"""Batch-norm statistics of the target: prediction-time BN, AdaBN and alpha-BN.

`pred_bn`: Nado, Padhy, Sculley, D'Amour, Lakshminarayanan, Snoek, Evaluating prediction-time batch normalization for
robustness under covariate shift, arXiv 2006.10963, 2020. `adabn`: Li, Wang, Shi, Hou, Liu, Adaptive batch normalization
for practical domain adaptation, Pattern Recognition 80, 2018. `alpha_bn`: You, Li, Zhao, Test-time batch statistics
calibration for covariate shift, arXiv 2110.04065, 2021.

Differs from the paper:
    pred_bn, alpha_bn: a batch is one case (all its slices or windows); the statistics are exact, layer by layer where
        the case does not fit in one pass.
    adabn: `approximate_stats`, one pass over the adapt cases in which deeper layers see inputs normalised case by case;
        `layer_by_layer` is exact and takes one pass per layer.
    alpha_bn: the share of the source, 0.9, is this benchmark's; variances are mixed linearly, as in the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor

from shiftbench.api import (
    Access,
    Episode,
    Normalised,
    NotApplicable,
    Prediction,
    Predictor,
    Track,
    collect_statistics_,
    predictor,
    require,
    require_moved,
    set_statistics_,
    statistics,
)

VERSION = 1


@dataclass(frozen=True)
class Method:
    """Statistics of the case at hand (`pool = "case"`) or of all adapt cases ("target"), mixed with the source's."""

    alpha: float = 0.0  # alpha, share of the source's statistics
    pool: Literal["case", "target"] = "case"
    layer_by_layer: bool = True
    track: Track = Track.TTA
    episode: Episode = Episode.EPISODIC
    requires: tuple[str, ...] = ("batch_norm",)

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The frozen network behind new batch-norm statistics."""
        require(model, *self.requires)
        if self.pool == "target":
            if access.target is None or not len(access.target):
                raise NotApplicable("there are no adapt cases to take statistics from")
            self._collect_(model, access.target.images)
            return predictor(model)
        source, predict = statistics(model), predictor(model)

        def predict_case(image: Tensor) -> Prediction:
            set_statistics_(model, source)
            self._collect_(model, [image])
            return predict(image)

        return predict_case

    def _collect_(self, model: Normalised, images: Sequence[Tensor]) -> None:
        before = [tensor for pair in statistics(model) for tensor in pair]
        collect_statistics_(model, images, keep=self.alpha, layer_by_layer=self.layer_by_layer)
        if self.alpha < 1:
            require_moved(before, [tensor for pair in statistics(model) for tensor in pair])


VARIANTS = {
    "pred_bn": Method(),
    "adabn": Method(pool="target", layer_by_layer=False, track=Track.SFDA, episode=Episode.OFFLINE),
    "alpha_bn": Method(alpha=0.9),
}
