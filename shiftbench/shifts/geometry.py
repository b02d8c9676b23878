"""Operators on the sampling: slice thickness and in-plane resolution, in mm."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import brentq
from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts.measure import edge_fwhm
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal


def slice_thickness(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image as acquired in contiguous slices of `value` mm along the first axis, back on its own grid.

    Each slice is the mean over a slab (rectangular slice profile; voxels cut by its faces count in part) whose edge
    response has the FWHM `value`. The slice grid is in mm and has a random phase, the same share of a slice for every
    value. Slices are interpolated linearly at their physical centres, so that content is not displaced, and labels
    are not touched. Noise of the input is averaged with the signal. The native thickness changes nothing.

    Raises:
        OperatorError: the image has no slice axis.
        NotApplicable: the slices are thicker already, or fewer than two would fit.
    """
    if scan.ndim != 3:
        raise OperatorError(
            "a 2-D image has no slice axis", where="slice_thickness", remedy="use a volume or another operator"
        )
    assert scan.spacing is not None and scan.slice_mm is not None
    phase = float(rng.uniform())
    if value < scan.slice_mm * (1 - 1e-6):
        raise NotApplicable(
            f"slices of {value:g} mm were asked of a scan with slices of {scan.slice_mm:g} mm",
            where="slice_thickness",
            remedy="ask for thicker slices",
        )
    if value <= scan.slice_mm * (1 + 1e-6):
        return scan
    n, step = scan.image.shape[1], scan.spacing[0]
    centres = slice_centres(n, step, value, phase)
    if len(centres) < 2:
        raise NotApplicable(
            f"slices of {value:g} mm were asked of a scan of {n * step:g} mm",
            where="slice_thickness",
            remedy="ask for thinner slices",
        )
    slabs = torch.from_numpy(slab_weights(n, step, value, centres)).to(scan.device)
    back = torch.from_numpy(interpolation_weights(n, step, centres)).to(scan.device)
    return scan.on_slices(slabs, back, spacing_mm=value, slice_mm=value)


def slice_centres(n: int, step: float, thickness: float, phase: float) -> np.ndarray:
    """Centres in mm of contiguous slices, from the middle of the first voxel; each lies inside the field of view.

    The grid is fixed to the middle of the field of view up to `phase` (0 to 1) of a slice.
    """
    low, high = -step / 2, (n - 0.5) * step
    origin = (low + high) / 2 + (phase - 0.5) * thickness
    first, last = np.ceil((low - origin) / thickness), np.floor((high - origin) / thickness)
    return origin + np.arange(first, last + 1) * thickness


def slab_width(thickness: float, step: float) -> float:
    """Width in mm of a slab over voxels of `step` mm whose edge response has the FWHM `thickness` (> `step`).

    The voxels have averaged over their own width, so a slab as wide as the slice is right from two voxels on and too
    wide below: its profile is the box convolved with the triangle of the voxels, averaged over the slab's position.
    """
    if thickness >= 2 * step:
        return thickness

    def below(x: float) -> float:  # distribution function of the triangle
        u = min(max(x / step, -1.0), 1.0)
        return 0.5 + u - 0.5 * u * abs(u)

    def excess(width: float) -> float:
        peak = below(width / 2) - below(-width / 2)
        return below((thickness + width) / 2) - below((thickness - width) / 2) - peak / 2

    return float(brentq(excess, 1e-6 * step, thickness))


def slab_weights(n: int, step: float, thickness: float, centres: np.ndarray) -> np.ndarray:
    """Share of each of n voxels in each slice, (len(centres), n), rows summing to 1; slabs end at the field of view."""
    faces = (np.arange(n + 1) - 0.5) * step
    width = slab_width(thickness, step)
    low, high = centres[:, None] - width / 2, centres[:, None] + width / 2
    overlap = np.clip(np.minimum(faces[1:], high) - np.maximum(faces[:-1], low), 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def interpolation_weights(n: int, step: float, centres: np.ndarray) -> np.ndarray:
    """Linear interpolation from `centres` to the n voxel centres, (n, len(centres)); constant beyond the ends."""
    at = np.clip(np.arange(n) * step, centres[0], centres[-1])
    position = (at - centres[0]) / (centres[1] - centres[0])
    return np.clip(1 - np.abs(position[:, None] - np.arange(len(centres))), 0, 1)


def in_plane_resolution(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The magnitude of the image with k-space cut to pixels of `value` mm along its last two axes, zero-filled.

    The cut is a rectangle of whole lines, symmetric about the centre of k-space, in mm along each axis, so ringing
    comes with it. The mean (the centre of k-space) is kept. The native pixel size changes nothing.

    Raises:
        NotApplicable: the pixels are larger already along both axes.
    """
    assert scan.spacing is not None
    shape, spacing = scan.image.shape[-2:], scan.spacing[-2:]
    kept = [kept_frequency(n, mm, value) for n, mm in zip(shape, spacing, strict=True)]
    if all(value < mm * (1 - 1e-6) for mm in spacing):
        raise NotApplicable(
            f"pixels of {value:g} mm were asked of a scan with pixels of {min(spacing):g} mm",
            where="in_plane_resolution",
            remedy="ask for larger pixels",
        )
    if min(kept) < 1:
        raise NotApplicable(
            f"pixels of {value:g} mm were asked of an image of {shape[0]} x {shape[1]} pixels",
            where="in_plane_resolution",
            remedy="ask for smaller pixels",
        )
    if all(k == n // 2 for k, n in zip(kept, shape, strict=True)):
        return scan
    rows, columns = (
        (torch.fft.fftfreq(n, device=scan.device) * n).abs().round() <= k for n, k in zip(shape, kept, strict=True)
    )
    return scan.with_signal(Signal(spectrum=scan.signal.spectrum * (rows[:, None] & columns)))


def kept_frequency(n: int, step: float, acquired: float) -> int:
    """Highest frequency kept, in cycles per field of view of n pixels of `step` mm, for pixels of `acquired` mm."""
    if acquired <= step * (1 + 1e-6):
        return n // 2
    return int(np.floor(n * step / (2 * acquired) * (1 + 1e-9)))


def acquired_pixel_mm(n: int, step: float, acquired: float) -> float:
    """Pixel size in mm that the kept lines of k-space stand for."""
    return max(step, n * step / (2 * kept_frequency(n, step, acquired) + 1))


def slice_profile_fwhm_mm(thickness: float, step: float) -> float:
    """Width in mm of the slice profile that `slab_weights` makes on a grid of `step` mm: FWHM of its edge response.

    An edge is moved across a slab in sub-voxel steps and over all positions of the slab on the grid, as a slanted edge
    does on a scanner; the slice is sampled before it is interpolated.
    """
    n = 2 * int(np.ceil(thickness / step)) + 8
    offsets = np.linspace(-0.5, 0.5, 32, endpoint=False) * step
    weights = slab_weights(n, step, thickness, (n - 1) / 2 * step + offsets)
    positions = np.linspace(-0.5 * n + 2, 0.5 * n - 2, 64 * (n - 4) + 1) * step
    response = np.zeros_like(positions)
    for row, offset in zip(weights, offsets, strict=True):
        edge = (n - 1) / 2 * step + offset - positions  # tissue above the edge
        filled = np.clip((np.arange(n) + 0.5) - edge[:, None] / step, 0, 1)
        response += filled @ row / len(offsets)
    return edge_fwhm(positions, response)


def slice_profile_mm(before: Scan, after: Scan, value: float) -> float:
    """FWHM in mm of the slice profile of the output."""
    step = before.spacing_or_pixels[0]
    return slice_profile_fwhm_mm(value, step) if value > step * 1.001 else step


def pixel_mm(before: Scan, after: Scan, value: float) -> float:
    """Pixel size in mm, along the last axis, that the kept lines of k-space stand for."""
    return acquired_pixel_mm(before.shape[-1], before.spacing_or_pixels[-1], value)
