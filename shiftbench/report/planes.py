"""The plane of a case that a page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shiftbench.types import Geometry


def plane(volume: np.ndarray, at: int, geometry: Geometry, *, coronal: bool = False) -> np.ndarray:
    """(h, w) of a label map (*s): the picture itself, or slice `at` as a radiologist sees it (row `at` if coronal)."""
    if volume.ndim == 2:
        return volume
    return _standing(volume[:, at], geometry) if coronal else _facing(volume[at], geometry)


def picture(image: np.ndarray, at: int, geometry: Geometry, *, coronal: bool = False) -> np.ndarray:
    """(h, w), or (h, w, 3) of a colour picture, of a raw image (c, *s); slices as a radiologist sees them."""
    flat = image if image.ndim == 3 else np.stack([plane(c, at, geometry, coronal=coronal) for c in image])
    return (np.moveaxis(flat, 0, -1) if flat.shape[0] == 3 else flat[0]).astype(np.float32)


def _standing(coronal: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The coronal plane (z, x) with the head up and the patient's right at the left."""
    if geometry.affine is None:
        return coronal[::-1]
    rows = -1 if geometry.affine[2, 0] > 0 else 1  # the first array axis runs towards the head
    columns = -1 if geometry.affine[0, 2] > 0 else 1
    return coronal[::rows, ::columns]


def _facing(axial: np.ndarray, geometry: Geometry) -> np.ndarray:
    """The slice (y, x) with anterior at the top and the patient's right at the left, where the affine tells."""
    if geometry.affine is None:
        return axial
    rows = -1 if geometry.affine[1, 1] > 0 else 1  # the second array axis runs towards anterior
    columns = -1 if geometry.affine[0, 2] > 0 else 1  # the third one runs towards the patient's right
    return axial[::rows, ::columns]


def pixel(spacing: Sequence[float] | None, *, coronal: bool = False) -> tuple[float, float] | None:
    """Size of a pixel (row, column) of the plane, or None where it is not known."""
    if spacing is None:
        return None
    return (spacing[0], spacing[-1]) if coronal else (spacing[-2], spacing[-1])


def richest(labels: np.ndarray, *, coronal: bool = False) -> int:
    """The slice (row) of a label map with the most labels, then the most labelled voxels; 0 for a picture."""
    if labels.ndim == 2:
        return 0
    planes = labels.swapaxes(0, 1) if coronal else labels
    return max(range(len(planes)), key=lambda i: (len(np.unique(planes[i])), int((planes[i] > 0).sum())))
