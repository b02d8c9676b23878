"""Reading NIfTI volumes and 2-D pictures into arrays with one axis order, and bringing large pictures down."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from PIL import Image

from shiftbench.errors import DataError

VOLUMES = (".nii.gz", ".nii")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif")
_NIFTI2 = (540).to_bytes(4, "little")  # the length of its header, in either byte order
_DAMAGED_VOLUME = (ImageFileError, HeaderDataError, WrapStructError, EOFError, zlib.error, OSError, ValueError)
_DAMAGED_PICTURE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def is_volume(path: Path) -> bool:
    """Whether the file is a NIfTI volume, by its name.

    Raises:
        DataError: it is neither a volume nor a picture that can be read.
    """
    name = path.name.lower()
    if name.endswith(VOLUMES):
        return True
    if name.endswith(PICTURES):
        return False
    known = ", ".join((*VOLUMES, *PICTURES))
    raise DataError("the file format is not known", where=path, remedy=f"convert it to one of {known}")


def read_volume(path: Path, *, labels: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A NIfTI file as (voxels (x, y, z, c) in the stored axis order, affine (4, 4)).

    The whole file is read, so that the checksum of a compressed one is verified too.

    Args:
        path: of the file.
        labels: keep the stored integers; otherwise float32 in raw units (slope and intercept applied).

    Raises:
        DataError: the file is missing, truncated, not a NIfTI, not 3-D (with channels), or has no usable affine.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.name.lower().endswith(".gz") else content
        kind = nib.Nifti2Image if _NIFTI2 in (content[:4], content[3::-1]) else nib.Nifti1Image
        file: Any = kind.from_bytes(content)
        voxels = np.asanyarray(file.dataobj) if labels else file.get_fdata(dtype=np.float32)
        affine = np.asarray(file.affine, dtype=np.float64)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, remedy="restore it or leave the case out") from None
    except _DAMAGED_VOLUME as error:
        problem = f"the file is truncated or not a NIfTI ({_first_line(error)})"
        raise DataError(problem, where=path, remedy="copy it again or leave the case out") from error
    if voxels.dtype.fields is not None or voxels.ndim not in (3, 4):
        problem = f"the file holds {voxels.ndim}-D voxels of type {voxels.dtype}"
        raise DataError(problem, where=path, remedy="only 3-D numbers, and channels as a fourth axis, can be read")
    matrix = affine[:3, :3]
    if not np.isfinite(affine).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise DataError("the header has no usable affine", where=path, remedy="export the file with its orientation")
    return voxels.reshape(*voxels.shape[:3], -1), affine


def canonical(
    voxels: np.ndarray, affine: np.ndarray, reference: np.ndarray
) -> tuple[np.ndarray, np.ndarray, tuple[float, float, float]]:
    """Voxels (c, z, y, x) with axes that run to superior, anterior and right, their affine, and the spacing.

    Args:
        voxels: (x, y, z, c) in any stored order.
        affine: (4, 4) of these voxels, index to RAS mm.
        reference: affine of the image, which decides the axes of its mask too: nearly 45-degree obliques stay aligned.

    Returns:
        Array; affine (4, 4) from (z, y, x) index to RAS mm; mm per axis (z, y, x).
    """
    orientation = io_orientation(reference)
    moved = apply_orientation(voxels, orientation)  # (R, A, S, c)
    moved_affine = affine @ inv_ornt_aff(orientation, voxels.shape[:3])
    zyx_affine = moved_affine[:, [2, 1, 0, 3]]
    z, y, x = (round(float(mm), 6) for mm in np.linalg.norm(zyx_affine[:3, :3], axis=0))
    return np.ascontiguousarray(moved.transpose(3, 2, 1, 0)), zyx_affine, (z, y, x)


def read_picture(path: Path, *, colour: bool) -> np.ndarray:
    """A 2-D picture in raw units (0-255 for 8 bits), float32 (3, h, w) if `colour`, else (1, h, w).

    Transparency is dropped; a grey picture that is stored with three equal channels is grey.

    Raises:
        DataError: the file is missing, truncated, not a picture, or has colours where none are expected.
    """
    picture = _open_picture(path)
    if colour:
        if picture.mode[0] in "IF":
            remedy = 'say modality = "grey" in the description'
            raise DataError(f"the picture is grey with more than 8 bits ('{picture.mode}')", where=path, remedy=remedy)
        return np.asarray(picture.convert("RGB"), dtype=np.float32).transpose(2, 0, 1)
    picture = picture.convert("RGB") if picture.mode == "P" else picture
    remedy = 'say modality = "rgb" in the description'
    return _single_channel(picture, path, "the picture has colours", remedy)[None].astype(np.float32)


def read_mask_picture(path: Path) -> np.ndarray:
    """Mask values of a 2-D picture, integer (h, w): 1-bit files hold 0 and 255, palette files their indices.

    Raises:
        DataError: the file is missing, truncated, not a picture, or a colour picture.
    """
    remedy = "store one grey level or palette index per structure"
    return _single_channel(_open_picture(path), path, "the mask is a colour picture", remedy)


def _open_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.load()
            frames = getattr(picture, "n_frames", 1)
    except FileNotFoundError:
        raise DataError("there is no such file", where=path, remedy="restore it or leave the case out") from None
    except _DAMAGED_PICTURE as error:
        problem = f"the file is truncated or not a picture ({_first_line(error)})"
        raise DataError(problem, where=path, remedy="copy it again or leave the case out") from error
    if frames != 1:
        raise DataError(f"the file holds {frames} pictures", where=path, remedy="store one picture per file")
    return picture


def _single_channel(picture: Image.Image, path: Path, problem: str, remedy: str) -> np.ndarray:
    """The one channel of a picture that has no colours, as stored (h, w)."""
    pixels = np.asarray(picture.convert("L") if picture.mode == "1" else picture)
    if pixels.ndim == 2:
        return pixels
    channels = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1]
    if (channels != channels[..., :1]).any():
        raise DataError(problem, where=path, remedy=remedy)
    return channels[..., 0]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def reduced_shape(shape: tuple[int, int], *, resize: float | None, max_side: int | None) -> tuple[int, int]:
    """Rows and columns of a picture after `resize` or `max_side`, each to the nearest whole pixel."""
    factor = resize if resize is not None else 1.0 if max_side is None else min(1.0, max_side / max(shape))
    rows, columns = (max(1, round(n * factor)) for n in shape)
    return rows, columns


def area_average(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Mean of `image` (..., h, w) over the area of each pixel of a coarser grid (..., *shape), float64.

    Both grids cover the same rectangle; a pixel that straddles two coarse ones counts in both by its area.
    """
    for axis, n_out in zip((-2, -1), shape, strict=True):
        n_in = image.shape[axis]
        lines = np.moveaxis(np.asarray(image, dtype=np.float64), axis, -1)
        integral = np.concatenate([np.zeros_like(lines[..., :1]), np.cumsum(lines, axis=-1)], axis=-1)
        edges = np.arange(n_out + 1) * (n_in / n_out)
        below = np.minimum(edges.astype(int), n_in - 1)
        at_edges = integral[..., below] + (edges - below) * lines[..., below]
        image = np.moveaxis(np.diff(at_edges, axis=-1) * (n_out / n_in), -1, axis)
    return image


def area_majority(fine: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Label with the largest share of each pixel of a coarser grid, int16; a tie goes to the structure, not to 0."""
    present = [int(label) for label in np.unique(fine) if label != 0]
    shares = np.stack([area_average(fine == label, shape) for label in [*present, 0]])
    shares[-1] -= 1e-9  # rounding of the areas must not turn a tie into background
    return np.array([*present, 0], dtype=np.int16)[shares.argmax(axis=0)]
