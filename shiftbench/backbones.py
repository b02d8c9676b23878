"""The literal table of backbones; importing it does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from shiftbench.errors import SpecError, nearest


@dataclass(frozen=True)
class Backbone:
    """An architecture, an axis of every run.

    Attributes:
        norm: "batch", or "instance" (with learnt affine parameters; MONAI's default has none).
        widths: channels per level; each level but the first halves the resolution.
        version: raised when the same entry builds another network.
    """

    norm: str
    widths: tuple[int, ...] = (16, 32, 64, 128)
    version: int = 1

    @property
    def stride(self) -> int:
        """Spatial sizes are padded to a multiple of this."""
        return 2 ** (len(self.widths) - 1)


BACKBONES: dict[str, Backbone] = {
    "unet_bn": Backbone("batch"),
    "unet_in": Backbone("instance"),
    "unet_bn_wide": Backbone("batch", (32, 64, 128, 256, 512)),
    "unet_in_wide": Backbone("instance", (32, 64, 128, 256, 512)),
}


def backbone_named(name: str) -> Backbone:
    """The entry of BACKBONES, or a SpecError with the nearest name."""
    if name not in BACKBONES:
        raise SpecError(f"unknown backbone '{name}'", remedy=nearest(name, BACKBONES))
    return BACKBONES[name]
