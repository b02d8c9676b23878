"""CT numbers of tissue maps at a tube voltage and a contrast phase, and the X-ray physics behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError, nearest

Array = TypeVar("Array", np.ndarray, Tensor)

# kVp -> HU per mg iodine / mL, in common use; 120 kVp is that of the tissue table
IODINE_HU = {70.0: 47.5, 80.0: 42.0, 100.0: 32.0, 120.0: 25.0, 140.0: 22.0}
# CT number of fat relative to 120 kVp: oil measured at 100, 120 and 140 (-135, -119, -104 HU), below from `attenuation`
FAT_SCALE = {70.0: 1.40, 80.0: 1.28, 100.0: 1.134, 120.0: 1.0, 140.0: 0.874}
# CT number of cortical bone relative to 120 kVp, from `attenuation` behind 20 cm of water
BONE_SCALE = {70.0: 1.57, 80.0: 1.39, 100.0: 1.15, 120.0: 1.0, 140.0: 0.90}
# CT numbers (air, fat, water, soft tissue, bone) between which the change with the voltage is linear
KNOTS_HU = (-1000.0, -100.0, 0.0, 100.0, 700.0)
NOISE_EXPONENT = -2.4  # of the noise at constant mAs against the tube voltage, through a trunk

BOLUS_ARRIVAL_S = 15.0  # of the contrast agent in the aorta, after the start of injection
# phase -> delay in s of the scan; the first four are columns of the tissue table, the others lie between them
PHASE_DELAY_S = {
    "unenhanced": 0.0,
    "late_arterial": 35.0,
    "portal_venous": 70.0,
    "delayed": 240.0,
    "early_arterial": 25.0,
    "early_portal": 50.0,
}
TABULATED = ("unenhanced", "late_arterial", "portal_venous", "delayed")
PHASES = ("portal_venous", "late_arterial", "delayed", "early_arterial", "unenhanced", "early_portal")  # by category


class Material(NamedTuple):
    """An absorber: mass attenuation in cm2/g at `ENERGY_KEV`, and density in g/cm3."""

    mass_attenuation: tuple[float, ...]
    density: float


# Hubbell and Seltzer, NIST SRD 126 (with coherent scattering); bone and fat of ICRU-44, steel as iron.
ENERGY_KEV = (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
MATERIALS = {
    "water": Material((0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505), 1.0),
    "bone": Material((4.001, 1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480), 1.92),
    "fat": Material((0.5677, 0.3063, 0.2396, 0.2123, 0.1974, 0.1800, 0.1688, 0.1500), 0.95),
    "aluminium": Material((3.441, 1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378), 2.699),
    "steel": Material((25.68, 8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964), 7.874),
}
BIN_KEV = 5.0
FILTER_CM = 1.0  # of aluminium, inherent and added, of a body scanner


def linear_attenuation(material: str, energy_kev: np.ndarray) -> np.ndarray:
    """Linear attenuation in 1/cm at photon energies from 20 to 150 keV, interpolated in the logarithms.

    Reference:
        Hubbell and Seltzer, Tables of X-ray mass attenuation coefficients, NIST SRD 126, 1996.
    """
    mass, density = MATERIALS[material]
    return density * np.exp(np.interp(np.log(energy_kev), np.log(ENERGY_KEV), np.log(mass)))


def spectrum(kvp: float, filter_cm: float = FILTER_CM) -> tuple[np.ndarray, np.ndarray]:
    """Photon energies in keV, and the share of the detector's signal that each makes without a patient.

    Kramers' bremsstrahlung without characteristic lines, behind `filter_cm` of aluminium, on a detector that
    integrates energy (so that the share is proportional to kVp - E).
    """
    energy = np.arange(20.0, kvp, BIN_KEV) + BIN_KEV / 2
    energy = energy[energy < kvp]
    share = (kvp - energy) * np.exp(-filter_cm * linear_attenuation("aluminium", energy))
    return energy, share / share.sum()


def attenuation(material: str, kvp: float, *, water_cm: float = 20.0) -> float:
    """Effective linear attenuation in 1/cm of a thin absorber behind `water_cm` of water."""
    energy, share = spectrum(kvp)
    behind = share * np.exp(-water_cm * linear_attenuation("water", energy))
    return float((behind * linear_attenuation(material, energy)).sum() / behind.sum())


def _at_voltage(table: Mapping[float, float], kvp: float) -> float:
    voltages = sorted(table)
    if not voltages[0] <= kvp <= voltages[-1]:
        raise OperatorError(f"a tube voltage of {kvp} kVp", where="kvp", remedy="use 70 to 140 kVp")
    return float(np.interp(kvp, voltages, [table[v] for v in voltages]))


def iodine_scale(kvp: float) -> float:
    """Enhancement at `kvp` relative to 120 kVp, linear between the tabulated voltages.

    Raises:
        OperatorError: a voltage outside 70 to 140 kVp.
    """
    return _at_voltage(IODINE_HU, kvp) / IODINE_HU[120.0]


def voltage_shift(plain: Tensor, kvp: float) -> Tensor:
    """Change in HU from 120 kVp to `kvp` of tissue without iodine, by its CT number at 120 kVp.

    Fat and bone change in proportion to their CT numbers, mixtures by their share; air, water and soft tissue (0 to
    100 HU) do not change, where true changes are within 3 HU.

    Args:
        plain: unenhanced CT numbers at 120 kVp, any shape.
        kvp: 70 to 140.
    """
    fat, bone = KNOTS_HU[1] * (_at_voltage(FAT_SCALE, kvp) - 1), KNOTS_HU[-1] * (_at_voltage(BONE_SCALE, kvp) - 1)
    heights = (0.0, fat, 0.0, 0.0, bone)
    shift = torch.zeros_like(plain)
    for left, right, low, high in zip(KNOTS_HU, KNOTS_HU[1:], heights, heights[1:], strict=False):
        if low != high:
            share = ((plain - left) / (right - left)).clamp(0, 1)
            shift = shift + share * (high - low)
    return shift + bone * ((plain - KNOTS_HU[-1]) / KNOTS_HU[-1]).clamp(min=0)


def phase_weights(phase: str) -> dict[str, float]:
    """Share of each tabulated phase in the CT numbers of `phase`; enhancement is linear in time between them.

    Raises:
        OperatorError: an unknown phase.
    """
    if phase not in PHASE_DELAY_S:
        raise OperatorError(f"unknown contrast phase '{phase}'", where="phase", remedy=nearest(phase, PHASE_DELAY_S))
    if phase in TABULATED:
        return {phase: 1.0}
    delay = PHASE_DELAY_S[phase]
    times = [max(PHASE_DELAY_S[name], BOLUS_ARRIVAL_S) for name in TABULATED]
    later = int(np.searchsorted(times, delay))
    share = (delay - times[later - 1]) / (times[later] - times[later - 1])
    return {TABULATED[later - 1]: 1 - share, TABULATED[later]: share}


def needed_maps(acquisition: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tissue maps that `hu` takes for an acquisition: `HU_<phase>` of the tabulated phases."""
    names = [f"HU_{phase}" for phase in phase_weights(str(acquisition.get("phase", PHASES[0])))]
    if float(acquisition.get("kvp", 120)) != 120 and "HU_unenhanced" not in names:
        names.append("HU_unenhanced")
    return tuple(names)


def hu(maps: Mapping[str, Array], acquisition: Mapping[str, Any]) -> Array:
    """Noise-free CT numbers (*s) in HU, of the kind of `maps`.

    The enhancement (CT number - `HU_unenhanced`) is scaled with the tube voltage as iodine, the rest as
    `voltage_shift` says.

    Args:
        maps: at 120 kVp: `needed_maps`; in their place `HU` for the CT numbers in the acquisition's phase, if that is
            a tabulated one.
        acquisition: `kvp` (120 where it is not given) and `phase` (portal venous); other keys are ignored.

    Raises:
        OperatorError: a map is missing, the phase is not known, or the voltage is outside 70 to 140 kVp.
    """
    kvp = float(acquisition.get("kvp", 120))
    weights = phase_weights(str(acquisition.get("phase", PHASES[0])))
    parts: dict[str, float] = {f"HU_{phase}": weight for phase, weight in weights.items()}
    if len(weights) == 1 and not parts.keys() <= maps.keys():
        parts = {"HU": 1.0}
    needed = {*parts} if kvp == 120 else {*parts, "HU_unenhanced"}
    if needed - maps.keys():
        raise OperatorError(
            f"CT at {kvp:g} kVp needs the map {', '.join(sorted(needed - maps.keys()))}",
            remedy="use a phantom, real scans have no maps",
        )
    tensors = {name: torch.as_tensor(maps[name]) for name in needed}
    values = tensors[next(iter(parts))]
    if len(parts) > 1:
        values = torch.stack([weight * tensors[name] for name, weight in parts.items()]).sum(dim=0)
    if kvp != 120:
        plain = tensors["HU_unenhanced"]
        values = plain + (values - plain) * iodine_scale(kvp) + voltage_shift(plain, kvp)
    return values if isinstance(next(iter(maps.values())), Tensor) else values.numpy()  # type: ignore[return-value]


def tube_voltage(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition at `value` kVp and the same mAs: noise falls with the voltage as kVp ** -2.4."""
    noise = float(acquisition["noise_hu"]) * (value / float(acquisition["kvp"])) ** NOISE_EXPONENT
    return {**acquisition, "kvp": value, "noise_hu": noise}


def contrast_phase(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition in the contrast phase number `value` of `PHASES`."""
    return {**acquisition, "phase": PHASES[int(value)]}
