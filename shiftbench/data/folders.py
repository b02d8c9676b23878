"""Folders of real scans as datasets, and where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from shiftbench.data import checks, images
from shiftbench.data.describe import OUTSIDE, Description
from shiftbench.data.layouts import CaseFiles, list_cases
from shiftbench.errors import DataError, SpecError, nearest
from shiftbench.rng import digest
from shiftbench.types import Anatomy, CaseInfo, Geometry

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
READER_VERSION = 1  # raised when the same files and description give other arrays


class FolderDataset:
    """Real scans with masks in a folder: a `shiftbench.types.Dataset`.

    Volumes come as (c, z, y, x) with axes that run to superior, anterior and right, whatever order the file has;
    pictures as (c, rows, columns). Images keep their raw units.

    Args:
        description: how the folder is read.
        root: the folder.

    Raises:
        DataError: the folder or its list of cases cannot be used (see `layouts.list_cases`).
        SpecError: the description asks for what the files cannot give.
    """

    def __init__(self, description: Description, root: str | Path) -> None:
        self.description = description
        self.root = Path(root)
        self.name = description.name
        self.modality = description.delivered_modality
        self.fine_labels: tuple[str, ...] = (OUTSIDE, *description.structures)
        self.members: Mapping[str, tuple[str, ...]] = {name: (name,) for name in description.structures}
        self.optional_members: Mapping[str, tuple[str, str]] = {}
        self.alternative_members: Mapping[str, tuple[str, Mapping[str, str]]] = {}
        self.stuff: tuple[str, ...] = ()
        self.barriers: tuple[str, ...] = ()
        self.things: tuple[str, ...] = (description.instances,) if description.instances else ()
        self._files: Mapping[str, CaseFiles] = {case.info.case_id: case for case in list_cases(description, self.root)}
        for case in self._files.values():
            _check_files_fit(description, [self.root / path for path in (*case.images, case.label)])

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the description, who is in the dataset, and path, size and content of every file."""
        people = [
            [case.info.case_id, case.info.patient_id, case.info.site, case.info.split, dict(case.info.attributes)]
            for case in self._files.values()
        ]
        paths = sorted({path for case in self._files.values() for path in (*case.images, case.label)})
        files = [[path, (self.root / path).stat().st_size, _sha256(self.root / path)] for path in paths]
        return digest("folder", READER_VERSION, self.description.content(), people, files)

    def cases(self) -> Sequence[CaseInfo]:
        """Who is in the folder, in the order of the case ids."""
        return tuple(case.info for case in self._files.values())

    def anatomy(self, case_id: str, population: Mapping[str, float] | None = None) -> Anatomy:
        """The scan and its mask, read from the files.

        Args:
            case_id: one of `cases()`.
            population: must be empty: real patients cannot be changed.

        Raises:
            DataError: the case is unknown, or one of its files cannot be used (see `shiftbench.data.checks`).
            SpecError: `population` is not empty.
        """
        if population:
            problem = (
                f"the dataset '{self.name}' holds real patients, so it has no population key '{next(iter(population))}'"
            )
            raise SpecError(problem, remedy="remove 'population' or use a phantom")
        if case_id not in self._files:
            problem = f"the dataset '{self.name}' has no case '{case_id}'"
            raise DataError(problem, where=self.root, remedy=nearest(case_id, self._files))
        case = self._files[case_id]
        files, label = [self.root / path for path in case.images], self.root / case.label
        read = _read_volumes if images.is_volume(label) else _read_pictures
        image, fine, geometry = read(self.description, files, label)
        instances = fine if self.things else None
        fine = (fine > 0).astype(np.int16) if self.things else fine
        return Anatomy(
            case_id=case_id,
            patient_id=case.info.patient_id,
            geometry=geometry,
            fine=fine,
            instances=instances,
            image=image,
            modality=self.modality,
            supersampling=(1,) * fine.ndim,
            attributes=dict(case.info.attributes) | ({"site": case.info.site} if case.info.site else {}),
        )


def locate(
    name: str, description: Description, *, named: Mapping[str, Path] | None = None, roots: Iterable[Path] = ()
) -> Path:
    """The folder of a dataset: the one given under its name, or one found in a data root.

    A root is the dataset itself if it bears one of its names, or has it as a direct child.

    Args:
        name: as the scenario names the dataset.
        description: of the dataset; its `folder` and `name` are searched for.
        named: name -> folder, from `--data NAME=PATH`.
        roots: folders that may hold several datasets, from `--data PATH`.

    Raises:
        DataError: names what was searched for, where, and the remedy.
    """
    remedy = f"give --data {description.name}=PATH"
    for key in (name, description.name):
        if named and key in named:
            if not named[key].is_dir():
                raise DataError(f"the folder given for '{key}' does not exist", where=named[key], remedy=remedy)
            return named[key]
    wanted = tuple(dict.fromkeys((*description.folder, description.name)))
    searched = list(roots)
    for root in searched:
        if not root.is_dir():
            raise DataError("there is no such data folder", where=root, remedy="check --data")
        if root.resolve().name in wanted:
            return root
        for child in wanted:
            if (root / child).is_dir():
                return root / child
    if not searched:
        raise DataError(f"no folder was given for the dataset '{description.name}'", remedy=remedy)
    folders = " or ".join(f"'{child}'" for child in wanted)
    places = ", ".join(str(root) for root in searched)
    raise DataError(f"no folder {folders} of the dataset '{description.name}' here", where=places, remedy=remedy)


def parse_places(arguments: Iterable[str]) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """What `--data` was given, as the `named` folders (NAME=PATH) and the `roots` (PATH) of `locate`.

    An argument that is itself an existing path is a root, even with an equals sign in it.

    Raises:
        DataError: a name or a path is empty, or a name is given twice.
    """
    named: dict[str, Path] = {}
    roots: list[Path] = []
    for argument in arguments:
        name, equals, path = argument.partition("=")
        if not equals or "/" in name or Path(argument).exists():
            roots.append(Path(argument).expanduser())
        elif not name or not path:
            raise DataError(f"'{argument}' is not NAME=PATH", where="--data", remedy="write --data NAME=PATH")
        elif name in named:
            raise DataError(f"'{name}' is given twice", where="--data", remedy="give one folder for each dataset")
        else:
            named[name] = Path(path).expanduser()
    return named, tuple(roots)


def _check_files_fit(description: Description, files: Sequence[Path]) -> None:
    """Refuses a description whose `spacing` or `resize` the kind of file cannot give, before any pixel is read."""
    kinds = [images.is_volume(path) for path in files]
    where = f"dataset '{description.name}'"
    if len(set(kinds)) > 1:
        odd = files[kinds.index(not kinds[0])]
        raise DataError(
            f"the case mixes volumes and pictures ({files[0].name})", where=odd, remedy="convert one of them"
        )
    if kinds[0]:
        if description.resize or description.max_side:
            raise SpecError("'resize' and 'max_side' are for pictures, not volumes", where=where, remedy="remove them")
        if isinstance(description.spacing, tuple):
            raise SpecError("the spacing of volumes is in their header", where=where, remedy='say spacing = "header"')
    elif description.spacing == "header":
        remedy = 'say spacing = "none", or mm per axis such as [0.5, 0.5]'
        raise SpecError("pictures have no spacing in a header", where=where, remedy=remedy)
    elif isinstance(description.spacing, tuple) and len(description.spacing) != 2:
        problem = f"'spacing' has {len(description.spacing)} entries for pictures"
        raise SpecError(problem, where=where, remedy="give mm per row and mm per column")


def _read_volumes(
    description: Description, files: Sequence[Path], label: Path
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Image (c, z, y, x), fine labels (z, y, x) and geometry of NIfTI files."""
    first, affine = images.read_volume(files[0])
    channels = []
    for path in files:
        voxels, file_affine = (first, affine) if path == files[0] else images.read_volume(path)
        _check_same_grid(first, affine, voxels, file_affine, files[0], path)
        for channel in np.moveaxis(voxels, 3, 0):
            checks.check_image(channel, path)
        channels.append(voxels)
    mask, mask_affine = images.read_volume(label, labels=True)
    _check_same_grid(first, affine, mask, mask_affine, files[0], label)
    if mask.shape[3] != 1:
        raise DataError(f"the mask has {mask.shape[3]} channels", where=label, remedy="store one label per voxel")
    image, zyx_affine, spacing = images.canonical(np.concatenate(channels, axis=3), affine, affine)
    labels, _, _ = images.canonical(mask, mask_affine, affine)
    fine = _labels_in(description, labels[0], label)
    geometry = Geometry(None) if description.spacing == "none" else Geometry(spacing, zyx_affine)
    return image, fine, geometry


def _labels_in(description: Description, mask: np.ndarray, where: Path) -> np.ndarray:
    """Fine labels of a mask, int16 (*s); where it holds instances, their ids as consecutive numbers."""
    if description.instances is None:
        return checks.fine_from_mask(mask, description.labels, description.background, where=where)
    values = np.unique(mask)
    objects = [int(value) for value in values if int(value) not in description.background]
    return checks.fine_from_mask(mask, {str(i): (i,) for i in objects}, description.background, where=where)


def _check_same_grid(
    image: np.ndarray, affine: np.ndarray, other: np.ndarray, other_affine: np.ndarray, image_file: Path, file: Path
) -> None:
    shape = image.shape[:3]
    checks.check_same_shape(shape, other.shape[:3], image_file=image_file, label_file=file)
    checks.check_same_affine(affine, other_affine, shape, image_file=image_file, label_file=file)


def _read_pictures(
    description: Description, files: Sequence[Path], label: Path
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Image (c, h, w), fine labels (h, w) and geometry of pictures, brought down where the description says so."""
    channels = [images.read_picture(path, colour=description.modality == "rgb") for path in files]
    shape = channels[0].shape[1:]
    for path, channel in zip(files, channels, strict=True):
        checks.check_same_shape(shape, channel.shape[1:], image_file=files[0], label_file=path)
        checks.check_image(channel, path)
    mask = images.read_mask_picture(label)
    checks.check_same_shape(shape, mask.shape, image_file=files[0], label_file=label)
    fine = _labels_in(description, mask, label)
    image = np.concatenate(channels)
    if description.channels == "green":
        image = image[1::3]
    if description.channels == "luminance":
        image = np.einsum("cnhw,n->chw", image.reshape(-1, 3, *shape), np.array(LUMINANCE, np.float32))
    small = images.reduced_shape(shape, resize=description.resize, max_side=description.max_side)
    if small != shape:
        image = images.area_average(image, small).astype(np.float32)
        fine = images.area_majority(fine, small)
    return np.ascontiguousarray(image), fine, _picture_geometry(description, shape, small)


def _picture_geometry(description: Description, shape: tuple[int, ...], small: tuple[int, int]) -> Geometry:
    if not isinstance(description.spacing, tuple):
        return Geometry(None)
    return Geometry(tuple(mm * n / m for mm, n, m in zip(description.spacing, shape, small, strict=True)))


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        remedy = "check the permissions of the file"
        raise DataError(f"the file cannot be read ({error.strerror})", where=path, remedy=remedy) from None
