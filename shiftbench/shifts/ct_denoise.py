"""Iterative and learned reconstruction of CT, by what it does to noise."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

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
from shiftbench.shifts.scan import Scan

EDGE_SD = 4.0  # detail well beyond this many SD of its noise is anatomy
OCTAVES = 5


def iterative(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan as reconstructed iteratively or by a trained denoiser: SD of its noise lower by `value` %; 0 is none.

    The image is split into bands of one octave. Detail d of a band is removed where it is no larger than its noise of
    SD s and kept where it is an edge: d exp(-d^2 / 2 (4 s)^2) is subtracted, from the finest band first, until noise
    of the kernel's spectrum has fallen by `value` %, the shrinkage counted. What is left of it is coarser: its
    spectrum peaks at a lower frequency.

    Raises:
        OperatorError: the image has no noise, or the reduction is larger than the shrinkage allows.

    Reference:
        Solomon and Samei, Quantum noise properties of CT images with anatomical textured backgrounds across
        reconstruction algorithms, Med Phys 41:091908, 2014.
    """
    if value == 0:
        return scan
    sigma = noise_sigma(scan)
    if not bool((sigma > 0).all()):
        raise OperatorError("the image has no noise to reduce", where="ct_iterative", remedy="use a measured scan")
    shape, spacing, source = tuple(scan.image.shape), scan.spacing_or_pixels, kernel_mtf50(scan)
    noise = noise_gain(shape, spacing, source, scan.device)
    bands = _octaves(frequencies(shape, spacing, scan.device), source)

    def excess(strength: float) -> float:
        return _left_after_shrinkage(noise, bands, _shares(strength), shape[-1]) - (1 - value / 100)

    if excess(1.0) > 0:
        raise OperatorError(f"a noise reduction of {value:g} %", where="ct_iterative", remedy="ask for less")
    shares = _shares(float(brentq(excess, 0.0, 1.0)))
    planes, padded = mirrored(scan.image, spacing)
    image = scan.image.clone()
    for share, band, padded_band in zip(shares, bands, _octaves(padded, source), strict=True):
        if share > 0:
            detail = filtered(planes, padded_band, scan.shape)
            scale = (EDGE_SD * sigma * mean_power(noise * band, shape[-1]) ** 0.5).reshape(-1, *(1,) * scan.ndim)
            image -= share * detail * torch.exp(-0.5 * (detail / scale).square())
    return scan.with_image(image, sigma=float(sigma[0]) * (1 - value / 100))


def _octaves(frequency: Tensor, mtf50: float) -> list[Tensor]:
    """Gains of band-passes, finest first: differences of Gaussian low-passes at 2, 1, 1/2, ... times `mtf50`."""
    lows = [torch.ones_like(frequency), *(mtf(frequency, 2.0 ** (1 - i) * mtf50) for i in range(OCTAVES))]
    return [high - low for high, low in zip(lows, lows[1:], strict=False)]


def _shares(strength: float) -> list[float]:
    """Share of each band that is removed at a strength of 0 to 1: the finest first, one after another."""
    return [min(max(OCTAVES * strength - i, 0.0), 1.0) for i in range(OCTAVES)]


def _left_after_shrinkage(noise: Tensor, bands: list[Tensor], shares: list[float], width: int) -> float:
    """SD of unit normal noise after its bands are shrunk: the linear part (Bussgang) and the rest of each shrinkage."""
    linear, square = (1 + EDGE_SD**-2) ** -1.5, (1 + 2 * EDGE_SD**-2) ** -1.5
    removed = torch.stack([share * band for share, band in zip(shares, bands, strict=True)]).sum(dim=0)
    rest = sum(share**2 * mean_power(noise * band, width) for share, band in zip(shares, bands, strict=True))
    return (mean_power(noise * (1 - linear * removed), width) + (square - linear**2) * rest) ** 0.5


def removed_percent(before: Scan, after: Scan, value: float) -> float:
    """SD inside the body of what was removed (first channel), in % of the SD of the noise that was there.

    Noise of SD 1 of which a part independent of the rest is removed falls by `value` % when this is
    sqrt(100^2 - (100 - value)^2); less near edges, which keep their noise.
    """
    removed = (before.image[0] - after.image[0])[before.body].double().std()
    return 100 * float(removed / noise_sigma(before)[0].double())
