"""Rigid motion of the patient while k-space is acquired."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

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
    view) and, in volumes, translation through the plane. The pose at the centre of k-space is that of the labels;
    interleaved, the mean pose of the lines beside it. Rotations and translations in the plane are those of the Fourier
    series of the image, slices are shifted linearly (their profile is a slab).

    Reference:
        Zaitsev, Maclaren and Herbst, Motion artifacts in MRI, J Magn Reson Imaging 42:887, 2015.
    """
    walk = rng.standard_normal((SHOTS, 4)).cumsum(axis=0)
    if value == 0:
        return scan
    walk -= _reference_pose(walk, order)
    poses = walk / (1.0, 1.0, 1.0, ARM_MM)  # y, x, z in mm, angle in rad
    if scan.ndim == 2:
        poses[:, 2] = 0
    shot_of = shots(scan.shape[-2], order)
    share = np.bincount(shot_of, minlength=SHOTS) / len(shot_of)
    where = moments(scan.body, scan.spacing_or_pixels)
    poses = poses * _scale(poses, share, where, value)
    return scan.with_signal(Signal(spectrum=_spliced(scan, poses, shot_of)), motion_mm=rms_mm(poses, share, where))


def _reference_pose(walk: np.ndarray, order: Order) -> np.ndarray:
    """The pose (4,) in which the labels are: that of the centre of k-space, which one shot holds in sequence.

    Interleaved, the lines beside the centre are of other shots, and it is they that tell where an object lies (a
    displacement turns the phase of a line in proportion to its number, and the power of an object falls faster than
    the square of that): the pose is their mean, weighted by the inverse square of their distance from the centre.
    """
    if order == "sequential":
        return walk[SHOTS // 2]
    distance = np.abs(np.arange(SHOTS) - SHOTS // 2)
    weights = np.where(distance > 0, 1 / np.maximum(distance, 1) ** 2, 0)
    return weights @ walk / weights.sum()


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
    h, w = raw.shape[-2:]
    columns = torch.fft.fft(raw.reshape(-1, h, w), norm="ortho").reshape(-1, h * w).T.contiguous()
    columns = columns.reshape(h, w, -1).transpose(0, 1)  # (w, h, n), slices next to each other
    out = torch.empty(raw.shape, dtype=torch.complex64, device=scan.device)
    for shot, pose in enumerate(poses):
        rows = np.nonzero(shot_of == shot)[0]
        if not len(rows):
            continue
        lines = _lines(columns, rows, pose, scan.spacing_or_pixels[-2:])
        lines = lines.permute(2, 1, 0).reshape(*raw.shape[:-2], len(rows), w)
        if scan.ndim == 3 and pose[2]:
            lines = _through_plane(lines, float(pose[2]) / scan.spacing_or_pixels[0])
        out[..., torch.from_numpy(rows).to(scan.device), :] = lines
    return out


def _lines(columns: Tensor, rows: np.ndarray, pose: np.ndarray, spacing: tuple[float, ...]) -> Tensor:
    """The lines `rows` of the k-space of slices in a pose, (w, rows, n).

    The spectrum of a rotated image is the rotated spectrum of the image. At ky and the frequency u of the image's own
    rows it is taken at v = ky / cos + u tan, by a Fourier sum over the columns; from there it is taken to
    u = kx cos - ky sin, through the inverse transform over u and a Fourier sum. Both sums are exact for an image that
    is zero beyond the field of view along its columns; along its rows it goes round, as with a translation.

    Args:
        columns: the slices' orthonormal Fourier transform along their rows, (w, h, n).
        rows: lines to compute, in the order of a Fourier transform.
        pose: translation along y, x (and z, which is not looked at) in mm, and angle in rad.
        spacing: mm per pixel along y and x.
    """
    (w, h, n), (dy, dx) = columns.shape, spacing
    c, s = math.cos(pose[3]), math.sin(pose[3])
    y, x = (np.arange(h) - (h - 1) / 2) * dy, (np.arange(w) - (w - 1) / 2) * dx
    ky, kx = signed_lines(h)[rows] / (h * dy), signed_lines(w) / (w * dx)  # cycles per mm
    inside = np.abs(ky / c + kx[:, None] * s / c) <= 0.5 / dy  # of what the grid carries, (w, rows)
    down, along = (_waves(k, y, columns) for k in (ky / c, kx * s / c))  # (rows, h), (w, h)
    if n > len(rows):
        turned = (along[:, None] * down) @ columns
    else:
        turned = down @ (along[..., None] * columns)
    turned *= torch.from_numpy(inside).to(turned.device)[..., None]
    turned = torch.fft.ifft(turned, dim=0)
    turned *= _waves(x, -s * ky, columns)[..., None]
    sheared = _waves(c * kx, x, columns) @ turned.reshape(w, -1)
    place = (ky * (pose[0] - y[0]), kx[:, None] * (pose[1] - x[0]))  # from the iso-centre to the first pixel
    moved = np.exp(-2j * np.pi * (place[0] + place[1])) / math.sqrt(h)
    moved *= np.abs(c * kx[:, None] - s * ky) <= 0.5 / dx
    return sheared.reshape(w, len(rows), n) * torch.from_numpy(moved.astype(np.complex64)).to(turned.device)[..., None]


def _waves(k: np.ndarray, r: np.ndarray, like: Tensor) -> Tensor:
    """exp(-2 pi i k r), (len(k), len(r))."""
    turns = np.outer(k, r)
    angle = torch.from_numpy((-2 * np.pi * (turns - np.round(turns))).astype(np.float32)).to(like.device)
    return torch.complex(angle.cos(), angle.sin())


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
