"""Signal equations of magnetic resonance imaging by the name of their sequence: tissue maps to signal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError, nearest
from shiftbench.shifts import mr_gradient, mr_spin
from shiftbench.shifts.mr_maps import prepared

Array = TypeVar("Array", np.ndarray, Tensor)

GRADIENT_MAPS = ("T1_ms", "T2star_ms", "PD")
SPIN_MAPS = ("T1_ms", "T2_ms", "PD")
TRAIN = ("inversion_efficiency", "etl", "esp_ms", "b1")


class Sequence(NamedTuple):
    """A signal equation, the maps it reads, and the parameters it must and may be given."""

    equation: Callable[..., Tensor]
    maps: tuple[str, ...]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ("b1",)


SEQUENCES: dict[str, Sequence] = {
    "spgr": Sequence(mr_gradient.spgr, GRADIENT_MAPS, ("tr_ms", "te_ms", "flip_deg")),
    "dixon": Sequence(
        mr_gradient.dixon, (*GRADIENT_MAPS, "FAT"), ("tr_ms", "te_ms", "flip_deg", "field_t"), ("fat_ppm", "b1")
    ),
    "mprage": Sequence(
        mr_gradient.mprage,
        GRADIENT_MAPS,
        ("tr_ms", "te_ms", "ti_ms", "flip_deg", "n_readouts", "spacing_ms"),
        ("inversion_efficiency", "b1"),
    ),
    "bssfp": Sequence(mr_gradient.bssfp, SPIN_MAPS, ("tr_ms", "flip_deg"), ("df_hz", "b1")),
    "se": Sequence(mr_spin.se, SPIN_MAPS, ("tr_ms", "te_ms")),
    "fse": Sequence(mr_spin.fse, SPIN_MAPS, ("tr_ms", "te_ms", "etl", "esp_ms")),
    "ir": Sequence(mr_spin.ir, SPIN_MAPS, ("tr_ms", "te_ms", "ti_ms"), TRAIN),
    "flair": Sequence(mr_spin.ir, SPIN_MAPS, ("tr_ms", "te_ms", "ti_ms"), TRAIN),
    "stir": Sequence(mr_spin.ir, SPIN_MAPS, ("tr_ms", "te_ms", "ti_ms"), TRAIN),
    "dwi": Sequence(mr_spin.dwi, (*SPIN_MAPS, "ADC"), ("tr_ms", "te_ms", "b_s_mm2"), ("kurtosis", "b1")),
}


def needed_maps(acquisition: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the tissue maps that the acquisition reads; no other has to be made.

    Raises:
        OperatorError: the sequence is not known.
    """
    names = list(_chosen(acquisition).maps)
    names += ["GD"] if acquisition.get("gd_mmol") else []
    names += ["FAT"] if acquisition.get("fat_sat_percent") and "FAT" not in names else []
    return tuple(names)


def transverse(maps: Mapping[str, Any], acquisition: Mapping[str, Any]) -> Tensor:
    """Transverse magnetisation (*s) before detection: signed after an inversion, complex for Dixon and bSSFP.

    A voxel's signal is the mean of this over the voxel; the magnitude comes after that. Other keys of `acquisition`
    are ignored; its `b1` (relative transmit field) and `df_hz` may be maps.

    Raises:
        OperatorError: the sequence is not known, a parameter or a map is missing, or the parameters are impossible.
    """
    sequence = _chosen(acquisition)
    name = str(acquisition.get("sequence", "spgr"))
    absent = [key for key in sequence.required if key not in acquisition]
    if absent:
        raise OperatorError(f"sequence '{name}' needs {', '.join(absent)}", where=absent[0], remedy="give a value")
    missing = sorted(set(needed_maps(acquisition)) - set(maps))
    if missing:
        raise OperatorError(
            f"sequence '{name}' needs the tissue maps {', '.join(missing)}",
            remedy="use a phantom, real scans have no maps",
        )
    keys = (key for key in (*sequence.required, *sequence.optional) if key in acquisition)
    used = {key: torch.as_tensor(maps[key]) for key in needed_maps(acquisition)}  # no other: each may be made for it
    return sequence.equation(prepared(used, acquisition), **{key: acquisition[key] for key in keys})


def signal(maps: Mapping[str, Array], acquisition: Mapping[str, Any]) -> Array:
    """Magnitude (*s) of `transverse`, of the kind of `maps` (numpy arrays or torch tensors).

    Raises:
        OperatorError: as `transverse`.
    """
    used = {name: maps[name] for name in needed_maps(acquisition) if name in set(maps)}
    detected = transverse(used, acquisition).abs()
    return detected if isinstance(used["PD"], Tensor) else detected.numpy()


def _chosen(acquisition: Mapping[str, Any]) -> Sequence:
    name = str(acquisition.get("sequence", "spgr"))
    if name not in SEQUENCES:
        raise OperatorError(f"unknown sequence '{name}'", where="sequence", remedy=nearest(name, SEQUENCES))
    return SEQUENCES[name]
