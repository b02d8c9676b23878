"""What an acquisition operator is: one row of the tables in `shiftbench.shifts.table`. Importing it needs no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any, Literal

from shiftbench.types import Family


class LabelPolicy(StrEnum):
    """What an operator does to the reference."""

    INVARIANT = "invariant"  # reference untouched, scored on the reference grid
    CO_WARP = "co-warp"  # image and labels are moved by one field
    PROTOCOL = "protocol"  # the reference alone is changed


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One way in which an acquisition differs.

    Functions are given as "module:name" within `shiftbench.shifts`: a name and not the function itself, so that a
    command line can list the table without importing torch; it is looked up at first use.

    Attributes:
        name: as scenarios name it.
        version: raised when the same value and draw give other numbers.
        family: acquisition, control, or fault (a mistake of the pipeline, reported apart).
        modalities: for which it is defined: mr, ct, rgb, grey.
        requires: of "maps" (tissue maps), "magnitude" (no negative values), "hu" (values of CT), "spacing",
            "volume" (three spatial axes), "channels" (more than one).
        parameter: what the value means.
        unit: of the value.
        identity: the value that changes nothing (severity 0).
        levels: values of severity 1 to 5.
        range: smallest and largest value allowed.
        achieved: name of the quantity that is measured on the output, with its unit.
        measure: how: "module:name" of (before, after, value) -> float for an image operator; for a parameter operator
            the key of the acquisition table that it sets.
        worse: sign with which the achieved quantity moves as severity grows.
        tolerance: largest relative error of the achieved quantity against the value; None where the two are not in
            the same unit.
        policy: what happens to the reference.
        stage: place in the physical order of an acquisition.
        kind: "parameter" changes the acquisition before the signal equation, "image" acts on the image.
        function: "module:name" of (scan, value, rng) -> scan, or of (acquisition, value) -> acquisition.
        displacement: "module:name" of (shape, spacing, body, value, rng) -> field in mm, for co-warp operators.
        reference: source.
        monotone: whether severity 1 to 5 is an order; a categorical operator has whole severities only.
    """

    name: str
    version: int = 1
    family: Family = Family.ACQUISITION
    modalities: tuple[str, ...]
    requires: frozenset[str] = frozenset()
    parameter: str
    unit: str
    identity: float
    levels: tuple[float, float, float, float, float]
    range: tuple[float, float]
    achieved: str
    measure: str
    worse: Literal[-1, 1] = 1
    tolerance: float | None = None
    policy: LabelPolicy = LabelPolicy.INVARIANT
    stage: int
    kind: Literal["parameter", "image"] = "image"
    function: str
    displacement: str | None = None
    reference: str
    monotone: bool = True


def resolve(function: str) -> Callable[..., Any]:
    """The function that a "module:name" of this package stands for."""
    module, _, name = function.partition(":")
    return getattr(import_module(f"shiftbench.shifts.{module}"), name)
