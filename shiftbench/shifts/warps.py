"""Moving images and labels by one field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.errors import NotApplicable
from shiftbench.shifts.intensity import smooth_field
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal

Mode = Literal["bilinear", "nearest"]
SHORTEST_HALF_WAVE = 0.8  # of the body: gradients and the magnet's field vary more slowly than a coil's sensitivity
LEAST_JACOBIAN = 0.1  # below it tissue would be squeezed beyond recognition, at 0 it folds


def pull(image: Tensor, displacement_mm: Tensor, spacing: Sequence[float], *, mode: Mode) -> Tensor:
    """An image (c, *s) whose value at x is the one that was at x + u(x).

    Beyond the image its edge goes on. A field along one axis alone is interpolated along that axis alone.

    Args:
        image: (c, *s), any real dtype with "nearest", floating with "bilinear".
        displacement_mm: u, (ndim, *s) in mm.
        spacing: mm per axis.
        mode: "bilinear" (linear along every axis) for images, "nearest" for labels.
    """
    moving = torch.nonzero(displacement_mm.flatten(1).any(dim=1)).flatten().tolist()
    if not moving:
        return image.clone()
    if len(moving) == 1:
        return _pull_along(image, displacement_mm[moving[0]] / spacing[moving[0]], moving[0], mode)
    shape = image.shape[1:]
    grid = []
    for axis, (u, mm, n) in enumerate(zip(displacement_mm, spacing, shape, strict=True)):
        at = torch.arange(n, device=image.device, dtype=torch.float32).reshape(
            [-1 if axis == i else 1 for i in range(len(shape))]
        )
        grid.append((2 * (at + u / mm) + 1) / n - 1)
    sampled = functional.grid_sample(
        image[None].float(),
        torch.stack(grid[::-1], dim=-1)[None],
        mode=mode,
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].to(image.dtype)


def _pull_along(image: Tensor, voxels: Tensor, axis: int, mode: Mode) -> Tensor:
    """`pull` by `voxels` (*s) along one spatial axis."""
    n = voxels.shape[axis]
    index = torch.arange(n, device=image.device, dtype=voxels.dtype)
    at = (voxels + index.reshape([-1 if axis == i else 1 for i in range(voxels.ndim)])).clamp_(0, n - 1)
    if mode == "nearest":
        return image.gather(axis + 1, at.round().long().expand(image.shape))
    low = at.floor().clamp_(max=max(n - 2, 0))
    share = at.sub_(low)
    first = low.long().expand(image.shape)
    second = (first + 1).clamp_(max=n - 1)
    return torch.lerp(image.gather(axis + 1, first), image.gather(axis + 1, second), share)


def distortion(scan: Scan, value: float, rng: np.random.Generator) -> Scan:
    """The image warped along the phase-encoding axis by `value` mm (root mean square inside the body); 0: as it is.

    The field is that of `distortion_field`; the labels are moved by the same one. Signal is conserved: where tissue
    is squeezed it is brighter, by the Jacobian.

    Raises:
        NotApplicable: the body is too small for that displacement without folding.

    Reference:
        Jezzard and Balaban, Correction for geometric distortion in echo planar images, Magn Reson Med 34:65, 1995.
    """
    if value == 0:
        return scan
    spacing = scan.spacing_or_pixels
    field = distortion_field(scan.shape, spacing, scan.body, value, rng)
    density = jacobian(field[-2], spacing[-2])
    achieved = float(field[-2][scan.body].square().mean().sqrt())
    if not isinstance(scan.raw, Signal):
        return scan.with_image(pull(scan.raw, field, spacing, mode="bilinear") * density, distortion_mm=achieved)
    parts = torch.view_as_real(scan.raw.image).movedim(-1, 0)  # (2, c, *s)
    moved = pull(parts.flatten(0, 1), field, spacing, mode="bilinear").unflatten(0, parts.shape[:2]) * density
    return scan.with_signal(Signal(image=torch.complex(moved[0], moved[1])), distortion_mm=achieved)


def distortion_field(
    shape: Sequence[int], spacing: Sequence[float], body: Tensor | None, value: float, rng: np.random.Generator
) -> Tensor:
    """Smooth displacement (ndim, *s) in mm along the phase-encoding axis (-2), without folds.

    Its mean inside the body is 0, its root mean square is `value`.

    Raises:
        NotApplicable: it would fold; the Jacobian has to exceed 0.1 everywhere.
    """
    inside = torch.ones(tuple(shape), dtype=torch.bool) if body is None else body
    along = smooth_field(inside, tuple(spacing), rng, SHORTEST_HALF_WAVE).mul_(value)
    least = float(jacobian(along, spacing[-2]).min())
    if least < LEAST_JACOBIAN:
        raise NotApplicable(
            f"a distortion of {value:g} mm would fold a body as small as this one",
            where="distortion",
            remedy="ask for a smaller one",
        )
    field = torch.zeros((len(shape), *shape), device=along.device)
    field[-2] = along
    return field


def jacobian(along: Tensor, step: float) -> Tensor:
    """Determinant (*s) of x -> x + u(x) for u = `along` (*s) in mm on axis -2, whose voxels are `step` mm long."""
    if along.shape[-2] < 2:
        return torch.ones_like(along)
    return torch.gradient(along, spacing=step, dim=-2)[0].add_(1)


def distortion_mm(before: Scan, after: Scan, value: float) -> float:
    """Root mean square displacement in mm inside the body, of the field that made the output."""
    return after.native["distortion_mm"]
