"""What age, sex and diffuse disease do to the abdominal phantom: sizes of organs and properties of tissues."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.tissues import TISSUES, Tissue, mix

ADULT_AGE = 55.0  # years, of the patient that the tables describe
AGES = (20.0, 95.0)
LIVER_LOG_SD = 0.08  # of a linear dimension: 24 % of the volume
HU_PER_FAT_PERCENT = -1.7  # of the liver: PDFF % = 38.2 - 0.58 HU
NORMAL_R2STAR = 40.0  # 1/s at 1.5 T
# Change per year of age. Marrow: Pickhardt et al., Ann Intern Med 158:588, 2013 (L1, about 2 HU a year), Kugel et al.,
# J Magn Reson Imaging 13:263, 2001 (7 % more fat in ten years). Muscle, liver, kidney and pancreas: typical.
MARROW_HU, MARROW_FAT = -2.0, 0.006
MUSCLE_FAT, PANCREAS_FAT = 0.0005, 0.002
MUSCLE_SIZE, LIVER_SIZE, KIDNEY_SIZE, PANCREAS_SIZE = -0.005, -0.0012, -0.0016, -0.003  # linear dimensions, relative


@dataclass(frozen=True)
class Patient:
    """Who is drawn.

    Attributes:
        age: in years, with what the population adds.
        male: sex.
        population: all keys of the phantom.
    """

    age: float
    male: bool
    population: Mapping[str, float]

    @property
    def years(self) -> float:
        """Years older than the adult of the tables."""
        return self.age - ADULT_AGE

    def sized(self, per_year: float, men_larger: float = 0.0) -> float:
        """Linear size of an organ relative to that of the adult of the tables."""
        return (1 + per_year * self.years) * (1 + (men_larger if self.male else -men_larger))

    def marrow(self, tissue: Tissue) -> Tissue:
        """Bone marrow at this age."""
        hu = tuple(value + MARROW_HU * self.years for value in tissue.hu)
        return with_fat(tissue, tissue.fat + MARROW_FAT * self.years)._replace(hu=hu)  # type: ignore[arg-type]

    def muscle(self, tissue: Tissue) -> Tissue:
        """Muscle at this age."""
        return with_fat(tissue, tissue.fat + MUSCLE_FAT * self.years)

    def pancreas(self, tissue: Tissue) -> Tissue:
        """Pancreas at this age."""
        return with_fat(tissue, max(0.0, tissue.fat + PANCREAS_FAT * self.years))

    def liver(self, tissue: Tissue) -> Tissue:
        """The liver's parenchyma with its fat (`pdff_percent`) and iron (`iron_r2star`)."""
        fat = self.population["pdff_percent"] / 100
        if fat > tissue.fat:
            hu = tuple(value + HU_PER_FAT_PERCENT * 100 * (fat - tissue.fat) for value in tissue.hu)
            tissue = with_fat(tissue, fat)._replace(hu=hu)  # type: ignore[arg-type]
        return with_iron(tissue, self.population["iron_r2star"])


def with_fat(tissue: Tissue, fat: float) -> Tissue:
    """The tissue in which a voxel holds the share `fat` of fat, by mixing (S = (1 - f) W + f F)."""
    pure = TISSUES["fat"]
    share = (fat - tissue.fat) / (pure.fat - tissue.fat)
    if share == 0:
        return tissue
    return mix(((tissue, 1 - share), (pure, share)), tissue.source)._replace(fat=fat)


def with_iron(tissue: Tissue, r2star: float) -> Tissue:
    """The tissue with the iron at which a normal liver has an R2* of `r2star` (1/s at 1.5 T).

    Iron in mg/g dry weight is (R2* - 23.7) / 37.4 (Wood et al., Blood 106:1460, 2005). R2* at 3 T grows twice as much
    (Storey et al., J Magn Reson Imaging 25:540, 2007); R2 grows by 26.06 Fe**0.701 - 0.438 Fe**1.402 (St Pierre et al.,
    Blood 105:855, 2005), taken alike at both fields. T1 and CT numbers are left as they are.
    """
    added = r2star - NORMAL_R2STAR
    if added == 0:
        return tissue
    normal, iron = ((rate - 23.7) / 37.4 for rate in (NORMAL_R2STAR, r2star))
    r2 = 26.06 * (iron**0.701 - normal**0.701) - 0.438 * (iron**1.402 - normal**1.402)

    def faster(pair: tuple[float, float], low: float, high: float) -> tuple[float, float]:
        return 1 / (1 / pair[0] + low / 1000), 1 / (1 / pair[1] + high / 1000)

    return tissue._replace(t2_ms=faster(tissue.t2_ms, r2, r2), t2star_ms=faster(tissue.t2star_ms, added, 2 * added))


def patient_of(rng: np.random.Generator, population: Mapping[str, float]) -> Patient:
    """Age and sex of a patient; `age_years_added` of the population is added to the age, up to the oldest."""
    age = float(np.clip(rng.normal(ADULT_AGE, 14), AGES[0], 85))
    male = bool(rng.random() < 0.5)
    return Patient(min(age + population["age_years_added"], AGES[1]), male, population)
