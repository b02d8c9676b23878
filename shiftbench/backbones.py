"""The literal table of backbones; importing it does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from shiftbench.errors import SpecError, nearest


@dataclass(frozen=True)
class Backbone:
    """An architecture, an axis of every run.

    Attributes:
        network: "unet" (`shiftbench.networks.UNet`), "monai:NAME" (of monai.networks.nets), "package.module:NAME", or
            "path/to/file.py:NAME": a torch.nn.Module class that is called with `in_channels`, `out_channels` and
            `spatial_dims`, as far as it takes them, and with `arguments`.
        norm: "batch", "instance" (with learnt affine parameters; MONAI's default has none) or "group".
        widths: channels per level; each level but the first halves the resolution.
        convolutions: per level and side.
        stem_stride: 2 halves the resolution before the first level, and the output is brought back at the end.
        up: "transposed" (convolution), "nearest" or "linear" (interpolation, then convolution), or "shuffle"
            (sub-pixel convolution with ICNR initialisation).
        up_kernel: of the transposed convolution; its stride is 2.
        skips: whether the decoder sees the encoder's features.
        residual: a shortcut round the convolutions of a level.
        deep_supervision: how many coarser decoder levels have an output that is trained too.
        dropout: share of the channels that is dropped after each level of the bottleneck and decoder.
        arguments: (name, value) of another network's own keywords.
        multiple: spatial sizes are padded to a multiple of this; needed for other networks, worked out for "unet".
        features: (name, path of a submodule) that methods may ask for: "encoder", "bottleneck", "penultimate", "head".
        version: raised when the same entry builds another network.
    """

    network: str = "unet"
    norm: Literal["batch", "instance", "group"] = "batch"
    widths: tuple[int, ...] = (16, 32, 64, 128)
    convolutions: int = 2
    stem_stride: int = 1
    up: Literal["transposed", "nearest", "linear", "shuffle"] = "transposed"
    up_kernel: int = 2
    skips: bool = True
    residual: bool = False
    deep_supervision: int = 0
    dropout: float = 0.0
    arguments: tuple[tuple[str, object], ...] = ()
    multiple: int | None = None
    features: tuple[tuple[str, str], ...] = ()
    version: int = 1

    @property
    def stride(self) -> int:
        """Spatial sizes are padded to a multiple of this."""
        return self.multiple or self.stem_stride * 2 ** (len(self.widths) - 1)


BACKBONES: dict[str, Backbone] = {
    "unet_bn": Backbone(norm="batch", convolutions=1, stem_stride=2, version=2),
    "unet_in": Backbone(norm="instance", convolutions=1, stem_stride=2, version=2),
    "unet_bn_wide": Backbone(norm="batch", widths=(32, 64, 128, 256, 512), version=2),
    "unet_in_wide": Backbone(norm="instance", widths=(32, 64, 128, 256, 512), version=2),
}


def backbone_named(name: str) -> Backbone:
    """The entry of BACKBONES, or a SpecError with the nearest name."""
    if name not in BACKBONES:
        raise SpecError(f"unknown backbone '{name}'", remedy=nearest(name, BACKBONES))
    return BACKBONES[name]
