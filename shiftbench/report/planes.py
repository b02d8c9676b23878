"""The plane of a case that a page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def plane(volume: np.ndarray, z: int) -> np.ndarray:
    """(h, w) of a label map: the picture itself, or slice `z` of a volume."""
    return volume if volume.ndim == 2 else volume[z]


def picture(image: np.ndarray, z: int) -> np.ndarray:
    """(h, w), or (h, w, 3) of a colour picture, of a raw image (c, *s)."""
    flat = image if image.ndim == 3 else image[:, z]
    return (np.moveaxis(flat, 0, -1) if flat.shape[0] == 3 else flat[0]).astype(np.float32)


def pixel(spacing: Sequence[float] | None) -> tuple[float, float] | None:
    """Size of a pixel (row, column) of the plane, or None where it is not known."""
    return None if spacing is None else (spacing[-2], spacing[-1])


def richest(labels: np.ndarray) -> int:
    """The slice of a label map with the most labels, then the most labelled voxels; 0 for a picture."""
    if labels.ndim == 2:
        return 0
    return max(range(len(labels)), key=lambda z: (len(np.unique(labels[z])), int((labels[z] > 0).sum())))
