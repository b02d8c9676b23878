"""Artefacts of the field of view and of susceptibility: wrap-around, signal voids, an inhomogeneous main field."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.errors import OperatorError
from shiftbench.shifts.intensity import add_complex_noise, bounds, scaled
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.warps import jacobian, pull

DEPHASING_POWER = 4  # the gradient of a dipole's field falls with the fourth power of the distance
TILT_DEG = 15.0  # of the head against the main field
LARGE = 64  # voxels along an axis from which the main field is computed on half as many
RIM_MM = 4.0  # depth of tissue next to air
BANDWIDTH_HZ = 200.0  # per pixel of the readout, where it is not known


def wrap_around(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image with `value` % of the body's extent along the phase-encoding axis folded in; 0 changes nothing.

    The encoded field of view is that much shorter than the body. What lies beyond it appears at the other side, and
    beyond it nothing is imaged: the reference is not folded, so structures there are missed. Chance picks how much of
    it lies on which side. Parts of a voxel count, so that no signal is lost and the same extent in mm is folded on
    every grid.

    Reference:
        Zhuo and Gullapalli, Radiographics 26:275, 2006.
    """
    side = float(rng.uniform())
    if value == 0:
        return scan
    n, step = scan.shape[-2], scan.spacing_or_pixels[-2]
    low, high = (b[-2] for b in bounds(scan.body))
    extent = high - low + 1
    view = extent * (1 - value / 100)
    matrix = torch.from_numpy(_folding(n, low - 0.5 + side * value / 100 * extent, view).astype(np.float32))
    matrix = matrix.to(scan.device)
    known = {"fov_mm": view * step}
    if isinstance(scan.raw, Signal):
        return scan.with_signal(Signal(image=matrix.to(torch.complex64) @ scan.raw.image), **known)
    return scan.with_image(matrix @ scan.raw, **known)


def _folding(n: int, start: float, view: float) -> np.ndarray:
    """Share (n, n) of each voxel (column) that is seen in each (row), for a field of view `view` voxels long."""
    low = np.clip(np.arange(n) - 0.5, start, start + view)[:, None]
    high = np.clip(np.arange(n) + 0.5, start, start + view)[:, None]
    first, last = math.floor((-0.5 - start) / view), math.ceil((n - 0.5 - start) / view)
    turns = np.arange(first, last)[:, None, None] * view
    left, right = np.arange(n) - 0.5 - turns, np.arange(n) + 0.5 - turns
    return np.clip(np.minimum(high, right) - np.maximum(low, left), 0, None).sum(axis=0)


def folded_percent(before: Scan, after: Scan, value: float) -> float:
    """Extent of the body along the phase-encoding axis that is beyond the encoded field of view, in %."""
    low, high = (b[-2] for b in bounds(before.body))
    return 100 * (1 - after.native["fov_mm"] / ((high - low + 1) * before.spacing_or_pixels[-2]))


def susceptibility_void(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image with the signal lost around a piece of metal in the body: half of it at `value` mm; 0: as it is.

    The gradient of the metal's dipole field dephases the spins: the signal is multiplied by
    exp(-ln 2 (value / distance)^4). Noise stays what it is. Chance picks the place in the body.

    Reference:
        Hargreaves et al., Metal-induced artifacts in MRI, AJR 197:547, 2011.
    """
    place = rng.uniform(size=3)[-scan.ndim :]
    if value == 0:
        return scan
    centre = _nearest_inside(scan.body, scan.spacing_or_pixels, place)
    square = squared_distance(scan.shape, scan.spacing_or_pixels, centre, scan.device)
    kept = (value**2 / square).pow_(DEPHASING_POWER / 2).mul_(-math.log(2)).exp_()
    known = {f"void_mm_{axis}": mm for axis, mm in zip("zyx"[-scan.ndim :], centre, strict=True)}
    sigma = scan.sigma.reshape(-1, *(1,) * scan.ndim)
    lost = scaled(scan, kept)
    if not bool((sigma > 0).any()):
        return lost.with_image(lost.image, **known)
    return add_complex_noise(lost, sigma * (1 - kept.square()).sqrt(), rng, **known)


def squared_distance(
    shape: tuple[int, ...], spacing: tuple[float, ...], centre: list[float], device: torch.device
) -> Tensor:
    """Squared distance (*s) in mm2 of every voxel to `centre`, in mm from the first voxel."""
    total = torch.zeros((), device=device)
    for axis, (n, mm, c) in enumerate(zip(shape, spacing, centre, strict=True)):
        along = (torch.arange(n, device=device) * mm - c).square()
        total = total + along.reshape([-1 if axis == i else 1 for i in range(len(shape))])
    return total


def _nearest_inside(body: Tensor, spacing: tuple[float, ...], place: np.ndarray) -> list[float]:
    """The point of the body, in mm from the first voxel, nearest to `place` (shares of its bounding box)."""
    low, high = bounds(body)
    wanted = [(a + p * (b - a)) * mm for a, b, p, mm in zip(low, high, place, spacing, strict=True)]
    square = squared_distance(tuple(body.shape), spacing, wanted, body.device)
    nearest = int(torch.where(body, square, torch.inf).argmin())
    index = np.unravel_index(nearest, body.shape)
    return [float(np.clip(w, (i - 0.5) * mm, (i + 0.5) * mm)) for w, i, mm in zip(wanted, index, spacing, strict=True)]


def void_mm(before: Scan, after: Scan, value: float) -> float:
    """Distance in mm from the metal at which half the signal is left, from means over shells inside the body."""
    spacing = before.spacing_or_pixels
    centre = [after.native[f"void_mm_{axis}"] for axis in "zyx"[-before.ndim :]]
    distance = squared_distance(before.shape, spacing, centre, before.device)[before.body].sqrt()
    width = max(min(spacing), value / 12)
    shell = (distance / width).long()
    seen = shell < 4 * value / width
    shell = shell[seen]
    weights = [image[0][before.body][seen].double() for image in (after.image, before.image)]
    left, whole = (torch.bincount(shell, w).cpu().numpy() for w in weights)
    middles = torch.bincount(shell, distance[seen].double()) / torch.bincount(shell).clamp(min=1)
    kept, at = left[whole > 0] / whole[whole > 0], middles.cpu().numpy()[whole > 0]
    above = np.nonzero(kept >= 0.5)[0]
    if not len(above) or above[0] == 0:
        return float(at[0] if len(above) else at[-1])
    i = int(above[0])
    share = (0.5 - kept[i - 1]) / (kept[i] - kept[i - 1])
    return float(at[i - 1] + share * (at[i] - at[i - 1]))


def b0_field(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The gradient-echo signal in a main field that is off by `value` Hz (RMS in the tissue next to air); 0: as it is.

    The field is that of the body itself: the dipole field of tissue against air, main field along the slice axis
    (the first), the head tilted by up to 15 degrees by chance. The signal gets its phase at the echo time, loses what
    dephases across a voxel, and is shifted along the readout (axis -1) by the field over the bandwidth per pixel.

    Raises:
        OperatorError: the echo time is not known (no phantom).

    Reference:
        Marques and Bowtell, Application of a Fourier-based method for rapid calculation of field inhomogeneity due to
        spatial variation of magnetic susceptibility, Concepts Magn Reson B 25:65, 2005.
    """
    tilt, turn = math.radians(TILT_DEG) * rng.uniform(), rng.uniform(0, 2 * math.pi)
    if value == 0:
        return scan
    if "te_ms" not in scan.native:
        raise OperatorError("the echo time is not known", where="b0_field", remedy="use a phantom dataset")
    te = scan.native["te_ms"] / 1000
    hz = dipole_field(scan.body, scan.spacing_or_pixels, tilt, turn)
    edge = air_rim(scan.body, scan.spacing_or_pixels)
    hz *= value / float(hz[edge].square().mean().sqrt())
    factor = torch.polar(torch.ones_like(hz), 2 * math.pi * te * hz)
    for axis, n in enumerate(hz.shape):
        if n > 1:
            factor *= torch.sinc(torch.gradient(hz, dim=axis)[0] * te)
    signal = scan.signal.image * factor
    pixel = scan.spacing_or_pixels[-1]
    along = (hz / scan.native.get("bandwidth_hz", BANDWIDTH_HZ)).mul_(pixel)
    field = torch.zeros((scan.ndim, *scan.shape), device=scan.device)
    field[-1] = along
    density = jacobian(along.transpose(-1, -2), pixel).transpose(-1, -2).clamp(min=0)
    parts = torch.cat([signal.real, signal.imag])
    moved = pull(parts, field, scan.spacing_or_pixels, mode="bilinear") * density
    c = len(signal)
    shown = torch.complex(moved[:c], moved[c:])
    return scan.with_signal(Signal(image=shown), b0_hz=float(hz[edge].square().mean().sqrt()))


def dipole_field(body: Tensor, spacing: tuple[float, ...], tilt: float = 0.0, turn: float = 0.0) -> Tensor:
    """Field (*s) of a body of uniform susceptibility in air, any scale, mean 0 inside.

    Large grids are halved for it: the field is smooth but for the voxels at the very surface.

    Args:
        body: bool (*s); a 2-D body is an endless cylinder across the main field.
        spacing: mm per axis.
        tilt: angle in rad of the main field against the first axis.
        turn: direction of the tilt.
    """
    direction = [math.cos(tilt), math.sin(tilt) * math.cos(turn), math.sin(tilt) * math.sin(turn)][: body.ndim]
    step = [2 if n >= LARGE else 1 for n in body.shape]
    pool = functional.avg_pool3d if body.ndim == 3 else functional.avg_pool2d
    tissue = pool(body.float()[None, None], step, ceil_mode=True)[0, 0]
    shape = [2 * n for n in tissue.shape]  # padded, so that the field does not come round the other side
    along = square = torch.zeros((), device=body.device)
    for axis, (n, mm, k, b) in enumerate(zip(shape, spacing, step, direction, strict=True)):
        f = torch.fft.rfftfreq(n, mm * k) if axis == body.ndim - 1 else torch.fft.fftfreq(n, mm * k)
        f = f.to(body.device).reshape([-1 if axis == i else 1 for i in range(body.ndim)])
        along, square = along + b * f, square + f.square()
    kernel = 1 / 3 - along.square() / square.clamp(min=1e-12)
    padded = torch.fft.irfftn(torch.fft.rfftn(tissue, s=shape) * kernel, s=shape)
    coarse = padded[tuple(slice(n) for n in tissue.shape)][None, None]
    whole = [n * k for n, k in zip(tissue.shape, step, strict=True)]
    linear = "trilinear" if body.ndim == 3 else "bilinear"
    fine = functional.interpolate(coarse, size=whole, mode=linear, align_corners=False)[0, 0]
    field = fine[tuple(slice(n) for n in body.shape)]
    return field - field[body].mean()


def air_rim(body: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Bool (*s), tissue within about 4 mm of air; the whole body where there is no air."""
    near = (~body).float()[None, None]
    pool = functional.max_pool3d if body.ndim == 3 else functional.max_pool2d
    for axis, mm in enumerate(spacing):
        size = [2 * max(1, round(RIM_MM / mm)) + 1 if i == axis else 1 for i in range(body.ndim)]
        near = pool(near, size, 1, [n // 2 for n in size])
    rim = (near[0, 0] > 0) & body
    return rim if bool(rim.any()) else body


def b0_hz(before: Scan, after: Scan, value: float) -> float:
    """Root mean square in Hz of the field in the tissue next to air that made the output."""
    return after.native["b0_hz"]
