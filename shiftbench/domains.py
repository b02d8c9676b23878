"""Datasets by reference, and the parts of materialised domains: what was published where, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shiftbench.data.describe import load_description
from shiftbench.data.folders import FolderDataset
from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.errors import SpecError, nearest
from shiftbench.store import Store
from shiftbench.types import Anatomy, Case, Dataset, Geometry

ANATOMY_VERSION = 1
IMAGES_VERSION = 1
REFERENCES_VERSION = 1

LOADERS = {"phantom/abdomen": AbdomenPhantom}  # synthetic cohorts by name; any other name is a folder's description


@dataclass(frozen=True)
class DatasetRef:
    """What a worker needs to open a dataset again: a cohort of LOADERS with its size, or a description and a folder."""

    name: str
    phantom: Mapping[str, Any] | None = None
    description: str | None = None
    root: str | None = None

    def open(self) -> Dataset:
        """The dataset itself."""
        if self.phantom is not None:
            if self.name not in LOADERS:
                raise SpecError(f"unknown phantom '{self.name}'", remedy=nearest(self.name, LOADERS))
            size = {k: tuple(v) if isinstance(v, list | tuple) else v for k, v in self.phantom.items()}
            return LOADERS[self.name](**size)
        return FolderDataset(load_description(self.description, Path(self.description).parent), Path(self.root))

    def payload(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def load_anatomy(store: Store, key: str, case_id: str) -> Anatomy:
    """An anatomy as it was published."""
    about = store.record("anatomy", key)["cases"][case_id]
    with np.load(store.artifact("anatomy", key) / f"{case_id}.npz", allow_pickle=False) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    values = {n.removeprefix("values/"): content.pop(n) for n in list(content) if n.startswith("values/")}
    return Anatomy(
        case_id=case_id,
        patient_id=about["patient"],
        geometry=_geometry(about),
        values=values or None,
        supersampling=tuple(about["supersampling"]),
        modality=about["modality"],
        attributes=about["attributes"],
        **content,
    )


def _geometry(about: Mapping[str, Any]) -> Geometry:
    spacing, affine = about["spacing"], about["affine"]
    return Geometry(None if spacing is None else tuple(spacing), None if affine is None else np.asarray(affine))


@dataclass(frozen=True)
class Part:
    """Cases of one domain in one split part, and where their images and references were published.

    `chunks` lists (anatomy key, images key, references key, case ids).
    """

    chunks: tuple[tuple[str, str, str, tuple[str, ...]], ...]

    def where(self) -> dict[str, tuple[str, str, str]]:
        """Case id -> (anatomy key, images key, references key), in order."""
        return {case: (a, i, r) for a, i, r, cases in self.chunks for case in cases}

    def images_keys(self) -> list[str]:
        """What the images are addressed by."""
        return [i for _, i, _, _ in self.chunks]

    def references_keys(self) -> list[str]:
        """What the references are addressed by."""
        return [r for _, _, r, _ in self.chunks]

    @staticmethod
    def of(payload: Sequence[Any]) -> Part:
        """From its JSON form."""
        return Part(tuple((a, i, r, tuple(cases)) for a, i, r, cases in payload))


def load_image(store: Store, images_key: str, case_id: str) -> np.ndarray:
    """Raw image (c, *s) as float32."""
    return np.load(store.artifact("images", images_key) / f"{case_id}.npy", allow_pickle=False).astype(np.float32)


def load_reference(store: Store, references_key: str, case_id: str) -> np.ndarray:
    """Reference (*s), uint8."""
    return np.load(store.artifact("references", references_key) / f"{case_id}.npy", allow_pickle=False)


def not_applicable(store: Store, part: Part) -> dict[str, str]:
    """Cases of a part that could not be acquired as asked, with the reason."""
    reasons: dict[str, str] = {}
    for key in part.images_keys():
        reasons.update(store.record("images", key)["not_applicable"])
    return reasons


def about(store: Store, anatomy_key: str, case_id: str) -> dict[str, Any]:
    """Patient, spacing and attributes of a case."""
    return store.record("anatomy", anatomy_key)["cases"][case_id]


def load_case(store: Store, where: tuple[str, str, str], case_id: str, structures: Sequence[str]) -> Case:
    """One case with its reference, for scoring, figures and contact sheets; never for a method."""
    anatomy_key, images_key, references_key = where
    info = about(store, anatomy_key, case_id)
    return Case(
        case_id=case_id,
        patient_id=info["patient"],
        image=load_image(store, images_key, case_id),
        reference=load_reference(store, references_key, case_id),
        geometry=_geometry(info),
        modality=info["modality"],
        annotated=tuple(structures),
        attributes=info["attributes"],
        measured=store.record("images", images_key)["measured"].get(case_id, {}),
    )
