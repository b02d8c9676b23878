"""The operators of an acquisition by name, their severities, and `apply`; importing it does not import torch."""

from __future__ import annotations

import math
from typing import Any

from shiftbench.errors import OperatorError, nearest
from shiftbench.shifts.operator import LabelPolicy, Operator, resolve
from shiftbench.shifts.table import controls, ct, faults, image, kspace, mr

__all__ = ["NOISE_STAGE", "OPERATORS", "LabelPolicy", "Operator", "apply", "check_value", "find", "resolve", "value_at"]

NOISE_STAGE = 39  # the noise of the scanner itself enters here: with the samples of k-space, before any are cut

OPERATORS: dict[str, Operator] = {
    row.name: row for rows in (controls, mr, image, kspace, ct, faults) for row in rows.ROWS
}


def find(name: str) -> Operator:
    """The operator of that name.

    Raises:
        OperatorError: there is none; the nearest name is in the message.
    """
    if name not in OPERATORS:
        raise OperatorError(f"unknown operator '{name}'", remedy=nearest(name, OPERATORS))
    return OPERATORS[name]


def value_at(operator: Operator, level: float) -> float:
    """The value of `operator` at severity `level`, linear between the listed severities; 0 is the identity.

    Where the identity is infinite (SNR) severities below 1 are interpolated in the reciprocal.

    Raises:
        OperatorError: `level` outside 0 to 5, or between two levels of a categorical operator.
    """
    if not 0 <= level <= 5:  # also refuses NaN
        raise OperatorError(f"severity {level}", where=operator.name, remedy="use a severity from 0 to 5")
    low = min(int(level), 4)
    share = level - low
    if not operator.monotone and share not in (0.0, 1.0):
        raise OperatorError(
            f"severity {level}", where=operator.name, remedy="its levels are categories: use a whole number from 0 to 5"
        )
    values = (operator.identity, *operator.levels)
    if share in (0.0, 1.0):
        return values[low + int(share)]
    if math.isinf(values[low]):
        return values[low + 1] / share
    return values[low] + share * (values[low + 1] - values[low])


def check_value(operator: Operator, value: float) -> float:
    """`value` if the operator is defined for it.

    Raises:
        OperatorError: it is not.
    """
    low, high = operator.range
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise OperatorError(
            f"value {value!r}", where=operator.name, remedy=f"use {low:g} to {high:g} {operator.unit}".rstrip()
        )
    return float(value)


def apply(
    name: str,
    image: Any,
    *,
    severity: float | None = None,
    value: float | None = None,
    spacing_mm: tuple[float, ...] | None = None,
    seed: int = 0,
    case: str = "",
    modality: str = "mr",
) -> Any:
    """One operator on one raw image.

    Args:
        name: a key of `OPERATORS` of kind "image".
        image: numpy array or torch tensor, (*s) or (c, *s), two or three spatial axes with slices first, raw units.
        severity: 0 to 5; 0 gives a copy of the input, to the bit.
        value: the value itself, in the operator's unit; exactly one of `severity` and `value` is given.
        spacing_mm: voxel size per spatial axis. Without it three axes are (d, h, w) unless the first has 1 or 3
            entries, which are taken for channels.
        seed: of the draws; severities of one seed and case share their draw.
        case: name of the scan, so that two scans of one seed get different draws.
        modality: mr, ct, rgb or grey.

    Returns:
        An image of the same kind and shape; of the same dtype if that is a floating one, else float32.

    Raises:
        OperatorError: unknown operator, value outside its range, or an image it is not defined for.
        DataError: NaN, infinity or a single value in the image.
        NotApplicable: the image is beyond the level already.
    """
    operator = find(name)
    if (severity is None) == (value is None):
        raise OperatorError("both or neither of severity and value", where=name, remedy="give exactly one")
    if value is None:
        assert severity is not None
        value = value_at(operator, severity)
    else:
        value = check_value(operator, value)
    return resolve("steps:apply_to_array")(
        operator,
        None if severity == 0 else value,
        image,
        spacing=None if spacing_mm is None else tuple(float(mm) for mm in spacing_mm),
        key=(seed, "", case),
        modality=modality,
    )
