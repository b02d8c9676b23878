"""Operators on the grey values: noise, shading, contrast."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from shiftbench.errors import NotApplicable
from shiftbench.shifts.geometry import kept_lines
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

WAVES = 24  # plane waves of a smooth field
SHORTEST_HALF_WAVE = 0.4  # of the field of view: a coil's sensitivity has no finer structure
SAMPLE = 2**17  # voxels from which a percentile is taken


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
    for c, channel in enumerate(scan.image):
        low, high = percentiles(channel.flatten(), 0.5, 99.5)
        if high <= low:
            low, high = float(channel.min()), float(channel.max())
        power = ((channel - low) / (high - low)).clamp_(min=0).pow_(value)
        scale = channel.std() / power.std().clamp(min=1e-12)
        torch.add(channel.mean() - power.mean() * scale, power * scale, out=out[c])
    return scan.with_image(out)


def percentiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of `values` (n,), nearest rank; of many values an even sample of about 2^17 is looked at.

    The sample is every k-th value, k odd, so that it does not fall on the same columns of an image.
    """
    step = max(1, values.numel() // SAMPLE) | 1
    sample = values[::step]
    last = sample.numel() - 1
    ranks = [round(share / 100 * last) + 1 for share in (low, high)]
    return float(sample.kthvalue(ranks[0]).values), float(sample.kthvalue(ranks[1]).values)


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
    return scaled(scan, (log_field * amplitude(log_field[scan.body], value)).exp_())


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
        factors.append(np.exp(1j * (angle + (phases[:, None] if i == 0 else 0))))  # (waves, n)
    rows = factors[0]
    for factor in factors[1:-1]:
        rows = (rows[:, :, None] * factor[:, None, :]).reshape(WAVES, -1)
    left = np.concatenate([rows.real, -rows.imag]).astype(np.float32)  # real part of the product
    right = np.concatenate([factors[-1].real, factors[-1].imag]).astype(np.float32)
    total = (torch.from_numpy(left).to(body.device).T @ torch.from_numpy(right).to(body.device)).reshape(body.shape)
    inside = total[body]
    return total.sub_(inside.mean()).div_(inside.std().clamp(min=1e-6))


def bounds(mask: Tensor) -> tuple[list[int], list[int]]:
    """First and last index along every axis at which `mask` (*s) holds anything."""
    found = [
        torch.nonzero(mask.any(dim=tuple(a for a in range(mask.ndim) if a != axis))).flatten()
        for axis in range(mask.ndim)
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
    draw = rng.standard_normal((len(sigma), *scan.shape, 2), dtype=np.float32)
    noise = torch.view_as_complex(torch.from_numpy(draw).to(scan.device))
    noise *= sigma if sigma.ndim > 1 else sigma.reshape(-1, *(1,) * scan.ndim)
    signal = scan.signal
    if "pixel_mm" in scan.native:
        lines = kept_lines(scan.shape[-2:], scan.spacing_or_pixels[-2:], scan.native["pixel_mm"], scan.device)
        spectrum = torch.fft.fft2(noise, norm="ortho") * (lines / lines.square().mean().sqrt())
        return scan.with_signal(Signal(spectrum=signal.spectrum + spectrum), **native)
    if "image" in signal.__dict__:
        return scan.with_signal(Signal(image=noise.add_(signal.image)), **native)
    return scan.with_signal(Signal(spectrum=signal.spectrum + torch.fft.fft2(noise, norm="ortho")), **native)
