"""Rigid motion of the patient while k-space is acquired."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor
from torch.nn import functional

from shiftbench.shifts.kspace import signed_lines
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

Order = Literal["sequential", "interleaved"]
SHOTS = 11  # poses during an acquisition; odd, so that the centre of k-space lies in the middle of one
ARM_MM = 80.0  # rotations are drawn to move a point at this distance from the iso-centre as much as translations do


def rigid_motion(scan: Scan, value: float, rng: np.random.Generator, order: Order = "sequential") -> Scan:
    """The signal of a patient who moves by `value` mm (root mean square over body and lines); 0 changes nothing.

    K-space is acquired in 11 shots of whole phase-encoding lines (rows), one after the other from one edge to the
    other, or interleaved; all slices of a volume share them (a 2-D multi-slice scan). Each shot sees the body in
    another pose: a random walk of in-plane translation, rotation about the iso-centre (the middle of the field of
    view) and, in volumes, translation through the plane. The pose at the centre of k-space is the one of the
    reference. Rotated images are interpolated bicubically, translations are exact phases, slices are shifted
    linearly (their profile is a slab).

    Reference:
        Zaitsev, Maclaren and Herbst, Motion artifacts in MRI, J Magn Reson Imaging 42:887, 2015.
    """
    walk = rng.standard_normal((SHOTS, 4)).cumsum(axis=0)
    if value == 0:
        return scan
    walk -= walk[SHOTS // 2]
    poses = walk / (1.0, 1.0, 1.0, ARM_MM)  # y, x, z in mm, angle in rad
    if scan.ndim == 2:
        poses[:, 2] = 0
    shot_of = shots(scan.shape[-2], order)
    share = np.bincount(shot_of, minlength=SHOTS) / len(shot_of)
    where = moments(scan.body, scan.spacing_or_pixels)
    poses = poses * _scale(poses, share, where, value)
    return scan.with_signal(Signal(spectrum=_spliced(scan, poses, shot_of)), motion_mm=rms_mm(poses, share, where))


def rigid_motion_interleaved(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """As `rigid_motion`, with the lines of the shots interleaved: neighbouring lines see different poses."""
    return rigid_motion(scan, value, rng, "interleaved")


def shots(n: int, order: Order) -> np.ndarray:
    """Shot (n,) in which each line is acquired, lines in the order of a Fourier transform; the middle one holds 0."""
    k = signed_lines(n)
    if order == "interleaved":
        return (k + SHOTS // 2) % SHOTS
    return np.minimum((k + n / 2) * SHOTS / n, SHOTS - 1).astype(int)


def rms_mm(poses: np.ndarray, share: np.ndarray, where: tuple[np.ndarray, float]) -> float:
    """Root mean square displacement in mm over the body's voxels and the lines of k-space.

    Args:
        poses: (shots, 4), translation in mm along y, x, z and angle in rad.
        share: (shots,), of the lines.
        where: the body's `moments`.
    """
    mean, square = where
    turn = _rotations(poses[:, 3])
    offset = np.einsum("sij,j->si", turn - np.eye(2), mean)
    moved = 2 * (1 - np.cos(poses[:, 3])) * square + 2 * (poses[:, :2] * offset).sum(axis=1)
    return float(np.sqrt((share * (moved + np.square(poses[:, :3]).sum(axis=1))).sum()))


def moments(body: Tensor, spacing: tuple[float, ...]) -> tuple[np.ndarray, float]:
    """Mean position (y, x) of the body in mm from the iso-centre, and mean square distance, in the plane."""
    mean, square = [], 0.0
    plane = body.sum(dim=0) if body.ndim == 3 else body
    for axis in (-2, -1):
        count = plane.sum(dim=-3 - axis).double().cpu().numpy()
        at = (np.arange(len(count)) - (len(count) - 1) / 2) * spacing[axis]
        mean.append((count * at).sum() / count.sum())
        square += (count * at**2).sum() / count.sum()
    return np.array(mean), float(square)


def _rotations(angles: np.ndarray) -> np.ndarray:
    """Matrices (n, 2, 2) that turn (y, x) by `angles`."""
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2)


def _scale(poses: np.ndarray, share: np.ndarray, where: tuple[np.ndarray, float], value: float) -> float:
    """The factor on `poses` for which the root mean square displacement is `value` mm."""

    def excess(a: float) -> float:
        return rms_mm(a * poses, share, where) - value

    top = 0.1
    while excess(top) < 0:
        top *= 2
    return float(brentq(excess, 0, top, rtol=1e-6))


def _spliced(scan: Scan, poses: np.ndarray, shot_of: np.ndarray) -> Tensor:
    """K-space (c, *s) whose lines are those of the body in the pose of their shot."""
    raw = scan.raw.image if isinstance(scan.raw, Signal) else scan.raw
    planes = torch.cat([raw.real, raw.imag]) if raw.is_complex() else raw  # (c or 2c, *s), real
    h, w = scan.shape[-2:]
    flat = planes.reshape(1, -1, h, w)
    out = torch.empty(raw.shape, dtype=torch.complex64, device=scan.device)
    for shot, pose in enumerate(poses):
        rows = np.nonzero(shot_of == shot)[0]
        if not len(rows):
            continue
        lines = _lines(_turned(flat, float(pose[3]), scan.spacing_or_pixels[-2:]), rows)
        lines = lines.reshape(*planes.shape[:-2], len(rows), w)
        if raw.is_complex():
            lines = lines[: len(raw)] + 1j * lines[len(raw) :]
        lines = lines * _translation(pose, rows, (h, w), scan.spacing_or_pixels[-2:]).to(scan.device)
        if scan.ndim == 3 and pose[2]:
            lines = _through_plane(lines, float(pose[2]) / scan.spacing_or_pixels[0])
        out[..., torch.from_numpy(rows).to(scan.device), :] = lines
    return out


def _turned(planes: Tensor, angle: float, spacing: tuple[float, ...]) -> Tensor:
    """Planes (1, n, h, w) turned by `angle` about the middle of the field of view."""
    if not angle:
        return planes
    h, w = planes.shape[-2:]
    dy, dx = spacing
    c, s = math.cos(angle), math.sin(angle)
    # the value at r comes from R^-1 r, both in mm; grid_sample wants x before y, the field of view as -1 to 1
    matrix = torch.tensor([[c, -s * h * dy / (w * dx), 0.0], [s * w * dx / (h * dy), c, 0.0]], device=planes.device)
    grid = functional.affine_grid(matrix[None], [1, 1, h, w], align_corners=False)
    return functional.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)


def _lines(planes: Tensor, rows: np.ndarray) -> Tensor:
    """The lines `rows` of the Fourier transform of real planes (1, n, h, w): (n, len(rows), w), complex."""
    h, w = planes.shape[-2:]
    angle = -2 * np.pi * np.outer(signed_lines(h)[rows], np.arange(h)) / h
    basis = np.concatenate([np.cos(angle), np.sin(angle)]).astype(np.float32) / math.sqrt(h)
    both = torch.from_numpy(basis).to(planes.device) @ planes[0]  # (n, 2 rows, w)
    return torch.fft.fft(torch.complex(both[:, : len(rows)], both[:, len(rows) :]), norm="ortho")


def _translation(pose: np.ndarray, rows: np.ndarray, shape: tuple[int, int], spacing: tuple[float, ...]) -> Tensor:
    """Phase factor (rows, w) of k-space that moves the image by the pose's translation in the plane."""
    (h, w), (dy, dx) = shape, spacing
    y = signed_lines(h)[rows] * pose[0] / (h * dy)
    x = signed_lines(w) * pose[1] / (w * dx)
    return torch.from_numpy(np.exp(-2j * np.pi * (y[:, None] + x)).astype(np.complex64))


def _through_plane(lines: Tensor, slices: float) -> Tensor:
    """Lines (c, d, rows, w) moved by a number of slices, the outermost slices going on beyond the volume."""
    d = lines.shape[1]
    at = torch.arange(d, device=lines.device) - slices
    low = at.floor()
    first, second = (i.clamp(0, d - 1).long() for i in (low, low + 1))
    return torch.lerp(lines[:, first], lines[:, second], (at - low).to(lines)[:, None, None])


def motion_mm(before: Scan, after: Scan, value: float) -> float:
    """Root mean square displacement in mm of the poses that the output was spliced from."""
    return after.native["motion_mm"]
