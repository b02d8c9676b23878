"""Tissue property tables (relaxation times, proton density, CT numbers) and the maps looked up from them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from shiftbench.errors import DataError, nearest
from shiftbench.types import Anatomy

PHASES = ("unenhanced", "late_arterial", "portal_venous", "delayed")
PROPERTIES = ("T1_ms", "T2_ms", "T2star_ms", "PD", "ADC", "GD", "FAT", "HU", "HU_unenhanced", "IODINE")
IODINE_HU = 25.0  # HU per mg/mL of iodine at 120 kVp
TEXTURE_HU = 100.0  # a relative variation of 0.06 is 6 HU in soft tissue, whatever its CT number


class Tissue(NamedTuple):
    """Properties of one tissue; pairs are (1.5 T, 3 T) in ms, CT numbers are at 120 kVp in the order of `PHASES`."""

    t1_ms: tuple[float, float]
    t2_ms: tuple[float, float]
    t2star_ms: tuple[float, float]
    pd: float
    hu: tuple[float, float, float, float]
    source: str
    adc: float = 1.0  # apparent diffusion coefficient, 1e-3 mm2/s
    gd: float = 0.0  # concentration of a gadolinium agent in steady state, relative to that in blood plasma
    fat: float = 0.0  # share of the signal that is of fat (PDFF / 100)


# Sources by name:
#   Bazelaire 2004: de Bazelaire et al., Radiology 230:652.   Stanisz 2005: Magn Reson Med 54:507.
#   Wright 2008: MAGMA 21:121.   Peters 2007: Magn Reson Imaging 25:748.   Zhang 2013: Magn Reson Med 70:1082.
#   Meloni 2024: T2* and T1 of the normal abdomen.   Tirkes 2019: T1 of the normal pancreas.
#   "typical": a value in common use for which no single measurement is cited; CT numbers are typical unless named.
TISSUES: dict[str, Tissue] = {
    "air": Tissue((1000, 1000), (100, 100), (5, 3), 0.0, (-1000, -1000, -1000, -1000), "no signal by PD = 0"),
    "fat": Tissue((343, 382), (58, 68), (30, 22), 0.95, (-100, -100, -100, -100), "Bazelaire 2004; T2* apparent"),
    "muscle": Tissue((856, 898), (27, 29), (28, 27.6), 0.78, (55, 60, 65, 65), "Bazelaire 2004"),
    "marrow": Tissue((549, 586), (49, 49), (15, 10), 0.60, (170, 175, 180, 178), "Bazelaire 2004 (L4); HU typical"),
    "cortical_bone": Tissue((400, 450), (3, 3), (1.5, 1.0), 0.15, (700, 700, 700, 700), "typical"),
    "csf": Tissue((4300, 4300), (2000, 2000), (1000, 500), 1.0, (8, 8, 8, 8), "typical (public tables 4200-4500)"),
    "blood_arterial": Tissue(
        (1480, 1649), (290, 275), (150, 60), 0.80, (40, 325, 150, 100), "Zhang 2013; Stanisz 2005"
    ),
    "blood_venous": Tissue((1480, 1649), (150, 60), (60, 25), 0.80, (40, 60, 160, 105), "Zhang 2013; T2 typical"),
    "blood_portal": Tissue((1480, 1649), (150, 60), (60, 25), 0.80, (40, 145, 175, 105), "Zhang 2013; T2 typical"),
    "liver": Tissue((586, 809), (46, 34), (28, 23.3), 0.72, (58, 85, 110, 90), "Bazelaire 2004; T2* Meloni 2024"),
    "spleen": Tissue((1057, 1328), (79, 61), (45, 25), 0.78, (48, 130, 125, 95), "Bazelaire 2004"),
    "kidney_cortex": Tissue((966, 1142), (87, 76), (65, 48), 0.82, (35, 190, 185, 150), "Bazelaire 2004"),
    "kidney_medulla": Tissue((1412, 1545), (85, 81), (50, 33), 0.85, (35, 75, 170, 150), "Bazelaire 2004"),
    "pancreas": Tissue((584, 725), (46, 43), (35, 28), 0.72, (40, 115, 100, 75), "Bazelaire 2004; Tirkes 2019"),
    "tumour": Tissue((1025, 1225), (75, 75), (40, 32), 0.80, (42, 78, 82, 75), "typical, HCC to metastasis"),
    "bowel_wall": Tissue((900, 1000), (45, 42), (28, 24), 0.78, (45, 85, 100, 85), "as smooth muscle; HU typical"),
    "bowel_content": Tissue((1000, 1150), (90, 85), (45, 35), 0.80, (25, 25, 25, 25), "typical, varies with the meal"),
    "bile": Tissue((2200, 2400), (400, 350), (150, 100), 0.95, (10, 10, 10, 10), "typical, varies with fasting"),
    "white_matter": Tissue((646, 838), (72, 69), (66.2, 53.2), 0.70, (30, 31, 32, 31), "Wright 2008; Peters 2007"),
    "grey_matter": Tissue((1197, 1607), (95, 99), (84, 66), 0.82, (38, 40, 42, 40), "Wright 2008; Peters 2007"),
}


def mix(parts: Iterable[tuple[Tissue, float]], source: str) -> Tissue:
    """A tissue of several in one voxel: relaxation rates, proton densities and CT numbers averaged by volume share."""
    parts = list(parts)
    total = sum(share for _, share in parts)

    def time(name: str) -> tuple[float, float]:
        low, high = (total / sum(share / getattr(tissue, name)[i] for tissue, share in parts) for i in (0, 1))
        return low, high

    pd = sum(share * tissue.pd for tissue, share in parts) / total
    a, b, c, d = (sum(share * tissue.hu[i] for tissue, share in parts) / total for i in range(len(PHASES)))
    return Tissue(time("t1_ms"), time("t2_ms"), time("t2star_ms"), pd, (a, b, c, d), source)


def vary(tissue: Tissue, rng: np.random.Generator, *, times: float, hu: float) -> Tissue:
    """The tissue of one patient: T1 and T2 with a relative SD of `times`, T2* of 0.8, PD of 0.5 of it, HU with SD `hu`.

    Both field strengths move together, as they are of one patient.
    """
    t1, t2, t2star, pd, shift = rng.standard_normal(5)

    def scaled(pair: tuple[float, float], by: float) -> tuple[float, float]:
        return pair[0] * math.exp(times * by), pair[1] * math.exp(times * by)

    a, b, c, d = (value + hu * shift for value in tissue.hu)
    return Tissue(
        scaled(tissue.t1_ms, t1),
        scaled(tissue.t2_ms, t2),
        scaled(tissue.t2star_ms, 0.8 * t2star),
        min(1.0, tissue.pd * math.exp(0.5 * times * pd)),
        (a, b, c, d),
        tissue.source,
    )


def value_table(tissues: Iterable[Tissue]) -> dict[str, np.ndarray]:
    """Property name -> float32 (n_tissues,), as `Anatomy.values` holds it: times per field, HU per phase."""
    tissues = list(tissues)
    table = {
        f"{name}_{field}T": [getattr(t, attribute)[i] for t in tissues]
        for name, attribute in (("T1_ms", "t1_ms"), ("T2_ms", "t2_ms"), ("T2star_ms", "t2star_ms"))
        for i, field in enumerate(("1.5", "3"))
    }
    table["PD"] = [t.pd for t in tissues]
    table["HU"] = [t.hu[PHASES.index("portal_venous")] for t in tissues]
    for i, phase in enumerate(PHASES):
        table[f"HU_{phase}"] = [t.hu[i] for t in tissues]
    return {name: np.asarray(values, np.float32) for name, values in table.items()}


def at_field(low: np.ndarray, high: np.ndarray, field_t: float) -> np.ndarray:
    """A relaxation time at `field_t` by the power law (T1 = a * B0**b, as Bottomley 1984) through 1.5 T and 3 T."""
    exponent = np.log(high / low) / math.log(2.0)
    return (low * (field_t / 1.5) ** exponent).astype(np.float32)


def tissue_maps(
    anatomy: Anatomy, field_t: float = 1.5, *, phase: str = "portal_venous", properties: Iterable[str] = PROPERTIES
) -> dict[str, np.ndarray]:
    """Property maps of a phantom on its supersampled grid, each float32 (*f).

    Times are the tissue's times (1 + texture); PD varies half as much; CT numbers by `TEXTURE_HU` times the texture.

    Args:
        anatomy: a phantom's anatomy (`tissue`, `values`, `texture`).
        field_t: field strength in tesla; T1, T2 and T2* follow a power law through their values at 1.5 T and 3 T.
        phase: contrast phase of the `HU` map, one of `PHASES`.
        properties: which of `PROPERTIES` are wanted.

    Raises:
        DataError: the anatomy is a real scan, or a field, phase or property is not known.
    """
    if anatomy.tissue is None or anatomy.values is None or anatomy.texture is None:
        raise DataError("a real scan has no tissue maps", where=anatomy.case_id, remedy="use a phantom dataset")
    if not 0.01 <= field_t <= 12:
        raise DataError(f"field strength {field_t} T", remedy="use a field between 0.01 and 12 T")
    for name, known in ((phase, PHASES), *((p, PROPERTIES) for p in properties)):
        if name not in known:
            raise DataError(f"unknown tissue property or contrast phase '{name}'", remedy=nearest(name, known))
    texture = [_upsampled(t, anatomy.supersampling) for t in anatomy.texture]
    return {name: _map(name, anatomy, field_t, phase, texture) for name in properties}


def _map(name: str, anatomy: Anatomy, field_t: float, phase: str, texture: list[np.ndarray]) -> np.ndarray:
    values, tissue = anatomy.values, anatomy.tissue
    assert values is not None and tissue is not None
    if name == "PD":
        return values["PD"][tissue] * (1 + np.float32(0.5) * texture[1])
    if name.startswith("HU"):
        key = f"HU_{phase}" if name == "HU" else name
        matter = (values["PD"] > 0).astype(np.float32) * np.float32(TEXTURE_HU)
        return values[key][tissue] + matter[tissue] * texture[0]
    times = at_field(values[f"{name}_1.5T"], values[f"{name}_3T"], field_t)
    return times[tissue] * (1 + texture[1 if name == "T2star_ms" else 0])


def _upsampled(texture: np.ndarray, supersampling: tuple[int, ...]) -> np.ndarray:
    for axis, factor in enumerate(supersampling):
        if factor > 1:
            texture = np.repeat(texture, factor, axis=axis)
    return texture
