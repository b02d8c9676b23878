"""Population operators: who is scanned. They set keys that a phantom understands; no pixel is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shiftbench.errors import OperatorError, nearest


@dataclass(frozen=True)
class PopulationOperator:
    """One way in which a population differs.

    Attributes:
        name: as scenarios name it.
        version: raised when the same value gives other patients.
        parameter: what the value means.
        unit: of the value.
        levels: values of severity 1 to 5.
        identity: the value that changes nothing (severity 0).
        range: smallest and largest value allowed.
        key: the population key it sets.
        phantoms: the datasets that know the key with this identity; any other refuses it.
        reference: source of the levels.
        monotone: whether severity 1 to 5 is an order (False for categorical operators).
    """

    name: str
    version: int
    parameter: str
    unit: str
    levels: tuple[float, float, float, float, float]
    identity: float
    range: tuple[float, float]
    key: str
    phantoms: tuple[str, ...]
    reference: str
    monotone: bool = True


_ROWS = (
    PopulationOperator(
        name="lesion_load",
        version=1,
        parameter="expected lesion volume of a patient, relative",
        unit="x",
        levels=(0.5, 0.25, 2.0, 4.0, 8.0),
        identity=1.0,
        range=(0.05, 16.0),
        key="lesion_load",
        phantoms=("phantom/abdomen", "phantom/brain"),
        reference="DSC falls with the load by itself: Raina et al., normalised DSC, ISBI 2023",
        monotone=False,
    ),
    PopulationOperator(
        name="lesion_size",
        version=1,
        parameter="median volume of a lesion of the white matter",
        unit="mm3",
        levels=(1000.0, 300.0, 100.0, 40.0, 15.0),
        identity=600.0,
        range=(10.0, 3000.0),
        key="lesion_median_mm3",
        phantoms=("phantom/brain",),
        reference="size spectra of MS centres: Malinin et al., Shifts 2.0, 2022",
        monotone=False,
    ),
    PopulationOperator(
        name="tumour_size",
        version=1,
        parameter="median volume of a liver tumour",
        unit="mm3",
        levels=(16000.0, 8000.0, 4000.0, 2000.0, 1000.0),
        identity=32000.0,
        range=(100.0, 64000.0),
        key="lesion_median_mm3",
        phantoms=("phantom/abdomen",),
        reference="small tumours are volatile below a radius of 19 mm: Tsanda et al., J Med Imaging 11, 2024",
    ),
    PopulationOperator(
        name="empty_prevalence",
        version=1,
        parameter="share of patients without lesion",
        unit="share",
        levels=(0.0, 0.1, 0.3, 0.6, 0.9),
        identity=0.1,
        range=(0.0, 1.0),
        key="empty_prevalence",
        phantoms=("phantom/abdomen", "phantom/brain"),
        reference="screening and tertiary centres differ in prevalence: Castro et al., Nat Commun 11:3673, 2020",
        monotone=False,
    ),
    PopulationOperator(
        name="cyst_share",
        version=1,
        parameter="share of the lesions that are cysts",
        unit="share",
        levels=(0.3, 0.4, 0.5, 0.7, 0.9),
        identity=0.2,
        range=(0.0, 1.0),
        key="cyst_share",
        phantoms=("phantom/abdomen",),
        reference="mix of pathologies (manifestation shift): Castro et al., Nat Commun 11:3673, 2020",
    ),
    PopulationOperator(
        name="hypovascular_share",
        version=1,
        parameter="share of the tumours that are hypovascular metastases, the others being HCC",
        unit="share",
        levels=(0.6, 0.7, 0.8, 0.9, 1.0),
        identity=0.5,
        range=(0.0, 1.0),
        key="hypovascular_share",
        phantoms=("phantom/abdomen",),
        reference="mix of pathologies (manifestation shift): Castro et al., Nat Commun 11:3673, 2020",
    ),
    PopulationOperator(
        name="habitus",
        version=1,
        parameter="subcutaneous fat added on all sides; twice that of water path",
        unit="mm",
        levels=(5.0, 10.0, 15.0, 20.0, 30.0),
        identity=0.0,
        range=(0.0, 80.0),
        key="habitus_mm",
        phantoms=("phantom/abdomen", "phantom/heart"),
        reference="CT noise variance doubles with each 3.6 cm of water; levels fit a field of view of 400 mm",
    ),
    PopulationOperator(
        name="organ_size",
        version=1,
        parameter="size of the patient, body and organs (paediatric below 1)",
        unit="x",
        levels=(0.9, 0.85, 0.8, 0.7, 0.6),
        identity=1.0,
        range=(0.5, 1.3),
        key="organ_scale",
        phantoms=("phantom/abdomen",),
        reference="growth: from the adult to about three years of age",
    ),
    PopulationOperator(
        name="liver_size",
        version=1,
        parameter="size of the liver as a z-score of its linear dimension",
        unit="SD",
        levels=(0.5, 1.0, 1.5, 2.0, 3.0),
        identity=0.0,
        range=(-4.0, 4.0),
        key="liver_z",
        phantoms=("phantom/abdomen",),
        reference="hepatomegaly; SD of a linear dimension 8 %",
    ),
    PopulationOperator(
        name="liver_fat",
        version=1,
        parameter="proton-density fat fraction of the liver",
        unit="%",
        levels=(8.0, 15.0, 25.0, 35.0, 45.0),
        identity=3.0,
        range=(3.0, 60.0),
        key="pdff_percent",
        phantoms=("phantom/abdomen",),
        reference="normal 3-5 %; CT numbers fall by 1.7 HU per %: PDFF = 38.2 - 0.58 HU",
    ),
    PopulationOperator(
        name="liver_iron",
        version=1,
        parameter="R2* of the liver at 1.5 T",
        unit="1/s",
        levels=(80.0, 150.0, 300.0, 600.0, 1000.0),
        identity=40.0,
        range=(40.0, 2000.0),
        key="iron_r2star",
        phantoms=("phantom/abdomen",),
        reference="Wood et al., Blood 106:1460, 2005; at 3 T twice as much: Storey et al., JMRI 25:540, 2007",
    ),
    PopulationOperator(
        name="age",
        version=1,
        parameter="years added to every patient's age",
        unit="years",
        levels=(10.0, 20.0, 30.0, 40.0, 50.0),
        identity=0.0,
        range=(0.0, 60.0),
        key="age_years_added",
        phantoms=("phantom/abdomen", "phantom/brain"),
        reference="Good et al., NeuroImage 14:21, 2001; marrow: Pickhardt et al., Ann Intern Med 158:588, 2013",
    ),
    PopulationOperator(
        name="periventricular_share",
        version=1,
        parameter="share of the lesions beside the ventricles, the others being juxtacortical or deep",
        unit="share",
        levels=(0.5, 0.4, 0.25, 0.1, 0.0),
        identity=0.6,
        range=(0.0, 1.0),
        key="periventricular_share",
        phantoms=("phantom/brain",),
        reference="location is a prior of MS: Filippi et al., MAGNIMS, Lancet Neurol 15:292, 2016",
    ),
    PopulationOperator(
        name="head_size",
        version=1,
        parameter="size of the head (paediatric below 1)",
        unit="x",
        levels=(0.9, 0.85, 0.8, 0.7, 0.6),
        identity=1.0,
        range=(0.6, 1.0),
        key="head_scale",
        phantoms=("phantom/brain",),
        reference="growth: from the adult to the newborn",
    ),
    PopulationOperator(
        name="wall_thickness",
        version=1,
        parameter="thickness added to the wall of the left ventricle",
        unit="mm",
        levels=(1.0, 2.0, 4.0, 6.0, 8.0),
        identity=0.0,
        range=(-3.0, 15.0),
        key="wall_thickness_mm_added",
        phantoms=("phantom/heart",),
        reference="hypertrophy from 15 mm: Elliott et al., Eur Heart J 35:2733, 2014",
    ),
    PopulationOperator(
        name="dilation",
        version=1,
        parameter="linear size of the left ventricle's cavity",
        unit="x",
        levels=(1.05, 1.1, 1.2, 1.3, 1.45),
        identity=1.0,
        range=(0.7, 1.6),
        key="dilation",
        phantoms=("phantom/heart",),
        reference="dilated cardiomyopathy: Bernard et al., ACDC, IEEE Trans Med Imaging 37:2514, 2018",
    ),
    PopulationOperator(
        name="scar_load",
        version=1,
        parameter="expected volume of a scar, relative",
        unit="x",
        levels=(0.5, 0.25, 2.0, 4.0, 8.0),
        identity=1.0,
        range=(0.05, 8.0),
        key="scar_load",
        phantoms=("phantom/heart",),
        reference="Lalande et al., EMIDEC, Data 5:89, 2020",
        monotone=False,
    ),
    PopulationOperator(
        name="scar_prevalence",
        version=1,
        parameter="share of patients with a scar",
        unit="share",
        levels=(0.0, 0.15, 0.5, 0.75, 1.0),
        identity=0.3,
        range=(0.0, 1.0),
        key="scar_prevalence",
        phantoms=("phantom/heart",),
        reference="Lalande et al., EMIDEC, Data 5:89, 2020: two thirds have one",
        monotone=False,
    ),
    PopulationOperator(
        name="heart_size",
        version=1,
        parameter="size of the patient, chest and heart (paediatric below 1)",
        unit="x",
        levels=(0.9, 0.85, 0.8, 0.7, 0.6),
        identity=1.0,
        range=(0.4, 1.2),
        key="heart_scale",
        phantoms=("phantom/heart",),
        reference="growth: from the adult to about three years of age",
    ),
    PopulationOperator(
        name="cardiac_phase",
        version=1,
        parameter="phase of the cycle, 0 end-diastole to 1 end-systole",
        unit="share",
        levels=(0.2, 0.4, 0.6, 0.8, 1.0),
        identity=0.0,
        range=(0.0, 1.0),
        key="phase",
        phantoms=("phantom/heart",),
        reference="Bernard et al., ACDC, IEEE Trans Med Imaging 37:2514, 2018: both phases are drawn",
    ),
)
POPULATIONS: dict[str, PopulationOperator] = {row.name: row for row in _ROWS}


def resolve(
    base: Mapping[str, float], operator: str, *, level: int | None = None, value: float | None = None
) -> dict[str, float]:
    """The population `base` with one operator applied, by severity or by value.

    Args:
        base: population keys as the source has them.
        operator: a key of `POPULATIONS`.
        level: severity 0 to 5; 0 gives `base` unchanged.
        value: the value itself, in the operator's unit.

    Raises:
        OperatorError: unknown operator, neither or both of `level` and `value`, or one of them out of range.
    """
    if operator not in POPULATIONS:
        raise OperatorError(f"unknown population operator '{operator}'", remedy=nearest(operator, POPULATIONS))
    op = POPULATIONS[operator]
    if (level is None) == (value is None):
        raise OperatorError(f"'{operator}' needs a level or a value", where=operator, remedy="give exactly one")
    if level == 0:
        return dict(base)
    if level is not None and level not in range(6):
        raise OperatorError(f"severity {level}", where=operator, remedy="use a severity from 0 to 5")
    wanted = op.levels[int(level) - 1] if level is not None else value
    low, high = op.range
    if wanted is None or not low <= wanted <= high:  # also refuses NaN
        raise OperatorError(
            f"value {wanted} {op.unit}", where=operator, remedy=f"use a value from {low:g} to {high:g} {op.unit}"
        )
    return {**base, op.key: float(wanted)}
