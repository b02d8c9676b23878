"""Image operators on a scan: what they are defined for, their order, their draws, and what they achieved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import OperatorError
from shiftbench.rng import generator
from shiftbench.shifts.operator import Operator, resolve
from shiftbench.shifts.operators import check_value, find
from shiftbench.shifts.scan import Scan, channels_first, check_image
from shiftbench.shifts.settings import Step
from shiftbench.shifts.signal import Signal

Key = tuple[int, str, str]  # domain seed, digest of the dataset, case
Ordered = list[tuple[Operator, Step]]

HU_SEEN = -500.0  # an "MR" image with such values is CT


def in_order(steps: Sequence[Step]) -> Ordered:
    """Operators and steps in the physical order of an acquisition.

    Raises:
        OperatorError: an unknown operator, or a value out of its range.
    """
    ordered = sorted(((find(s.operator), s) for s in steps), key=lambda pair: pair[0].stage)
    for operator, step in ordered:
        check_value(operator, step.value)
    return ordered


def run(scan: Scan, steps: Ordered, key: Key) -> tuple[Scan, dict[str, float]]:
    """The scan after the steps in the given order, and what each achieved against the one before."""
    measured: dict[str, float] = {}
    for operator, step in steps:
        check_defined(operator, scan)
        after = shifted(operator, step.value, scan, key, step.occurrence)
        measured |= achieved(operator, step.value, scan, after)
        scan = after
    return scan, measured


def apply_to_array(
    operator: Operator,
    value: float | None,
    image: Any,
    *,
    spacing: tuple[float, ...] | None,
    key: Key,
    modality: str,
) -> Any:
    """One operator on an array or tensor, (*s) or (c, *s); `value` None gives a copy (see `operators.apply`)."""
    tensor = image if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    has_channels = channels_first(tensor.shape, spacing, modality)
    raw = tensor.detach().to(torch.float32)
    scan = Scan(raw if has_channels else raw[None], spacing, modality)
    check_image(scan.image)
    check_defined(operator, scan)
    if value is None:
        return image.clone() if isinstance(image, Tensor) else np.array(image)
    out = shifted(operator, value, scan, key).exported()
    out = out if has_channels else out[0]
    dtype = tensor.dtype if tensor.dtype.is_floating_point else torch.float32
    out = out.to(tensor.device, dtype, copy=True)
    return out if isinstance(image, Tensor) else out.numpy()


def check_defined(operator: Operator, scan: Scan) -> None:
    """Refuses what the operator is not defined for.

    Raises:
        OperatorError: the operator needs maps, another modality, a magnitude, HU, a spacing, a volume or channels.
    """
    name, needs = operator.name, operator.requires
    if operator.kind == "parameter" or ("maps" in needs and "te_ms" not in scan.native):
        raise OperatorError("it needs tissue maps, a scan has none", where=name, remedy="use a phantom dataset")
    if scan.modality not in operator.modalities:
        known = ", ".join(operator.modalities)
        raise OperatorError(
            f"it is not defined for modality '{scan.modality}'", where=name, remedy=f"use images of modality {known}"
        )
    if "volume" in needs and scan.ndim != 3:
        raise OperatorError("a 2-D image has no slice axis", where=name, remedy="use a volume or another operator")
    if "spacing" in needs and scan.spacing is None:
        raise OperatorError(
            "its value is in mm and the image has no spacing", where=name, remedy="give spacing_mm, one per axis"
        )
    if "channels" in needs and scan.channels < 2:
        raise OperatorError("the image has one channel", where=name, remedy="use images of several channels")
    if isinstance(scan.raw, Signal):
        return  # not yet detected: its magnitude is not negative
    least = float(scan.image.min())
    if "ct" not in operator.modalities and least < HU_SEEN:
        raise OperatorError("the image seems to be in HU", where=name, remedy="use an operator for CT")
    if "hu" in needs and least > HU_SEEN:
        raise OperatorError(
            f"the smallest value is {least:g}, so the image is not in HU", where=name, remedy="convert it to HU first"
        )
    if "magnitude" in needs and least < 0:
        raise OperatorError(
            "the image has negative values, so it is no magnitude", where=name, remedy="apply it before normalisation"
        )


def shifted(operator: Operator, value: float, scan: Scan, key: Key, occurrence: int = 0) -> Scan:
    """The scan after one image operator."""
    rng = draws(key, operator.name, operator.version, occurrence)
    return resolve(operator.function)(scan, value, rng)


def achieved(operator: Operator, value: float, before: Scan, after: Scan) -> dict[str, float]:
    """What an image operator achieved, by the name of the quantity."""
    return {operator.achieved: float(resolve(operator.measure)(before, after, value))}


def draws(key: Key, name: str, version: int = 1, occurrence: int = 0) -> np.random.Generator:
    """The generator of an operator on a case; never keyed by scenario, level or protocol."""
    return generator(key[0], key[1], key[2], name, version, occurrence)
