"""What every phantom's cohort has in common: its size, its cases, and the way from a painted canvas to an anatomy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter

from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import Grid, majority, warped_grid
from shiftbench.data.phantoms.tissues import value_table
from shiftbench.errors import DataError, nearest
from shiftbench.rng import digest, generator
from shiftbench.types import Anatomy, CaseInfo, Geometry


@dataclass(frozen=True)
class Cohort(ABC):
    """Seeded patients; the same `case_id` is the same patient on every grid and in every population.

    A phantom is a subclass that sets the class attributes and paints (`_paint`).

    Attributes:
        patients: how many.
        shape: reference grid (d, h, w): up, towards the back, towards the patient's left.
        spacing_mm: reference voxel size.
        seed: of all patients.
        supersampling: fine voxels per reference voxel and axis, for partial volume.
    """

    patients: int = 100
    shape: tuple[int, int, int] = (20, 128, 128)
    spacing_mm: tuple[float, float, float] = (4.0, 3.125, 3.125)
    seed: int = 0
    supersampling: tuple[int, int, int] = (1, 2, 2)

    name: ClassVar[str]
    version: ClassVar[int]  # raise it, and the golden test, when any voxel of any patient changes
    modality: ClassVar[str] = "mr"  # the maps serve CT as well
    fine_labels: ClassVar[tuple[str, ...]]
    members: ClassVar[Mapping[str, tuple[str, ...]]]
    optional_members: ClassVar[Mapping[str, tuple[str, str]]]
    alternative_members: ClassVar[Mapping[str, tuple[str, Mapping[str, str]]]] = {}
    things: ClassVar[tuple[str, ...]]
    stuff: ClassVar[tuple[str, ...]] = ()  # structures that others may grow into
    barriers: ClassVar[tuple[str, ...]] = ("outside",)  # fine labels that no margin crosses
    reference_label: ClassVar[str]  # fine label of the tissue in which SNR is stated
    population_keys: ClassVar[Mapping[str, tuple[float, float, float]]]  # key -> (identity, smallest, largest)
    warp: ClassVar[Sequence[tuple[float, float]]]  # (distance of control points, SD of the displacement) in mm
    texture_sd: ClassVar[float] = 0.06
    texture_mm: ClassVar[float] = 6.0  # SD of the Gaussian that correlates the texture, in all three directions

    def __post_init__(self) -> None:
        if self.patients < 1 or min(self.shape) < 1 or min(self.supersampling) < 1 or min(self.spacing_mm) <= 0:
            raise DataError(
                f"a phantom of {self.patients} patients, shape {self.shape}, spacing {self.spacing_mm} mm",
                where=self.name,
                remedy="use positive numbers",
            )

    @property
    def digest(self) -> str:
        """Changes whenever any voxel of any patient would."""
        return digest(self.name, self.version, asdict(self))

    def cases(self) -> list[CaseInfo]:
        """One case per patient."""
        return [
            CaseInfo(f"p{i:04d}", f"p{i:04d}", attributes=self._attributes(f"p{i:04d}")) for i in range(self.patients)
        ]

    def anatomy(self, case_id: str, population: Mapping[str, float]) -> Anatomy:
        """The patient `case_id` in a population.

        Args:
            case_id: as `cases` names it.
            population: keys of `population_keys`; what is missing is at its identity.

        Raises:
            DataError: an unknown case, or an unknown population key or a value out of range.
        """
        if case_id not in {f"p{i:04d}" for i in range(self.patients)}:
            raise DataError(
                f"unknown case '{case_id}'", where=self.name, remedy=f"use p0000 to p{self.patients - 1:04d}"
            )
        keys = self._checked(population)
        canvas = Canvas(
            self._grid(case_id, keys), lambda part: self._draw(case_id, part), self.fine_labels, self._tissues()
        )
        instances, attributes = self._paint(canvas, keys, case_id)
        labels = np.asarray(canvas.labels, np.uint8)
        fine = majority(labels[canvas.tissue], self.supersampling, len(self.fine_labels))
        return Anatomy(
            case_id=case_id,
            patient_id=case_id,
            geometry=Geometry(self.spacing_mm, self._affine()),
            fine=fine.astype(np.int16),
            instances=self._instances(canvas, instances, fine),
            tissue=canvas.tissue,
            values=value_table(canvas.tissues) | {"fine_label": labels.astype(np.float32)},
            texture=self._texture(self._draw(case_id, "texture")),
            supersampling=self.supersampling,
            modality=self.modality,
            reference_label=self.fine_labels.index(self.reference_label),
            attributes={**self._attributes(case_id), **attributes},
        )

    @abstractmethod
    def _paint(
        self, canvas: Canvas, population: Mapping[str, float], case_id: str
    ) -> tuple[Sequence[Sequence[int]], dict[str, str | float]]:
        """Paints the patient; returns the tissue indices of each instance, and attributes beside `_attributes`."""

    @abstractmethod
    def _tissues(self) -> Mapping:
        """Tissue name -> tabulated properties."""

    def _attributes(self, case_id: str) -> dict[str, str | float]:
        """What is known of a patient before it is drawn (age, sex); the same in every population."""
        return {}

    def _grid(self, case_id: str, population: Mapping[str, float]) -> Grid:
        return warped_grid(
            self.shape, self.spacing_mm, self.supersampling, self._draw(case_id, "warp"), scales=self.warp
        )

    def _draw(self, case_id: str, part: str) -> np.random.Generator:
        return generator(self.seed, self.name, self.version, case_id, part)

    def _checked(self, population: Mapping[str, float]) -> dict[str, float]:
        known = self.population_keys
        for key, value in population.items():
            if key not in known:
                raise DataError(
                    f"unknown population key '{key}' of {self.name}", where="population", remedy=nearest(key, known)
                )
            _, low, high = known[key]
            if not low <= value <= high:
                raise DataError(f"{key} = {value}", where="population", remedy=f"use a value from {low:g} to {high:g}")
        return {key: float(population.get(key, identity)) for key, (identity, _, _) in known.items()}

    def _texture(self, rng: np.random.Generator) -> np.ndarray:
        """Two fields (2, *s), for T1, T2 and HU and for T2* and PD, correlated in three dimensions."""
        noise = rng.standard_normal((2, *self.shape), dtype=np.float32)
        wide = {
            i: self.texture_mm / mm
            for i, (n, mm) in enumerate(zip(self.shape, self.spacing_mm, strict=True), 1)
            if n > 1
        }
        fields = (
            gaussian_filter(noise, list(wide.values()), mode="wrap", truncate=3.0, axes=tuple(wide)) if wide else noise
        )
        sd = self.texture_sd
        return np.clip(fields * (sd / max(float(fields.std()), 1e-12)), -4 * sd, 4 * sd)

    def _instances(self, canvas: Canvas, instances: Sequence[Sequence[int]], fine: np.ndarray) -> np.ndarray:
        """Instance ids (*s), 1 for the first; one too small to be the majority of any voxel has none.

        Where two instances share a voxel it is of the later one of those with the voxel's fine label.
        """
        ids = np.zeros(256, np.int16)
        for number, indices in enumerate(instances, start=1):
            ids[list(indices)] = number
        things = {label for name in self.things for label in self.members[name]}
        counted = np.isin(fine, [self.fine_labels.index(label) for label in things])
        out = np.zeros(fine.shape, np.int16)
        if not counted.any():
            return out
        labels = np.zeros(256, fine.dtype)
        labels[: len(canvas.labels)] = canvas.labels
        fz, fy, fx = self.supersampling
        for block in (canvas.tissue[i::fz, j::fy, k::fx] for i in range(fz) for j in range(fy) for k in range(fx)):
            tissue = block[counted]
            out[counted] = np.maximum(out[counted], np.where(labels[tissue] == fine[counted], ids[tissue], 0))
        return out

    def _affine(self) -> np.ndarray:
        """Voxel index (d, h, w) to RAS mm, with the origin at the centre of the field of view."""
        z, y, x = self.spacing_mm
        affine = np.array([[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]], float)
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine
