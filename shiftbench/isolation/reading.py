"""Checkpoints, predictions and archives that somebody else made: read without running anything, checked, or refused."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

import numpy as np

from shiftbench.contract import validate_prediction
from shiftbench.errors import DataError, MethodError
from shiftbench.types import Prediction

if TYPE_CHECKING:
    import torch

TORCH = (".pt", ".pth")
HEADERS = 2**20  # bytes that names, shapes and padding may take in a file beside its values
WIDEST = 8  # bytes of the widest value that is read
_SAVE = "save it with safetensors.torch.save_file"


def inside(folder: Path, name: str) -> Path:
    """The file that `name` means in a folder of somebody else's.

    Raises:
        DataError: the name leaves the folder, a link lies on the way, or there is no such file.
    """
    _check_name(name, folder)
    path = Path(folder)
    for part in PurePosixPath(name).parts:
        path /= part
        if path.is_symlink():
            raise DataError("this is a link", where=path, remedy="give the file itself")
    if not path.is_file():
        raise DataError("there is no such file", where=path, remedy="see what the folder should hold")
    return path


def read_checkpoint(folder: Path, name: str, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors by name, on the CPU, of a .safetensors, .pt or .pth file.

    Args:
        folder: that somebody gave.
        name: of the file in it.
        expected: tensors with the names, shapes and dtypes that it must have, such as a network's `state_dict()`.

    Raises:
        DataError: as `inside`; a file that holds more than tensors, other ones than expected, or a NaN or infinity.
    """
    path = inside(folder, name)
    room = sum(t.numel() * t.element_size() for t in expected.values())
    found = _tensors(path, room)
    if missing := sorted(set(expected) - set(found)):
        raise DataError(f"the tensor '{missing[0]}' is missing", where=path, remedy="save the whole state_dict()")
    if further := sorted(set(found) - set(expected)):
        raise DataError(f"unknown tensor '{further[0]}'", where=path, remedy="save the model's state_dict() alone")
    for key, tensor in found.items():
        wanted = expected[key]
        if (tensor.shape, tensor.dtype) != (wanted.shape, wanted.dtype):
            words = f"'{key}' is {tensor.dtype} of shape {tuple(tensor.shape)}"
            remedy = f"give {wanted.dtype} of shape {tuple(wanted.shape)}"
            raise DataError(words, where=path, remedy=remedy)
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DataError(f"'{key}' has a NaN or an infinity", where=path, remedy="give a training that converged")
    return found


def read_prediction(folder: Path, name: str, *, grid: tuple[int, ...], classes: int, heads: int = 0) -> Prediction:
    """The prediction for one case in a .npz, .npy (labels) or .safetensors file.

    Args:
        folder: that somebody gave.
        name: of the file in it.
        grid: shape (*s) of the case.
        classes: background and structures.
        heads: of the task.

    Raises:
        DataError: as `inside`; pickled objects, unknown names, or what `contract.validate_prediction` refuses.
    """
    import torch  # seconds to import

    path = inside(folder, name)
    room = WIDEST * int(np.prod(grid)) * (classes + heads + 3)
    if path.suffix == ".safetensors":
        found = _tensors(path, room)
    else:
        found = {key: torch.from_numpy(_plain(key, value, path)) for key, value in _arrays(path, room)}
    names = {field.name for field in fields(Prediction)}
    if unknown := sorted(set(found) - names):
        raise DataError(f"unknown array '{unknown[0]}'", where=path, remedy=f"give {', '.join(sorted(names))}")
    prediction = Prediction(**found)
    try:
        validate_prediction(prediction, np.empty((0, *grid)), classes, heads=heads)
    except MethodError as error:
        raise DataError(error.problem, where=path, remedy=error.remedy) from None
    return prediction


def unpack(archive: Path, folder: Path, *, room: int) -> list[Path]:
    """The files of a tar archive, written below an existing folder; nothing is written where anything is refused.

    Args:
        archive: compressed or not.
        folder: where to.
        room: bytes that the files may have together.

    Raises:
        DataError: no archive; a link, a device or a name that leaves the folder; two files of one name; too large.
    """
    try:
        with tarfile.open(archive) as tar:
            members = _files(tar, archive, room)
            return [_written(tar, member, Path(folder)) for member in members]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"the archive cannot be read ({error})", where=archive, remedy="pack it again") from None


def _files(tar: tarfile.TarFile, archive: Path, room: int) -> list[tarfile.TarInfo]:
    members: dict[PurePosixPath, tarfile.TarInfo] = {}
    for member in tar:
        if member.isdir() and PurePosixPath(member.name) == PurePosixPath("."):
            continue  # how `tar -C folder .` begins
        _check_name(member.name, archive)
        if member.issym() or member.islnk():
            words = f"'{member.name}' is a link"
            raise DataError(words, where=archive, remedy="pack the files themselves (tar --dereference)")
        if member.isdir():
            continue
        if not member.isreg():
            raise DataError(f"'{member.name}' is no plain file", where=archive, remedy="leave it out")
        place = PurePosixPath(member.name)
        if place in members:
            raise DataError(f"'{member.name}' is there twice", where=archive, remedy="pack the folder again")
        members[place] = member
        room -= member.size
        if room < 0:
            raise DataError(
                "the archive holds more than it may", where=archive, remedy="leave out what is not asked for"
            )
    return list(members.values())


def _written(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> Path:
    path = folder / PurePosixPath(member.name)
    if any(part.is_symlink() for part in (path, *path.parents) if folder in part.parents):
        raise DataError("a link lies in the way", where=path, remedy="unpack into an empty folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # it is a plain file
    with content, path.open("xb") as handle:
        shutil.copyfileobj(content, handle)
    return path


def _check_name(name: str, where: Path) -> None:
    windows = PureWindowsPath(name)
    leaves = ".." in windows.parts or windows.anchor or PurePosixPath(name).is_absolute()
    if leaves or not name.strip("./") or "\0" in name:
        raise DataError(f"the path '{name}' leaves the folder", where=where, remedy="give a path inside it")


def _tensors(path: Path, room: int) -> dict[str, torch.Tensor]:
    """Tensors of a file, which may take no more than `room` bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.suffix not in (".safetensors", *TORCH):
        raise DataError(f"a file of tensors does not end in '{path.suffix}'", where=path, remedy=_SAVE)
    _check_size(path, room)
    if path.suffix in TORCH:
        return _unpickled(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"the file cannot be read ({error})", where=path, remedy=_SAVE) from None


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    """What `torch.save` wrote, as far as that is tensors: nothing that a pickle names is called."""
    import torch  # seconds to import

    if not zipfile.is_zipfile(path):
        raise DataError("this is no file that torch.save writes today", where=path, remedy=_SAVE)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the reader's own errors are of many kinds, and all mean the same
        first = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise DataError(f"the file holds more than tensors ({first[0]})", where=path, remedy=_SAVE) from None
    plain = isinstance(found, Mapping) and all(isinstance(k, str) and torch.is_tensor(t) for k, t in found.items())
    if not plain:
        raise DataError("the file holds more than tensors by name", where=path, remedy="save the model's state_dict()")
    return dict(found)


def _arrays(path: Path, room: int) -> Iterator[tuple[str, Any]]:
    """Arrays of a .npz by name; a .npy holds labels."""
    if path.suffix not in (".npz", ".npy"):
        remedy = "give .npz, .npy or .safetensors"
        raise DataError(f"a prediction does not end in '{path.suffix}'", where=path, remedy=remedy)
    _check_size(path, room)
    try:
        if path.suffix == ".npy":
            yield "labels", np.array(np.load(path, mmap_mode="r", allow_pickle=False))
            return
        with np.load(path, allow_pickle=False) as arrays:
            yield from ((name, arrays[name]) for name in arrays.files)
    except (ValueError, OSError, EOFError, KeyError, MemoryError, zipfile.BadZipFile) as error:
        remedy = "save plain arrays with numpy.savez_compressed"
        raise DataError(f"the file cannot be read ({error})", where=path, remedy=remedy) from None


def _plain(name: str, values: Any, path: Path) -> np.ndarray:
    """A writable array in this machine's byte order; of numbers alone."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        kind = getattr(values, "dtype", type(values).__name__)
        raise DataError(f"'{name}' has the type {kind}", where=path, remedy="give an array of numbers")
    values = values.astype(values.dtype.newbyteorder("="))
    return values.astype(np.int64) if values.dtype.kind == "u" and values.dtype.itemsize > 1 else values


def _check_size(path: Path, room: int) -> None:
    """Refuses what would be larger in memory than what was asked for, compressed or not."""
    size = path.stat().st_size
    if path.suffix in (".npz", *TORCH) and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
    if size > room + HEADERS:
        words = f"the file holds {size} bytes where {room} were expected"
        raise DataError(words, where=path, remedy="give what was asked for alone")
