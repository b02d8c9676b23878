"""Distances, pieces and directions on label maps; every length is in the unit of the spacing."""

from __future__ import annotations

from collections.abc import Iterator

import cc3d
import edt
import numpy as np

from shiftbench.errors import SpecError

Window = tuple[slice, ...]
# side -> row of the affine (right, anterior, superior), and the sign along it
SIDES = {
    "right": (0, 1),
    "left": (0, -1),
    "anterior": (1, 1),
    "posterior": (1, -1),
    "superior": (2, 1),
    "inferior": (2, -1),
}


def distance_to(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (*s) from every voxel centre to the nearest voxel centre of `mask`, inf where there is none."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return edt.edt(np.ascontiguousarray(~mask), anisotropy=spacing, black_border=False)


def signed_distance(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distance (*s) to the other side of the surface, negative inside; it is 0 halfway between two voxel centres."""
    return distance_to(mask, spacing) - distance_to(~mask, spacing)


def slices_apart(spacing: tuple[float, ...], shape: tuple[int, ...]) -> tuple[float, ...]:
    """The spacing with the slices of a volume so far apart that every nearest voxel lies in its own slice."""
    diagonal = float(np.linalg.norm([n * mm for n, mm in zip(shape[-2:], spacing[-2:], strict=True)]))
    return (*(4.0 * diagonal,) * (len(shape) - 2), *spacing[-2:])


def window(mask: np.ndarray, reach: float, spacing: tuple[float, ...]) -> Window | None:
    """The bounding box of `mask`, wider by `reach` and one voxel on each side as far as the image goes."""
    box = []
    for axis, mm in enumerate(spacing):
        occupied = np.flatnonzero(mask.any(axis=tuple(a for a in range(mask.ndim) if a != axis)))
        if not occupied.size:
            return None
        pad = int(np.ceil(reach / mm)) + 1
        box.append(slice(max(int(occupied[0]) - pad, 0), int(occupied[-1]) + 1 + pad))
    return tuple(box)


def pieces(mask: np.ndarray) -> np.ndarray:
    """Numbers 1, 2, ... of the connected pieces (26-connected, 8-connected in 2-D), 0 outside."""
    return cc3d.connected_components(np.ascontiguousarray(mask, np.uint8), connectivity=26 if mask.ndim == 3 else 8)


def each_piece(mask: np.ndarray, grow: int = 0) -> Iterator[tuple[Window, np.ndarray]]:
    """The window of every connected piece, wider by `grow` voxels, and the piece alone in it."""
    labels = pieces(mask)
    boxes = cc3d.statistics(labels)["bounding_boxes"]
    for number in range(1, int(labels.max()) + 1):
        box = tuple(slice(max(int(b.start) - grow, 0), int(b.stop) + grow) for b in boxes[number][: mask.ndim])
        yield box, labels[box] == number


def axis_towards(side: str, affine: np.ndarray | None, ndim: int) -> tuple[int, int]:
    """Array axis that runs to a side of the patient, and 1 or -1 for its direction.

    Raises:
        SpecError: it cannot be told: the image is a picture, or no affine says how it lies in the patient. Volumes run
            to superior along their first axis, so that this axis is known without an affine.
    """
    row, sign = SIDES[side]
    if affine is None and ndim == 3 and row == 2:
        return 0, sign
    if affine is None or ndim != 3:
        raise SpecError(f"which way is {side} is not known for this image", remedy="use a volume with an affine")
    along = np.asarray(affine)[row, :3]
    axis = int(np.argmax(np.abs(along)))
    return axis, sign * (1 if along[axis] > 0 else -1)
