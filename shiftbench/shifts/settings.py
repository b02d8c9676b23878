"""What an acquisition table may say, with defaults, units and ranges; importing it does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shiftbench.errors import SpecError, nearest
from shiftbench.shifts.presets import PRESETS, SEQUENCES, VENDORS

NOMINAL_FIELD_T = 1.5


class Step(NamedTuple):
    """One operator at one value; `occurrence` tells two steps of the same operator apart."""

    operator: str
    value: float
    occurrence: int = 0


class Setting(NamedTuple):
    """A key of an acquisition table: its default (None: has to be given or is the dataset's), unit and range."""

    default: float | str | None
    unit: str
    low: float = 0.0
    high: float = float("inf")
    choices: tuple[str, ...] = ()
    whole: bool = False


PHASES = ("unenhanced", "early_arterial", "late_arterial", "early_portal", "portal_venous", "delayed")
# keys of one sequence or several: `presets.SEQUENCES` says which, and with what defaults
SEQUENCE_KEYS: dict[str, Setting] = {
    "tr_ms": Setting(None, "ms", 1.0, 20000.0),  # between excitations, or between inversions
    "te_ms": Setting(None, "ms", 0.0, 1000.0),  # effective echo time of a train
    "flip_deg": Setting(None, "degrees", 0.5, 180.0),
    "ti_ms": Setting(None, "ms", 0.0, 20000.0),  # inversion to the excitation that fills the centre of k-space
    "inversion_efficiency": Setting(None, "x", 0.0, 1.0),  # -M after / M before
    "etl": Setting(None, "echoes", 1, 512, whole=True),
    "esp_ms": Setting(None, "ms", 1.0, 100.0),
    "n_readouts": Setting(None, "readouts", 1, 1024, whole=True),  # per inversion
    "spacing_ms": Setting(None, "ms", 1.0, 100.0),  # from readout to readout
    "df_hz": Setting(None, "Hz", -5000.0, 5000.0),  # off resonance, of the whole image
    "b_s_mm2": Setting(None, "s/mm2", 0.0, 10000.0),
    "kurtosis": Setting(None, "K", 0.0, 3.0),
}
ACQUISITION_KEYS: dict[str, dict[str, Setting]] = {
    "mr": {
        "sequence": Setting("spgr", "", choices=tuple(SEQUENCES)),
        **SEQUENCE_KEYS,
        "field_t": Setting(NOMINAL_FIELD_T, "T", 0.05, 7.0),
        "relaxation_t": Setting(None, "T", 0.05, 7.0),  # field whose T1, T2 and T2* hold, where it is not field_t
        "b1_percent": Setting(0.0, "%", 0.0, 100.0),  # transmit field, 1st to 99th percentile inside the body
        "bias_percent": Setting(10.0, "%", 0.0, 300.0),
        "snr": Setting(35.0, "SNR", 0.5, float("inf")),
        "slice_mm": Setting(None, "mm", 0.1, 40.0),
        "pixel_mm": Setting(None, "mm", 0.05, 30.0),  # acquired, in-plane
        "pixel_factor": Setting(1.0, "x", 0.2, 10.0),  # acquired pixel over that of the grid, without pixel_mm
        "vendor": Setting("A", "", choices=tuple(VENDORS)),
        "filter_gain": Setting(0.0, "gain", 0.0, 5.0),  # of the vendor's sharpening filter
        "gain": Setting(1.0, "x", 0.01, 100.0),  # of the receiver and the scaling to integers
        "fat_shift_mm": Setting(0.0, "mm", 0.0, 30.0),  # of fat along the readout, at field_t
        "fat_ppm": Setting(3.4, "ppm", 0.5, 5.0),
        "fat_sat_percent": Setting(0.0, "%", 0.0, 100.0),
        "gd_mmol": Setting(0.0, "mM", 0.0, 20.0),  # gadolinium agent in plasma
        "tissue_jitter_percent": Setting(0.0, "%", 0.0, 100.0),
        "renoise": Setting(0, "draw", 0, 10**9, whole=True),  # another number, another draw of the noise: a control
    },
    "ct": {
        "kvp": Setting(120.0, "kVp", 70.0, 140.0),
        "phase": Setting("portal_venous", "", choices=PHASES),
        "dose_percent": Setting(100.0, "%", 1.0, 1000.0),
        "noise_hu": Setting(12.0, "HU", 0.0, 500.0),  # at a dose of 100 %
        "slice_mm": Setting(None, "mm", 0.1, 40.0),
        "kernel_mtf50_lp_mm": Setting(0.42, "lp/mm", 0.1, 1.2),  # frequency at which the kernel's MTF is 1/2
        "offset_hu": Setting(0.0, "HU", -100.0, 100.0),  # of the calibration
        "renoise": Setting(0, "draw", 0, 10**9, whole=True),
    },
}


def acquisition_defaults(modality: str = "mr", *, sequence: str = "spgr", vendor: str = "A") -> dict[str, float | str]:
    """The acquisition table of a modality as it is where a scenario says nothing.

    Args:
        modality: mr or ct.
        sequence: whose own keys and defaults it has (MR).
        vendor: whose profile changes the SNR, coil, filter, gain and matrix of the defaults (MR).

    Raises:
        SpecError: a modality without a simulator.
    """
    if modality not in ACQUISITION_KEYS:
        raise SpecError(f"no simulator for modality '{modality}'", remedy=nearest(modality, ACQUISITION_KEYS))
    given = {key: s.default for key, s in ACQUISITION_KEYS[modality].items() if s.default is not None}
    if modality == "mr":
        given |= {key: value for key, value in SEQUENCES[sequence].items() if value is not None}
        given |= {"sequence": sequence, "vendor": vendor}
        profile = VENDORS[vendor]
        given["snr"] = float(given["snr"]) * profile.snr
        given["bias_percent"] = float(given["bias_percent"]) + profile.bias_percent
        given |= {"filter_gain": profile.filter_gain, "gain": profile.gain, "pixel_factor": profile.pixel}
    return {"modality": modality, **given}


def check_acquisition(table: Mapping[str, Any], where: object = None) -> dict[str, float | str]:
    """The acquisition `table` of a scenario, completed by the defaults of its modality, sequence and vendor.

    A `preset` names a protocol of `presets.PRESETS`, which the other keys of the table change. What is returned is
    complete and without a preset; checking it again changes nothing.

    Raises:
        SpecError: unknown key or modality (with the nearest known one), a key that the sequence does not use, or a
            value of the wrong kind or out of range.
    """
    modality = table.get("modality", "mr")
    if modality not in ACQUISITION_KEYS:
        raise SpecError(f"unknown modality '{modality}'", where=where, remedy=nearest(str(modality), ACQUISITION_KEYS))
    chosen = _with_preset(table, modality, where)
    known = ACQUISITION_KEYS[modality]
    for key, value in chosen.items():
        if key not in known:
            raise SpecError(f"unknown key '{key}' in an acquisition", where=where, remedy=nearest(key, known))
        _check_setting(key, known[key], value, where)
    if modality == "ct":
        return {**acquisition_defaults("ct"), **chosen}
    sequence = str(chosen.get("sequence", known["sequence"].default))
    unused = sorted(key for key in chosen if key in SEQUENCE_KEYS and key not in SEQUENCES[sequence])
    if unused:
        remedy = f"its own keys are {', '.join(SEQUENCES[sequence])}"
        raise SpecError(f"sequence '{sequence}' does not use {', '.join(unused)}", where=where, remedy=remedy)
    return {**acquisition_defaults("mr", sequence=sequence, vendor=str(chosen.get("vendor", "A"))), **chosen}


def _with_preset(table: Mapping[str, Any], modality: str, where: object) -> dict[str, Any]:
    """The table without its modality, and with the keys of its preset where it has one."""
    chosen = {key: value for key, value in table.items() if key not in ("modality", "preset")}
    if "preset" not in table:
        return chosen
    name = table["preset"]
    if modality != "mr" or name not in PRESETS:
        raise SpecError(f"preset = {name!r} for {modality}", where=where, remedy=nearest(str(name), PRESETS))
    preset = PRESETS[name]
    if chosen.get("sequence", preset["sequence"]) != preset["sequence"]:
        problem = f"preset '{name}' is of sequence '{preset['sequence']}', not '{chosen['sequence']}'"
        raise SpecError(problem, where=where, remedy="leave one of the two out")
    return {**preset, **chosen}


def _check_setting(key: str, setting: Setting, value: Any, where: object) -> None:
    if setting.choices:
        if value not in setting.choices:
            raise SpecError(f"{key} = {value!r}", where=where, remedy=nearest(str(value), setting.choices))
        return
    number = not isinstance(value, bool) and isinstance(value, int | float) and setting.low <= value <= setting.high
    if not number or (setting.whole and value != int(value)):
        kind = "a whole number from " if setting.whole else ""
        remedy = f"use {kind}{setting.low:g} to {setting.high:g} {setting.unit}"
        raise SpecError(f"{key} = {value!r}", where=where, remedy=remedy)
