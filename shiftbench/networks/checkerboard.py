"""Checkerboards of up-sampling layers: a diagnostic, before and after training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shiftbench.networks.upsample import CONVOLUTION, FACTOR, SubPixelConv2d, SubPixelConv3d, upsampling
from shiftbench.rng import generator

BAND = 1 / 16  # half-width round the alternating frequencies, in cycles per voxel
SLOWEST = 6.0  # voxels: standard deviation of the Gaussian blur behind a smooth test image


@dataclass(frozen=True)
class Upsampler:
    """An up-sampling layer of the comparison; `icnr` is the initialisation of a sub-pixel convolution."""

    kind: str
    kernel: int = FACTOR
    icnr: bool = True

    def layer(self, inputs: int, outputs: int, dimension: int) -> nn.Module:
        """The layer with torch's initialisation, or with ICNR."""
        layer = upsampling(self.kind, inputs, outputs, dimension=dimension, kernel=self.kernel)
        if isinstance(layer, SubPixelConv2d | SubPixelConv3d) and not self.icnr:
            CONVOLUTION[dimension].reset_parameters(layer)  # type: ignore[attr-defined]  # as any convolution starts
        return layer


UPSAMPLERS: dict[str, Upsampler] = {
    "transposed 3/2": Upsampler("transposed", 3),
    "transposed 4/2": Upsampler("transposed", 4),
    "transposed 2/2": Upsampler("transposed", 2),
    "nearest, convolution": Upsampler("nearest"),
    "linear, convolution": Upsampler("linear"),
    "sub-pixel": Upsampler("shuffle", icnr=False),
    "sub-pixel, ICNR": Upsampler("shuffle"),
}


def checkerboard_energy(images: Tensor, *, band: float = BAND) -> float:
    """Share of the energy of `images` (b, c, *s) at frequencies that alternate from voxel to voxel along some axis.

    An up-sampling by two that treats even and odd positions differently puts energy there, at half a cycle per voxel,
    and a smooth image has none. Energy is that of the spectrum under a Hann window (so that the borders of the image do
    not leak), its constant part included; a pattern 1:2 has 0.1 along one axis, 0.19 along two, 0.271 along three.

    Args:
        images: outputs of a layer, at least 2 / band voxels wide.
        band: half-width round the alternating frequency, in cycles per voxel.

    Returns:
        Between 0 and 1; 0 for images of zeros.

    Raises:
        ValueError: images too small for the band.

    Reference:
        Odena, Dumoulin, Olah, Deconvolution and checkerboard artifacts, Distill 2016.
    """
    space = images.shape[2:]
    if min(space) < 2 / band:
        raise ValueError(f"images of {tuple(space)} are too small for a band of {band} cycles per voxel")
    x = images.detach().double()
    alternating = torch.zeros(space, dtype=torch.bool, device=x.device)
    for axis, n in enumerate(space):
        shape = [-1 if a == axis else 1 for a in range(len(space))]
        x = x * torch.hann_window(n, dtype=x.dtype, device=x.device).reshape(shape)
        alternating |= (torch.fft.fftfreq(n, device=x.device).abs() >= 0.5 - band).reshape(shape)
    power = torch.fft.fftn(x, dim=tuple(range(2, x.ndim))).abs().square()
    total = power.sum()
    return float(power[..., alternating].sum() / total) if total > 0 else 0.0


def overlap_energy(upsampler: Upsampler, *, dimension: int = 2, size: int = 32) -> float:
    """Energy of what the layer makes of a constant image when all of its weights are alike, its borders left out."""
    layer = upsampler.layer(1, 1, dimension).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.fill_(float(parameter.ndim > 1))  # no bias
    out = layer(torch.ones(1, 1, *(size + 4,) * dimension))
    return checkerboard_energy(_without_borders(out, 4))


class Decoder(nn.Module):
    """Two up-sampling layers with leaky ReLU between and a convolution of kernel 1 at the end."""

    def __init__(self, upsampler: Upsampler, *, dimension: int = 2, width: int = 16):
        super().__init__()
        self.first, self.second = (upsampler.layer(i, width, dimension) for i in (1, width))
        self.head = CONVOLUTION[dimension](width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 1, *s) to (b, 1, *4s)."""
        x = functional.leaky_relu(self.first(x), 0.01)
        return self.head(functional.leaky_relu(self.second(x), 0.01))


def smooth_images(rng: np.random.Generator, count: int, *, dimension: int = 2, size: int = 64) -> Tensor:
    """Seeded images (b, 1, *s) of zero mean and unit variance without energy at alternating frequencies."""
    noise = torch.from_numpy(rng.standard_normal((count, 1, *(size,) * dimension)).astype(np.float32))
    spectrum = torch.fft.fftn(noise, dim=tuple(range(2, noise.ndim)))
    for axis in range(dimension):
        frequency = torch.fft.fftfreq(size).reshape([-1 if a == axis else 1 for a in range(dimension)])
        spectrum = spectrum * torch.exp(-2 * (np.pi * SLOWEST * frequency) ** 2)
    images = torch.fft.ifftn(spectrum, dim=tuple(range(2, noise.ndim))).real
    axes = tuple(range(1, images.ndim))
    return (images - images.mean(axes, keepdim=True)) / images.std(axes, keepdim=True)


def coarse(images: Tensor) -> Tensor:
    """Means over blocks of 4 voxels per axis: what the decoder makes the images from."""
    pool = {2: functional.avg_pool2d, 3: functional.avg_pool3d}[images.ndim - 2]
    return pool(images, FACTOR**2)


def trained_decoders(
    upsampler: Upsampler, steps: tuple[int, ...], *, seed: int = 0, dimension: int = 2, size: int = 64
) -> Iterator[tuple[int, Tensor, float]]:
    """A decoder that learns to reconstruct smooth images from coarse ones (squared error, Adam, 8 images a step).

    Args:
        steps: after how many steps to look, rising; 0 is before training.

    Yields:
        The steps taken, the reconstruction (b, 1, *s) of images that it is not trained on, with 8 voxels of border cut
        off, and its checkerboard energy.
    """
    rng = generator(seed, "checkerboard", upsampler.kind, upsampler.kernel, upsampler.icnr)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        decoder = Decoder(upsampler, dimension=dimension)
    optimiser = torch.optim.Adam(decoder.parameters(), lr=3e-3)
    held_out = smooth_images(generator(seed, "checkerboard", "held out"), 8, dimension=dimension, size=size)
    for step in range(max(steps) + 1):
        if step in steps:
            with torch.no_grad():
                out = _without_borders(decoder(coarse(held_out)), 8)
            yield step, out, checkerboard_energy(out)
        images = smooth_images(rng, 8, dimension=dimension, size=size)
        loss = functional.mse_loss(decoder(coarse(images)), images)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


def _without_borders(images: Tensor, margin: int) -> Tensor:
    """Images (b, c, *s) without `margin` voxels on every side, where a layer's padding shows."""
    for axis in range(2, images.ndim):
        images = images.narrow(axis, margin, images.shape[axis] - 2 * margin)
    return images
