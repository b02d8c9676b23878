"""Operators on CT images: dose, kernel, calibration, field of view."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts.gaussian import normals
from shiftbench.shifts.scan import LAPLACIAN, Scan

AIR_HU = -1000.0
TYPICAL_MTF50 = 0.42  # line pairs per mm, standard body kernel
SAMPLED_SHARE = 0.5  # MTF50 of the sharpest kernel that goes with a pixel size, of its Nyquist frequency
LARGEST_GAIN = 4.0  # of a sharper kernel: beyond it noise and rounding are all there is to amplify
EDGE_PIXELS = 8  # mirrored around the image before it is filtered


def nyquist(spacing: tuple[float, ...]) -> float:
    """Highest frequency that the in-plane grid carries along both axes, in line pairs per mm."""
    return 1 / (2 * max(spacing[-2:]))


def kernel_mtf50(scan: Scan) -> float:
    """MTF50 of the scan's kernel in line pairs per mm: the known one if its pixels carry it, else `sampled_mtf50`."""
    known = float(scan.native.get("mtf50", math.inf))
    spacing = scan.spacing_or_pixels
    return known if known <= nyquist(spacing) else sampled_mtf50(min(known, TYPICAL_MTF50), spacing)


def sampled_mtf50(mtf50: float, spacing: tuple[float, ...]) -> float:
    """`mtf50`, or the largest that goes with the pixel size.

    Larger pixels are reconstructed with a softer kernel, so that neither signal nor noise is aliased: the MTF is 1/16
    at the Nyquist frequency or less.
    """
    return min(mtf50, SAMPLED_SHARE * nyquist(spacing))


def mtf(frequency: Tensor, mtf50: float) -> Tensor:
    """Modulation transfer of a kernel, 1/2 at `mtf50`: a Gaussian, exp(-ln 2 (f / f50)^2)."""
    return torch.exp(-math.log(2) * (frequency / mtf50).square())


def frequencies(shape: tuple[int, ...], spacing: tuple[float, ...], device: torch.device | None = None) -> Tensor:
    """Radial frequency in line pairs per mm of the in-plane `rfft2` of an image, (h, w // 2 + 1)."""
    rows = torch.fft.fftfreq(shape[-2], d=spacing[-2], device=device)
    columns = torch.fft.rfftfreq(shape[-1], d=spacing[-1], device=device)
    return torch.hypot(rows[:, None], columns)


def mean_power(gain: Tensor, width: int) -> float:
    """Mean square of a real filter (h, w // 2 + 1) over all h * w frequencies: the variance it gives white noise."""
    twice = torch.full((gain.shape[-1],), 2.0, dtype=torch.float64, device=gain.device)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    return float((gain.double().square() * twice).sum() / (gain.shape[-2] * width))


def noise_gain(shape: tuple[int, ...], spacing: tuple[float, ...], mtf50: float, device: torch.device) -> Tensor:
    """The filter (h, w // 2 + 1) that gives white noise of SD 1 the spectrum of CT, with SD 1.

    Its square is the noise power spectrum of filtered back-projection, f * MTF(f)^2.

    Reference:
        Riederer, Pelc and Chesler, The noise power spectrum in computed X-ray tomography, Phys Med Biol 23:446, 1978.
    """
    f = frequencies(shape, spacing, device)
    gain = f.sqrt() * mtf(f, mtf50)
    return gain / mean_power(gain, shape[-1]) ** 0.5


def ct_noise(scan: Scan, mtf50: float, rng: np.random.Generator) -> Tensor:
    """Noise of SD 1 with the in-plane spectrum of a kernel, independent between slices, (c, *s) as the image."""
    shape = tuple(scan.image.shape)
    white = normals(rng, shape, scan.device)
    gain = noise_gain(shape, scan.spacing_or_pixels, mtf50, scan.device)
    return torch.fft.irfft2(torch.fft.rfft2(white) * gain, s=shape[-2:])


def ct_source_noise(scan: Scan, sigma: float, mtf50: float, rng: np.random.Generator) -> Scan:
    """The scan with the noise of its scanner: SD `sigma` in HU, spectrum of the kernel of `mtf50` (`sampled_mtf50`)."""
    mtf50 = sampled_mtf50(mtf50, scan.spacing_or_pixels)
    return scan.with_image(scan.image + sigma * ct_noise(scan, mtf50, rng), sigma=sigma, mtf50=mtf50)


def noise_sigma(scan: Scan) -> Tensor:
    """SD of the noise per channel (c,) in HU: the known one, or the estimate for noise of the kernel's spectrum.

    `Scan.sigma` estimates it from second differences as if it were white; the gain of that mask on noise of this
    spectrum is not 6 but the one that is computed here.
    """
    if "sigma" in scan.native:
        return scan.sigma
    shape, spacing = tuple(scan.image.shape), scan.spacing_or_pixels
    delta = torch.zeros(shape[-2:], device=scan.device)
    delta[:3, :3] = LAPLACIAN.to(scan.device)
    gain = torch.fft.rfft2(delta).abs() * noise_gain(shape, spacing, kernel_mtf50(scan), scan.device)
    return scan.sigma * 6.0 / mean_power(gain, shape[-1]) ** 0.5


def dose(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan at `value` % of its dose; 100 changes nothing.

    Noise of variance sigma^2 (100 / value - 1) is added, sigma being the SD of the noise that is there, with the noise
    power spectrum of the kernel. It has the same SD everywhere: photon starvation needs `ct_projection`. The draw is
    the same for every value.

    Raises:
        OperatorError: the image has no noise, so that its dose means nothing.

    Reference:
        Wang, Lu, Liang, Eremina, Zhang, Wang, Chen and Manzione, An experimental study on the noise properties of
        X-ray CT sinogram data in Radon space, Phys Med Biol 53:3327, 2008: noise variance is inverse to dose.
    """
    if value == 100:
        return scan
    sigma = noise_sigma(scan)
    if not bool((sigma > 0).all()):
        raise OperatorError("the image has no noise to state a dose by", where="ct_dose", remedy="use a measured scan")
    added = sigma * math.sqrt(100 / value - 1)
    noise = ct_noise(scan, kernel_mtf50(scan), rng)
    image = scan.image + added.reshape(-1, *(1,) * scan.ndim) * noise
    return scan.with_image(image, sigma=float(sigma[0]) * math.sqrt(100 / value))


def effective_dose_percent(before: Scan, after: Scan, value: float) -> float:
    """Dose in % of `before` that the noise added inside the body (first channel) stands for."""
    added = (after.image[0] - before.image[0])[before.body].double().std()
    return 100 / (1 + float(added / noise_sigma(before)[0].double()) ** 2)


def kernel(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan reconstructed with a kernel whose MTF50 is `value` % of that of its own; 100 changes nothing.

    The in-plane spectrum is multiplied by MTF_target / MTF_source, at most `LARGEST_GAIN`, in line pairs per mm.
    Noise is in the image and changes with it. On a real scan the MTF of its kernel is an assumption (`kernel_mtf50`):
    the ratio of the two is exact, the line pairs per mm are as good as that assumption, and detail that a soft kernel
    has taken below the noise does not come back.

    Raises:
        NotApplicable: the pixels are too large for so sharp a kernel.
    """
    if value == 100:
        return scan
    source, spacing = kernel_mtf50(scan), scan.spacing_or_pixels
    target = source * value / 100
    if target > nyquist(spacing):
        raise NotApplicable(
            f"a kernel of {target:.3g} lp/mm was asked of pixels that carry {nyquist(spacing):.3g} lp/mm",
            where="ct_kernel",
            remedy="ask for a softer kernel, or use smaller pixels",
        )
    image, f = mirrored(scan.image, spacing)
    gain = torch.exp(-math.log(2) * f.square() * (target**-2 - source**-2)).clamp(max=LARGEST_GAIN)
    noise = _gain_of_noise(scan, source, target)
    known = {"sigma": scan.native["sigma"] * noise} if "sigma" in scan.native else {}
    return scan.with_image(filtered(image, gain, scan.shape), mtf50=target, **known)


def kernel_percent(before: Scan, after: Scan, value: float) -> float:
    """MTF50 of `after` in % of that of `before`, from the transfer between the two images.

    The ratio of their in-plane spectra, averaged in rings, times the MTF of the first; the frequency where it falls
    below one half. 2 x Nyquist / MTF50 where it does not.
    """
    size, spacing = before.image.shape[-2:], before.spacing_or_pixels
    f, source = frequencies(size, spacing, before.device), kernel_mtf50(before)
    a, b = torch.fft.rfft2(before.image.double()), torch.fft.rfft2(after.image.double())
    cross = (b * a.conj()).real.reshape(-1, *f.shape).sum(dim=0)
    power = a.abs().square().reshape(-1, *f.shape).sum(dim=0)
    width = 1 / max(n * mm for n, mm in zip(size, spacing[-2:], strict=True))
    ring = (f / width).round().long().flatten()
    sums = [torch.zeros(int(ring.max()) + 1, dtype=torch.float64, device=ring.device) for _ in range(2)]
    for total, part in zip(sums, (cross, power), strict=True):
        total.index_add_(0, ring, part.flatten())
    radius = torch.arange(len(sums[0]), device=ring.device) * width
    transfer = (sums[0] / sums[1]) * mtf(radius, source)
    below = torch.nonzero((transfer < 0.5) & (radius <= 2 * nyquist(spacing)))
    if not len(below) or int(below[0]) == 0:
        return 200 * nyquist(spacing) / source
    i = int(below[0])
    high, low = float(transfer[i - 1]), float(transfer[i])
    return 100 * (float(radius[i - 1]) + width * (high - 0.5) / (high - low)) / source


def _gain_of_noise(scan: Scan, source: float, target: float) -> float:
    """SD of noise with the spectrum of the source's kernel after the change to the target's, relative."""
    shape = tuple(scan.image.shape)
    f = frequencies(shape, scan.spacing_or_pixels, scan.device)
    gain = torch.exp(-math.log(2) * f.square() * (target**-2 - source**-2)).clamp(max=LARGEST_GAIN)
    return mean_power(gain * noise_gain(shape, scan.spacing_or_pixels, source, scan.device), shape[-1]) ** 0.5


def mirrored(image: Tensor, spacing: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The image mirrored by `EDGE_PIXELS` at its in-plane borders, and the frequencies of that grid."""
    pad = min(EDGE_PIXELS, *(n - 1 for n in image.shape[-2:]))
    planes = torch.nn.functional.pad(image.flatten(0, -3)[:, None], (pad,) * 4, mode="reflect")
    return planes, frequencies(tuple(planes.shape), spacing, image.device)


def filtered(planes: Tensor, gain: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Mirrored planes (c*d, 1, H, W) through a filter, cropped to (c, *s)."""
    height, width = shape[-2:]
    out = torch.fft.irfft2(torch.fft.rfft2(planes) * gain, s=planes.shape[-2:])
    top, left = (planes.shape[-2] - height) // 2, (planes.shape[-1] - width) // 2
    return out[..., top : top + height, left : left + width].reshape(-1, *shape)


def calibration(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan of a scanner that is off by `value` HU in water, up or down by chance, and right in air; 0 is none.

    CT numbers above air are scaled, so that bone is off by more than soft tissue.

    Reference:
        Lamba et al., CT Hounsfield numbers of soft tissues on unenhanced abdominal CT scans: variability between two
        different manufacturers' scanners, AJR 203:1013, 2014.
    """
    sign = 1.0 if rng.uniform() < 0.5 else -1.0
    if value == 0:
        return scan
    return miscalibrated(scan, sign * value)


def miscalibrated(scan: Scan, offset_hu: float) -> Scan:
    """The scan with the CT number of water off by `offset_hu`, that of air right, and others in proportion."""
    return scan.with_image(scan.image + (scan.image - AIR_HU) * (offset_hu / -AIR_HU))


def calibration_hu(before: Scan, after: Scan, value: float) -> float:
    """Absolute error in HU of water, from the median change inside the body relative to the CT number above air."""
    above = before.image[:, before.body] - AIR_HU
    change = (after.image - before.image)[:, before.body]
    return -AIR_HU * abs(float((change / above.clamp(min=1)).median()))


def fov_truncation(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The scan with `value` % of the body's width outside the reconstructed field of view; 0 changes nothing.

    The field ends at two columns; chance says how much is lost on which side. Outside is air. A column that the border
    crosses counts in part. References are not cut: the organ is there.
    """
    split = float(rng.uniform())
    if value == 0:
        return scan
    columns = torch.nonzero(scan.body.flatten(0, -2).any(dim=0)).flatten()
    first, last = int(columns[0]), int(columns[-1]) + 1
    lost = (last - first) * value / 100
    left, right = first + split * lost, last - (1 - split) * lost
    at = torch.arange(scan.shape[-1], device=scan.device, dtype=scan.image.dtype)
    inside = (at + 1 - left).clamp(0, 1) * (right - at).clamp(0, 1)
    return scan.with_image(AIR_HU + (scan.image - AIR_HU) * inside)


def truncated_percent(before: Scan, after: Scan, value: float) -> float:
    """Share in % of the body's width that is air in `after`, in whole and parts of columns."""
    there = before.body.flatten(0, -2).any(dim=0)
    kept = ((after.image - AIR_HU) * before.body).abs().flatten(0, -2).sum(dim=0)
    was = ((before.image - AIR_HU) * before.body).abs().flatten(0, -2).sum(dim=0)
    return 100 * (1 - float((kept[there] / was[there]).mean()))
