"""The embedded abdominal phantom: seeded patients with tissue maps, for MR and CT."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter

from shiftbench.data.phantoms import distractors, organs
from shiftbench.data.phantoms.lesions import Lesion, tumours
from shiftbench.data.phantoms.liver import liver
from shiftbench.data.phantoms.organs import FINE_LABELS, Canvas
from shiftbench.data.phantoms.shapes import majority, warped_grid
from shiftbench.data.phantoms.tissues import value_table
from shiftbench.errors import DataError, nearest
from shiftbench.rng import digest, generator
from shiftbench.types import Anatomy, CaseInfo, Geometry

VERSION = 1  # raise it, and the golden test, when any voxel of any patient changes

# population key -> (identity, smallest, largest)
POPULATION_KEYS = {
    "lesion_load": (1.0, 0.01, 32.0),
    "habitus_mm": (0.0, 0.0, 100.0),
    "empty_prevalence": (0.1, 0.0, 1.0),
}
WARP = ((90.0, 6.0), (26.0, 1.6))  # (distance of control points, SD of the displacement) in mm
TEXTURE_SD = 0.06
TEXTURE_MM = 6.0  # SD of the Gaussian that correlates the texture, in all three directions


@dataclass(frozen=True)
class AbdomenPhantom:
    """Seeded abdominal patients; the same `case_id` is the same patient on every grid and in every population.

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

    name: ClassVar[str] = "phantom/abdomen"
    modality: ClassVar[str] = "mr"  # the maps serve CT as well
    fine_labels: ClassVar[tuple[str, ...]] = FINE_LABELS
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "liver": ("liver", "tumour"),  # painted over by the tumour where both are asked for
        "tumour": ("tumour",),
        "spleen": ("spleen",),
        "kidney": ("kidney",),
    }
    optional_members: ClassVar[Mapping[str, tuple[str, str]]] = {
        "hilum": ("liver", "hilum"),
        "portal_vessel": ("liver", "vessels"),
        "hepatic_vessel": ("liver", "vessels"),
    }
    things: ClassVar[tuple[str, ...]] = ("tumour",)

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
        return digest(self.name, VERSION, asdict(self))

    def cases(self) -> list[CaseInfo]:
        """One case per patient."""
        return [CaseInfo(f"p{i:04d}", f"p{i:04d}") for i in range(self.patients)]

    def anatomy(self, case_id: str, population: Mapping[str, float]) -> Anatomy:
        """The patient `case_id` in a population.

        Args:
            case_id: as `cases` names it.
            population: `lesion_load` (expected tumour volume, relative to 1), `habitus_mm` (subcutaneous fat added),
                `empty_prevalence` (share of patients without tumour); what is missing is at its identity.

        Raises:
            DataError: an unknown case, or an unknown population key or a value out of range.
        """
        if case_id not in {case.case_id for case in self.cases()}:
            raise DataError(
                f"unknown case '{case_id}'", where=self.name, remedy=f"use p0000 to p{self.patients - 1:04d}"
            )
        keys = _checked(population)

        def draw(part: str) -> np.random.Generator:
            return generator(self.seed, self.name, VERSION, case_id, part)

        grid = warped_grid(self.shape, self.spacing_mm, self.supersampling, draw("warp"), scales=WARP)
        canvas = Canvas(grid, draw)
        lesions = _paint(canvas, keys)
        labels = np.asarray(canvas.labels, np.uint8)
        fine = majority(labels[canvas.tissue], self.supersampling, len(FINE_LABELS))
        return Anatomy(
            case_id=case_id,
            patient_id=case_id,
            geometry=Geometry(self.spacing_mm, self._affine()),
            fine=fine.astype(np.int16),
            instances=_instances(canvas.tissue, lesions, fine, self.supersampling),
            tissue=canvas.tissue,
            values=value_table(canvas.tissues) | {"fine_label": labels.astype(np.float32)},
            texture=self._texture(draw("texture")),
            supersampling=self.supersampling,
            modality=self.modality,
            attributes={"tumours": float(len(lesions))},
        )

    def _texture(self, rng: np.random.Generator) -> np.ndarray:
        """Two fields (2, *s), for T1, T2 and HU and for T2* and PD, correlated in three dimensions."""
        sigma = [TEXTURE_MM / mm for mm in self.spacing_mm]
        noise = rng.standard_normal((2, *self.shape), dtype=np.float32)
        fields = np.stack([gaussian_filter(n, sigma, mode="wrap", truncate=3.0) for n in noise])
        return np.clip(fields * (TEXTURE_SD / max(float(fields.std()), 1e-12)), -4 * TEXTURE_SD, 4 * TEXTURE_SD)

    def _affine(self) -> np.ndarray:
        """Voxel index (d, h, w) to RAS mm, with the origin at the centre of the field of view."""
        z, y, x = self.spacing_mm
        affine = np.array([[0, 0, -x, 0], [0, -y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]], float)
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(self.shape) - 1) / 2)
        return affine


def _checked(population: Mapping[str, float]) -> dict[str, float]:
    for key, value in population.items():
        if key not in POPULATION_KEYS:
            raise DataError(f"unknown population key '{key}'", where="population", remedy=nearest(key, POPULATION_KEYS))
        _, low, high = POPULATION_KEYS[key]
        if not low <= value <= high:
            raise DataError(f"{key} = {value}", where="population", remedy=f"use a value from {low:g} to {high:g}")
    return {key: float(population.get(key, identity)) for key, (identity, _, _) in POPULATION_KEYS.items()}


def _paint(canvas: Canvas, population: Mapping[str, float]) -> list[Lesion]:
    """Everything from the outside in; what comes later lies on top. Tumours are last, so that no other index moves."""
    body = organs.body_wall(canvas, population["habitus_mm"])
    distractors.bowel(canvas, body)
    distractors.stomach(canvas, body)
    organs.spleen(canvas, body)
    distractors.pancreas(canvas, body)
    own = liver(canvas, body)
    distractors.gallbladder(canvas, body)
    organs.kidneys(canvas, body)
    organs.spine(canvas, body)
    organs.great_vessels(canvas, body)
    return tumours(canvas, own, population["lesion_load"], population["empty_prevalence"])


def _instances(
    tissue: np.ndarray, lesions: list[Lesion], fine: np.ndarray, supersampling: tuple[int, int, int]
) -> np.ndarray:
    """Instance ids (*s), 1 for the first tumour; a tumour too small to be the majority of any voxel has none.

    Where two tumours share a voxel it is of the later one.
    """
    ids = np.zeros(256, np.int16)
    for number, lesion in enumerate(lesions, start=1):
        ids[list(lesion.indices)] = number
    fz, fy, fx = supersampling
    blocks = [ids[tissue[i::fz, j::fy, k::fx]] for i in range(fz) for j in range(fy) for k in range(fx)]
    return np.where(fine == FINE_LABELS.index("tumour"), np.maximum.reduce(blocks), 0).astype(np.int16)
