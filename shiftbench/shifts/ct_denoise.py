"""Iterative and learned reconstruction of CT, by what it does to noise."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.errors import OperatorError
from shiftbench.shifts.ct_image import (
    filtered,
    frequencies,
    kernel_mtf50,
    mean_power,
    mirrored,
    mtf,
    noise_gain,
    noise_sigma,
)
from shiftbench.shifts.ranks import count, inside
from shiftbench.shifts.scan import Scan

EDGE_SD = 4.0  # a step to the next pixel beyond this many SD of that step in noise is anatomy
RATE = 0.1  # share of a step between pixels that is evened out at a time; below 1/4 the scheme is stable
MOST_STEPS = 200
FEWEST = 200  # pixels of homogeneous tissue from which the noise is judged
OCTAVES = 4
FLAT_SD = 3.0  # detail of a band within this many SD of its noise is no edge


def iterative(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan as reconstructed iteratively or by a trained denoiser: SD of its noise lower by `value` %; 0 is none.

    Each slice is diffused, a step d between neighbouring pixels with the conductance exp(-(d / 4 s)^2), s being the SD
    of that step in noise of the kernel's spectrum: edges stay, and keep their noise. It goes on until the SD of noise
    in homogeneous tissue has fallen by `value` % (`NoiseLeft`, first channel). What is left of it is coarser: its
    spectrum peaks at a lower frequency. Detail no larger than the noise goes with it.

    Raises:
        OperatorError: the image has no noise, or no homogeneous tissue, or so much noise cannot be taken from it.

    Reference:
        Perona and Malik, IEEE Trans Pattern Anal Mach Intell 12:629, 1990; Solomon and Samei, Quantum noise properties
        of CT images with anatomical textured backgrounds across reconstruction algorithms, Med Phys 41:091908, 2014.
    """
    if value == 0:
        return scan
    sigma = noise_sigma(scan)
    if not bool((sigma > 0).all()):
        raise OperatorError("the image has no noise to reduce", where="ct_iterative", remedy="use a measured scan")
    judge, spacing = NoiseLeft(scan), scan.spacing_or_pixels
    scale = sigma.reshape(-1, *(1,) * scan.ndim)
    edges = [EDGE_SD * sd * scale for sd in judge.step_sd()]
    rates = [RATE * (min(spacing[-2:]) / mm) ** 2 for mm in spacing[-2:]]
    image, before, wanted = scan.image.clone(), 1.0, 1 - value / 100
    for _ in range(MOST_STEPS):
        flows = _flows(image, edges, rates)
        _move(image, flows)
        after = judge(image)
        if after <= wanted:
            _move(image, [flow * ((before - wanted) / (before - after) - 1) for flow in flows])  # part of the step back
            return scan.with_image(image, sigma=float(sigma[0]) * wanted)
        before = after
    raise OperatorError(
        f"{value:g} % of the noise cannot be taken from this image", where="ct_iterative", remedy="ask for less"
    )


def _flows(image: Tensor, edges: list[Tensor], rates: list[float]) -> list[Tensor]:
    """What passes between neighbours along the last two axes in one step of diffusion."""
    flows = []
    for axis, edge, rate in zip((-2, -1), edges, rates, strict=True):
        step = image.diff(dim=axis)
        flows.append((step / edge).square_().neg_().exp_().mul_(step).mul_(rate))
    return flows


def _move(image: Tensor, flows: list[Tensor]) -> None:
    """Lets the flows pass, in place; nothing passes the borders."""
    for axis, flow in zip((-2, -1), flows, strict=True):
        n = image.shape[axis]
        image.narrow(axis, 0, n - 1).add_(flow)
        image.narrow(axis, 1, n - 1).sub_(flow)


class NoiseLeft:
    """Judges how much of the noise of a scan is left in the homogeneous tissue of a filtered image.

    What was removed is fitted by bands of one octave of the scan, over the voxels of the body without an edge in any
    band. That says what was done to noise of the kernel's spectrum, whatever texture the tissue has.

    Raises:
        OperatorError: there are not enough such voxels.
    """

    def __init__(self, scan: Scan):
        shape, spacing, kernel = scan.shape, scan.spacing_or_pixels, kernel_mtf50(scan)
        self.width, self.image = shape[-1], scan.image[0]
        self.noise = noise_gain(shape, spacing, kernel, scan.device)
        bands = _octaves(frequencies(shape, spacing, scan.device), kernel)
        planes, padded = mirrored(scan.image[:1], spacing)
        details = torch.stack([filtered(planes, band, shape)[0] for band in _octaves(padded, kernel)])
        sd = torch.tensor([mean_power(self.noise * band, self.width) ** 0.5 for band in bands], device=scan.device)
        limit = FLAT_SD * float(noise_sigma(scan)[0]) * sd.to(details).reshape(-1, *(1,) * scan.ndim)
        edge = (details.abs() > limit).any(dim=0).reshape(-1, 1, *shape[-2:]).float()
        self.flat = scan.body & (functional.max_pool2d(edge, 3, 1, 1) == 0).reshape(shape)
        if count(self.flat) < FEWEST:
            raise OperatorError(
                "there is no homogeneous tissue in the image", where="ct_iterative", remedy="leave out this case"
            )
        seen = inside(details, self.flat).double()  # (bands, n)
        self.seen, self.gram = seen, seen @ seen.T
        self.cross = _cross_power(self.noise, bands, self.width)

    def __call__(self, image: Tensor) -> float:
        """SD of the noise left in the first channel of `image` (c, *s), over that of the scan."""
        removed = inside(self.image - image[0], self.flat).double()
        shares = torch.linalg.solve(self.gram, self.seen @ removed)
        kept = torch.cat([torch.ones(1, dtype=torch.float64, device=removed.device), -shares])
        return float(kept @ self.cross.to(kept) @ kept) ** 0.5

    def step_sd(self) -> list[float]:
        """SD of the step between neighbours along the last two axes, in noise of SD 1."""
        rows = torch.fft.fftfreq(self.noise.shape[-2], device=self.noise.device)[:, None]
        columns = torch.fft.rfftfreq(self.width, device=self.noise.device)
        steps = [2 * torch.sin(torch.pi * f).abs() * self.noise for f in (rows, columns)]
        return [mean_power(step, self.width) ** 0.5 for step in steps]


def _cross_power(noise: Tensor, bands: list[Tensor], width: int) -> Tensor:
    """Covariance (1 + n, 1 + n) of noise and of its n bands."""
    parts = [noise, *(noise * band for band in bands)]
    power = [[mean_power((p * q).sqrt(), width) for q in parts] for p in parts]  # no gain is negative
    return torch.tensor(power, dtype=torch.float64)


def removed_percent(before: Scan, after: Scan, value: float) -> float:
    """By how many % the SD of noise has fallen in homogeneous tissue, first channel (`NoiseLeft`)."""
    return 100 * (1 - NoiseLeft(before)(after.image))


def _octaves(frequency: Tensor, mtf50: float) -> list[Tensor]:
    """Gains of band-passes, finest first: differences of Gaussian low-passes at 2, 1, 1/2, ... times `mtf50`."""
    lows = [torch.ones_like(frequency), *(mtf(frequency, 2.0 ** (1 - i) * mtf50) for i in range(OCTAVES))]
    return [high - low for high, low in zip(lows, lows[1:], strict=False)]
