"""Moving images and labels by one field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor


def pull(
    image: Tensor, displacement_mm: Tensor, spacing: Sequence[float], *, mode: Literal["bilinear", "nearest"]
) -> Tensor:
    """An image (c, *s) whose value at x is the one that was at x + u(x); u is `displacement_mm` (ndim, *s)."""
    shape = image.shape[1:]
    axes = torch.meshgrid(*(torch.arange(n, device=image.device, dtype=torch.float32) for n in shape), indexing="ij")
    at = [
        (2 * (a + u / mm) / max(n - 1, 1) - 1) for a, u, mm, n in zip(axes, displacement_mm, spacing, shape, strict=True)
    ]
    grid = torch.stack(at[::-1], dim=-1)[None]
    return torch.nn.functional.grid_sample(
        image[None].float(), grid, mode=mode, padding_mode="border", align_corners=True
    )[0]
