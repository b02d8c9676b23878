"""Tissues of the head: their tabulated properties, and those of one patient at one age."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from shiftbench.data.phantoms.canvas import Draw
from shiftbench.data.phantoms.tissues import TISSUES, Tissue

COMMON_SD = 0.035  # SD of what moves all tissues of a patient together, and of what moves each alone: 5 % in all
OWN_SD = 0.035
JITTER_HU = 1.5
ADULT_YEARS = 40.0  # age to which the table refers
T1_DRIFT = 0.0012  # relative change of T1 per year in white and grey matter, from myelin and water content
IRON_R2STAR = {"putamen": 0.10, "pallidum": 0.14, "caudate": 0.07, "thalamus": 0.02}  # 1/s per year at 1.5 T

# Sources by name, beside those of `tissues`:
#   Wright 2008: T1 of white and grey matter, putamen and head of the caudate (MPRAGE), Magn Reson Mater Phy 21:121.
#   Peters 2007: T2* of white and grey matter and putamen, Magn Reson Imaging 25:748.   Stanisz 2005: T2.
#   CT numbers: grey matter 38 and white matter 30 HU unenhanced, with an intact blood-brain barrier.
BRAIN_TISSUES: dict[str, Tissue] = {
    "air": TISSUES["air"],
    "fat": TISSUES["fat"],
    "muscle": TISSUES["muscle"],
    "cortical_bone": Tissue((400, 450), (3, 3), (1.5, 1.0), 0.15, (900,) * 4, "typical", adc=0.2),
    "marrow": Tissue((400, 450), (55, 55), (20, 13), 0.60, (250,) * 4, "typical, fatty", adc=0.3, gd=0.1, fat=0.6),
    "dura": Tissue((850, 950), (25, 25), (10, 7), 0.45, (55, 65, 75, 70), "typical", adc=0.7, gd=0.5),
    "eye": Tissue((4000, 4000), (1500, 1400), (800, 400), 1.0, (10,) * 4, "typical, vitreous", adc=2.8),
    "sinus": Tissue((1480, 1649), (35, 30), (20, 12), 0.50, (45, 60, 150, 110), "typical, flow void", adc=10.0, gd=1.0),
    "csf": TISSUES["csf"],
    "choroid_plexus": Tissue((1250, 1500), (110, 105), (70, 45), 0.82, (45, 70, 85, 75), "typical", adc=1.6, gd=0.6),
    "white_matter": Tissue(
        (646, 838), (72, 69), (66.2, 53.2), 0.70, (30, 31, 32, 31), "Wright 2008; Stanisz 2005; Peters 2007", adc=0.75
    ),
    "cortex": Tissue(
        (1197, 1607), (95, 99), (84, 66), 0.82, (38, 40, 42, 40), "Wright 2008; Stanisz 2005; Peters 2007", adc=0.85
    ),
    "caudate": Tissue(
        (1109, 1395), (96, 86), (60, 38), 0.82, (38, 40, 42, 40), "Wright 2008; T2, T2* typical", adc=0.75
    ),
    "putamen": Tissue(
        (1084, 1332), (92, 81), (55.5, 31.5), 0.82, (38, 40, 42, 40), "Wright 2008; Peters 2007; T2 typical", adc=0.75
    ),
    "thalamus": Tissue(
        (950, 1190), (93, 87), (62, 46), 0.79, (36, 38, 40, 38), "typical, between grey and white", adc=0.75
    ),
    "pallidum": Tissue((780, 960), (68, 57), (40, 22), 0.74, (39, 41, 43, 41), "typical, iron", adc=0.75),
    "hippocampus": Tissue(
        (1150, 1480), (105, 102), (80, 60), 0.83, (38, 40, 42, 40), "typical, brighter than cortex in FLAIR", adc=0.85
    ),
    "cerebellar_grey": Tissue((1150, 1500), (93, 94), (80, 60), 0.82, (38, 40, 42, 40), "as cortex", adc=0.8),
    "brainstem": Tissue((720, 920), (75, 70), (62, 48), 0.73, (32, 33, 34, 33), "typical, as white matter", adc=0.75),
    "ms_lesion": Tissue((1150, 1400), (165, 150), (120, 95), 0.81, (26, 27, 29, 30), "typical range", adc=1.1, gd=0.1),
}
AGEING = frozenset({"white_matter", "cortex", "cerebellar_grey", "brainstem", "hippocampus", *IRON_R2STAR})


def patient_tissues(draw: Draw, age_years: float) -> Mapping[str, Tissue]:
    """The tissues of one patient: correlated variation of 5 % (SD) about the table, then drift with age.

    T1 and T2 share one number over all tissues of a patient and have another for each tissue; T2* varies 0.8, PD 0.4
    as much. Age adds `T1_DRIFT` to brain tissue and iron (`IRON_R2STAR`, as the field) to deep grey matter.
    """
    common = draw("tissue of the patient").standard_normal(3)
    own = draw("tissues").standard_normal((len(BRAIN_TISSUES), 5))  # a tissue added at the end moves no other
    return {
        name: aged(name, _varied(tissue, common, numbers), age_years)
        for (name, tissue), numbers in zip(BRAIN_TISSUES.items(), own, strict=True)
    }


def lesion_tissue(tissue: Tissue, rng: np.random.Generator) -> Tissue:
    """The tissue of one lesion of a patient: longer times where more myelin and axons are lost."""
    loss, other = rng.standard_normal(2)
    factor = math.exp(0.09 * loss), math.exp(0.09 * loss + 0.05 * other)
    return _scaled(tissue, factor[0], factor[1], factor[1], 1.0)


def aged(name: str, tissue: Tissue, age_years: float) -> Tissue:
    """Drift of T1 and iron in T2* from the table's age to `age_years`; other tissues do not age."""
    if name not in AGEING:
        return tissue
    years = age_years - ADULT_YEARS
    t2star = tuple(
        1000 / (1000 / time + IRON_R2STAR.get(name, 0.0) * years * field)
        for time, field in zip(tissue.t2star_ms, (1, 2), strict=True)
    )
    return _scaled(tissue, math.exp(T1_DRIFT * years), 1, 1, 1)._replace(t2star_ms=(t2star[0], t2star[1]))


def _varied(tissue: Tissue, common: np.ndarray, own: np.ndarray) -> Tissue:
    t1, t2, t2star = COMMON_SD * common + OWN_SD * own[:3]
    varied = _scaled(tissue, math.exp(t1), math.exp(t2), math.exp(0.8 * t2star), math.exp(0.4 * OWN_SD * own[3]))
    a, b, c, d = (value + JITTER_HU * own[4] for value in tissue.hu)
    return varied if tissue.pd == 0 else varied._replace(hu=(a, b, c, d))


def _scaled(tissue: Tissue, t1: float, t2: float, t2star: float, pd: float) -> Tissue:
    def times(pair: tuple[float, float], by: float) -> tuple[float, float]:
        return pair[0] * by, pair[1] * by

    return tissue._replace(
        t1_ms=times(tissue.t1_ms, t1),
        t2_ms=times(tissue.t2_ms, t2),
        t2star_ms=times(tissue.t2star_ms, t2star),
        pd=min(1.0, tissue.pd * pd),
    )
