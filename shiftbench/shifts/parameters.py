"""Operators on the parameters of an MR acquisition: they act before the signal equation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts.presets import PRESETS, SEQUENCES, SWAPS, VENDORS
from shiftbench.shifts.settings import NOMINAL_FIELD_T, SEQUENCE_KEYS

B1_PERCENT_PER_T2 = 3.0  # transmit non-uniformity of the trunk grows about as B0 squared: 7 % at 1.5 T, 27 % at 3 T
B1_PERCENT_MOST = 80.0
JITTERED = ("T1_ms", "T2_ms", "PD")  # T2* goes with T2

Acquisition = Mapping[str, Any]


def field_strength(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition at a main field of `value` T: everything that comes with the field, together.

    T1, T2 and T2* are those of the maps at that field; SNR is proportional to the field; the transmit field gets less
    uniform, as the square of the field (dielectric effects in the trunk); fat is displaced in proportion to the field,
    at the same bandwidth, and its phase against water turns as much faster.
    """
    table = {key: entry for key, entry in acquisition.items() if key != "relaxation_t"}
    growth = B1_PERCENT_PER_T2 * (value**2 - acquisition["field_t"] ** 2)
    b1 = min(max(acquisition["b1_percent"] + growth, 0.0), B1_PERCENT_MOST)
    ratio = value / acquisition["field_t"]
    shift = acquisition.get("fat_shift_mm", 0.0) * ratio
    return {**table, "field_t": value, "b1_percent": b1, "snr": acquisition["snr"] * ratio, "fat_shift_mm": shift}


def field_snr(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with the SNR of a main field of `value` T, and nothing else of it (an ablation)."""
    return {**acquisition, "snr": acquisition["snr"] * value / acquisition["field_t"]}


def field_relaxation(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with T1, T2 and T2* of a main field of `value` T, and nothing else of it (an ablation).

    The field that it has already changes nothing.
    """
    if value == relaxation_field_t(acquisition):
        return dict(acquisition)
    return {**acquisition, "relaxation_t": value}


def flip_angle(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition at `value` % of its flip angle."""
    return _scaled(acquisition, "flip_deg", value / 100, "flip_angle")


def repetition_time(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition at `value` times its repetition time, with as many averages: the scan takes that much longer."""
    return _scaled(acquisition, "tr_ms", value, "repetition_time")


def echo_time(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition at `value` % of its echo time; it has to stay below the repetition time and within a train."""
    return _scaled(acquisition, "te_ms", value / 100, "echo_time")


def inversion_time(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with its inversion time changed by `value` ms: off the null of CSF where it was there."""
    _used(acquisition, "ti_ms", "inversion_time")
    return {**acquisition, "ti_ms": acquisition["ti_ms"] + value}


def sequence_swap(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with the sequence of the protocol `presets.SWAPS[value - 1]`; 0 changes nothing.

    Field, coil, matrix, slices and vendor stay; sequence and timing are the protocol's.
    """
    if value == 0:
        return dict(acquisition)
    preset = PRESETS[SWAPS[_category(value, len(SWAPS), "sequence_swap") - 1]]
    own = {key: entry for key, entry in SEQUENCES[str(preset["sequence"])].items() if entry is not None}
    kept = {key: entry for key, entry in acquisition.items() if key not in SEQUENCE_KEYS}
    return {**kept, **own, **preset}


def contrast_agent(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with `value` mM more of a gadolinium agent in plasma; tissues take up their share (GD)."""
    return {**acquisition, "gd_mmol": acquisition.get("gd_mmol", 0.0) + value}


def b1_field(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition with a transmit field whose 1st and 99th percentile in the body are `value` % apart.

    Raises:
        NotApplicable: the transmit field is worse already.
    """
    return _at_least(acquisition, "b1_percent", value, "b1_field", "%")


def tissue_jitter(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition of patients whose tissues have T1, T2 and PD with a relative SD of `value` % (`jittered`).

    Raises:
        NotApplicable: they vary more already.
    """
    return _at_least(acquisition, "tissue_jitter_percent", value, "tissue_jitter", "%")


def chemical_shift(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition at a receive bandwidth that displaces fat by `value` mm along the readout.

    Raises:
        NotApplicable: fat is displaced more already.
    """
    return _at_least(acquisition, "fat_shift_mm", value, "chemical_shift", "mm")


def vendor(acquisition: Acquisition, value: float) -> dict[str, Any]:
    """The acquisition on a scanner of vendor B to F (1 to 5): SNR, coil, filter, scaling and matrix; 0 changes nothing.

    The profile of the vendor that the acquisition has is taken off first, so that a vendor means the same scanner
    wherever one comes from.
    """
    if value == 0:
        return dict(acquisition)
    name = list(VENDORS)[_category(value, len(VENDORS) - 1, "vendor")]
    old, new = VENDORS[acquisition.get("vendor", "A")], VENDORS[name]
    table = {
        **acquisition,
        "vendor": name,
        "snr": acquisition["snr"] * new.snr / old.snr,
        "bias_percent": max(acquisition["bias_percent"] - old.bias_percent + new.bias_percent, 0.0),
        "filter_gain": max(acquisition.get("filter_gain", 0.0) - old.filter_gain + new.filter_gain, 0.0),
        "gain": acquisition.get("gain", 1.0) * new.gain / old.gain,
        "pixel_factor": acquisition.get("pixel_factor", 1.0) * new.pixel / old.pixel,
    }
    if "pixel_mm" in acquisition:
        table["pixel_mm"] = acquisition["pixel_mm"] * new.pixel / old.pixel
    return table


def relaxation_field_t(acquisition: Acquisition) -> float:
    """The field whose T1, T2 and T2* an acquisition has: its own, unless `field_relaxation` says another."""
    return float(acquisition.get("relaxation_t", acquisition.get("field_t", NOMINAL_FIELD_T)))


def jittered(values: Mapping[str, np.ndarray], percent: float, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tissue values (`Anatomy.values`) of the same patient with other T1, T2, T2* and PD, alike within an organ.

    Each of T1, T2 and PD of each organ is multiplied by a log-normal factor of mean 1 and SD `percent` %. Tissues of
    one fine label are one organ and share the factors; both fields share them; T2* goes with T2; PD is at most 1, that
    of water. The draws are the same for every `percent`.

    Args:
        values: property -> (n_tissues,), with `fine_label`, which organ a tissue belongs to.
        percent: relative SD; 0 changes nothing.
        rng: a generator of its own.

    Raises:
        OperatorError: `values` has no `fine_label`.
    """
    if "fine_label" not in values:
        problem = "the tissue table does not say which tissue belongs to which organ"
        raise OperatorError(problem, where="tissue_jitter", remedy="use a phantom that gives 'fine_label'")
    organs = np.asarray(values["fine_label"]).astype(np.int64)
    draws = {name: rng.standard_normal(256)[organs] for name in JITTERED}
    width = math.sqrt(math.log1p((percent / 100) ** 2))
    factors = {name: np.exp(width * draw - width**2 / 2) for name, draw in draws.items()}
    factors["T2star_ms"] = factors["T2_ms"]
    out = dict(values)
    if percent == 0:
        return out
    for key in values:
        name = next((name for name in factors if key == name or key.startswith(f"{name}_")), None)
        if name is not None:
            varied = values[key] * factors[name]
            out[key] = np.minimum(varied, 1.0 if name == "PD" else np.inf).astype(values[key].dtype)
    return out


def _used(acquisition: Acquisition, key: str, operator: str) -> None:
    if key not in acquisition:
        sequence = acquisition.get("sequence", "spgr")
        raise OperatorError(
            f"sequence '{sequence}' has no {key}", where=operator, remedy="use a source whose sequence has it"
        )


def _scaled(acquisition: Acquisition, key: str, factor: float, operator: str) -> dict[str, Any]:
    _used(acquisition, key, operator)
    return {**acquisition, key: acquisition[key] * factor}


def _at_least(acquisition: Acquisition, key: str, value: float, operator: str, unit: str) -> dict[str, Any]:
    """The acquisition with `key` at `value`, which must not be less than it is."""
    native = acquisition.get(key, 0.0)
    if value < native:
        problem = f"{value:g} {unit} was asked of an acquisition with {native:.3g} {unit}"
        raise NotApplicable(problem, where=operator, remedy="ask for more")
    return {**acquisition, key: value}


def _category(value: float, most: int, operator: str) -> int:
    if value != int(value) or not 1 <= value <= most:
        raise OperatorError(f"value {value:g}", where=operator, remedy=f"use a whole number from 1 to {most}")
    return int(value)


def renoise(acquisition: Mapping[str, Any], value: float) -> dict[str, Any]:
    """The acquisition with the `value`-th draw of its scanner's noise; all else, its strength too, is as it was."""
    return {**acquisition, "renoise": int(value)}
