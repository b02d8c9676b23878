"""Operators on the sampling: slice thickness, slice gap and in-plane resolution, in mm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts.measure import edge_fwhm, line_transfer
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

Profile = Literal["rect", "gauss", "slr"]
FWHM_PER_SD = 2.3548200450309493  # of a Gaussian
SLR_EDGE = 0.08  # SD of the edges of an SLR pulse's profile over its FWHM: a time-bandwidth product of about 5


@dataclass(frozen=True, eq=False)
class SlicedScan(Scan):
    """A scan in thick slices that still knows what they were cut from, so that their distance can be changed."""

    uncut: Scan | None = None
    cut: Tensor | Signal | None = None  # what was made of it; another `raw` is no longer the mere cut
    profile: Profile = "rect"


def slice_thickness(scan: Scan, value: float, rng: np.random.Generator, profile: Profile = "rect") -> Scan:
    """The image as acquired in contiguous slices of `value` mm along the first axis.

    Each slice is the mean over a slab whose edge response has the FWHM `value` (rectangular slice profile; voxels cut
    by its faces count in part). The slice grid is in mm and has a random phase, the same share of a slice for every
    value. Back on the reference grid slices are interpolated linearly at their physical centres, so that content is
    not displaced, and labels are not touched. Noise of the input is averaged with the signal. The native thickness
    changes nothing.

    Raises:
        OperatorError: the image has no slice axis.
        NotApplicable: the slices are thicker already, or fewer than two would fit.
    """
    if scan.ndim != 3:
        raise OperatorError(
            "a 2-D image has no slice axis", where="slice_thickness", remedy="use a volume or another operator"
        )
    assert scan.slice_mm is not None
    phase = float(rng.uniform())
    if value < scan.slice_mm * (1 - 1e-6):
        raise NotApplicable(
            f"slices of {value:g} mm were asked of a scan with slices of {scan.slice_mm:g} mm",
            where="slice_thickness",
            remedy="ask for thicker slices",
        )
    if value <= scan.slice_mm * (1 + 1e-6):
        return scan
    return _sliced(scan, value, value, phase, profile, "slice_thickness")


def slice_thickness_gauss(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """As `slice_thickness`, with a Gaussian slice profile of that FWHM (a short selective pulse)."""
    return slice_thickness(scan, value, rng, "gauss")


def slice_thickness_slr(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """As `slice_thickness`, with the profile of a Shinnar-Le Roux pulse of that FWHM: a rectangle with soft edges.

    Reference:
        Pauly et al., Parameter relations for the Shinnar-Le Roux selective excitation pulse design algorithm,
        IEEE Trans Med Imaging 10:53, 1991.
    """
    return slice_thickness(scan, value, rng, "slr")


def slice_gap(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image with a gap of `value` % of the slice thickness between its slices; 0 changes nothing.

    The slices keep their thickness and profile; what lies in the gaps is not imaged, and the reference grid is
    interpolated across it. Right after `slice_thickness` the slices are cut anew, so nothing is interpolated twice.

    Raises:
        OperatorError: the image has no slice axis.
        NotApplicable: fewer than two slices would fit.
    """
    if scan.ndim != 3:
        raise OperatorError("a 2-D image has no slice axis", where="slice_gap", remedy="use a volume")
    phase = float(rng.uniform())
    if value == 0:
        return scan
    thickness = scan.slice_mm
    assert thickness is not None
    distance = thickness * (1 + value / 100)
    if isinstance(scan, SlicedScan) and scan.uncut is not None and scan.raw is scan.cut:
        return _sliced(scan.uncut, thickness, distance, phase, scan.profile, "slice_gap")
    return _sliced(scan, thickness, distance, phase, "rect", "slice_gap")


def _sliced(scan: Scan, thickness: float, distance: float, phase: float, profile: Profile, where: str) -> Scan:
    """The scan in slices of `thickness` mm, `distance` mm apart."""
    assert scan.spacing is not None
    n, step = scan.shape[0], scan.spacing[0]
    centres = slice_centres(n, step, distance, phase)
    if len(centres) < 2:
        raise NotApplicable(
            f"slices every {distance:g} mm were asked of a scan of {n * step:g} mm",
            where=where,
            remedy="ask for thinner slices",
        )
    slabs = torch.from_numpy(slab_weights(n, step, thickness, centres, profile)).to(scan.device)
    back = torch.from_numpy(interpolation_weights(n, step, centres)).to(scan.device)
    cut = scan.on_slices(slabs, back, spacing_mm=distance, slice_mm=thickness)
    known = {f.name: getattr(cut, f.name) for f in fields(Scan)}
    return SlicedScan(**known, uncut=scan, cut=cut.raw, profile=profile)


def slice_centres(n: int, step: float, distance: float, phase: float) -> np.ndarray:
    """Centres in mm of slices `distance` mm apart, from the middle of the first voxel; each lies in the field of view.

    The grid is fixed to the middle of the field of view up to `phase` (0 to 1) of a slice.
    """
    low, high = -step / 2, (n - 0.5) * step
    origin = (low + high) / 2 + (phase - 0.5) * distance
    first, last = np.ceil((low - origin) / distance), np.floor((high - origin) / distance)
    return origin + np.arange(first, last + 1) * distance


def slab_width(thickness: float, step: float) -> float:
    """Width in mm of a slab over voxels of `step` mm whose edge response has the FWHM `thickness` (> `step`).

    The voxels have averaged over their own width, so a slab as wide as the slice is right from two voxels on and too
    wide below: its profile is the box convolved with the triangle of the voxels, averaged over the slab's position.
    A slab is never narrower than a voxel where the slice is no thicker than one: it is then interpolated linearly.
    """
    if thickness >= 2 * step:
        return thickness
    if thickness <= step * (1 + 1e-6):
        return step

    def below(x: float) -> float:  # distribution function of the triangle
        u = min(max(x / step, -1.0), 1.0)
        return 0.5 + u - 0.5 * u * abs(u)

    def excess(width: float) -> float:
        peak = below(width / 2) - below(-width / 2)
        return below((thickness + width) / 2) - below((thickness - width) / 2) - peak / 2

    return float(brentq(excess, 1e-6 * step, thickness))


def slab_weights(n: int, step: float, thickness: float, centres: np.ndarray, profile: Profile = "rect") -> np.ndarray:
    """Share of each of n voxels in each slice, (len(centres), n), rows summing to 1; slabs end at the field of view."""
    faces = (np.arange(n + 1) - 0.5) * step - centres[:, None]
    cumulative = _cumulative(faces, slab_width(thickness, step), step, profile)
    overlap = np.clip(np.diff(cumulative, axis=1), 0, None)
    return overlap / overlap.sum(axis=1, keepdims=True)


def _cumulative(z: np.ndarray, width: float, step: float, profile: Profile) -> np.ndarray:
    """Integral up to z mm from its centre of a slice profile of FWHM `width` over voxels of `step` mm, any scale."""
    if profile == "gauss":  # the voxels' averaging, and that of the weights, are part of the profile
        sd = max((width / FWHM_PER_SD) ** 2 - step**2 / 6, (0.1 * step) ** 2) ** 0.5
        return ndtr(z / sd)
    if profile == "slr":
        sd = SLR_EDGE * width

        def ramp(x: np.ndarray) -> np.ndarray:  # integral of the normal distribution function
            return sd * (x / sd * ndtr(x / sd) + np.exp(-0.5 * (x / sd) ** 2) / np.sqrt(2 * np.pi))

        return ramp(z + width / 2) - ramp(z - width / 2)
    return np.clip(z, -width / 2, width / 2)


def interpolation_weights(n: int, step: float, centres: np.ndarray) -> np.ndarray:
    """Linear interpolation from `centres` to the n voxel centres, (n, len(centres)); constant beyond the ends."""
    at = np.clip(np.arange(n) * step, centres[0], centres[-1])
    position = (at - centres[0]) / (centres[1] - centres[0])
    return np.clip(1 - np.abs(position[:, None] - np.arange(len(centres))), 0, 1)


def in_plane_resolution(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The signal with k-space cut to pixels of `value` mm along its last two axes, zero-filled.

    The cut is a rectangle, symmetric about the centre of k-space, in mm along each axis, so ringing comes with it. The
    mean (the centre of k-space) is kept. The native pixel size changes nothing.

    Raises:
        NotApplicable: the pixels are larger already along both axes, or fewer than two lines would be left.
    """
    assert scan.spacing is not None
    shape, spacing = scan.shape[-2:], scan.spacing[-2:]
    native = max(min(spacing), scan.native.get("pixel_mm", 0.0))
    if value < native * (1 - 1e-6):
        raise NotApplicable(
            f"pixels of {value:g} mm were asked of a scan with pixels of {native:g} mm",
            where="in_plane_resolution",
            remedy="ask for larger pixels",
        )
    if any(n * mm < 2 * value for n, mm in zip(shape, spacing, strict=True)):
        raise NotApplicable(
            f"pixels of {value:g} mm were asked of an image of {shape[0]} x {shape[1]} pixels",
            where="in_plane_resolution",
            remedy="ask for smaller pixels",
        )
    if all(value <= mm * (1 + 1e-6) for mm in spacing):
        return scan
    lines = kept_lines(shape, spacing, value, scan.device)
    known = {"pixel_mm": value}
    if "sigma" in scan.native:  # noise beyond the cut is gone
        known["sigma"] = scan.native["sigma"] * float(lines.square().mean().sqrt())
    return scan.with_signal(Signal(spectrum=scan.signal.spectrum * lines), **known)


def kept_lines(
    shape: Sequence[int], spacing: Sequence[float], acquired_mm: float, device: torch.device | str = "cpu"
) -> Tensor:
    """Weight (h, w) of each point of k-space in a scan with pixels of `acquired_mm`.

    Along each axis n * spacing / acquired_mm lines are kept; the outermost count in part, so that this need not be a
    whole odd number and the same pixel size means the same on every grid.
    """
    axes = []
    for n, mm in zip(shape, spacing, strict=True):
        line = np.abs(np.fft.fftfreq(n) * n)
        coarser = acquired_mm > mm * (1 + 1e-6)
        kept = np.clip(n * mm / (2 * acquired_mm) + 0.5 - line, 0, 1) if coarser else np.ones(n)
        axes.append(torch.from_numpy(kept.astype(np.float32)).to(device))
    return axes[0][:, None] * axes[1]


def slice_profile_fwhm_mm(thickness: float, step: float, profile: Profile = "rect") -> float:
    """Width in mm of the slice profile that `slab_weights` makes on a grid of `step` mm: FWHM of its edge response."""
    return _profile_fwhm_mm(partial(slab_weights, thickness=thickness, profile=profile), thickness, step)


def _profile_fwhm_mm(weights_of, thickness: float, step: float) -> float:
    """FWHM in mm of the edge response of slabs over voxels of `step` mm.

    An edge is moved across a slab in sub-voxel steps and over all positions of the slab on the grid, as a slanted edge
    does on a scanner; the slice is sampled before it is interpolated.
    """
    n = 4 * int(np.ceil(thickness / step)) + 8
    offsets = np.linspace(-0.5, 0.5, 32, endpoint=False) * step
    weights = weights_of(n, step, centres=(n - 1) / 2 * step + offsets)
    positions = np.linspace(-0.5 * n + 2, 0.5 * n - 2, 64 * (n - 4) + 1) * step
    edges = (n - 1) / 2 * step + offsets[:, None] - positions  # tissue above the edge
    cumulative = np.concatenate([np.zeros((len(offsets), 1)), np.cumsum(weights, axis=1)], axis=1)
    at = np.clip(edges / step + 0.5, 0, n)  # in voxel faces
    first = np.clip(at.astype(int), 0, n - 1)
    below = np.take_along_axis(cumulative, first, 1)
    share = below + (at - first) * (np.take_along_axis(cumulative, first + 1, 1) - below)
    return edge_fwhm(positions, (1 - share).mean(axis=0))


def slice_profile_mm(before: Scan, after: Scan, value: float) -> float:
    """FWHM in mm of the slice profile of the output."""
    step = before.spacing_or_pixels[0]
    profile = after.profile if isinstance(after, SlicedScan) else "rect"
    return slice_profile_fwhm_mm(value, step, profile) if value > step * 1.001 else step


def gap_percent(before: Scan, after: Scan, value: float) -> float:
    """Distance of the output's slices beyond their thickness, in % of it."""
    assert after.spacing is not None and after.slice_mm is not None
    return 100 * (after.spacing[0] / after.slice_mm - 1)


def pixel_mm(before: Scan, after: Scan, value: float) -> float:
    """Pixel size in mm that the lines of k-space that are left stand for, along the axis with the finest grid."""
    spacing = before.spacing_or_pixels
    axis = -1 if spacing[-1] <= spacing[-2] else -2
    transfer, _ = line_transfer(before, after, axis, at_centre=True)
    return before.shape[axis] * spacing[axis] / float(transfer.real.sum())
