"""How each method's score falls with the severity of an operator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from shiftbench.robustness.patients import METHOD, RUN, Entry, limits
from shiftbench.robustness.streams import entries_alone
from shiftbench.shifts.operators import OPERATORS
from shiftbench.shifts.population import POPULATIONS
from shiftbench.spec.target import RESELECT
from shiftbench.stats import mean_interval
from shiftbench.types import Family

COLUMNS = (
    *("track", *RUN, "scenario", "source", "operator", "method", "k", "level", "value", "unit"),
    *("dsc", "dsc_low", "dsc_high", "n_patients", "n_seeds", "conditional"),
)


@dataclass(frozen=True)
class Curve:
    """One method along one operator.

    Attributes:
        clean: the method on the source test, where the operator changes nothing; None where it was not run there.
        points: one entry per setting, mildest first.
    """

    clean: Entry | None
    points: tuple[Entry, ...]

    @property
    def first(self) -> Entry:
        """An entry that says method, operator and scenario."""
        return self.points[0]

    @property
    def levels(self) -> tuple[float, ...]:
        """The severities of the settings that have one."""
        return tuple(point.level for point in self.points if point.level is not None)

    @property
    def place(self) -> tuple:
        """What the methods of one run have in common along one operator."""
        first = self.first
        return (first.backbone, first.budget, first.scenario, first.source, first.operator)


def severity_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC of each method at each level of each operator; level 0 is the method's score on the source test.

    A target that was given as a parameter value has no level, only `value`.

    Returns:
        One row per track, backbone, budget, scenario, operator, method and level: `value` and `unit` of the parameter,
        `dsc` with `dsc_low` and `dsc_high`, patients, seeds.

    Raises:
        OutputError: see `patient_table`.
    """
    records = []
    for curve in curves_of(entries_alone(rows)):
        if curve.clean is not None:
            records.append(_point(curve.first, curve.clean, level=0.0, value=None))
        records += [_point(point, point, level=point.level, value=point.value) for point in curve.points]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64", "level": float, "value": float})
    order = [*RUN, "scenario", "operator", *METHOD, "level", "value"]
    return table.sort_values(order, ignore_index=True)


def curves_of(entries: Sequence[Entry]) -> list[Curve]:
    """The curves of simulated operators; two targets at the same setting of one operator are one point."""
    clean = {(*_runner(e), e.scenario, e.source): e for e in entries if e.is_source_test}
    found: dict[tuple, dict[tuple, Entry]] = {}
    for entry in entries:
        if entry.operator is None or entry.level == 0 or entry.is_source_test or entry.family == Family.REAL:
            continue
        curve = (*_runner(entry), entry.scenario, entry.source, entry.operator)
        found.setdefault(curve, {}).setdefault((entry.level, entry.value), entry)
    return [Curve(clean.get(key[:-1]), _in_order(list(points.values()))) for key, points in found.items()]


def _in_order(points: list[Entry]) -> tuple[Entry, ...]:
    """Points by severity: by level, or where some have none by the distance of the value from the identity."""
    operator = parameter_of(points[0].operator)
    if operator is None or any(point.value is None for point in points):
        return tuple(sorted(points, key=lambda p: (p.level is None, p.level or 0.0, p.value or 0.0)))
    return tuple(sorted(points, key=lambda p: operator.position(p.value)))


@dataclass(frozen=True)
class Parameter:
    """The parameter of an operator that has an order: where it changes nothing, and which way is worse."""

    identity: float
    worse: int  # sign with which the value moves as severity grows

    @property
    def reciprocal(self) -> bool:
        """Whether the identity is infinite, as of a signal-to-noise ratio."""
        return self.identity == float("inf")

    def position(self, value):
        """Of a value along the severities: 0 at the identity, larger for worse."""
        return 1.0 / value if self.reciprocal else self.worse * (value - self.identity)

    def value(self, position):
        """The value at a position above 0."""
        return 1.0 / position if self.reciprocal else self.identity + self.worse * position


def parameter_of(name: str | None) -> Parameter | None:
    """The parameter of an operator; None where its levels are categories, select patients, or are not known."""
    known = OPERATORS.get(name or "") or POPULATIONS.get(name or "")
    if known is None or name == RESELECT or not known.monotone:
        return None
    return Parameter(known.identity, 1 if known.levels[-1] > known.identity else -1)


def _runner(entry: Entry) -> tuple:
    return (entry.backbone, entry.budget, entry.track, entry.method, entry.k)


def _point(curve: Entry, at: Entry, *, level: float | None, value: float | None) -> dict:
    """A point of `curve` with the scores of entry `at`."""
    place = {name: getattr(curve, name) for name in ("track", *RUN, "scenario", "source", "operator", "method", "k")}
    return place | {"level": level, "value": value, "unit": curve.unit} | limits("dsc", mean_interval(at.scores))
