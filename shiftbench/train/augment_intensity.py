"""Changes of intensity: functions on rows, one row for each channel of each sample.

A row is (d, h, w); d is the depth of a 3-D patch or the slices of a 2.5-D stack. Every function takes rows (r, d, h, w)
that it may overwrite, one number per row (r, 1, 1, 1), and the number of axes, counted from the last, on which it may
mix voxels; it returns the changed rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shiftbench.train.bank import to_device

ROW = (1, 2, 3)  # axes of one row
CUBIC = -0.75  # a of Keys' convolution kernel
TINY = 1e-7


def add_noise(rows: Tensor, variance: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows plus Gaussian noise of the given variance, independent in every voxel."""
    source = torch.Generator(rows.device).manual_seed(int(rng.integers(2**62)))
    noise = torch.randn(rows.shape, generator=source, device=rows.device, dtype=rows.dtype)
    return rows.add_(noise.mul_(variance.sqrt()))


def blur(rows: Tensor, sigma: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows under a Gaussian of width `sigma` in voxels; at the border the kernel is cut and made to add up to 1."""
    return along_axes(rows, axes, lambda n: _gaussian(n, sigma[:, 0]))


def multiply(rows: Tensor, factor: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows times `factor`."""
    return rows.mul_(factor)


def add(rows: Tensor, offset: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows plus `offset`."""
    return rows.add_(offset)


def contrast(rows: Tensor, factor: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Distances from each row's mean times `factor`, clipped to the range that the row had."""
    low, high, mean = rows.amin(ROW, True), rows.amax(ROW, True), rows.mean(ROW, True)
    return rows.sub_(mean).mul_(factor).add_(mean).clamp_(low, high)


def lower_resolution(rows: Tensor, zoom: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows brought to round(n * zoom) voxels per axis (nearest neighbour) and back (cubic)."""
    return along_axes(rows, axes, lambda n: _down_and_up(n, zoom[:, 0]))


def gamma(rows: Tensor, exponent: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """Rows mapped to [0, 1], raised to `exponent`, and brought back to the mean and spread that they had."""
    spread, mean = torch.std_mean(rows, ROW, correction=0, keepdim=True)
    low = rows.amin(ROW, True)
    span = (rows.amax(ROW, True) - low).clamp_min_(TINY)
    rows = rows.sub_(low).div_(span).clamp_(0.0, 1.0).pow_(exponent)
    new_spread, new_mean = torch.std_mean(rows, ROW, correction=0, keepdim=True)
    return rows.sub_(new_mean).mul_(spread / new_spread.clamp_min_(TINY)).add_(mean)


def inverted_gamma(rows: Tensor, exponent: Tensor, axes: int, rng: np.random.Generator) -> Tensor:
    """`gamma` of the negative: dark values are spread where `gamma` spreads bright ones."""
    return gamma(rows.neg_(), exponent, axes, rng).neg_()


def along_axes(rows: Tensor, axes: int, matrix: Callable[[int], Tensor]) -> Tensor:
    """Rows (r, d, h, w) with `matrix(n)` (r, n, n) applied along each of the last `axes` axes of length n.

    Blurring and resampling are linear and separable, so that one product per axis treats every row with its own
    parameter, without a loop over rows and without waiting for the device.
    """
    r, d, h, w = rows.shape
    rows = (rows.reshape(r, d * h, w) @ matrix(w).transpose(1, 2)).reshape(r, d, h, w)
    rows = matrix(h)[:, None] @ rows
    if axes == 3:
        rows = (matrix(d) @ rows.reshape(r, d, h * w)).reshape(r, d, h, w)
    return rows


def _gaussian(n: int, sigma: Tensor) -> Tensor:
    """Blurring matrices (r, n, n) for widths (r, 1, 1)."""
    at = torch.arange(n, device=sigma.device, dtype=sigma.dtype)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / sigma) ** 2)
    return weights / weights.sum(2, keepdim=True)


def _down_and_up(n: int, zoom: Tensor) -> Tensor:
    """Matrices (r, n, n) for zooms (r, 1, 1): nearest neighbour down, then cubic up, with voxel centres aligned."""
    coarse = (n * zoom.double()).round().clamp_min(1.0)  # (r, 1, 1)
    at = (torch.arange(n, device=zoom.device, dtype=torch.float64)[:, None] + 0.5) * coarse / n - 0.5  # (r, n, 1)
    base = at.floor()
    taps = base + torch.arange(-1, 3, device=zoom.device)  # (r, n, 4)
    distance = (at - taps).abs()
    near = ((CUBIC + 2) * distance - (CUBIC + 3)) * distance**2 + 1
    far = CUBIC * (((distance - 5) * distance + 8) * distance - 4)
    weights = torch.where(distance <= 1, near, far)
    taps = torch.minimum(taps.clamp_min(0.0), coarse - 1)
    read = ((taps + 0.5) * n / coarse).floor().long().clamp_max(n - 1)
    matrices = torch.zeros(len(zoom), n, n, device=zoom.device, dtype=torch.float64)
    return matrices.scatter_add_(2, read, weights).to(zoom.dtype)


@dataclass(frozen=True)
class Change:
    """One entry of an augmentation list: what is done, how often, and with which number.

    Attributes:
        change: a function of this module.
        p: probability per sample.
        span: range of the number, uniform.
        p_channel: probability per channel of a sample that is changed.
        shared: one number for all channels of a sample; otherwise each has its own.
        halves: the number is below 1 and above 1 with equal probability, uniform in either part.
    """

    change: Callable[[Tensor, Tensor, int, np.random.Generator], Tensor]
    p: float
    span: tuple[float, float]
    p_channel: float = 1.0
    shared: bool = False
    halves: bool = False

    def draw(self, b: int, channels: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Rows that are changed (r,), of b * channels, and their numbers (r,); always the same number of draws."""
        chosen = (rng.random((b, 1)) < self.p) & (rng.random((b, channels)) < self.p_channel)
        u, side = rng.random((2, b, 1 if self.shared else channels))
        low, high = self.span
        if self.halves:
            numbers = np.where(side < 0.5, low + u * (1 - low), 1 + u * (high - 1))
        else:
            numbers = low + u * (high - low)
        which = np.flatnonzero(chosen)
        return which, np.broadcast_to(numbers, chosen.shape).reshape(-1)[which]

    def __call__(self, rows: Tensor, b: int, axes: int, rng: np.random.Generator) -> Tensor:
        """Rows (b * channels, d, h, w) after this change; those that were not drawn stay as they are."""
        which, numbers = self.draw(b, len(rows) // b, rng)
        if not which.size:
            return rows
        values = to_device(numbers.astype(np.float32), rows.device)[:, None, None, None]
        if which.size == len(rows):
            return self.change(rows, values, axes, rng)
        index = to_device(which, rows.device)
        return rows.index_copy_(0, index, self.change(rows.index_select(0, index), values, axes, rng))
