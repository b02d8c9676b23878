"""Population operators: who is scanned. They set keys that a phantom understands; no pixel is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from shiftbench.errors import OperatorError, nearest


@dataclass(frozen=True)
class PopulationOperator:
    """One way in which a population differs.

    Attributes:
        name: as scenarios name it.
        version: raised when the same value gives other patients.
        parameter: what the value means.
        unit: of the value.
        levels: values of severity 1 to 5.
        identity: the value that changes nothing (severity 0).
        range: smallest and largest value allowed.
        key: the population key it sets.
        monotone: whether severity 1 to 5 is an order (False for categorical operators).
    """

    name: str
    version: int
    parameter: str
    unit: str
    levels: tuple[float, float, float, float, float]
    identity: float
    range: tuple[float, float]
    key: str
    monotone: bool = True


POPULATIONS: dict[str, PopulationOperator] = {
    "lesion_load": PopulationOperator(
        name="lesion_load",
        version=1,
        parameter="expected tumour volume of a patient, relative",
        unit="x",
        levels=(0.5, 0.25, 2.0, 4.0, 8.0),
        identity=1.0,
        range=(0.05, 16.0),
        key="lesion_load",
        monotone=False,
    ),
    "habitus": PopulationOperator(
        name="habitus",
        version=1,
        parameter="subcutaneous fat added",
        unit="mm",
        levels=(5.0, 10.0, 15.0, 20.0, 30.0),
        identity=0.0,
        range=(0.0, 80.0),
        key="habitus_mm",
    ),
    "empty_prevalence": PopulationOperator(
        name="empty_prevalence",
        version=1,
        parameter="share of patients without tumour",
        unit="share",
        levels=(0.0, 0.1, 0.3, 0.6, 0.9),
        identity=0.1,
        range=(0.0, 1.0),
        key="empty_prevalence",
        monotone=False,
    ),
}


def resolve(
    base: Mapping[str, float], operator: str, *, level: int | None = None, value: float | None = None
) -> dict[str, float]:
    """The population `base` with one operator applied, by severity or by value.

    Args:
        base: population keys as the source has them.
        operator: a key of `POPULATIONS`.
        level: severity 0 to 5; 0 gives `base` unchanged.
        value: the value itself, in the operator's unit.

    Raises:
        OperatorError: unknown operator, neither or both of `level` and `value`, or one of them out of range.
    """
    if operator not in POPULATIONS:
        raise OperatorError(f"unknown population operator '{operator}'", remedy=nearest(operator, POPULATIONS))
    op = POPULATIONS[operator]
    if (level is None) == (value is None):
        raise OperatorError(f"'{operator}' needs a level or a value", where=operator, remedy="give exactly one")
    if level == 0:
        return dict(base)
    if level is not None and level not in range(6):
        raise OperatorError(f"severity {level}", where=operator, remedy="use a severity from 0 to 5")
    wanted = op.levels[int(level) - 1] if level is not None else value
    low, high = op.range
    if wanted is None or not low <= wanted <= high:  # also refuses NaN
        raise OperatorError(
            f"value {wanted} {op.unit}", where=operator, remedy=f"use a value from {low:g} to {high:g} {op.unit}"
        )
    return {**base, op.key: float(wanted)}
