"""Augmentation of a batch of patches on its device: the lists, and their application."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from shiftbench.errors import SpecError, nearest
from shiftbench.train.augment_intensity import (
    Change,
    add,
    add_noise,
    blur,
    contrast,
    gamma,
    inverted_gamma,
    lower_resolution,
    multiply,
)
from shiftbench.train.augment_spatial import Spatial, mirror_, warp, warped_axes
from shiftbench.train.bank import to_device


@dataclass(frozen=True)
class Augmentation:
    """What is done to every batch: one warp, then changes of intensity in order, then mirroring.

    Attributes:
        spatial: None for no warp.
        intensity: in order.
        p_mirror: per axis of the patch; the slices of a 2.5-D stack keep their order.
    """

    spatial: Spatial | None = None
    intensity: tuple[Change, ...] = ()
    p_mirror: float = 0.0


# "nnunet": list, order, probabilities and ranges are the defaults of nnU-Net v2; what each entry does is described in
# the supplement of Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image
# segmentation, Nature Methods 18, 2021. Differs: one blur width for all axes, and none across the slices of a flat
# patch; outside the case is its minimum.
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "light": Augmentation(
        Spatial(
            p_rotation=1.0,
            turn_deg=10.0,
            tilt_deg=0.0,
            plane_deg=10.0,
            long_plane_deg=10.0,
            p_scale=1.0,
            scale=(0.9, 1.1),
            shift=0.05,
        ),
        (
            Change(multiply, p=1.0, span=(0.9, 1.1), shared=True),
            Change(add, p=1.0, span=(-0.1, 0.1), shared=True),  # in standard deviations of the normalised image
        ),
    ),
    "nnunet": Augmentation(
        Spatial(
            p_rotation=0.2,
            turn_deg=30.0,
            tilt_deg=30.0,
            plane_deg=180.0,
            long_plane_deg=15.0,
            p_scale=0.2,
            scale=(0.7, 1.4),
        ),
        (
            Change(add_noise, p=0.1, span=(0.0, 0.1), shared=True),
            Change(blur, p=0.2, span=(0.5, 1.0), p_channel=0.5),
            Change(multiply, p=0.15, span=(0.75, 1.25), halves=True),
            Change(contrast, p=0.15, span=(0.75, 1.25), halves=True),
            Change(lower_resolution, p=0.25, span=(0.5, 1.0), p_channel=0.5),
            Change(inverted_gamma, p=0.1, span=(0.7, 1.5), halves=True),
            Change(gamma, p=0.3, span=(0.7, 1.5), halves=True),
        ),
        p_mirror=0.5,
    ),
}


def augmentation_named(name: str) -> Augmentation:
    """The entry of AUGMENTATIONS, or a SpecError with the nearest name."""
    if name not in AUGMENTATIONS:
        raise SpecError(f"unknown augmentation '{name}'", remedy=nearest(name, AUGMENTATIONS))
    return AUGMENTATIONS[name]


def augment(
    images: Tensor, references: Tensor, *, rng: np.random.Generator, augmentation: str = "light", stack: int = 1
) -> tuple[Tensor, Tensor]:
    """A batch of patches after one of AUGMENTATIONS; the arguments stay as they are.

    What a warp brings in from outside the patch is the minimum of the image's channel, and background;
    `PatchSampler` warps whole cases, so that only what lies outside the case is filled.

    Args:
        images: (b, c, *s), normalised; (b, c * stack, h, w) for 2.5-D networks. references: (b, *s).
        rng: draws every parameter.
        augmentation: its name.
        stack: neighbouring slices that share a channel's changes.

    Returns:
        The batch, warped together (linear for images, nearest for references).
    """
    chosen, patch = augmentation_named(augmentation), tuple(images.shape[2:])
    images, references = images.clone(), references.clone()
    if chosen.spatial is not None:
        warps = chosen.spatial.draw(len(images), patch, rng)
        if warps.which.size:
            index = to_device(warps.which, images.device)
            margins = warps.margins()
            x = images.index_select(0, index)
            x = _grown(x, margins, x.flatten(2).amin(2))
            y = _grown(references.index_select(0, index), margins, references.new_zeros(len(index)))
            grid = warps.grid(x.shape[-len(margins) :], images.device)
            images.index_copy_(0, index, warp(x, grid))
            references.index_copy_(0, index, warp(y, grid, mode="nearest"))
    images, moved = finished(images, [references], chosen, rng=rng, stack=stack)
    return images, moved[0]


def _grown(tensor: Tensor, margins: np.ndarray, fill: Tensor) -> Tensor:
    """`tensor` with `margins` more voxels at both ends of its last axes, which hold `fill` (one value per lead)."""
    sides = [0] * (tensor.ndim - len(margins)) + [int(m) for m in margins]
    shape = [n + 2 * m for n, m in zip(tensor.shape, sides, strict=True)]
    out = fill.reshape(*fill.shape, *(1,) * (tensor.ndim - fill.ndim)).expand(shape).clone()
    out[tuple(slice(m, m + n) for n, m in zip(tensor.shape, sides, strict=True))] = tensor
    return out


def finished(
    images: Tensor,
    moved: list[Tensor],
    augmentation: Augmentation,
    *,
    rng: np.random.Generator,
    stack: int = 1,
) -> tuple[Tensor, list[Tensor]]:
    """Changes of intensity on `images` (b, c * stack, *s), then mirroring of them and of all `moved` (b, ..., *s).

    Overwrites its arguments where it can; use what it returns.
    """
    b, shape = len(images), images.shape
    rows = images.reshape(-1, stack, *shape[2:]) if len(shape) == 4 else images.reshape(-1, *shape[2:])
    axes = len(warped_axes(shape[2:]))
    for change in augmentation.intensity:
        rows = change(rows, b, axes, rng)
    images = rows.reshape(shape)
    mirror_([images, *moved], len(shape) - 2, augmentation.p_mirror, rng)
    return images, moved
