"""Tissue maps as the signal equations read them: relaxation, angles, contrast agent, fat suppression."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError

GAMMA_HZ_PER_UT = 42.577  # of the proton; also MHz per tesla
# Relaxivity of gadobutrol in plasma, 1 / (mM s), at 1.5 and 3 T: Rohrer et al., Invest Radiol 40:715, 2005
R1 = (5.2, 5.0)
R2 = (6.1, 7.1)


def decay(duration_ms: float, times_ms: Tensor) -> Tensor:
    """exp(-duration / time), of the shape of `times_ms`."""
    return torch.div(-duration_ms, times_ms).exp_()


def radians(degrees: float, b1: float | np.ndarray | Tensor, like: Tensor) -> Tensor:
    """The flip angle that a nominal one is under a relative transmit field, () or (*s), on the device of `like`.

    A uniform field stays a number in double precision, so that its sine and cosine cost nothing.
    """
    if isinstance(b1, int | float):
        return torch.tensor(math.radians(degrees) * b1, dtype=torch.float64)
    return torch.as_tensor(b1, dtype=like.dtype, device=like.device) * math.radians(degrees)


def relaxivity(pair: tuple[float, float], field_t: float) -> float:
    """Relaxivity at `field_t`, linear in its logarithm between 1.5 and 3 T and constant beyond."""
    return float(np.interp(math.log(field_t), [math.log(1.5), math.log(3.0)], pair))


def prepared(maps: Mapping[str, Tensor], acquisition: Mapping[str, Any]) -> dict[str, Tensor]:
    """The maps as they are under the acquisition's contrast agent and fat suppression.

    A gadolinium agent of `gd_mmol` mM in plasma has the concentration C = gd_mmol * GD in a tissue, and
    1 / T1' = 1 / T1 + r1 C; so does T2 with r2. T2* is taken to lose no more than T2 does: the field gradients around
    vessels that hold the agent, which matter for its first pass, are not modelled. Fat suppression takes away
    `fat_sat_percent` of the signal of fat (FAT, its share).
    """
    out = dict(maps)
    concentration = float(acquisition.get("gd_mmol", 0.0))
    if concentration:
        field_t = float(acquisition.get("relaxation_t", acquisition.get("field_t", 1.5)))
        for name, pair in (("T1_ms", R1), ("T2_ms", R2), ("T2star_ms", R2)):
            if name in out:
                rate = maps["GD"] * (relaxivity(pair, field_t) * concentration / 1000)  # 1 / ms
                out[name] = maps[name] / rate.mul_(maps[name]).add_(1)
    suppressed = float(acquisition.get("fat_sat_percent", 0.0)) / 100
    if suppressed:
        kept = (maps["FAT"] * -suppressed).add_(1)
        out["PD"] = maps["PD"] * kept
        out["FAT"] = (maps["FAT"] * (1 - suppressed)).div_(kept.clamp_(min=1e-6))  # share of what is left
    return out


def defined(holds: bool, problem: str, remedy: str) -> None:
    """Refuses parameters that a signal equation is not defined for.

    Raises:
        OperatorError: `holds` is false.
    """
    if not holds:
        raise OperatorError(f"{problem} is not defined", remedy=remedy)
