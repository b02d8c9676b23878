"""U-Nets with a chosen norm, and the wrapper that carries the source's normalisation with the weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from monai.networks.nets import UNet
from torch import Tensor, nn

from shiftbench.backbones import backbone_named
from shiftbench.rng import generator

NORMS = {"batch": ("batch", {}), "instance": ("instance", {"affine": True})}


@dataclass(frozen=True)
class Normalise:
    """Source recipe's map from raw units to network input, over the whole case and before tiling.

    `zscore`: clip to the 0.5 and 99.5 percentiles, then zero mean and unit variance, per channel (a constant channel
    becomes zeros). `window`: a fixed window of raw units mapped to [-1, 1] (CT).
    """

    kind: str = "zscore"
    window: tuple[float, float] = (-160.0, 240.0)

    def __call__(self, image: Tensor) -> Tensor:
        """Network input for one raw case, (c, *s) to (c, *s)."""
        if self.kind == "window":
            bottom, top = self.window
            return (image.clamp(bottom, top) - bottom) * (2.0 / (top - bottom)) - 1.0
        flat = image.reshape(image.shape[0], -1)
        low, high = percentiles(flat, 0.5), percentiles(flat, 99.5)
        clipped = flat.clamp(low[:, None], high[:, None])
        centred = clipped - clipped.mean(1, keepdim=True)
        spread = clipped.std(1, keepdim=True, correction=0)
        scaled = torch.where(spread > 1e-12, centred / spread.clamp_min(1e-12), torch.zeros_like(centred))
        return scaled.reshape(image.shape)


def percentiles(flat: Tensor, q: float) -> Tensor:
    """q-th percentile (nearest rank) of each row of (c, n); exact for any n, where torch.quantile stops at 2**24."""
    n = flat.shape[1]
    return flat.kthvalue(min(n, max(1, round(q / 100 * (n - 1)) + 1)), dim=1).values


class Normalised(nn.Module):
    """A network together with the normalisation it was trained behind.

    `forward` takes a batch of normalised tiles (b, c, *s); `normalise` takes one raw case (c, *s).
    """

    def __init__(
        self, network: nn.Module, normalise: Normalise, *, dimension: int, patch: tuple[int, ...], stride: int
    ):
        super().__init__()
        self.network, self.normalise = network, normalise
        self.dimension, self.patch, self.stride = dimension, patch, stride

    def forward(self, tiles: Tensor) -> Tensor:
        """Logits (b, k, *s) of normalised tiles (b, c, *s)."""
        return self.network(tiles)


def build(
    backbone: str,
    *,
    dimension: int,
    channels: int,
    classes: int,
    normalise: Normalise,
    patch: tuple[int, ...],
    rng: np.random.Generator | None = None,
) -> Normalised:
    """An untrained backbone whose weights depend on `rng` alone (default: a fixed draw)."""
    spec = backbone_named(backbone)
    rng = rng if rng is not None else generator(0, "build", backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        network = UNet(
            spatial_dims=dimension,
            in_channels=channels,
            out_channels=classes,
            channels=spec.widths,
            strides=(2,) * (len(spec.widths) - 1),
            num_res_units=0,
            norm=NORMS[spec.norm],
        )
    if dimension == 2:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # about twice as fast on a CPU
    return Normalised(network, normalise, dimension=dimension, patch=patch, stride=spec.stride)
