"""Up-sampling by two: transposed convolution, interpolation then convolution, and sub-pixel convolution."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from shiftbench.errors import SpecError, nearest

FACTOR = 2
CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def upsampling(kind: str, inputs: int, outputs: int, *, dimension: int, kernel: int = FACTOR) -> nn.Module:
    """A layer from (b, inputs, *s) to (b, outputs, *2s).

    Args:
        kind: a key of UPSAMPLINGS.
        kernel: of a transposed convolution, at least its stride of 2. Where the stride does not divide it, neighbouring
            outputs are sums of different numbers of terms, a checkerboard from the first step on (Odena, Dumoulin,
            Olah, Deconvolution and checkerboard artifacts, Distill 2016).

    Raises:
        SpecError: an unknown kind, or a kernel smaller than the stride.
    """
    if kind not in UPSAMPLINGS:
        raise SpecError(f"unknown up-sampling '{kind}'", remedy=nearest(kind, UPSAMPLINGS))
    return UPSAMPLINGS[kind](inputs, outputs, dimension, kernel)


def _transposed(inputs: int, outputs: int, dimension: int, kernel: int) -> nn.Module:
    if kernel < FACTOR:
        raise SpecError(f"the up-sampling kernel {kernel} leaves gaps", remedy=f"choose at least the stride, {FACTOR}")
    odd = kernel % 2  # output size (n - 1) * 2 - 2 * padding + kernel + output_padding = 2 * n
    return TRANSPOSED[dimension](
        inputs, outputs, kernel, stride=FACTOR, padding=(kernel - FACTOR + odd) // 2, output_padding=odd
    )


def _nearest(inputs: int, outputs: int, dimension: int, _: int) -> nn.Module:
    grow = nn.Upsample(scale_factor=FACTOR, mode="nearest")
    return nn.Sequential(grow, CONVOLUTION[dimension](inputs, outputs, 3, padding=1))


def _linear(inputs: int, outputs: int, dimension: int, _: int) -> nn.Module:
    return nn.Sequential(linear_interpolation(dimension), CONVOLUTION[dimension](inputs, outputs, 3, padding=1))


def linear_interpolation(dimension: int) -> nn.Module:
    """Bilinear or trilinear interpolation to twice the size, (b, c, *s) to (b, c, *2s)."""
    return nn.Upsample(scale_factor=FACTOR, mode="bilinear") if dimension == 2 else Trilinear()


class Trilinear(nn.Upsample):
    """Trilinear interpolation by two, one axis after the other as a product with a small matrix.

    What torch's own computes, in half of its time on a CPU and with a gradient that is the same each time on a GPU.
    """

    def __init__(self) -> None:
        super().__init__(scale_factor=FACTOR, mode="trilinear")

    def forward(self, x: Tensor) -> Tensor:
        for axis in (2, 3, 4):
            unit = torch.eye(x.shape[axis], dtype=x.dtype, device=x.device)
            weights = functional.interpolate(unit[None], scale_factor=FACTOR, mode="linear")[0]  # (n, 2n)
            x = (x.movedim(axis, -1) @ weights).movedim(-1, axis)
        return x


class _SubPixel(nn.Module):
    """A convolution at the coarse resolution whose channels become the positions of the fine one.

    With a kernel of 1 it would be the transposed convolution 2/2, so its kernel is 3. Initialised so that the positions
    of a channel start alike (ICNR): at first it is a nearest-neighbour up-sampling, free of checkerboard.

    Reference:
        Shi et al., Real-time single image and video super-resolution using an efficient sub-pixel convolutional neural
        network, CVPR 2016; Aitken et al., Checkerboard artifact free sub-pixel convolution, arXiv:1707.02937, 2017.
    """

    weight: Tensor
    bias: Tensor | None

    def reset_parameters(self) -> None:
        super().reset_parameters()  # type: ignore[misc]  # the convolution beside this class
        positions = FACTOR ** (self.weight.ndim - 2)
        with torch.no_grad():
            for parameter in self.parameters(recurse=False):
                parameter.copy_(parameter[::positions].repeat_interleave(positions, 0))

    def forward(self, x: Tensor) -> Tensor:
        return pixel_shuffle(super().forward(x), FACTOR)


class SubPixelConv2d(_SubPixel, nn.Conv2d):
    """Sub-pixel convolution of images."""


class SubPixelConv3d(_SubPixel, nn.Conv3d):
    """Sub-pixel convolution of volumes."""


def _shuffle(inputs: int, outputs: int, dimension: int, _: int) -> nn.Module:
    kind = {2: SubPixelConv2d, 3: SubPixelConv3d}[dimension]
    return kind(inputs, outputs * FACTOR**dimension, 3, padding=1)


def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    """(b, c * factor**d, *s) to (b, c, *(factor * s)) in d dimensions; in 2-D what torch's pixel_shuffle does."""
    b, _, *space = x.shape
    d = len(space)
    x = x.reshape(b, -1, *[factor] * d, *space)  # (b, c, *offsets, *s)
    order = [axis for i in range(d) for axis in (2 + d + i, 2 + i)]
    return x.permute(0, 1, *order).reshape(b, -1, *(factor * n for n in space))


UPSAMPLINGS: dict[str, Callable[[int, int, int, int], nn.Module]] = {
    "transposed": _transposed,
    "nearest": _nearest,
    "linear": _linear,
    "shuffle": _shuffle,
}
