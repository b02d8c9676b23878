"""Checks of images and masks as they are read: each refusal names the file, what is wrong in it, and a remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from shiftbench.errors import DataError

MAX_MISALIGNMENT = 0.1  # of the smallest voxel side, at the corner of the grid that is furthest off
_SHOWN = 6


def check_image(image: np.ndarray, where: Path) -> None:
    """Refuses an image that holds NaN or infinity, or a single value.

    Raises:
        DataError: names the file.
    """
    finite = np.isfinite(image)
    if not finite.all():
        count = finite.size - int(finite.sum())
        raise DataError(
            f"the image holds NaN or infinity in {count} of {finite.size} voxels",
            where=where,
            remedy="export the image again or leave the case out",
        )
    if image.size == 0 or image.min() == image.max():
        raise DataError("the image is constant", where=where, remedy="export the image again or leave the case out")


def check_same_shape(image: tuple[int, ...], label: tuple[int, ...], *, image_file: Path, label_file: Path) -> None:
    """Refuses a mask (or a further channel) on another grid than the image.

    Raises:
        DataError: names both files and both shapes.
    """
    if image != label:
        sizes = f"{_times(label)} voxels where the image {image_file.name} has {_times(image)}"
        raise DataError(f"the shape is {sizes}", where=label_file, remedy="resample the mask to the image's grid")


def check_same_affine(
    image: np.ndarray, label: np.ndarray, shape: tuple[int, ...], *, image_file: Path, label_file: Path
) -> None:
    """Refuses a mask (or a further channel) that lies elsewhere in the patient than the image.

    Args:
        image: affine (4, 4) of the image, voxel index to mm.
        label: affine (4, 4) of the mask.
        shape: voxels per axis, in the order of the affine's columns.
        image_file: of the image, for the message.
        label_file: of the mask, for the message.

    Raises:
        DataError: a corner of the grid is off by more than a tenth of the smallest voxel side.
    """
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], indexing="ij")).reshape(3, -1)
    homogeneous = np.vstack([corners, np.ones(corners.shape[1])])
    distance_mm = np.linalg.norm(((image - label) @ homogeneous)[:3], axis=0).max()
    smallest_mm = np.linalg.norm(image[:3, :3], axis=0).min()
    if not distance_mm <= MAX_MISALIGNMENT * smallest_mm:  # NaN is refused as well
        raise DataError(
            f"the affine differs from that of the image {image_file.name} by up to {distance_mm:.3g} mm",
            where=label_file,
            remedy="resample the mask to the image's grid, or copy the affine if only the header is wrong",
        )


def fine_from_mask(
    mask: np.ndarray, labels: Mapping[str, Iterable[int]], background: Iterable[int], *, where: Path
) -> np.ndarray:
    """Fine labels, int16 (*s): 0 outside, then one number per structure in the order of `labels`.

    Args:
        mask: values as stored, shape (*s).
        labels: structure -> mask values.
        background: mask values outside all structures.
        where: file of the mask, for the message.

    Raises:
        DataError: a value is not an integer or is not in the map; names the values and the file.
    """
    values = np.unique(mask)
    if not np.issubdtype(values.dtype, np.integer):
        fractions = values[~np.isfinite(values) | (values != np.round(values))]
        if fractions.size:
            raise DataError(
                f"the mask holds values that are not integers ({_listed(fractions)})",
                where=where,
                remedy="resample masks with nearest neighbours and store integers",
            )
    number = dict.fromkeys(background, 0)
    number |= {value: i for i, some in enumerate(labels.values(), start=1) for value in some}
    unknown = [value for value in values if int(value) not in number]
    if unknown:
        raise DataError(
            f"the mask holds {_listed(unknown)}, which the label map does not name",
            where=where,
            remedy="add each value to a structure in [labels] or to 'background' of the dataset's description",
        )
    table = np.array([number[int(value)] for value in values], dtype=np.int16)
    return table[np.searchsorted(values, mask)]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _listed(values: Iterable[float]) -> str:
    shown = [f"{value:g}" for value in values]
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
