"""Tissue property tables (relaxation, proton density, diffusion, CT numbers) and the maps looked up from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from shiftbench.errors import DataError, nearest
from shiftbench.types import Anatomy

if TYPE_CHECKING:  # a list of phantoms needs no torch
    import torch
    from torch import Tensor

PHASES = ("unenhanced", "late_arterial", "portal_venous", "delayed")
PROPERTIES = ("T1_ms", "T2_ms", "T2star_ms", "PD", "ADC", "GD", "FAT", "HU", "HU_unenhanced", "IODINE")
IODINE_HU = 25.0  # HU per mg/mL of iodine at 120 kVp
TEXTURE_HU = 100.0  # a relative variation of 0.06 is 6 HU in soft tissue, whatever its CT number
# property -> which texture varies it, and by how much of the texture; what is not named is even within a tissue
TEXTURED = {"T1_ms": (0, 1.0), "T2_ms": (0, 1.0), "ADC": (0, 1.0), "T2star_ms": (1, 1.0), "PD": (1, 0.5)}


class Tissue(NamedTuple):
    """Properties of one tissue; pairs are (1.5 T, 3 T) in ms, CT numbers are at 120 kVp in the order of `PHASES`."""

    t1_ms: tuple[float, float]
    t2_ms: tuple[float, float]
    t2star_ms: tuple[float, float]
    pd: float
    hu: tuple[float, float, float, float]
    source: str
    adc: float = 1.0  # apparent diffusion coefficient, 1e-3 mm2/s
    gd: float = 0.0  # concentration of an extracellular gadolinium agent in steady state, relative to that in blood
    fat: float = 0.0  # share of the signal that is of fat (PDFF / 100)


# Sources by name:
#   Bazelaire 2004: de Bazelaire et al., Radiology 230:652.   Stanisz 2005: Magn Reson Med 54:507.
#   Wright 2008: MAGMA 21:121.   Peters 2007: Magn Reson Imaging 25:748.   Zhang 2013: Magn Reson Med 70:1082.
#   Meloni 2024: T2* and T1 of the normal abdomen.   Tirkes 2019: T1 of the normal pancreas.
#   "typical": a value in common use for which no single measurement is cited; CT numbers, diffusion coefficients,
#   uptake and fat are typical unless named. Diffusion in blood is that of its flow (a void at any b above 50 s/mm2).
TISSUES: dict[str, Tissue] = {
    "air": Tissue((1000, 1000), (100, 100), (5, 3), 0.0, (-1000, -1000, -1000, -1000), "no signal by PD = 0", adc=0.0),
    "fat": Tissue(
        (343, 382),
        (58, 68),
        (30, 22),
        0.95,
        (-100, -100, -100, -100),
        "Bazelaire 2004; T2* apparent",
        adc=0.05,
        gd=0.03,
        fat=0.95,
    ),
    "muscle": Tissue(
        (856, 898), (27, 29), (28, 27.6), 0.78, (55, 60, 65, 65), "Bazelaire 2004", adc=1.4, gd=0.12, fat=0.02
    ),
    "marrow": Tissue(
        (549, 586),
        (49, 49),
        (15, 10),
        0.6,
        (170, 175, 180, 178),
        "Bazelaire 2004 (L4); HU typical",
        adc=0.4,
        gd=0.15,
        fat=0.4,
    ),
    "cortical_bone": Tissue((400, 450), (3, 3), (1.5, 1.0), 0.15, (700, 700, 700, 700), "typical", adc=0.3, gd=0.03),
    "csf": Tissue(
        (4300, 4300), (2000, 2000), (1000, 500), 1.0, (8, 8, 8, 8), "typical (public tables 4200-4500)", adc=3.0
    ),
    "blood_arterial": Tissue(
        (1480, 1649), (290, 275), (150, 60), 0.8, (40, 325, 150, 100), "Zhang 2013; Stanisz 2005", adc=10.0, gd=1.0
    ),
    "blood_venous": Tissue(
        (1480, 1649), (150, 60), (60, 25), 0.8, (40, 60, 160, 105), "Zhang 2013; T2 typical", adc=10.0, gd=1.0
    ),
    "blood_portal": Tissue(
        (1480, 1649), (150, 60), (60, 25), 0.8, (40, 145, 175, 105), "Zhang 2013; T2 typical", adc=10.0, gd=1.0
    ),
    "liver": Tissue(
        (586, 809),
        (46, 34),
        (28, 23.3),
        0.72,
        (58, 85, 110, 90),
        "Bazelaire 2004; T2* Meloni 2024",
        adc=1.1,
        gd=0.25,
        fat=0.03,
    ),
    "spleen": Tissue((1057, 1328), (79, 61), (45, 25), 0.78, (48, 130, 125, 95), "Bazelaire 2004", adc=0.8, gd=0.3),
    "kidney_cortex": Tissue(
        (966, 1142), (87, 76), (65, 48), 0.82, (35, 190, 185, 150), "Bazelaire 2004", adc=2.0, gd=0.4
    ),
    "kidney_medulla": Tissue(
        (1412, 1545), (85, 81), (50, 33), 0.85, (35, 75, 170, 150), "Bazelaire 2004", adc=1.9, gd=0.4
    ),
    "pancreas": Tissue(
        (584, 725),
        (46, 43),
        (35, 28),
        0.72,
        (40, 115, 100, 75),
        "Bazelaire 2004; Tirkes 2019",
        adc=1.3,
        gd=0.25,
        fat=0.05,
    ),
    "tumour": Tissue(
        (1025, 1225), (75, 75), (40, 32), 0.8, (42, 78, 82, 75), "typical, HCC to metastasis", adc=1.1, gd=0.4
    ),
    "bowel_wall": Tissue(
        (900, 1000), (45, 42), (28, 24), 0.78, (45, 85, 100, 85), "as smooth muscle; HU typical", adc=1.4, gd=0.3
    ),
    "bowel_content": Tissue(
        (1000, 1150), (90, 85), (45, 35), 0.8, (25, 25, 25, 25), "typical, varies with the meal", adc=2.0
    ),
    "bile": Tissue(
        (2200, 2400), (400, 350), (150, 100), 0.95, (10, 10, 10, 10), "typical, varies with fasting", adc=3.0
    ),
    "urine": Tissue((3500, 3600), (800, 700), (300, 200), 1.0, (5, 5, 8, 250), "typical", adc=2.8),
    "disc": Tissue((1000, 1100), (90, 85), (50, 35), 0.75, (85, 85, 87, 87), "typical", adc=1.6, gd=0.05),
    "skin": Tissue((900, 1000), (30, 28), (20, 15), 0.7, (40, 45, 55, 55), "typical", adc=1.2, gd=0.3),
    "white_matter": Tissue(
        (646, 838), (72, 69), (66.2, 53.2), 0.7, (30, 31, 32, 31), "Wright 2008; Peters 2007", adc=0.75
    ),
    "grey_matter": Tissue(
        (1197, 1607), (95, 99), (84, 66), 0.82, (38, 40, 42, 40), "Wright 2008; Peters 2007", adc=0.85
    ),
    "hcc": Tissue((1000, 1200), (75, 72), (40, 32), 0.80, (45, 105, 95, 78), "typical", adc=1.1, gd=0.35),
    "metastasis": Tissue(
        (1050, 1250), (75, 75), (40, 32), 0.80, (40, 52, 70, 72), "typical, hypovascular", adc=1.1, gd=0.3
    ),
    "cyst": Tissue((2800, 3000), (400, 350), (150, 100), 0.95, (8, 8, 8, 8), "typical, as bile", adc=2.8),
}


def mix(parts: Iterable[tuple[Tissue, float]], source: str) -> Tissue:
    """A tissue of several in one voxel: relaxation rates and everything else averaged by volume share."""
    parts = list(parts)
    total = sum(share for _, share in parts)

    def mean(of: Sequence[float]) -> float:
        return sum(share * value for (_, share), value in zip(parts, of, strict=True)) / total

    def time(name: str) -> tuple[float, float]:
        low, high = (total / sum(share / getattr(tissue, name)[i] for tissue, share in parts) for i in (0, 1))
        return low, high

    a, b, c, d = (mean([tissue.hu[i] for tissue, _ in parts]) for i in range(len(PHASES)))
    pd, adc, gd, fat = (mean([getattr(tissue, name) for tissue, _ in parts]) for name in ("pd", "adc", "gd", "fat"))
    return Tissue(time("t1_ms"), time("t2_ms"), time("t2star_ms"), pd, (a, b, c, d), source, adc, gd, fat)


def vary(tissue: Tissue, rng: np.random.Generator, *, times: float, hu: float) -> Tissue:
    """The tissue of one patient, as `varied` with numbers from `rng`."""
    return varied(tissue, rng.standard_normal(5), times=times, hu=hu)


def varied(tissue: Tissue, numbers: np.ndarray, *, times: float, hu: float) -> Tissue:
    """The tissue of one patient: T1 and T2 with a relative SD of `times`, T2* of 0.8, PD of 0.5 of it, HU with SD `hu`.

    The five `numbers` are standard normal. Both field strengths move together, as they are of one patient; so do T2 and
    diffusion, which both grow with free water. Uptake and fat are as tabulated.
    """
    t1, t2, t2star, pd, shift = numbers.tolist()

    def scaled(pair: tuple[float, float], by: float) -> tuple[float, float]:
        return pair[0] * math.exp(times * by), pair[1] * math.exp(times * by)

    a, b, c, d = (value + hu * shift for value in tissue.hu)
    return tissue._replace(
        t1_ms=scaled(tissue.t1_ms, t1),
        t2_ms=scaled(tissue.t2_ms, t2),
        t2star_ms=scaled(tissue.t2star_ms, 0.8 * t2star),
        pd=min(1.0, tissue.pd * math.exp(0.5 * times * pd)),
        hu=(a, b, c, d),
        adc=tissue.adc * math.exp(times * t2),
    )


def value_table(tissues: Iterable[Tissue]) -> dict[str, np.ndarray]:
    """Property name -> float32 (n_tissues,), as `Anatomy.values` holds it: times per field, HU per phase."""
    tissues = list(tissues)
    table = {
        f"{name}_{field}T": [getattr(t, attribute)[i] for t in tissues]
        for name, attribute in (("T1_ms", "t1_ms"), ("T2_ms", "t2_ms"), ("T2star_ms", "t2star_ms"))
        for i, field in enumerate(("1.5", "3"))
    }
    for name in ("PD", "ADC", "GD", "FAT"):
        table[name] = [getattr(t, name.lower()) for t in tissues]
    table["HU"] = [t.hu[PHASES.index("portal_venous")] for t in tissues]
    for i, phase in enumerate(PHASES):
        table[f"HU_{phase}"] = [t.hu[i] for t in tissues]
    return {name: np.asarray(values, np.float32) for name, values in table.items()}


def at_field(low: np.ndarray, high: np.ndarray, field_t: float) -> np.ndarray:
    """A relaxation time at `field_t` by the power law (T1 = a * B0**b, as Bottomley 1984) through 1.5 T and 3 T."""
    exponent = np.log(high / low) / math.log(2.0)
    return (low * (field_t / 1.5) ** exponent).astype(np.float32)


def tissue_maps(
    anatomy: Anatomy,
    field_t: float = 1.5,
    *,
    phase: str = "portal_venous",
    properties: Iterable[str] = PROPERTIES,
    device: str | torch.device = "cpu",
) -> dict[str, Tensor]:
    """Property maps of a phantom on its supersampled grid, each float32 (*f), in the units of `Tissue`.

    Times and ADC are the tissue's times (1 + texture), PD varies half as much, CT numbers by `TEXTURE_HU` times the
    texture, enhanced or not; uptake (GD relative to blood, IODINE in mg/mL) and FAT are even within a tissue.

    Args:
        anatomy: a phantom's anatomy (`tissue`, `values`, `texture`); replace `values` for another patient's tissues.
        field_t: field strength in tesla; T1, T2 and T2* follow a power law through their values at 1.5 T and 3 T.
        phase: contrast phase of the `HU` and `IODINE` maps, one of `PHASES`.
        properties: which of `PROPERTIES` are wanted; no other is computed.
        device: where the maps are computed and stay.

    Raises:
        DataError: the anatomy is a real scan, or a field, phase or property is not known.
    """
    if anatomy.tissue is None or anatomy.values is None or anatomy.texture is None:
        raise DataError("a real scan has no tissue maps", where=anatomy.case_id, remedy="use a phantom dataset")
    if not 0.01 <= field_t <= 12:
        raise DataError(f"field strength {field_t} T", remedy="use a field between 0.01 and 12 T")
    properties = tuple(properties)
    for name, known in ((phase, PHASES), *((p, PROPERTIES) for p in properties)):
        if name not in known:
            raise DataError(f"unknown tissue property or contrast phase '{name}'", remedy=nearest(name, known))
    return _looked_up(anatomy, {name: _values(anatomy.values, name, field_t, phase) for name in properties}, device)


def _values(values: Mapping[str, np.ndarray], name: str, field_t: float, phase: str) -> np.ndarray:
    """The property per tissue, float32 (n_tissues,)."""
    if name == "IODINE":
        return (values[f"HU_{phase}"] - values["HU_unenhanced"]) / np.float32(IODINE_HU)
    if name == "HU":
        return values[f"HU_{phase}"]
    if f"{name}_3T" in values:
        return at_field(values[f"{name}_1.5T"], values[f"{name}_3T"], field_t)
    return values[name]


def _looked_up(anatomy: Anatomy, tables: Mapping[str, np.ndarray], device: str | torch.device) -> dict[str, Tensor]:
    """Each table at every voxel's tissue, varied by the texture.

    The texture is repeated along the last axis alone; along the others it is broadcast.
    """
    import torch

    assert anatomy.tissue is not None and anatomy.texture is not None and anatomy.values is not None
    shape = anatomy.tissue.shape
    index = torch.as_tensor(anatomy.tissue).to(device).flatten().int()
    textures = torch.as_tensor(anatomy.texture).to(device).repeat_interleave(anatomy.supersampling[-1], dim=-1)
    blocks = [n for s, f in zip(anatomy.texture.shape[1:-1], anatomy.supersampling, strict=False) for n in (s, f)]
    beside = [1 if i % 2 else n for i, n in enumerate(blocks)]  # of the texture: one for all fine voxels in a voxel

    def look_up(table: np.ndarray) -> Tensor:
        return torch.as_tensor(table).to(device).index_select(0, index).view(*blocks, shape[-1])

    maps = {}
    for name, table in tables.items():
        voxels = look_up(table)
        if name in TEXTURED:
            which, amount = TEXTURED[name]
            voxels *= 1 + amount * textures[which].view(*beside, shape[-1])
        elif name.startswith("HU"):
            matter = (anatomy.values["PD"] > 0).astype(np.float32) * np.float32(TEXTURE_HU)
            voxels += look_up(matter) * textures[0].view(*beside, shape[-1])
        maps[name] = voxels.view(shape)
    return maps
