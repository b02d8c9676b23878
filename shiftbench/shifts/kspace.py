"""Operators on k-space: partial Fourier, ghosts, spikes. Rows (axis -2) are lines of the phase-encoding direction."""

from __future__ import annotations

import math

import numpy as np
import torch

from shiftbench.shifts.intensity import smooth_field
from shiftbench.shifts.measure import line_transfer
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

PHASE_SD = 1.0  # rad inside the body: coils, B0 and flow of a gradient echo
SPIKE_CYCLES = (8.0, 32.0)  # per field of view
NYQUIST_SHARE = 0.9  # of the highest frequency, for a spike on a coarse grid
SPIKE_ROLL = 8.0  # most cycles of a spike's stripes along the slices


def partial_fourier(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The signal with the share `value` of its phase-encoding lines, the rest zero-filled; 1 changes nothing.

    One half of k-space is acquired in full, the other (chance decides which) up to the centre and a little beyond.
    A magnitude image has Hermitian k-space, of which half would be enough; that of a scanner has not, because coils,
    B0 and flow give the object a phase. So the image is given a smooth phase of 1 rad (SD inside the body, drawn
    like the field of a coil) before its lines are cut, as in practice.

    Reference:
        McGibney et al., Quantitative evaluation of several partial Fourier reconstruction algorithms, Magn Reson Med
        30:51, 1993.
    """
    upper = bool(rng.integers(2))
    if value == 1:
        return scan
    phase = smooth_field(scan.body, scan.spacing_or_pixels, rng).mul_(PHASE_SD)
    turned = scan.signal.image * torch.polar(torch.ones_like(phase), phase)
    n, acquired = scan.shape[-2], _acquired_lines(scan)
    k = signed_lines(n) * (-1 if upper else 1)
    held = np.argsort(-k)  # from the edge of the half that is acquired in full
    held = held[np.abs(k[held]) <= acquired / 2][: max(math.floor(value * acquired + 0.5), acquired // 2 + 1)]
    lines = torch.from_numpy(np.isin(np.arange(n), held)).to(scan.device)[:, None]
    known = {"sigma": scan.native["sigma"] * value**0.5} if "sigma" in scan.native else {}
    return scan.with_signal(Signal(spectrum=torch.fft.fft2(turned, norm="ortho") * lines), **known)


def signed_lines(n: int) -> np.ndarray:
    """Line numbers (n,) in the order of a Fourier transform; 0 is the centre of k-space."""
    return np.round(np.fft.fftfreq(n) * n).astype(int)


def _acquired_lines(scan: Scan) -> int:
    """Phase-encoding lines that k-space still holds."""
    n, mm = scan.shape[-2], scan.spacing_or_pixels[-2]
    return n if scan.native.get("pixel_mm", mm) <= mm else math.floor(n * mm / scan.native["pixel_mm"] + 0.5)


def fourier_fraction(before: Scan, after: Scan, value: float) -> float:
    """Share of the acquired phase-encoding lines that the output's k-space holds."""
    spectrum = after.signal.spectrum
    energy = spectrum.abs().square().sum(dim=[i for i in range(spectrum.ndim) if i != spectrum.ndim - 2])
    return float((energy > 1e-9 * energy.max()).sum()) / _acquired_lines(before)


def ghosting(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The signal with ghosts of `value` % of it, at every n-th part of the field of view (n = 2, 3 or 4); 0: none.

    Every n-th phase-encoding line differs from the others, by a phase (pulsation, eddy currents). In the image this is
    I + i g sum_j exp(i phi_j) I(y - j FOV / n): the lines are multiplied by the Fourier series of that sum, which is
    exact also where n does not divide their number. All is divided by the factor of the centre of k-space, so that
    the mean of the signal stays: the ghosts' energy comes from the image. Chance picks n and the lines' phase.

    Reference:
        Bernstein, King and Zhou, Handbook of MRI Pulse Sequences, 2004, section 12.1 (Nyquist ghosts).
    """
    n, start = int(rng.integers(2, 5)), float(rng.uniform(0, 4))
    if value == 0:
        return scan
    lines = signed_lines(scan.shape[-2])
    replicas = _replicas(lines - start, n)[:, 1:].sum(axis=1)
    at_centre = _replicas(np.array([-start]), n)[:, 1:].sum()
    factor = (1 + 1j * value / 100 * replicas) / (1 + 1j * value / 100 * at_centre)
    factor = torch.from_numpy(factor.astype(np.complex64)).to(scan.device)[:, None]
    return scan.with_signal(Signal(spectrum=scan.signal.spectrum * factor), ghosts=n)


def _replicas(k: np.ndarray, n: int) -> np.ndarray:
    """Factor on line k that shifts the image by j / n of the field of view, (len(k), n) for j = 0 to n - 1."""
    return np.exp(2j * np.pi * k[:, None] * np.arange(n) / n)


def ghost_percent(before: Scan, after: Scan, value: float) -> float:
    """Amplitude of a ghost over that of the image, in %, from what became of the lines of k-space."""
    transfer, energy = line_transfer(before, after, -2)
    seen = (energy > 1e-9 * energy.max()).cpu().numpy()
    basis = _replicas(signed_lines(before.shape[-2]), int(after.native["ghosts"]))
    amplitudes = np.linalg.lstsq(basis[seen], transfer.cpu().numpy()[seen], rcond=None)[0]
    return 100 * float(np.abs(amplitudes[1:]).mean() / np.abs(amplitudes[0]))


def spike(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The signal with one corrupt point of k-space: stripes of `value` % of the reference signal; 0 changes nothing.

    Chance picks the point, 8 to 32 cycles per field of view from the centre (nearer on a coarse grid), its phase, and
    how the stripes of a volume roll from slice to slice.

    Reference:
        Zhuo and Gullapalli, MR artifacts, safety, and quality control, Radiographics 26:275, 2006.
    """
    radius, angle, phase = rng.uniform(*SPIKE_CYCLES), rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
    roll = rng.uniform(-SPIKE_ROLL, SPIKE_ROLL)
    if value == 0:
        return scan
    (h, w), mm = scan.shape[-2:], scan.spacing_or_pixels[-2:]
    pixel = scan.native.get("pixel_mm", 0.0)
    highest = min(NYQUIST_SHARE * min(n, n * d / max(pixel, d)) / 2 for n, d in zip((h, w), mm, strict=True))
    radius = min(radius, highest)
    at = round(radius * math.sin(angle)) % h, round(radius * math.cos(angle)) % w
    slices = np.arange(scan.shape[0]) / scan.shape[0] if scan.ndim == 3 else np.zeros(())
    wave = torch.from_numpy(np.asarray(np.exp(1j * (phase + 2 * np.pi * roll * slices)), np.complex64)).to(scan.device)
    height = scan.reference_signal * (value / 100 * math.sqrt(h * w))
    points = height.reshape(-1, *(1,) * wave.ndim) * wave
    if isinstance(scan.raw, Signal) and "spectrum" in scan.raw.__dict__:
        spectrum = scan.raw.spectrum.clone()
        spectrum[..., at[0], at[1]] += points
        return scan.with_signal(Signal(spectrum=spectrum))
    rows, columns = (np.exp(2j * np.pi * k * np.arange(n) / n) / n**0.5 for k, n in zip(at, (h, w), strict=True))
    stripes = torch.from_numpy(np.outer(rows, columns).astype(np.complex64)).to(scan.device)
    image = points[..., None, None] * stripes
    if isinstance(scan.raw, Signal):
        image += scan.raw.image
    else:
        torch.view_as_real(image)[..., 0] += scan.raw
    return scan.with_signal(Signal(image=image))


def stripe_percent(before: Scan, after: Scan, value: float) -> float:
    """Amplitude of the stripes in % of the reference signal: the point of k-space that changed most, first channel."""
    change = (after.signal.spectrum[0] - before.signal.spectrum[0]).abs().flatten(-2)
    height = change.amax(dim=-1).mean() / math.sqrt(change.shape[-1])
    return 100 * float(height / before.reference_signal[0])
