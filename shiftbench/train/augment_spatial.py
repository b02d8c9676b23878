"""Rotation, scaling, shift and mirroring of patches: images, references and targets move together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.train.bank import to_device

FLAT_RATIO = 3.0  # a 3-D patch that is this much longer than deep stands for thick slices
LONG_RATIO = 1.5  # a plane that is this much longer than wide is turned a little only


@dataclass(frozen=True)
class Spatial:
    """Rotation, scaling and shift, carried out as one warp; each is drawn per sample.

    The patch stands for the voxel spacing, as in nnU-Net's plans: a flat 3-D patch (FLAT_RATIO) means thick slices, and
    is warped within its slices alone, which then share one warp, as the slices of a 2.5-D stack do.

    Attributes:
        p_rotation: probability of a rotation.
        turn_deg: half-range of the rotation in the plane, in 3-D.
        tilt_deg: half-range of the rotation about each of the two in-plane axes, in 3-D.
        plane_deg: half-range in 2-D and in flat patches.
        long_plane_deg: half-range in planes that are LONG_RATIO longer than wide.
        p_scale: probability of scaling.
        scale: range of the factor of the coordinates (above 1: structures shrink), the same on every axis.
        shift: half-range in parts of the patch, per axis, of every sample; 0 for none.
    """

    p_rotation: float
    turn_deg: float
    tilt_deg: float
    plane_deg: float
    long_plane_deg: float
    p_scale: float
    scale: tuple[float, float]
    shift: float = 0.0

    def draw(self, n: int, patch: Sequence[int], rng: np.random.Generator) -> Warps:
        """One warp for each of `n` patches; the same number of draws whatever they come to."""
        size = warped_axes(patch)
        turned = (rng.random(n) < self.p_rotation)[:, None]
        angles = np.deg2rad(rng.uniform(-1.0, 1.0, (n, 3)) * self._half_ranges(size)) * turned
        scaled = rng.random(n) < self.p_scale
        factor = np.where(scaled, rng.uniform(*self.scale, n), 1.0)
        shifts = rng.uniform(-self.shift, self.shift, (n, len(size))) * np.asarray(size)
        which = np.flatnonzero(turned[:, 0] | scaled | (self.shift > 0))
        matrices = _rotations(angles)[:, -len(size) :, -len(size) :] * factor[:, None, None]
        return Warps(which, matrices[which], shifts[which], size)

    def _half_ranges(self, size: Sequence[int]) -> tuple[float, float, float]:
        if len(size) == 3:
            return self.turn_deg, self.tilt_deg, self.tilt_deg
        return (self.long_plane_deg if max(size) > LONG_RATIO * min(size) else self.plane_deg), 0.0, 0.0


def warped_axes(patch: Sequence[int]) -> tuple[int, ...]:
    """The part of `patch` whose axes are warped: all, or the plane of a flat 3-D patch."""
    return tuple(patch[-2:]) if len(patch) == 3 and max(patch) > FLAT_RATIO * patch[0] else tuple(patch)


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Matrices (n, 3, 3) on (d, h, w) coordinates: in the plane, then about the w axis, then about the h axis."""
    total = np.broadcast_to(np.eye(3), (len(angles), 3, 3))
    for angle, (i, j) in zip(angles.T, ((1, 2), (0, 1), (0, 2)), strict=True):
        turn = np.broadcast_to(np.eye(3), total.shape).copy()
        turn[:, i, i] = turn[:, j, j] = np.cos(angle)
        turn[:, i, j], turn[:, j, i] = -np.sin(angle), np.sin(angle)
        total = turn @ total
    return total


@dataclass(frozen=True)
class Warps:
    """Affine maps from voxels of the patch to voxels of the case, both counted from the patch's centre.

    Attributes:
        which: positions (m,) in the batch of the samples that are warped.
        matrices: (m, a, a) for the a warped axes, the last ones, in axis order.
        shifts: (m, a) in voxels.
        size: of the patch on the warped axes.
    """

    which: np.ndarray
    matrices: np.ndarray
    shifts: np.ndarray
    size: tuple[int, ...]

    def margins(self) -> np.ndarray:
        """Voxels (a,) by which a window must exceed the patch at either end to hold all that the warps read."""
        half = (np.asarray(self.size) - 1) / 2
        reach = np.abs(self.matrices) @ half + np.abs(self.shifts)
        return np.ceil(np.maximum(0.0, reach - half).max(0)).astype(np.int64) + 1

    def grid(self, window: Sequence[int], device: torch.device) -> Tensor:
        """Sampling grid (m, *size, a) for `grid_sample` on windows of the given size with the patch in their middle.

        A sum of one small term per axis: a third of the time of `affine_grid`, which multiplies matrices per voxel.
        """
        a, scale = len(self.size), 2.0 / np.asarray(window)
        columns = (self.matrices * scale[:, None])[:, ::-1].astype(np.float32)  # rows in grid_sample's order, x first
        total = (self.shifts * scale)[:, ::-1].astype(np.float32).reshape(-1, *(1,) * a, a)
        terms = [total]
        for axis, n in enumerate(self.size):
            at = (np.arange(n, dtype=np.float32) - (n - 1) / 2)[:, None]
            shape = [-1, *(n if i == axis else 1 for i in range(a)), a]
            terms.append((columns[:, None, :, axis] * at).reshape(shape))
        grid = to_device(terms[0] + terms[-1], device)
        for term in reversed(terms[1:-1]):
            grid = grid + to_device(term, device)
        return grid


def warp(tensor: Tensor, grid: Tensor, *, mode: str = "bilinear") -> Tensor:
    """Windows (m, ..., *window) sampled on `grid` (m, *size, a); axes before the warped ones share the warp.

    Args:
        mode: "bilinear" (linear in 3-D too) or "nearest", which keeps every label, 255 too.

    Returns:
        (m, ..., *size) of the tensor's own type.
    """
    a = grid.shape[-1]
    lead = tensor.shape[:-a]
    flat = tensor.reshape(lead[0], math.prod(lead[1:]), *tensor.shape[-a:])
    flat = flat if flat.is_floating_point() else flat.float()
    out = functional.grid_sample(flat, grid, mode=mode, padding_mode="border", align_corners=False)
    return out.reshape(*lead, *grid.shape[1:-1]).to(tensor.dtype)


def mirror_(tensors: Sequence[Tensor], axes: int, p: float, rng: np.random.Generator) -> None:
    """Mirrors the samples of a batch along each of the last `axes` axes with probability `p`, all tensors alike."""
    if not p:
        return
    flipped = rng.random((len(tensors[0]), axes)) < p
    for axis in range(axes):
        which = np.flatnonzero(flipped[:, axis])
        if which.size:
            index = to_device(which, tensors[0].device)
            for tensor in tensors:
                tensor.index_copy_(0, index, tensor.index_select(0, index).flip(axis - axes))
