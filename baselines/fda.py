"""FDA at test time: the lowest in-plane frequencies take the source's amplitude and keep the image's phase.

Yang, Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020.

Differs from the paper:
    Target to source, on the test image, before a frozen network; the paper trains on source images in the target's
        style, with an entropy term and self-training.
    The amplitude is the mean of all source slices, not that of one random image, and is swapped in every slice of a
        volume alike, so every slice takes the source's mean intensity.
    Images are divided by their own spread (standard deviation per channel) before the swap and multiplied by the
        source's mean spread after it, because MR has no unit: raw values of one hospital differ by factors of
        thousands.
    The band is -b..b on both axes (symmetric, so the result is real; the paper's torch code takes -b..b-1 and drops an
        imaginary part). b = floor(beta * min(h, w)), at least 1; beta = 0 is the identity.
    Frequencies are whole cycles per field of view and amplitudes are per pixel, so images of another matrix size share
        the template; the band is then the smaller of the two. Another field of view is not corrected for.
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
    low_frequency_amplitude,
    low_frequency_width,
    predictor,
    swap_low_frequencies,
)

VERSION = 1
WIDEST = 64  # cycles per field of view that the sidecar holds at most: a template of (c, 129, 129) is 67 kB per channel


@dataclass(frozen=True)
class Method:
    """Gives raw images the source's mean low-frequency amplitude before the frozen network."""

    beta: float = 0.01  # beta, half-width of the band in parts of the smaller side
    track: Track = Track.HARMONISE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def summarise(self, model: Normalised, source: LabelledSet, source_val: LabelledSet) -> Mapping[str, Tensor]:
        """Mean amplitude of the source's slices at the frequencies -b..b, (c, 2b+1, 2b+1), and mean spread (c,)."""
        b = min(WIDEST, *(low_frequency_width(image.shape, self.beta) for image in source.images))
        scaled = [image / spread(image) for image in source.images]
        amplitudes = [low_frequency_amplitude(image, b).flatten(1, -3).mean(1) for image in _stacks(scaled)]
        spreads = torch.stack([spread(image).flatten() for image in source.images])
        return {"amplitude": torch.stack(amplitudes).mean(0), "spread": spreads.mean(0)}

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The frozen network behind the swap."""
        if "amplitude" not in access.sidecar:
            raise NotApplicable("the source's amplitude was not stored", remedy="run the source's training again")
        amplitude, predict = access.sidecar["amplitude"], predictor(model)

        def predict_restyled(image: Tensor) -> Prediction:
            if low_frequency_width(image.shape, self.beta) == 0:
                return predict(image)
            target = access.sidecar["spread"].to(image.device).reshape(-1, *(1,) * (image.ndim - 1))
            return predict(restyled(image / spread(image), amplitude, self.beta) * target)

        return predict_restyled


def spread(image: Tensor) -> Tensor:
    """Standard deviation per channel, (c, 1, ..., 1); 1 where the image is constant."""
    deviation = image.float().std(tuple(range(1, image.ndim)), keepdim=True, correction=0)
    return torch.where(deviation > 0, deviation, torch.ones_like(deviation))


def _stacks(images) -> list[Tensor]:
    """Images (c, h, w) and volumes (c, d, h, w) alike as (c, d, h, w)."""
    return [image.unflatten(1, (1, -1)) if image.ndim == 3 else image for image in images]


def restyled(image: Tensor, amplitude: Tensor, beta: float) -> Tensor:
    """`image` (c, *s) with the amplitude (c, 2b+1, 2b+1) at its lowest in-plane frequencies; itself where beta is 0."""
    b, stored = low_frequency_width(image.shape, beta), amplitude.shape[-1] // 2
    if b == 0:
        return image
    b = min(b, stored)
    middle = amplitude[:, stored - b : stored + b + 1, stored - b : stored + b + 1]
    template = middle if image.ndim == 3 else middle[:, None]  # (c 1 f f), the same for every slice
    return swap_low_frequencies(image, template.to(image.device))


VARIANTS = {"fda_test": Method()}
