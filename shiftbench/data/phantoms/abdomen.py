"""The embedded abdominal phantom: seeded patients with tissue maps, for MR and CT."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from shiftbench.data.phantoms import distractors, organs
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.cohort import Cohort
from shiftbench.data.phantoms.lesions import tumours
from shiftbench.data.phantoms.liver import liver
from shiftbench.data.phantoms.organs import FINE_LABELS
from shiftbench.data.phantoms.tissues import TISSUES, Tissue


@dataclass(frozen=True)
class AbdomenPhantom(Cohort):
    """Seeded abdominal patients with liver, tumours, spleen and kidneys."""

    name: ClassVar[str] = "phantom/abdomen"
    version: ClassVar[int] = 1
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
    reference_label: ClassVar[str] = "liver"
    population_keys: ClassVar[Mapping[str, tuple[float, float, float]]] = {
        "lesion_load": (1.0, 0.01, 32.0),
        "habitus_mm": (0.0, 0.0, 100.0),
        "empty_prevalence": (0.1, 0.0, 1.0),
    }
    warp: ClassVar[Sequence[tuple[float, float]]] = ((90.0, 6.0), (26.0, 1.6))

    def _tissues(self) -> Mapping[str, Tissue]:
        return TISSUES

    def _paint(
        self, canvas: Canvas, population: Mapping[str, float], case_id: str
    ) -> tuple[Sequence[Sequence[int]], dict[str, str | float]]:
        """Everything from the outside in; what comes later lies on top. Tumours last, so that no other index moves."""
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
        lesions = tumours(canvas, own, population["lesion_load"], population["empty_prevalence"])
        return [lesion.indices for lesion in lesions], {"tumours": float(len(lesions))}
