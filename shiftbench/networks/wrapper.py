"""The wrapper that carries the source's normalisation and the layout of the outputs with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shiftbench.tasks import Task


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


class Outputs(NamedTuple):
    """What a network says of a batch of tiles (b, c, *s).

    Attributes:
        classes: class logits (b, k, *s).
        heads: raw outputs of the task's heads (b, h, *s); h is 0 for semantic tasks.
        deep: outputs (b, k + h, *s') of coarser decoder levels, finest first; only while training, and only from
            networks with deep supervision.
    """

    classes: Tensor
    heads: Tensor
    deep: tuple[Tensor, ...] = ()


class Normalised(nn.Module):
    """A network together with the normalisation it was trained behind.

    `normalise` takes one raw case (c, *s). `forward` and `outputs` take a batch of normalised tiles (b, c, *s); the
    tiles of a 2.5-D network hold `stack` neighbouring slices as channels, channel by channel (c * stack).

    Args:
        network: takes (b, c * stack, *s); returns (b, k + h, *s), or a sequence of such tensors with the finest first
            (deep supervision), or one tensor (b, levels, k + h, *s) as MONAI's DynUNet does.
        normalise: raw units to network input.
        dimension: of the network, 2 or 3.
        patch: spatial size of a training patch.
        stride: spatial sizes are padded to a multiple of this.
        task: layout of the output channels.
        stack: slices per tile, odd; 1 for 2-D and 3-D networks.
        features: name to path of a submodule, for `shiftbench.blocks.features`.
    """

    def __init__(
        self,
        network: nn.Module,
        normalise: Normalise,
        *,
        dimension: int,
        patch: tuple[int, ...],
        stride: int,
        task: Task,
        stack: int = 1,
        features: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.network, self.normalise = network, normalise
        self.dimension, self.patch, self.stride, self.stack = dimension, patch, stride, stack
        self.task, self.features = task, dict(features or {})

    def forward(self, tiles: Tensor) -> Tensor:
        """Class logits (b, k, *s) of normalised tiles (b, c, *s)."""
        return self.outputs(tiles).classes

    def outputs(self, tiles: Tensor) -> Outputs:
        """Class logits and heads of normalised tiles (b, c, *s)."""
        levels = _levels(self.network(tiles), tiles.ndim)
        k = self.task.classes
        return Outputs(levels[0][:, :k], levels[0][:, k:], tuple(levels[1:]))


def _levels(raw: Tensor | Sequence[Tensor], ndim: int) -> Sequence[Tensor]:
    """The network's output levels, finest first, without the metadata that MONAI's tensors carry along."""
    levels = (raw.unbind(1) if raw.ndim > ndim else (raw,)) if isinstance(raw, Tensor) else tuple(raw)
    # A MetaTensor is known by its method: where nothing has imported MONAI, which takes seconds, there is none.
    return tuple(level.as_tensor() if hasattr(level, "as_tensor") else level for level in levels)
