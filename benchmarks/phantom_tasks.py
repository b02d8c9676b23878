"""What `phantom_difficulty.py` measures on each phantom: structures, source, grids, shifts. A literal table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

Grid = tuple[tuple[int, int, int], tuple[float, float, float], tuple[int, int, int]]  # shape, spacing, supersampling


@dataclass(frozen=True)
class Domain:
    """One choice of acquisition, protocol and population, as far as the script needs it.

    Attributes:
        sequence: acquisition parameters of the signal equation.
        field_t: field strength.
        snr: in the phantom's reference tissue.
        bias: peak to peak inside the body.
        gamma: of the finished image.
        slice_mm: FWHM of a Gaussian slice profile on top of the voxel; 0 for none.
        include: fine labels of sub-structures that are drawn as part of their structure.
        alternatives: rule -> choice, for sub-structures that belong to one structure or another.
        margin_mm: distance by which the contour of the task's `margin_of` is moved.
        population: of the phantom.
    """

    sequence: Mapping[str, float | str]
    field_t: float = 1.5
    snr: float = 35.0
    bias: float = 0.15
    gamma: float = 1.0
    slice_mm: float = 0.0
    include: tuple[str, ...] = ()
    alternatives: Mapping[str, str] = field(default_factory=dict)
    margin_mm: float = 0.0
    population: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What is segmented on a phantom, and from where to where.

    Attributes:
        cohort: "module:class" of the phantom.
        weights: structure -> its weight in the cross-entropy (the background's is 1), in the order of painting.
        oversampled: the structure that half of every training batch shows.
        margin_of: the structure whose contour a margin moves.
        source: where the network is trained.
        grids: dimension -> grid.
        shifts: name -> what it changes of the source.
    """

    cohort: str
    weights: Mapping[str, float]
    oversampled: str
    margin_of: str
    source: Domain
    grids: Mapping[str, Grid]
    shifts: Mapping[str, Domain]


def _named(name: str, key: str, *values: float, scale: float = 1.0) -> dict[str, dict[str, float]]:
    """Name with each value in it -> the change of one field."""
    return {name.format(value): {key: value * scale} for value in values}


def _people(name: str, key: str, *values: float, **others: float) -> dict[str, dict[str, dict[str, float]]]:
    """Name with each value in it -> the change of one population key (and of others with it)."""
    return {name.format(value): {"population": {key: value, **others}} for value in values}


def _shifted(source: Domain, changes: Mapping[str, Mapping[str, object]]) -> dict[str, Domain]:
    return {
        name: replace(
            source,
            **{
                k: {**source.sequence, **v} if k == "sequence" and isinstance(v, Mapping) else v
                for k, v in change.items()
            },
        )
        for name, change in changes.items()
    }


GENERAL = {  # the shifts that every phantom gets
    **_named("SNR {}", "snr", 15, 10, 6),
    **_named("gamma {}", "gamma", 0.45, 0.7, 1.5, 2.2),
    **_named("bias {} %", "bias", 40, 80, 120, scale=0.01),
    **_named("{} T", "field_t", 3.0),
}

ABDOMEN = Domain(
    {"sequence": "spgr", "tr_ms": 100.0, "te_ms": 4.0, "flip_deg": 80.0},
    include=("portal_vessel", "hepatic_vessel", "kidney_medulla"),
)
BRAIN = Domain({"sequence": "flair", "tr_ms": 9000.0, "te_ms": 140.0, "ti_ms": 2500.0}, snr=45.0)
HEART = Domain({"sequence": "bssfp", "tr_ms": 3.2, "flip_deg": 50.0}, snr=22.0, alternatives={"papillary": "mass"})

TASKS: dict[str, Task] = {
    "abdomen": Task(
        cohort="shiftbench.data.phantoms.abdomen:AbdomenPhantom",
        weights={"liver": 1.0, "tumour": 4.0, "spleen": 2.0, "kidney": 2.0},
        oversampled="tumour",
        margin_of="liver",
        source=ABDOMEN,
        grids={
            "2d": ((20, 128, 128), (4.0, 3.125, 3.125), (1, 2, 2)),
            "3d": ((32, 88, 88), (3.0, 4.1, 4.1), (1, 2, 2)),
        },
        shifts=_shifted(
            ABDOMEN,
            {
                **{f"flip angle {a}": {"sequence": {"flip_deg": float(a)}} for a in (60, 40, 30, 20)},
                **GENERAL,
                **_named("slice {} mm", "slice_mm", 8, 16),
                **_named("margin {:+d} mm", "margin_mm", -5, 5, 8),
                **_people("lesion load x{}", "lesion_load", 0.25, 4.0),
                **_people("habitus +{} mm", "habitus_mm", 10, 20, 30),
            },
        ),
    ),
    "brain": Task(
        cohort="shiftbench.data.phantoms.brain:BrainPhantom",
        weights={"grey_matter": 1.0, "ventricles": 3.0, "deep_grey": 5.0, "lesion": 3.0},
        oversampled="lesion",
        margin_of="ventricles",
        source=BRAIN,
        grids={"2d": ((24, 128, 128), (4.0, 1.6, 1.6), (1, 2, 2)), "3d": ((32, 96, 96), (4.0, 2.1, 2.1), (1, 2, 2))},
        shifts=_shifted(
            BRAIN,
            {
                **{f"TI {t}": {"sequence": {"ti_ms": float(t)}} for t in (2300, 2000, 1600)},
                "T1 SPGR": {"sequence": {"sequence": "spgr", "tr_ms": 20.0, "te_ms": 4.0, "flip_deg": 20.0}},
                **GENERAL,
                **_named("slice {} mm", "slice_mm", 8, 16),
                **_named("margin {:+d} mm", "margin_mm", -2, 2),
                **_people("lesion load x{}", "lesion_load", 0.25, 4.0),
                **_people("age +{}", "age_years_added", 20, 40),
                **_people("head x{}", "head_scale", 0.8, 0.6),
            },
        ),
    ),
    "heart": Task(
        cohort="shiftbench.data.phantoms.heart:HeartPhantom",
        weights={"myocardium": 1.0, "lv": 1.0, "rv": 1.0},
        oversampled="lv",
        margin_of="myocardium",
        source=HEART,
        grids={"2d": ((10, 128, 128), (9.0, 1.8, 1.8), (1, 2, 2)), "3d": ((16, 80, 80), (5.6, 2.8, 2.8), (1, 2, 2))},
        shifts=_shifted(
            HEART,
            {
                **{f"flip angle {a}": {"sequence": {"flip_deg": float(a)}} for a in (70, 35, 25, 15)},
                "SPGR cine": {"sequence": {"sequence": "spgr", "tr_ms": 5.0, "te_ms": 2.5, "flip_deg": 15.0}},
                **GENERAL,
                **_named("slice {} mm", "slice_mm", 12, 18),
                **_named("margin {:+d} mm", "margin_mm", -2, 2, 4),
                **_people("phase {}", "phase", 0.5, 1.0),
                **_people("wall +{} mm", "wall_thickness_mm_added", 4, 8),
                **_people("dilation x{}", "dilation", 1.25, 1.5),
                **_people("scar load x{}", "scar_load", 1.0, 4.0, scar_prevalence=1.0),
                **_people("habitus +{} mm", "habitus_mm", 10, 30),
                **_people("chest x{}", "heart_scale", 0.8, 0.6),
            },
        ),
    ),
}
