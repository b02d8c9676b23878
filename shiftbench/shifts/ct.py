"""CT numbers of tissue maps at a tube voltage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError

Array = TypeVar("Array", np.ndarray, Tensor)

# kVp -> HU per mg iodine / mL, in common use; 120 kVp is that of the tissue table
IODINE_HU = {70.0: 47.5, 80.0: 42.0, 100.0: 32.0, 120.0: 25.0, 140.0: 22.0}


def iodine_scale(kvp: float) -> float:
    """Enhancement at `kvp` relative to 120 kVp, linear between the tabulated voltages.

    Raises:
        OperatorError: a voltage outside 70 to 140 kVp.
    """
    voltages = sorted(IODINE_HU)
    if not voltages[0] <= kvp <= voltages[-1]:
        raise OperatorError(f"a tube voltage of {kvp} kVp", where="kvp", remedy="use 70 to 140 kVp")
    return float(np.interp(kvp, voltages, [IODINE_HU[v] for v in voltages])) / IODINE_HU[120.0]


def hu(maps: Mapping[str, Array], acquisition: Mapping[str, Any]) -> Array:
    """CT numbers (*s) in HU, of the kind of `maps`.

    The enhancement (`HU` - `HU_unenhanced`) is scaled with the tube voltage as iodine; tissue without iodine is taken
    to be the same at every voltage (it moves by a few HU, fat and bone by more).

    Args:
        maps: HU at 120 kVp in the contrast phase, and HU_unenhanced where another voltage is wanted.
        acquisition: `kvp`, 120 where it is not given; other keys are ignored.

    Raises:
        OperatorError: a map is missing, or the voltage is outside 70 to 140 kVp.
    """
    kvp = float(acquisition.get("kvp", 120))
    needed = {"HU"} if kvp == 120 else {"HU", "HU_unenhanced"}
    missing = needed - set(maps)
    if missing:
        raise OperatorError(
            f"CT at {kvp:g} kVp needs the map {', '.join(sorted(missing))}",
            remedy="use a phantom, real scans have no maps",
        )
    values = torch.as_tensor(maps["HU"])
    if kvp != 120:
        plain = torch.as_tensor(maps["HU_unenhanced"])
        values = plain + (values - plain) * iodine_scale(kvp)
    return values if isinstance(maps["HU"], Tensor) else values.numpy()
