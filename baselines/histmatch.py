"""Histogram matching inside the body to the mean quantile function of the source images.

Nyúl, Udupa, On standardizing the MR image intensity scale, Magnetic Resonance in Medicine 42, 1999 (with landmarks);
here with every quantile: one-dimensional optimal transport onto the Wasserstein-2 barycentre of the source's histograms
(Rabin, Peyré, Delon, Bernot, Wasserstein barycenter and its application to texture mixing, SSVM 2011).

Differs from the paper:
    The network is not trained on matched images (`B_testonly`): only the test image is mapped.
    Matching is inside a label-free body mask (Otsu), since the size of the body changes a whole image's histogram;
        outside it the image stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shiftbench.api import (
    Access,
    Episode,
    LabelledSet,
    Normalised,
    NotApplicable,
    Prediction,
    Predictor,
    Track,
    body_mask,
    match_quantiles,
    predictor,
    quantile_function,
)

VERSION = 1


@dataclass(frozen=True)
class Method:
    """Maps raw images to the source's intensities, channel by channel, before the frozen network."""

    track: Track = Track.HARMONISE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def summarise(self, model: Normalised, source: LabelledSet, source_val: LabelledSet) -> Mapping[str, Tensor]:
        """Mean quantile function of the source images inside the body, (c, 1024)."""
        return {"quantiles": torch.stack([body_quantiles(image) for image in source.images]).mean(0)}

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The frozen network behind the matching."""
        if "quantiles" not in access.sidecar:
            raise NotApplicable(
                "the source's quantile function was not stored", remedy="run the source's training again"
            )
        quantiles, predict = access.sidecar["quantiles"], predictor(model)

        def predict_matched(image: Tensor) -> Prediction:
            return predict(matched(image, quantiles))

        return predict_matched


def body_quantiles(image: Tensor) -> Tensor:
    """Quantile function of each channel of (c, *s) inside the body, (c, 1024)."""
    mask = body_mask(image)
    return torch.stack([quantile_function(channel[mask]) for channel in image])


def matched(image: Tensor, quantiles: Tensor) -> Tensor:
    """`image` (c, *s) with the intensities inside the body on `quantiles` (c, n); the background stays."""
    mask, out = body_mask(image), image.clone()
    for channel, goal in zip(out, quantiles, strict=True):
        channel[mask] = match_quantiles(channel[mask], goal)
    return out


VARIANTS = {"histmatch": Method()}
