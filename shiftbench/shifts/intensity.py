"""Operators on the grey values: noise, shading, contrast."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from shiftbench.errors import NotApplicable
from shiftbench.shifts.gaussian import complex_normals
from shiftbench.shifts.geometry import kept_lines
from shiftbench.shifts.ranks import inside, percentiles, sampled
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

WAVES = 24  # plane waves of a smooth field
GAMMA_SAMPLE = 2**15  # values of a channel from which the percentiles of gamma are taken
SHORTEST_HALF_WAVE = 0.4  # of the field of view: a coil's sensitivity has no finer structure


def identity(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan as it is: the negative control."""
    return scan


def gain(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image times `value` (receiver gain); 1 changes nothing."""
    native = {"sigma": scan.native["sigma"] * value} if "sigma" in scan.native else {}
    return scan if value == 1 else scan.with_image(scan.image * value, **native)


def offset(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image plus `value` % of each channel's reference signal (receiver offset); 0 changes nothing."""
    if value == 0:
        return scan
    return scan.with_image(scan.image + scan.reference_signal.reshape(-1, *(1,) * scan.ndim) * (value / 100))


def gamma(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image through a power law of exponent `value` (a contrast look-up table); 1 changes nothing.

    Every channel is rescaled from its 0.5th and 99.5th percentile to 0 and 1, raised to the power, and given back its
    mean and SD, so that only the shape of the histogram changes. Values below the lower percentile are set to it;
    values above the upper one go on along the curve. Dark voxels can come out slightly negative.

    Reference:
        Batchgenerators' gamma transform (Isensee et al., 2020), without its dependence on the raw unit.
    """
    if value == 1:
        return scan
    out = torch.empty_like(scan.image)
    for channel, power in zip(scan.image, out, strict=True):
        low, high = percentiles(sampled(channel.flatten(), GAMMA_SAMPLE), 0.5, 99.5)
        if high <= low:
            low, high = float(channel.min()), float(channel.max())
        torch.sub(channel, low, out=power)
        power *= 1 / (high - low)
        mean, spread = _moments(power)
        power.clamp_(min=0).log2_().mul_(value).exp2_()
        mean_of_power, spread_of_power = _moments(power)
        scale = spread / max(spread_of_power, 1e-12)
        power *= scale * (high - low)
        power += (mean - mean_of_power * scale) * (high - low) + low
    return scan.with_image(out)


def _moments(values: Tensor) -> tuple[float, float]:
    """Mean and SD of values (*s) that are not far from 0."""
    flat = values.flatten()
    mean = float(flat.mean())
    return mean, math.sqrt(max(float(flat.dot(flat)) / flat.numel() - mean**2, 0.0))


def bias_field(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image times a smooth field (receive coil, uneven illumination); 0 changes nothing.

    `value` is the non-uniformity in %: 100 times the distance of the 1st and 99th percentile of the field inside the
    body, as in BrainWeb, where 40 % is a field of 0.8 to 1.2. The field's log has mean 0 inside the body, so that it
    adds no gain. Its amplitude is set after it is drawn: all draws of one value are equally strong, and all values
    of one draw have the same shape. Channels share the field.
    """
    if value == 0:
        return scan
    log_field = smooth_field(scan.body, scan.spacing_or_pixels, rng)
    body = sampled(log_field.flatten())[sampled(scan.body.flatten())]
    return scaled(scan, log_field.mul_(amplitude(body, value)).exp_())


def scaled(scan: Scan, factor: Tensor) -> Scan:
    """The scan times a real factor (*s), as a signal if it is one."""
    if isinstance(scan.raw, Signal):
        return scan.with_signal(Signal(image=scan.raw.image * factor))
    return scan.with_image(scan.raw * factor)


def smooth_field(
    body: Tensor, spacing: tuple[float, ...], rng: np.random.Generator, shortest: float = SHORTEST_HALF_WAVE
) -> Tensor:
    """A smooth random field (*s) with mean 0 and SD 1 inside the body.

    A sum of plane waves of random direction, phase and length, none with a half wave shorter than `shortest` of the
    body's largest extent. It is a function of the position in the body, so neither the grid nor the air around
    changes it. A wave is the product of one complex factor per axis, so the sum is one matrix product.
    """
    low, high = bounds(body)
    extent = max((b - a + 1) * d for a, b, d in zip(low, high, spacing, strict=True))
    directions = rng.standard_normal((WAVES, 3))[:, -body.ndim :]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cycles = rng.uniform(0.2, 0.5 / shortest, (WAVES, 1)) * directions  # per extent of the body
    phases = rng.uniform(0, 2 * math.pi, WAVES)
    factors = []
    for i, (n, a, b, d) in enumerate(zip(body.shape, low, high, spacing, strict=True)):
        angle = 2 * math.pi * cycles[:, i, None] * (np.arange(n) - (a + b) / 2) * d / extent
        wave = np.exp(1j * (angle + (phases[:, None] if i == 0 else 0))).astype(np.complex64)  # (waves, n)
        factors.append(torch.from_numpy(wave).to(body.device))
    rows = factors[0]
    for factor in factors[1:-1]:
        rows = (rows[:, :, None] * factor[:, None, :]).reshape(WAVES, -1)
    left = torch.cat([rows.real, -rows.imag])  # real part of the product
    total = (left.T @ torch.cat([factors[-1].real, factors[-1].imag])).reshape(body.shape)
    within = inside(total, body)
    return total.sub_(within.mean()).div_(within.std().clamp(min=1e-6))


def bounds(mask: Tensor) -> tuple[list[int], list[int]]:
    """First and last index along every axis at which `mask` (*s) holds anything."""
    array = mask.cpu().numpy()
    found = [
        np.flatnonzero(array.any(axis=tuple(a for a in range(array.ndim) if a != axis))) for axis in range(array.ndim)
    ]
    return [int(f[0]) for f in found], [int(f[-1]) for f in found]


def amplitude(log_field: Tensor, percent: float) -> float:
    """The factor on `log_field` (n,) for which the 1st to 99th percentile of its exponential is `percent` % apart."""
    low, high = percentiles(log_field, 1, 99)
    if high - low < 1e-6:
        return 0.0

    def excess(a: float) -> float:
        return math.exp(a * high) - math.exp(a * low) - percent / 100

    top = 1.0
    while excess(top) < 0:
        top *= 2
    return float(brentq(excess, 0.0, top, xtol=1e-9))


def rician_noise(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image with complex Gaussian noise before its magnitude, so that its SNR is `value`; infinity changes nothing.

    SNR is the median signal of the reference tissue (the body where none is known) over the SD of the noise of one
    part of the complex signal. The noise that is there counts: the variances add up, and as the phase of a magnitude
    image is irrelevant to circular noise, adding complex noise to it is exact in distribution. The noise lies on the
    lines of k-space that were acquired. The draw is the same for every value.

    Raises:
        NotApplicable: the image is noisier than that already.

    Reference:
        Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magn Reson Med 34:910, 1995.
    """
    if math.isinf(value):
        return scan
    wanted = scan.reference_signal / value
    added = noise_to_add(scan, wanted, "rician_noise")
    native = {"sigma": max(scan.native["sigma"], float(wanted[0]))} if "sigma" in scan.native else {}
    return add_complex_noise(scan, added, rng, **native)


def noise_to_add(scan: Scan, wanted: Tensor, where: str) -> Tensor:
    """SD of the noise (c,) that brings that of the scan to `wanted` (c,): variances add up.

    Raises:
        NotApplicable: there is more already.
    """
    if bool((wanted < scan.sigma * (1 - 1e-6)).any()):
        asked, native = (float((scan.reference_signal / s).min()) for s in (wanted, scan.sigma))
        raise NotApplicable(
            f"an SNR of {asked:g} was asked of an image with an SNR of {native:.3g}",
            where=where,
            remedy="ask for a lower SNR",
        )
    return (wanted**2 - scan.sigma**2).clamp(min=0).sqrt()


def add_complex_noise(scan: Scan, sigma: Tensor, rng: np.random.Generator, /, **native: float) -> Scan:
    """The scan whose complex signal has circular Gaussian noise of SD `sigma` (c,) or (c, *s) in each part.

    The draw is that of the image, whichever face the signal is held as, so that a step in k-space does not change it.
    Where k-space has been cut (`pixel_mm` is known) the noise is cut with it and keeps its SD.
    """
    noise = complex_normals(rng, (len(sigma), *scan.shape), scan.device)
    parts = torch.view_as_real(noise)
    parts *= sigma[..., None] if sigma.ndim > 1 else sigma.reshape(-1, *(1,) * (scan.ndim + 1))
    if "pixel_mm" in scan.native:
        lines = kept_lines(scan.shape[-2:], scan.spacing_or_pixels[-2:], scan.native["pixel_mm"], scan.device)
        spectrum = torch.fft.fft2(noise, norm="ortho") * (lines / lines.square().mean().sqrt())
        return scan.with_signal(Signal(spectrum=spectrum.add_(scan.signal.spectrum)), **native)
    if not isinstance(scan.raw, Signal):
        parts[..., 0] += scan.raw
        return scan.with_signal(Signal(image=noise), **native)
    if "image" in scan.raw.__dict__:
        return scan.with_signal(Signal(image=noise.add_(scan.raw.image)), **native)
    return scan.with_signal(Signal(spectrum=torch.fft.fft2(noise, norm="ortho").add_(scan.raw.spectrum)), **native)
