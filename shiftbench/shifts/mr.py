"""Signal equations of magnetic resonance imaging: tissue maps to signal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError, nearest

Array = TypeVar("Array", np.ndarray, Tensor)


def spgr(
    maps: Mapping[str, Array], *, tr_ms: float, te_ms: float, flip_deg: float, b1: float | np.ndarray | Tensor = 1.0
) -> Array:
    """Steady-state signal of an ideally spoiled gradient echo (SPGR, FLASH).

    S = PD sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE / T2*), with E1 = exp(-TR / T1) and a = b1 * flip angle.

    Args:
        maps: T1_ms, T2star_ms and PD, (*s) each, numpy arrays or torch tensors.
        tr_ms: repetition time.
        te_ms: echo time; less than `tr_ms`.
        flip_deg: nominal flip angle.
        b1: relative transmit field, a number or a map (*s).

    Returns:
        Signal relative to that of PD 1 with full relaxation, (*s), of the kind of `maps`.

    Raises:
        OperatorError: TR, TE or flip angle outside what the equation is defined for, or a map is missing.

    Reference:
        Haase et al., FLASH imaging, J Magn Reson 67:258, 1986.
    """
    if not (0 <= te_ms < tr_ms and 0 < flip_deg <= 180):
        raise OperatorError(
            f"SPGR with TR {tr_ms} ms, TE {te_ms} ms and flip angle {flip_deg} degrees is not defined",
            remedy="use 0 <= TE < TR and a flip angle between 0 and 180 degrees",
        )
    missing = {"T1_ms", "T2star_ms", "PD"} - set(maps)
    if missing:
        raise OperatorError(
            f"SPGR needs the tissue maps {', '.join(sorted(missing))}", remedy="use a phantom, real scans have no maps"
        )
    t1, t2star, pd = (torch.as_tensor(maps[name]) for name in ("T1_ms", "T2star_ms", "PD"))
    e1 = torch.exp(-tr_ms / t1)
    angle = torch.as_tensor(b1, dtype=t1.dtype, device=t1.device) * math.radians(flip_deg)
    signal = pd * torch.sin(angle) * (1 - e1) / (1 - e1 * torch.cos(angle)) * torch.exp(-te_ms / t2star)
    return signal if isinstance(maps["PD"], Tensor) else signal.numpy()


def ernst_angle_deg(tr_ms: float, t1_ms: float) -> float:
    """Flip angle of the largest SPGR signal of a tissue, acos(exp(-TR / T1)), in degrees."""
    return math.degrees(math.acos(math.exp(-tr_ms / t1_ms)))


class Sequence(NamedTuple):
    """A signal equation, and the parameters it must and may be given."""

    equation: Callable[..., Any]
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()


SEQUENCES: dict[str, Sequence] = {"spgr": Sequence(spgr, ("tr_ms", "te_ms", "flip_deg"), ("b1",))}


def signal(maps: Mapping[str, Array], acquisition: Mapping[str, Any]) -> Array:
    """Signal (*s) of `acquisition["sequence"]` on tissue maps, of the kind of `maps`; other keys are ignored.

    Raises:
        OperatorError: the sequence is not known, or one of its parameters is not given.
    """
    equation, parameters = _chosen(acquisition)
    return equation(maps, **parameters)


def _chosen(acquisition: Mapping[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    name = str(acquisition.get("sequence", "spgr"))
    if name not in SEQUENCES:
        raise OperatorError(f"unknown sequence '{name}'", where="sequence", remedy=nearest(name, SEQUENCES))
    equation, required, optional = SEQUENCES[name]
    missing = [key for key in required if key not in acquisition]
    if missing:
        raise OperatorError(f"sequence '{name}' needs {', '.join(missing)}", where=missing[0], remedy="give a value")
    return equation, {key: acquisition[key] for key in (*required, *optional) if key in acquisition}
