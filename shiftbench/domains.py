"""Domains: what a source or target is made of, and where its materialised parts lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from shiftbench import spec
from shiftbench.data.catalogue import LOADERS
from shiftbench.data.describe import load_description
from shiftbench.data.folders import FolderDataset, locate
from shiftbench.errors import SpecError, nearest
from shiftbench.shifts import OPERATORS, POPULATIONS
from shiftbench.shifts.operators import value_at
from shiftbench.shifts.population import resolve
from shiftbench.shifts.settings import Step, check_acquisition
from shiftbench.spec import Scenario, Source, Target, content_root
from shiftbench.store import Store
from shiftbench.types import Anatomy, Case, Dataset, Geometry

ANATOMY_VERSION = 2
IMAGES_VERSION = 2
REFERENCES_VERSION = 2


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
            module, kind = LOADERS[self.name].split(":")
            return getattr(import_module(module), kind)(**size)
        assert self.description is not None and self.root is not None  # the other kind of reference
        return FolderDataset(load_description(self.description, Path(self.description).parent), Path(self.root))

    def payload(self) -> dict[str, Any]:
        """JSON-able form."""
        return asdict(self)


def dataset_ref(scenario: Scenario, name: str, folders: Mapping[str, Path], roots: Sequence[Path]) -> DatasetRef:
    """Where a scenario's dataset comes from: a phantom of the scenario's size, or a described folder."""
    if name in LOADERS:
        return DatasetRef(name, phantom=scenario.phantom.model_dump())
    known = {p.stem: p for p in sorted((content_root() / "scenarios" / "datasets").glob("*.toml"))}
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None:
        raise SpecError(f"unknown dataset '{name}'", where=scenario.name, remedy=nearest(name, [*LOADERS, *known]))
    description = load_description(path, path.parent)
    root = locate(description.name, description, named=folders, roots=roots)
    return DatasetRef(name, description=str(path), root=str(root))


def population_of(source: Source, target: Target | None) -> dict[str, float]:
    """Population keys of a domain: the source's, changed by the target's steps."""
    population = dict(source.population)
    for step in target.population if target else ():
        population = resolve(population, step.operator, **_setting(step))
    return population


def source_acquisition(source: Source, dataset: Dataset, where: str) -> dict[str, Any]:
    """The acquisition table of a source; a real scan has none, for it is acquired already.

    Raises:
        SpecError: an unknown key or a value out of range, or a table where the dataset is real.
    """
    if dataset.name in LOADERS:
        return check_acquisition({"modality": dataset.modality, **source.acquisition}, where)
    if source.acquisition:
        raise SpecError("real scans are acquired already", where=f"{where}: acquisition", remedy="remove this table")
    return {"modality": dataset.modality}


def acquisition_steps(target: Target | None) -> list[Step]:
    """The acquisition steps of a target with their values, numbered where an operator occurs twice."""
    from_table: list[Step] = []
    seen: dict[str, int] = {}
    if target is None:
        return from_table
    for step in target.acquisition:
        if step.operator not in OPERATORS:
            raise SpecError(
                f"unknown operator '{step.operator}' in target '{target.name}'",
                remedy=nearest(step.operator, OPERATORS),
            )
        if step.levels and step.levels[0] == 0:
            continue  # level 0 is the identity to the bit
        seen[step.operator] = seen.get(step.operator, -1) + 1
        operator = OPERATORS[step.operator]
        value = value_at(operator, step.levels[0]) if step.levels else step.values[0]
        from_table.append(Step(step.operator, value, seen[step.operator]))
    return from_table


def _setting(step: spec.Step) -> dict[str, Any]:
    return {"level": step.levels[0]} if step.levels else {"value": step.values[0]}


def shift_of(target: Target | None) -> tuple[str | None, float | None, float | None, str | None]:
    """Operator, level, value and unit of a target that one operator makes; Nones for any other."""
    if target is None or target.protocol:
        return None, None, None, None
    steps = [*target.acquisition, *target.population]
    if len(steps) != 1:
        return None, None, None, None
    step, level = steps[0], steps[0].levels[0] if steps[0].levels else None
    if step.operator in OPERATORS:
        operator = OPERATORS[step.operator]
        value = step.values[0] if level is None else value_at(operator, level)
        return step.operator, level, value, operator.unit
    population = POPULATIONS[step.operator]
    resolved = resolve({population.key: population.identity}, step.operator, **_setting(step))
    return step.operator, level, resolved[population.key], population.unit


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
        reference_label=about["reference_label"],
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
    return _mapped(store.artifact("images", images_key) / f"{case_id}.npy").astype(np.float32, copy=False)


def load_reference(store: Store, references_key: str, case_id: str) -> np.ndarray:
    """Reference (*s), uint8."""
    return _mapped(store.artifact("references", references_key) / f"{case_id}.npy")


def load_instances(store: Store, references_key: str, case_id: str) -> np.ndarray:
    """Instance ids (*s), int32, 0 where there is no thing; there are some where a task counts instances."""
    path = store.artifact("references", references_key) / f"{case_id}.instances.npy"
    return _mapped(path).astype(np.int32, copy=False)


def _mapped(path: Path) -> np.ndarray:
    """An array whose memory is the file's, shared by all processes of a machine; what is written to it stays here."""
    return np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))


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
