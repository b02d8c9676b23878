"""The embedded abdominal phantom: seeded patients with tissue maps, for MR and CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shiftbench.data.phantoms import distractors, organs
from shiftbench.data.phantoms.body import body_wall
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.cohort import Cohort
from shiftbench.data.phantoms.lesions import MEDIAN_MM3, lesions
from shiftbench.data.phantoms.liver import liver
from shiftbench.data.phantoms.shapes import Grid
from shiftbench.data.phantoms.spine import spine
from shiftbench.data.phantoms.tissues import TISSUES, Tissue
from shiftbench.data.phantoms.traits import NORMAL_R2STAR, Patient, patient_of
from shiftbench.data.phantoms.vessels import branches, great_vessels

FINE_LABELS = (
    "outside",
    "skin",
    "fat",
    "muscle",
    "bone",
    "vertebra",
    "disc",
    "spinal_canal",
    "bowel",
    "stomach",
    "pancreas",
    "gallbladder",
    "vessel",
    "aorta",
    "vena_cava",
    "retrohepatic_cava",
    "liver",
    "hilum",
    "portal_vessel",
    "hepatic_vessel",
    "tumour",
    "tumour_rim",
    "cyst",
    "spleen",
    "kidney_cortex",
    "kidney_medulla",
    "renal_sinus",
)


@dataclass(frozen=True)
class AbdomenPhantom(Cohort):
    """Seeded abdominal patients: organs, vessels, liver lesions as instances, and the tissues in between as stuff."""

    name: ClassVar[str] = "phantom/abdomen"
    version: ClassVar[int] = 2
    fine_labels: ClassVar[tuple[str, ...]] = FINE_LABELS
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "fat": ("fat",),
        "muscle": ("muscle",),
        "vertebra": ("vertebra",),
        "stomach": ("stomach",),
        "bowel": ("bowel",),
        "pancreas": ("pancreas",),
        "gallbladder": ("gallbladder",),
        "aorta": ("aorta",),
        "vena_cava": ("vena_cava", "retrohepatic_cava"),
        "liver": ("liver", "tumour", "tumour_rim", "cyst"),  # painted over by the lesions where both are asked for
        "tumour": ("tumour", "tumour_rim"),
        "cyst": ("cyst",),
        "spleen": ("spleen",),
        "kidney": ("kidney_cortex",),
        "medulla": ("kidney_medulla",),
    }
    optional_members: ClassVar[Mapping[str, tuple[str, str]]] = {
        "hilum": ("liver", "hilum"),
        "portal_vessel": ("liver", "vessels"),
        "hepatic_vessel": ("liver", "vessels"),
        "retrohepatic_cava": ("liver", "cava"),
        "gallbladder": ("liver", "gallbladder"),
        "kidney_medulla": ("kidney", "medulla"),
        "renal_sinus": ("kidney", "renal_sinus"),
    }
    things: ClassVar[tuple[str, ...]] = ("tumour", "cyst")
    stuff: ClassVar[tuple[str, ...]] = ("fat", "muscle")
    barriers: ClassVar[tuple[str, ...]] = ("outside", "skin", "bone", "vertebra")
    reference_label: ClassVar[str] = "liver"
    population_keys: ClassVar[Mapping[str, tuple[float, float, float]]] = {
        "lesion_load": (1.0, 0.01, 32.0),
        "lesion_median_mm3": (MEDIAN_MM3, 10.0, 100_000.0),
        "empty_prevalence": (0.1, 0.0, 1.0),
        "cyst_share": (0.2, 0.0, 1.0),
        "hypovascular_share": (0.5, 0.0, 1.0),
        "habitus_mm": (0.0, 0.0, 100.0),
        "organ_scale": (1.0, 0.5, 1.3),
        "liver_z": (0.0, -4.0, 4.0),
        "pdff_percent": (3.0, 3.0, 60.0),
        "iron_r2star": (NORMAL_R2STAR, NORMAL_R2STAR, 2000.0),
        "age_years_added": (0.0, 0.0, 60.0),
    }
    warp: ClassVar[Sequence[tuple[float, float]]] = ((90.0, 6.0), (26.0, 1.6))

    def _tissues(self) -> Mapping[str, Tissue]:
        return TISSUES

    def _patient(self, case_id: str, population: Mapping[str, float]) -> Patient:
        return patient_of(self._draw(case_id, "patient"), population)

    def _attributes(self, case_id: str) -> dict[str, str | float]:
        patient = self._patient(case_id, {"age_years_added": 0.0})
        return {"age": round(patient.age, 1), "sex": "male" if patient.male else "female"}

    def _grid(self, case_id: str, population: Mapping[str, float]) -> Grid:
        return super()._grid(case_id, population).scaled(population["organ_scale"])

    def _paint(
        self, canvas: Canvas, population: Mapping[str, float], case_id: str
    ) -> tuple[Sequence[Sequence[int]], dict[str, str | float]]:
        """Everything from the outside in; what comes later lies on top. Lesions last, so that no other index moves."""
        patient = self._patient(case_id, population)
        body = body_wall(canvas, patient)
        distractors.bowel(canvas, body)
        distractors.stomach(canvas, body)
        organs.spleen(canvas, body)
        own = liver(canvas, body, patient)
        pancreas = organs.pancreas(canvas, body, patient)
        organs.gallbladder(canvas, body)
        organs.kidneys(canvas, body, patient)
        branches(canvas, body, (body.fat, pancreas))
        spine(canvas, body, patient)
        great_vessels(canvas, body)
        found = lesions(canvas, body, own, population)
        number = {kind: float(sum(lesion.kind == kind for lesion in found)) for kind in ("cyst", "metastasis", "hcc")}
        attributes: dict[str, str | float] = {
            "age": round(patient.age, 1),
            "tumours": number["metastasis"] + number["hcc"],
            "cysts": number["cyst"],
            **{key: population[key] for key in ("pdff_percent", "iron_r2star")},
        }
        return [lesion.indices for lesion in found], attributes
