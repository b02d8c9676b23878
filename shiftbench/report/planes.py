"""The plane of a case that a page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shiftbench.types import Geometry


def plane(volume: np.ndarray, z: int, geometry: Geometry) -> np.ndarray:
    """(h, w) of a label map (*s): the picture itself, or slice `z` as a radiologist sees it."""
    return volume if volume.ndim == 2 else _facing(volume[z], geometry)


def picture(image: np.ndarray, z: int, geometry: Geometry) -> np.ndarray:
    """(h, w), or (h, w, 3) of a colour picture, of a raw image (c, *s); slices as a radiologist sees them."""
    flat = image if image.ndim == 3 else np.stack([_facing(channel[z], geometry) for channel in image])
    return (np.moveaxis(flat, 0, -1) if flat.shape[0] == 3 else flat[0]).astype(np.float32)


def _facing(axial: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The slice (y, x) with anterior at the top and the patient's right at the left, where the affine tells."""
    if geometry.affine is None:
        return axial
    rows = -1 if geometry.affine[1, 1] > 0 else 1  # the second array axis runs towards anterior
    columns = -1 if geometry.affine[0, 2] > 0 else 1  # the third one runs towards the patient's right
    return axial[::rows, ::columns]


def pixel(spacing: Sequence[float] | None) -> tuple[float, float] | None:
    """Size of a pixel (row, column) of the plane, or None where it is not known."""
    return None if spacing is None else (spacing[-2], spacing[-1])


def richest(labels: np.ndarray) -> int:
    """The slice of a label map with the most labels, then the most labelled voxels; 0 for a picture."""
    if labels.ndim == 2:
        return 0
    return max(range(len(labels)), key=lambda z: (len(np.unique(labels[z])), int((labels[z] > 0).sum())))
