"""The literal table of backbones; importing it does not import torch."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
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
        activation: "leaky_relu" (slope 0.01), or "prelu" (a learnt slope per layer).
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
    activation: Literal["leaky_relu", "prelu"] = "leaky_relu"
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


LIGHT = Backbone(
    activation="prelu", convolutions=1, stem_stride=2, version=2
)  # what quick budgets train (benchmarks/backbones.py)
WIDE = Backbone(widths=(32, 64, 128, 256, 512), version=2)
DYNUNET = Backbone(
    network="monai:DynUNet",
    arguments=(
        ("kernel_size", (3, 3, 3, 3)),
        ("strides", (1, 2, 2, 2)),
        ("upsample_kernel_size", (2, 2, 2)),
        ("filters", (16, 32, 64, 128)),
        ("norm_name", ("instance", {"affine": True})),
    ),
    multiple=8,
    features=(
        ("encoder", "downsamples.1"),
        ("bottleneck", "bottleneck"),
        ("penultimate", "upsamples.2"),
        ("head", "output_block"),
    ),
)

BACKBONES: dict[str, Backbone] = {
    "unet_bn": LIGHT,
    "unet_in": replace(LIGHT, norm="instance"),
    "unet_gn": replace(LIGHT, norm="group"),
    "unet_bn_leaky": replace(LIGHT, activation="leaky_relu"),
    "unet_bn_noskip": replace(LIGHT, skips=False),
    "unet_bn_residual": replace(LIGHT, residual=True),
    "unet_bn_double": replace(LIGHT, convolutions=2),
    "unet_bn_nearest": replace(LIGHT, up="nearest"),
    "unet_bn_linear": replace(LIGHT, up="linear"),
    "unet_bn_shuffle": replace(LIGHT, up="shuffle"),
    "unet_bn_up3": replace(LIGHT, up_kernel=3),
    "unet_bn_up4": replace(LIGHT, up_kernel=4),
    "unet_bn_deep": replace(LIGHT, deep_supervision=2),
    "unet_bn_dropout": replace(LIGHT, dropout=0.1),
    "unet_bn_wide": WIDE,
    "unet_in_wide": replace(WIDE, norm="instance"),
    "monai_unet_bn": Backbone(
        network="monai:UNet",
        arguments=(
            ("channels", (16, 32, 64, 128)),
            ("strides", (2, 2, 2)),
            ("num_res_units", 0),
            ("norm", "batch"),
        ),
        multiple=8,
        features=(("bottleneck", "model.1.submodule.1.submodule.1.submodule"), ("head", "model.2")),
    ),
    "dynunet_in": DYNUNET,
    "dynunet_in_deep": replace(
        DYNUNET, arguments=(*DYNUNET.arguments, ("deep_supervision", True), ("deep_supr_num", 2))
    ),
    "segresnet_gn": Backbone(
        network="monai:SegResNet",
        arguments=(("init_filters", 16),),
        multiple=8,
        features=(
            ("encoder", "down_layers.2"),
            ("bottleneck", "down_layers.3"),
            ("penultimate", "up_layers.2"),
            ("head", "conv_final"),
        ),
    ),
    "swinunetr": Backbone(
        network="monai:SwinUNETR",
        arguments=(("feature_size", 24),),
        multiple=32,
        features=(("bottleneck", "encoder10"), ("penultimate", "decoder1"), ("head", "out")),
    ),
}


def backbone_named(name: str) -> Backbone:
    """The entry of BACKBONES, or a SpecError with the nearest name."""
    if name not in BACKBONES:
        raise SpecError(f"unknown backbone '{name}'", remedy=nearest(name, BACKBONES))
    return BACKBONES[name]


def fingerprint(backbone: Backbone) -> str:
    """SHA-256 (hex) of the file that defines another network, "" for "unet" and MONAI's; found without importing it.

    A key of what is trained holds this, so that editing one's own network trains it again; library versions are
    recorded and not keyed.

    Raises:
        SpecError: there is no such file or module.
    """
    place, _, _ = backbone.network.rpartition(":")
    if place in ("", "monai"):
        return ""
    path = Path(place) if place.endswith(".py") else _source(place)
    if not path.is_file():
        raise SpecError("no such file of a backbone", where=path, remedy="check the path")
    return sha256(path.read_bytes()).hexdigest()


def _source(module: str) -> Path:
    """File of a module; only its top-level package is looked up, and nothing of it is run."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        raise SpecError(f"there is no module '{top}' for the backbone", remedy="install it, or give a path to a file")
    if not rest:
        return Path(found.origin)
    inside = Path(found.origin).parent.joinpath(*rest)
    return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")
