"""Operators on the grey values: noise, shading, contrast."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from shiftbench.errors import NotApplicable
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

WAVES = 24  # plane waves of a smooth field
SHORTEST_HALF_WAVE = 0.4  # of the field of view: a coil's sensitivity has no finer structure


def identity(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan as it is: the negative control."""
    return scan


def gain(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image times `value` (receiver gain); 1 changes nothing."""
    native = {"sigma": scan.native["sigma"] * value} if "sigma" in scan.native else {}
    return scan if value == 1 else scan.with_image(scan.image * value, **native)


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
        low, high = np.percentile(channel.numpy(), (0.5, 99.5))
        if high <= low:
            low, high = float(channel.min()), float(channel.max())
        power = ((channel - low) / (high - low)).clamp(min=0) ** value
        out[c] = (power - power.mean()) * (channel.std() / power.std().clamp(min=1e-12)) + channel.mean()
    return scan.with_image(out)


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
    return scan.with_image(scan.image * (log_field * amplitude(log_field[scan.body], value)).exp())


def smooth_field(body: Tensor, spacing: tuple[float, ...], rng: np.random.Generator) -> Tensor:
    """A smooth random field (*s) with mean 0 and SD 1 inside the body.

    A sum of plane waves of random direction, phase and length, none with a half wave shorter than 0.4 of the body's
    largest extent. It is a function of the position in the body, so neither the grid nor the air around changes it.
    """
    inside = torch.nonzero(body)
    low, high = inside.amin(dim=0), inside.amax(dim=0)
    mm = torch.tensor(spacing, dtype=torch.float32)
    extent = float(((high - low + 1) * mm).max())
    axes = [
        (torch.arange(n) - (a + b) / 2) * d / extent
        for n, a, b, d in zip(body.shape, low.tolist(), high.tolist(), spacing, strict=True)
    ]
    directions = rng.standard_normal((WAVES, 3))[:, -body.ndim :]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cycles = rng.uniform(0.2, 0.5 / SHORTEST_HALF_WAVE, (WAVES, 1)) * directions  # per extent of the body
    phases = rng.uniform(0, 2 * math.pi, WAVES)
    total = torch.zeros(body.shape)
    for wave, phase in zip(cycles, phases, strict=True):
        angle = torch.full((1,) * body.ndim, float(phase))
        for i, axis in enumerate(axes):
            shape = [-1 if i == j else 1 for j in range(body.ndim)]
            angle = angle + (2 * math.pi * float(wave[i]) * axis).to(torch.float32).reshape(shape)
        total += torch.cos(angle)
    values = total[body]
    return (total - values.mean()) / values.std().clamp(min=1e-6)


def amplitude(log_field: Tensor, percent: float) -> float:
    """The factor on `log_field` (n,) for which the 1st to 99th percentile of its exponential is `percent` % apart."""
    low, high = np.percentile(log_field.double().numpy(), (1, 99))
    if high - low < 1e-6:
        return 0.0

    def excess(a: float) -> float:
        return math.exp(a * high) - math.exp(a * low) - percent / 100

    top = 1.0
    while excess(top) < 0:
        top *= 2
    return float(brentq(excess, 0.0, top, xtol=1e-9))


def rician_noise(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The magnitude of the image with complex Gaussian noise, so that its SNR is `value`; infinity changes nothing.

    SNR is the median signal of the reference tissue (the body where none is known) over the SD of the noise of one
    part of the complex signal. The noise that is there counts: the variances add up, and as the phase of a magnitude
    image is irrelevant to circular noise, adding complex noise to it is exact in distribution. The draw is the same
    for every value.

    Raises:
        NotApplicable: the image is noisier than that already.

    Reference:
        Gudbjartsson and Patz, The Rician distribution of noisy MRI data, Magn Reson Med 34:910, 1995.
    """
    wanted = scan.reference_signal / value  # (c,)
    if bool((wanted < scan.sigma * (1 - 1e-6)).any()) and not math.isinf(value):
        native = float((scan.reference_signal / scan.sigma).min())
        raise NotApplicable(
            f"an SNR of {value:g} was asked of an image with an SNR of {native:.3g}",
            where="rician_noise",
            remedy="ask for a lower SNR",
        )
    added = (wanted**2 - scan.sigma**2).clamp(min=0).sqrt()
    if math.isinf(value):
        return scan
    native = {"sigma": max(scan.native["sigma"], float(wanted[0]))} if "sigma" in scan.native else {}
    return scan.with_image(with_complex_noise(scan.image, added, rng), **native)


def with_complex_noise(image: Tensor, sigma: Tensor, rng: np.random.Generator) -> Tensor:
    """sqrt((x + n1)^2 + n2^2) with n1, n2 normal of SD `sigma` (c,), for an image (c, *s)."""
    real, imaginary = torch.from_numpy(rng.standard_normal((2, *image.shape), dtype=np.float32))
    sigma = sigma.reshape(-1, *(1,) * (image.ndim - 1))
    return torch.hypot(image + sigma * real, sigma * imaginary)


def add_complex_noise(scan: Scan, sigma: Tensor, rng: np.random.Generator) -> Scan:
    """The scan whose complex signal has circular Gaussian noise of SD `sigma` (c,) in each part.

    The draw is that of the image, whichever face the signal is held as, so that a step in k-space does not change it.
    """
    draw = torch.from_numpy(rng.standard_normal((2, len(sigma), *scan.shape), dtype=np.float32)).to(scan.device)
    noise = torch.complex(draw[0], draw[1]) * sigma.reshape(-1, *(1,) * scan.ndim)
    signal = scan.signal
    if "image" in signal.__dict__:
        return scan.with_signal(Signal(image=signal.image + noise))
    return scan.with_signal(Signal(spectrum=signal.spectrum + torch.fft.fft2(noise, norm="ortho")))
