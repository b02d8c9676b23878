"""Parallel-beam Radon transform and filtered back-projection of stacks of slices, in torch and in mm."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from shiftbench.shifts.ct_image import mtf

FINE_POWERS = 16
CHUNK_SAMPLES = 2**23  # bilinear samples held at a time


def detector(shape: tuple[int, ...], spacing: tuple[float, ...]) -> tuple[int, float]:
    """Number and distance in mm of detector bins: one per pixel, over the diagonal of the field of view.

    The number is odd if that of the columns is, so that bins meet their centres at the first view.
    """
    step = min(spacing[-2:])
    n = math.ceil(math.hypot(shape[-2] * spacing[-2], shape[-1] * spacing[-1]) / step) + 2
    return n + (n - shape[-1]) % 2, step


def view_angles(shape: tuple[int, ...], device: torch.device | None = None) -> Tensor:
    """Angles in radians over half a turn, as many as the rim of the field of view needs, (a,)."""
    n = math.ceil(math.pi / 2 * max(shape[-2:]))
    return torch.arange(n, device=device) * (math.pi / n)


def project(image: Tensor, spacing: tuple[float, ...], angles: Tensor) -> Tensor:
    """Line integrals (b, a, n) along parallel rays, in units of `image` (b, h, w) times mm; 0 outside the image.

    Bin k of n lies at t = (k - (n - 1) / 2) * step from the centre of the image, along (cos, sin) of the angle, with
    columns to the right and rows downwards. The image is its Fourier series along its rows (or columns, whichever is
    further from the rays): a projection is a shear, a sum over the other axis, and a Fourier sum at the bins, up to
    the highest frequency that the bins carry. The first and last are matrix products over all slices at once.
    """
    n, step = detector(tuple(image.shape), spacing)
    at = (torch.arange(n, device=image.device, dtype=torch.float64) - (n - 1) / 2) * step
    c, s = torch.cos(angles.double()), torch.sin(angles.double())
    steep = c.abs() >= s.abs()  # rays that are closer to the columns
    out = image.new_empty(len(image), len(angles), n)
    for views, across, along, flip in ((steep, c, s, False), (~steep, s, c, True)):
        index = torch.nonzero(views).flatten()
        planes = image.transpose(-1, -2) if flip else image
        mm = (spacing[-1], spacing[-2]) if flip else (spacing[-2], spacing[-1])
        for chunk in _chunks(len(index), n * planes.shape[-1] * 2):
            which = index[chunk]
            out[:, which] = _sheared(planes, mm, at, across[which], along[which])
    return out


def _sheared(image: Tensor, mm: tuple[float, float], at: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Projections (b, a, n) of an image (b, h, w) at t = x across + y along, with |across| >= |along|.

    Args:
        image: (b, h, w).
        mm: spacing of rows and columns.
        at: t of the bins, (n,), float64.
        across: cosine of the angle between detector and rows, (a,), float64.
        along: its sine, (a,), float64.
    """
    h, w = image.shape[-2:]
    step, reach = float(at[1] - at[0]), float(at[-1])
    period = math.ceil(math.sqrt(2) * (reach + step) / mm[1] + h * mm[0] / (2 * mm[1]) + w / 2)
    series = torch.fft.rfft(image, n=period).permute(2, 1, 0).contiguous()  # (u, h, b)
    n, du = min(len(series), int(period * mm[1] / (2 * step)) + 2), 1 / (period * mm[1])
    y = (torch.arange(h, device=at.device, dtype=torch.float64) - (h - 1) / 2) * mm[0]
    summed = _powers(-du * (along / across)[:, None] * y, n) @ series[:n]  # (u, a, b)
    u = torch.arange(n, device=at.device)[:, None] * du
    weight = (2.0 - (u == 0).double()) * (u <= across.abs() / (2 * step)) * (mm[0] / (period * across.abs()))
    summed *= weight.to(image.dtype)[..., None]
    first = (w - 1) / 2 * mm[1]  # by which the first column is left of the centre
    waves = _powers(du * (at / across[:, None] + first), n)  # (u, a, n)
    return (summed.permute(1, 2, 0) @ waves.transpose(0, 1)).real.transpose(0, 1)


def _powers(turns: Tensor, n: int) -> Tensor:
    """exp(2 pi i k turns), k = 0 to n - 1, complex64 (n, *turns); a product of coarse and of fine ones."""

    def waves(factors: Tensor) -> Tensor:
        many = factors.to(turns).reshape(-1, *(1,) * turns.ndim) * turns
        angle = (many - many.round()).to(torch.float32) * (2 * math.pi)
        return torch.complex(angle.cos(), angle.sin())

    coarse = math.ceil(n / FINE_POWERS)
    low, high = waves(torch.arange(FINE_POWERS)), waves(torch.arange(coarse) * FINE_POWERS)
    return (high[:, None] * low).flatten(0, 1)[:n]


def backproject(rows: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor) -> Tensor:
    """Sum over views of `rows` (b, a, n) at each pixel's place on the detector, linear between bins, (b, h, w)."""
    n, step = rows.shape[-1], detector(shape, spacing)[1]
    y, x = (
        (torch.arange(size, device=rows.device) - (size - 1) / 2) * mm
        for size, mm in zip(shape[-2:], spacing[-2:], strict=True)
    )
    out = rows.new_zeros(len(rows), *shape[-2:])
    for views in _chunks(len(angles), len(rows) * len(x) * len(y)):
        c, s = (f(angles[views])[:, None, None] for f in (torch.cos, torch.sin))
        t = (x * c + y[:, None] * s) / ((n - 1) / 2 * step)
        grid = torch.stack((t, torch.zeros_like(t)), dim=-1)
        planes = rows[:, views].transpose(0, 1)[:, :, None]  # (views, b, 1, n)
        out += torch.nn.functional.grid_sample(planes, grid, padding_mode="zeros", align_corners=True).sum(dim=0)
    return out


def ramp_kernel(n: int, step: float, mtf50: float | None, device: torch.device | None = None) -> Tensor:
    """The reconstruction filter in space, on 2n samples around 0 in the order of `fft`, in 1 / mm.

    Band-limited ramp times the MTF of a kernel (`mtf50` in line pairs per mm, None for the bare ramp).

    Reference:
        Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, equation 3.61.
    """
    size = 2 * n
    at = torch.fft.fftfreq(size, d=1 / size, device=device).round()
    kernel = torch.where(at % 2 != 0, -1 / (math.pi * at * step).square(), torch.zeros_like(at))
    kernel[0] = 1 / (4 * step**2)
    if mtf50 is not None:
        window = mtf(torch.fft.rfftfreq(size, d=step, device=device), mtf50)
        kernel = torch.fft.irfft(torch.fft.rfft(kernel) * window, n=size)
    return kernel * step


def _convolved(rows: Tensor, kernel: Tensor) -> Tensor:
    size = len(kernel)
    return torch.fft.irfft(torch.fft.rfft(rows, n=size) * torch.fft.rfft(kernel), n=size)[..., : rows.shape[-1]]


def reconstruct(
    rows: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor, *, mtf50: float | None = None
) -> Tensor:
    """Filtered back-projection of line integrals (b, a, n) as `project` gives them, (b, h, w)."""
    n, step = detector(shape, spacing)
    filtered = _convolved(rows, ramp_kernel(n, step, mtf50, rows.device))
    return backproject(filtered, shape, spacing, angles) * (math.pi / len(angles))


def noise_variance(
    variance: Tensor, shape: tuple[int, ...], spacing: tuple[float, ...], angles: Tensor, *, mtf50: float | None = None
) -> Tensor:
    """Variance (b, h, w) of `reconstruct` for independent noise of `variance` (b, a, n) in the line integrals.

    Linear interpolation between bins is counted by its mean over positions: 2/3 + rho/3, with rho the correlation of
    neighbouring bins after the filter.
    """
    n, step = detector(shape, spacing)
    kernel = ramp_kernel(n, step, mtf50, variance.device)
    rho = float((kernel * kernel.roll(1)).sum() / kernel.square().sum())
    spread = _convolved(variance, kernel.square())
    total = backproject(spread, shape, spacing, angles) * (math.pi / len(angles)) ** 2
    return total * (2 + rho) / 3


def _chunks(n: int, samples_each: int) -> Iterator[slice]:
    size = max(1, CHUNK_SAMPLES // samples_each)
    return (slice(i, min(i + size, n)) for i in range(0, n, size))
