"""What a shift achieved, measured on images: SNR, non-uniformity, edge width, difference."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from shiftbench.shifts.scan import Scan


def nrmse(image: Tensor, clean: Tensor) -> float:
    """Root mean square difference of two images (c, *s) over the SD of `clean`, computed in double precision."""
    clean = clean.double()
    return float((image.double() - clean).square().mean().sqrt() / clean.std())


def snr(noisy: Tensor, clean: Tensor, mask: Tensor, *, native_sigma: float = 0.0) -> float:
    """Median of `clean` in `mask` over the SD of the noise, of images (*s); inf without noise.

    The SD is that of the difference where the signal exceeds half that median (below it the noise of a magnitude
    image is not normal), together with `native_sigma`, the SD of the noise that `clean` has already.
    """
    signal = clean[mask].median()
    bright = mask & (clean > signal / 2)
    added = (noisy[bright] - clean[bright]).double().std()
    sigma = float(torch.hypot(added, torch.tensor(native_sigma, dtype=torch.float64)))
    return float(signal) / sigma if sigma > 0 else float("inf")


def inu_percent(shaded: Tensor, clean: Tensor, mask: Tensor) -> float:
    """Intensity non-uniformity in % of images (*s): 1st to 99th percentile of shaded / clean in `mask`."""
    usable = mask & (clean > 0)
    ratio = (shaded[usable].double() / clean[usable].double()).numpy()
    low, high = np.percentile(ratio, (1, 99))
    return 100.0 * float(high - low)


def change(before: Scan, after: Scan, value: float) -> float:
    """Root mean square difference of the two images over the SD of the first."""
    return nrmse(after.exported(), before.exported())


def noise_snr(before: Scan, after: Scan, value: float) -> float:
    """SNR of the first channel in the reference tissue, with the noise that was there before."""
    native = float(before.sigma[0])
    return snr(after.image[0], before.image[0], before.reference_mask, native_sigma=native)


def added_inu_percent(before: Scan, after: Scan, value: float) -> float:
    """Intensity non-uniformity in % that was added inside the body."""
    return inu_percent(after.image[0], before.image[0], before.body)


def edge_fwhm(positions: np.ndarray, response: np.ndarray) -> float:
    """Full width at half maximum of the line spread function of an edge, in the unit of `positions`.

    Args:
        positions: ascending distances of the samples from the edge, (n,).
        response: the values there, (n,).

    Raises:
        ValueError: the line spread function does not fall to half its maximum within `positions`.

    Reference:
        IEC 62220-1 and ISO 12233: slanted-edge method.
    """
    spread = np.gradient(np.asarray(response, float), np.asarray(positions, float))
    spread = spread * np.sign(spread.sum())
    half = spread.max() / 2
    above = np.nonzero(spread >= half)[0]
    first, last = int(above[0]), int(above[-1])
    if first == 0 or last == len(spread) - 1:
        raise ValueError("the edge response is wider than its samples")

    def crossing(inside: int, outside: int) -> float:
        share = (half - spread[outside]) / (spread[inside] - spread[outside])
        return float(positions[outside] + share * (positions[inside] - positions[outside]))

    return crossing(last, last + 1) - crossing(first, first - 1)


def line_transfer(before: Scan, after: Scan, axis: int, *, at_centre: bool = False) -> tuple[Tensor, Tensor]:
    """What became of every line of k-space along `axis` (-1 or -2): complex factor (n,), and its energy before (n,).

    The factor is the least-squares one over all points of the line, or over those on the central line of the other
    axis (`at_centre`); lines without energy have 0.
    """
    a, b = after.signal.spectrum, before.signal.spectrum
    if at_centre:
        a, b = (s[..., :1, :] if axis == -1 else s[..., :, :1] for s in (a, b))
    others = tuple(i for i in range(a.ndim) if i != axis % a.ndim)
    energy = b.abs().square().sum(dim=others, dtype=torch.float64)
    cross = (a * b.conj()).sum(dim=others, dtype=torch.complex128)
    return torch.where(energy > 0, cross / energy.clamp(min=1e-300), 0), energy
