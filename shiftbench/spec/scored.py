"""What a scenario scores: its structures, and what is looked at beside their masks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from shiftbench.spec.target import Model


class Structure(Model):
    """What is segmented, with the tolerance of the normalised surface distance in mm or in pixels.

    Attributes:
        form: "organ" (one body), "tube" (vessels: clDice too) or "lesions" (scattered: lesion-wise metrics too).
    """

    LATER = ("form",)

    tolerance_mm: Annotated[float, Field(gt=0)] | None = None
    tolerance_px: Annotated[float, Field(gt=0)] | None = None
    may_be_absent: bool = False
    form: Literal["organ", "tube", "lesions"] = "organ"

    @model_validator(mode="after")
    def _one_tolerance(self) -> Structure:
        if (self.tolerance_mm is None) == (self.tolerance_px is None):
            raise ValueError("give exactly one of tolerance_mm and tolerance_px")
        return self

    @property
    def tolerance(self) -> float:
        """The tolerance in the unit that was given."""
        return self.tolerance_mm if self.tolerance_mm is not None else self.tolerance_px  # type: ignore[return-value]


class Calibration(Model):
    """Keep the methods' probabilities and score how far they can be believed, around each reference.

    Attributes:
        region: how far around the reference, in the unit of the spacing (mm, or pixels).
        bins: of equal width (ECE) or equal mass (ACE).
    """

    region: Annotated[float, Field(gt=0)] = 10.0
    bins: Annotated[int, Field(ge=2, le=100)] = 15


class Radiomics(Model):
    """Measure features of the structures in the reference's and in the prediction's outline.

    Attributes:
        features: "basic" (first-order and shape) or "ibsi" (all that MIRP has, by the extra `shiftbench[radiomics]`).
        channel: of the image that is measured.
        lesion_min_voxels: a lesion of the reference with fewer is not measured on its own.
    """

    features: Literal["basic", "ibsi"] = "basic"
    channel: Annotated[int, Field(ge=0)] = 0
    lesion_min_voxels: Annotated[int, Field(ge=1)] = 8
