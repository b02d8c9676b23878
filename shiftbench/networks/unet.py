"""One U-Net for 2-D, 2.5-D and 3-D, with the choices that ablations compare."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from shiftbench.backbones import Backbone
from shiftbench.errors import SpecError
from shiftbench.networks.upsample import CONVOLUTION, linear_interpolation, upsampling

NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}
DROPOUT: dict[int, type[nn.Module]] = {2: nn.Dropout2d, 3: nn.Dropout3d}
GROUPS = 8  # of a group norm, or the largest power of two below it that divides the channels
SLOPE = 0.01  # of the leaky ReLU


class Level(nn.Module):
    """Convolutions of kernel 3 with norm and activation; the first may halve the resolution.

    A residual level adds its input (through a strided convolution of kernel 1 where the shapes differ) before the last
    activation (He et al., CVPR 2016).
    """

    def __init__(self, spec: Backbone, dimension: int, inputs: int, width: int, *, stride: int = 1, dropout: float = 0):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(spec.convolutions):
            of, step = (inputs, stride) if i == 0 else (width, 1)
            layers += [activation(spec.activation)] if i else []
            layers += [CONVOLUTION[dimension](of, width, 3, stride=step, padding=1), norm(spec.norm, dimension, width)]
        self.body = nn.Sequential(*layers)
        self.shortcut: nn.Module | None = None
        if spec.residual:
            same = inputs == width and stride == 1
            self.shortcut = nn.Identity() if same else CONVOLUTION[dimension](inputs, width, 1, stride=stride)
        self.activation = activation(spec.activation)
        self.dropout = DROPOUT[dimension](dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.shortcut is not None:
            y = y + self.shortcut(x)
        return self.dropout(self.activation(y))


def norm(kind: str, dimension: int, width: int) -> nn.Module:
    """A norm layer with learnt scale and shift."""
    if kind == "group":
        return nn.GroupNorm(math.gcd(GROUPS, width), width)
    return NORM[kind][dimension](width, affine=True)


def activation(kind: str) -> nn.Module:
    """Leaky ReLU, which works in place, or PReLU with one learnt slope, which keeps its input beside its output."""
    return nn.PReLU() if kind == "prelu" else nn.LeakyReLU(SLOPE, inplace=True)


class UNet(nn.Module):
    """Encoder, bottleneck and decoder with skip connections.

    `encoder[i]` is level i from the finest; `up` and `decoder` run from the coarsest to the finest, as data flows;
    `deep` holds the outputs of coarser decoder levels, the finest of them first.

    Args:
        spec: its choices.
        dimension: 2 or 3.
        channels: of the input.
        outputs: channels of the output.

    Raises:
        SpecError: choices that do not fit together.

    Reference:
        Ronneberger, Fischer, Brox, U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015;
        Çiçek et al., 3D U-Net, MICCAI 2016; deep supervision: Lee et al., Deeply-supervised nets, AISTATS 2015.
    """

    def __init__(self, spec: Backbone, *, dimension: int, channels: int, outputs: int):
        super().__init__()
        _check(spec)
        self.spec, widths = spec, spec.widths
        finer_first = list(zip(widths[:-1], widths[1:], strict=True))
        ups = {"dimension": dimension, "kernel": spec.up_kernel}

        def level(inputs: int, width: int, stride: int = 1, dropout: float = 0.0) -> Level:
            return Level(spec, dimension, inputs, width, stride=stride, dropout=dropout)

        self.encoder = nn.ModuleList([level(channels, widths[0], spec.stem_stride)])
        self.encoder.extend(level(fine, coarse, 2) for fine, coarse in finer_first[:-1])
        self.bottleneck = level(widths[-2], widths[-1], 2, spec.dropout)
        self.up = nn.ModuleList(upsampling(spec.up, coarse, fine, **ups) for fine, coarse in reversed(finer_first))
        self.decoder = nn.ModuleList(
            level((1 + spec.skips) * fine, fine, dropout=spec.dropout) for fine, _ in reversed(finer_first)
        )
        point = CONVOLUTION[dimension]
        self.deep = nn.ModuleList(point(widths[i], outputs, 1) for i in range(1, 1 + spec.deep_supervision))
        self.head = _head(dimension, widths[0], outputs, spec.stem_stride)

    @property
    def features(self) -> dict[str, str]:
        """Name to path of what methods may ask for; "encoder" is the level before the bottleneck."""
        coarsest, finest = len(self.encoder) - 1, len(self.decoder) - 1
        return {
            "encoder": f"encoder.{coarsest}",
            "bottleneck": "bottleneck",
            "penultimate": f"decoder.{finest}",
            "head": "head",
        }

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Output (b, o, *s) of a batch (b, c, *s) whose spatial sizes are multiples of the stride.

        While training with deep supervision: a list of outputs, the finest first.
        """
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        x, coarse = self.bottleneck(x), []
        for up, level in zip(self.up, self.decoder, strict=True):
            skip, x = skips.pop(), up(x)
            x = level(torch.cat([skip, x], 1) if self.spec.skips else x)
            coarse.append(x)
        out = self.head(x)
        if not (self.training and self.deep):
            return out
        return [out, *(head(y) for head, y in zip(self.deep, reversed(coarse[:-1]), strict=False))]


def _head(dimension: int, inputs: int, outputs: int, stem_stride: int) -> nn.Module:
    """A convolution of kernel 1; after a stem one of kernel 3 whose outputs are interpolated linearly.

    After a few steps that is well ahead of a transposed convolution 2/2, whose four positions learn one by one.
    """
    if stem_stride == 1:
        return CONVOLUTION[dimension](inputs, outputs, 1)
    return nn.Sequential(CONVOLUTION[dimension](inputs, outputs, 3, padding=1), linear_interpolation(dimension))


def _check(spec: Backbone) -> None:
    levels = len(spec.widths)
    if levels < 2 or spec.convolutions < 1:
        raise SpecError("a U-Net needs two levels and a convolution in each", remedy="give more widths or convolutions")
    if spec.stem_stride not in (1, 2):
        raise SpecError(f"the stem's stride is {spec.stem_stride}", remedy="choose 1 or 2")
    if spec.deep_supervision > levels - 2:
        raise SpecError(
            f"{spec.deep_supervision} coarser decoder levels are asked for deep supervision of a U-Net of {levels}",
            remedy=f"choose at most {levels - 2}",
        )
