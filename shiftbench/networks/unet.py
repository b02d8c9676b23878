"""One U-Net for 2-D, 2.5-D and 3-D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shiftbench.backbones import Backbone

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
UP = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM: dict[str, dict[int, type[nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class UNet(nn.Module):
    """Encoder, bottleneck and decoder with skip connections.

    Args:
        spec: its choices.
        dimension: 2 or 3.
        channels: of the input.
        outputs: channels of the output.

    Reference:
        Ronneberger, Fischer, Brox, U-Net: convolutional networks for biomedical image segmentation, MICCAI 2015;
        Çiçek et al., 3D U-Net, MICCAI 2016.
    """

    def __init__(self, spec: Backbone, *, dimension: int, channels: int, outputs: int):
        super().__init__()
        self.spec = spec
        widths = spec.widths
        ins = (channels, *widths)
        self.encoder = nn.ModuleList(
            self._level(ins[i], widths[i], dimension, spec.stem_stride if i == 0 else 2) for i in range(len(widths))
        )
        up = UP[dimension]
        self.up = nn.ModuleList(up(widths[i + 1], widths[i], 2, stride=2) for i in reversed(range(len(widths) - 1)))
        self.decoder = nn.ModuleList(
            self._level(2 * widths[i], widths[i], dimension, 1) for i in reversed(range(len(widths) - 1))
        )
        self.head = (
            CONV[dimension](widths[0], outputs, 1)
            if spec.stem_stride == 1
            else up(widths[0], outputs, spec.stem_stride, stride=spec.stem_stride)
        )

    def _level(self, inputs: int, width: int, dimension: int, stride: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for i in range(self.spec.convolutions):
            conv = CONV[dimension](inputs if i == 0 else width, width, 3, stride=stride if i == 0 else 1, padding=1)
            norm = NORM[self.spec.norm][dimension](width, affine=True)
            layers += [conv, norm, nn.LeakyReLU(0.01, inplace=True)]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Output (b, o, *s) of a batch (b, c, *s) whose spatial sizes are multiples of the stride."""
        skips = []
        for level in self.encoder:
            x = level(x)
            skips.append(x)
        skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            x = level(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)
