"""What an acquisition table may say, with defaults, units and ranges; importing it does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from shiftbench.errors import SpecError, nearest

NOMINAL_FIELD_T = 1.5
SEQUENCES = ("spgr",)  # those that shifts/mr.py has a signal equation for


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


PHASES = ("unenhanced", "late_arterial", "portal_venous", "delayed")
ACQUISITION_KEYS: dict[str, dict[str, Setting]] = {
    "mr": {
        "sequence": Setting("spgr", "", choices=SEQUENCES),
        "field_t": Setting(NOMINAL_FIELD_T, "T", 0.05, 7.0),
        "tr_ms": Setting(150.0, "ms", 1.0, 20000.0),
        "te_ms": Setting(4.6, "ms", 0.0, 1000.0),
        "flip_deg": Setting(80.0, "degrees", 0.5, 180.0),
        "b1_percent": Setting(0.0, "%", 0.0, 100.0),  # transmit field, 1st to 99th percentile inside the body
        "bias_percent": Setting(10.0, "%", 0.0, 300.0),
        "snr": Setting(35.0, "SNR", 0.5, float("inf")),
        "slice_mm": Setting(None, "mm", 0.1, 40.0),
    },
    "ct": {
        "kvp": Setting(120.0, "kVp", 70.0, 140.0),
        "phase": Setting("portal_venous", "", choices=PHASES),
        "dose_percent": Setting(100.0, "%", 1.0, 1000.0),
        "noise_hu": Setting(12.0, "HU", 0.0, 500.0),  # at a dose of 100 %
        "slice_mm": Setting(None, "mm", 0.1, 40.0),
    },
}


def acquisition_defaults(modality: str = "mr") -> dict[str, float | str]:
    """The acquisition table of a modality as it is where a scenario says nothing.

    Raises:
        SpecError: a modality without a simulator.
    """
    if modality not in ACQUISITION_KEYS:
        raise SpecError(f"no simulator for modality '{modality}'", remedy=nearest(modality, ACQUISITION_KEYS))
    given = {key: s.default for key, s in ACQUISITION_KEYS[modality].items() if s.default is not None}
    return {"modality": modality, **given}


def check_acquisition(table: Mapping[str, Any], where: object = None) -> dict[str, float | str]:
    """The acquisition `table` of a scenario, completed by the defaults of its modality.

    Raises:
        SpecError: unknown key or modality (with the nearest known one), or a value of the wrong kind or out of range.
    """
    modality = table.get("modality", "mr")
    if modality not in ACQUISITION_KEYS:
        raise SpecError(f"unknown modality '{modality}'", where=where, remedy=nearest(str(modality), ACQUISITION_KEYS))
    known = ACQUISITION_KEYS[modality]
    for key, value in table.items():
        if key == "modality":
            continue
        if key not in known:
            raise SpecError(f"unknown key '{key}' in an acquisition", where=where, remedy=nearest(key, known))
        setting = known[key]
        if setting.choices:
            if value not in setting.choices:
                raise SpecError(f"{key} = {value!r}", where=where, remedy=nearest(str(value), setting.choices))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not setting.low <= value <= setting.high:
            remedy = f"use {setting.low:g} to {setting.high:g} {setting.unit}"
            raise SpecError(f"{key} = {value!r}", where=where, remedy=remedy)
    return {**acquisition_defaults(modality), **table}
