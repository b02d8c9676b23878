"""Augmentation of a batch of patches on its device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

ROTATION_DEG, SCALE, SHIFT = 10.0, 0.1, 0.05  # light augmentation: half-ranges, shift in parts of the patch
CONTRAST, BRIGHTNESS = 0.1, 0.1  # in standard deviations of the normalised image


def augment(images: Tensor, references: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Light augmentation of a batch: in-plane rotation, scaling, shift, contrast and brightness; one draw per sample.

    Args:
        images: (b, c, *s), normalised. references: (b, *s).
        rng: draws every parameter.

    Returns:
        The batch, warped together (linear for images, nearest for references).
    """
    b, ndim = images.shape[0], images.ndim - 2
    angle = np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG, b))
    scale = rng.uniform(1 - SCALE, 1 + SCALE, b)
    h, w = images.shape[-2:]
    theta = np.zeros((b, ndim, ndim + 1), np.float32)  # affine_grid's axis order is x, y(, z)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * scale, -np.sin(angle) * scale * h / w
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * scale * w / h, np.cos(angle) * scale
    if ndim == 3:
        theta[:, 2, 2] = scale
    theta[:, :, -1] = rng.uniform(-2 * SHIFT, 2 * SHIFT, (b, ndim))
    grid = functional.affine_grid(torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False)
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    labels = functional.grid_sample(
        references[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[:, 0]
    shape = (b,) + (1,) * (images.ndim - 1)
    contrast = torch.from_numpy(rng.uniform(1 - CONTRAST, 1 + CONTRAST, shape).astype(np.float32)).to(images.device)
    brightness = torch.from_numpy(rng.uniform(-BRIGHTNESS, BRIGHTNESS, shape).astype(np.float32)).to(images.device)
    return warped * contrast + brightness, labels.to(references.dtype)
