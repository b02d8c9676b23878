"""The embedded cardiac phantom: seeded patients in short-axis slices with tissue maps, for MR and CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from shiftbench.data.phantoms import heart_chest as chest
from shiftbench.data.phantoms import heart_parts as parts
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.cohort import Cohort
from shiftbench.data.phantoms.heart_shape import Scar, Ventricles, ventricles
from shiftbench.data.phantoms.heart_space import Pose
from shiftbench.data.phantoms.heart_tissues import HEART_TISSUES
from shiftbench.data.phantoms.shapes import Grid
from shiftbench.data.phantoms.tissues import Tissue

FINE_LABELS = (
    "outside",
    "chest_wall",
    "bone",
    "lung",
    "mediastinum",
    "diaphragm",
    "abdominal_fat",
    "liver_dome",
    "spleen",
    "stomach",
    "aorta",
    "great_vessel",
    "pericardium",
    "epicardial_fat",
    "atrial_wall",
    "atrium",
    "basal_lv",
    "rv_wall",
    "rv_cavity",
    "myocardium",
    "scar",
    "lv_cavity",
    "trabeculae",
    "papillary",
)
MYOCARDIUM_G_PER_ML = 1.05
BASE_MM = 31.0  # height of the mitral plane at end-diastole above the centre of the field of view


@dataclass(frozen=True)
class HeartPhantom(Cohort):
    """Seeded cardiac patients in short-axis slices, from the apex at low to the base at high z.

    What is a matter of convention has a fine label of its own: the papillary muscles and trabeculae (muscle inside the
    outline of the cavity; they are members of `myocardium`, and a structure `lv` drawn over it takes them where the
    protocol says so) and the cavity beyond the mitral plane (`basal_lv`).
    """

    shape: tuple[int, int, int] = (10, 128, 128)
    spacing_mm: tuple[float, float, float] = (9.0, 1.8, 1.8)

    name: ClassVar[str] = "phantom/heart"
    version: ClassVar[int] = 1
    fine_labels: ClassVar[tuple[str, ...]] = FINE_LABELS
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "myocardium": ("myocardium", "scar"),
        "lv": ("lv_cavity",),
        "rv": ("rv_cavity",),
        "scar": ("scar",),
        "papillary": ("papillary", "trabeculae"),
    }
    optional_members: ClassVar[Mapping[str, tuple[str, str]]] = {"basal_lv": ("lv", "basal_slice")}
    alternative_members: ClassVar[Mapping[str, tuple[str, Mapping[str, str]]]] = {
        label: ("papillary", {"blood_pool": "lv", "mass": "myocardium"}) for label in ("papillary", "trabeculae")
    }
    things: ClassVar[tuple[str, ...]] = ("scar",)
    reference_label: ClassVar[str] = "myocardium"
    population_keys: ClassVar[Mapping[str, tuple[float, float, float]]] = {
        "phase": (0.0, 0.0, 1.0),  # end-diastole to end-systole
        "wall_thickness_mm_added": (0.0, -3.0, 15.0),
        "dilation": (1.0, 0.7, 1.6),
        "scar_load": (1.0, 0.05, 8.0),
        "scar_prevalence": (0.3, 0.0, 1.0),
        "habitus_mm": (0.0, 0.0, 100.0),
        "heart_scale": (1.0, 0.4, 1.2),  # of the whole chest
    }
    warp: ClassVar[Sequence[tuple[float, float]]] = ((90.0, 4.0), (30.0, 1.5))

    def _tissues(self) -> Mapping[str, Tissue]:
        return HEART_TISSUES

    def _grid(self, case_id: str, population: Mapping[str, float]) -> Grid:
        return super()._grid(case_id, population).scaled(self._size(case_id, population))

    def _size(self, case_id: str, population: Mapping[str, float]) -> float:
        """Size of the patient relative to the adult in whose frame the parts are drawn."""
        return population["heart_scale"] * float(np.exp(0.06 * self._draw(case_id, "size").normal()))

    def _attributes(self, case_id: str) -> dict[str, str | float]:
        """Age in years, sex, and the share of the left cavity that a full beat ejects."""
        rng = self._draw(case_id, "person")
        sex = "M" if rng.random() < 0.5 else "F"
        age = float(np.round(np.clip(rng.normal(56, 15), 20, 88)))
        ejection = np.clip(rng.normal(0.60, 0.06), 0.42, 0.74)
        return {"age": age, "sex": sex, "ejection_fraction": round(float(ejection), 3)}

    def _paint(
        self, canvas: Canvas, population: Mapping[str, float], case_id: str
    ) -> tuple[Sequence[Sequence[int]], dict[str, str | float]]:
        """Everything from the outside in; what comes later lies on top."""
        person = self._attributes(case_id)
        sex, scale = str(person["sex"]), self._size(case_id, population)
        scar = _scar(canvas.draw("scar"), population["scar_load"], population["scar_prevalence"])
        shape = ventricles(canvas, population, scale, sex, float(person["ejection_fraction"]), scar)
        scene = chest.scene(canvas)
        inside = chest.chest_wall(canvas, scene, population["habitus_mm"] / scale, sex)
        chest.mediastinum(canvas, scene, inside)
        chest.abdomen(canvas, scene, inside)
        chest.spine_and_aorta(canvas, scene)
        heart = _heart(canvas, scene, shape)
        parts.pericardial_sac(canvas, heart)
        parts.atria(canvas, heart)
        parts.right_ventricle(canvas, heart)
        scarred = parts.left_ventricle(canvas, heart)
        return [scarred] if scarred else [], {"phase": population["phase"], **self._measured(canvas)}

    def _measured(self, canvas: Canvas) -> dict[str, float]:
        """Masses of the left wall and of the muscle inside its cavity, volume of its blood, in the field of view."""
        counts = np.bincount(np.asarray(canvas.labels)[canvas.tissue.ravel()], minlength=len(FINE_LABELS))
        voxel_ml = float(np.prod(self.spacing_mm) / np.prod(self.supersampling)) / 1000

        def millilitres(*names: str) -> float:
            return float(sum(counts[FINE_LABELS.index(name)] for name in names)) * voxel_ml

        return {
            "lv_mass_g": round(MYOCARDIUM_G_PER_ML * millilitres("myocardium", "scar"), 2),
            "papillary_mass_g": round(MYOCARDIUM_G_PER_ML * millilitres("papillary", "trabeculae"), 2),
            "lv_blood_ml": round(millilitres("lv_cavity"), 2),
        }


def _heart(canvas: Canvas, scene: chest.Scene, shape: Ventricles) -> parts.Heart:
    """Where the heart lies: the stack is planned along its long axis, not quite exactly."""
    rng = canvas.draw("pose")
    turn = scene.turn(float(np.clip(rng.normal(0, 9), -20, 20)), rng.normal(0, 3.5), rng.normal(0, 3.5))
    base = scene.at(BASE_MM + np.clip(rng.normal(0, 4), -8, 8), 0, 0)
    apex = base - turn @ np.array([shape.diastolic_length, 0, 0])
    return parts.Heart(Pose(apex, turn), shape, (float(rng.normal(0.10, 0.08)), float(rng.normal(-0.05, 0.08))))


def _scar(rng: np.random.Generator, load: float, prevalence: float) -> Scar | None:
    """The infarct of a patient, or None; its volume grows with `load`, who has one depends on `prevalence` alone."""
    has, angle, height, width, depth = rng.random(5)
    if has >= prevalence:
        return None
    grown = load ** (1 / 3)
    return Scar(
        angle=float(2 * np.pi * angle),
        height=0.3 + 0.4 * height,
        half_width=float(np.clip((0.55 + 0.45 * width) * grown, 0.1, 2.8)),
        half_height=float(np.clip(0.28 * grown, 0.05, 0.8)),
        depth=float(np.clip((0.5 + 0.5 * depth) * grown, 0.1, 1.0)),
        thinning=0.35,
    )
