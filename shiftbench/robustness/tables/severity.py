"""Severity curves in three numbers: area, retention, and the value of the parameter that is still tolerated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.curves import Curve, Parameter, curves_of, parameter_of
from shiftbench.robustness.patients import RUN, Entry, bounds, limits
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.robustness.streams import entries_alone
from shiftbench.spec.target import RESELECT
from shiftbench.stats import RESAMPLES, crossed_bootstrap, mean_interval

REACHED, NOT_REACHED, NO_PARAMETER, NO_CLEAN = "reached", "not reached", "no parameter", "no level 0"
LAST = 5.0  # the severity at which the area ends
BEYOND = 2.0  # stands for a crossing beyond the hardest value, which is at 1, so that quantiles can be taken
_NO_LIMITS = {"tolerance_earliest": None, "tolerance_latest": None, "tolerance_interval": "none"}
NUMBERS = (
    *("clean", "clean_low", "clean_high", "ausc", "ausc_low", "ausc_high"),
    *("retention_percent", "retention_percent_low", "retention_percent_high", "severity_lost"),
    *("tolerance", "tolerance_earliest", "tolerance_latest", "hardest", "at_hardest"),
)
COLUMNS = (
    *("track", *RUN, "scenario", "source", "operator", "family", "method", "k", "unit", "levels"),
    *NUMBERS,
    *("tolerance_status", "tolerance_interval", "n_patients", "n_seeds", "conditional", "seed_limited"),
)


def severity(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and operator, on the patients and seeds of all its settings and of the source test.

    `clean` is u(0), the DSC on the source test. `ausc` is the area under u(q) by trapezoids over q / 5 from 0 to 1: a
    level that was not run is bridged by a straight line, and without level 5 there is no area. `retention_percent` is
    the area as a share of u(0). Both are means, with two-way t intervals.

    `tolerance` is the value of the parameter, in `unit`, at which `CONSTANTS.tolerated_loss` is first lost against
    level 0, where the operator has its identity: linear in the parameter between two settings (in its reciprocal next
    to an infinite identity), the first crossing where the curve is not monotone. `tolerance_status` says "reached", or
    "not reached" up to `hardest`, the hardest value that was run (where the DSC is `at_hardest`); "no parameter" where
    the levels are categories or select patients, "no level 0" where the method was not run on the source. Its 95 %
    limits, by bootstrap of patients crossed with seeds, are `tolerance_earliest` (the mildest) and `tolerance_latest`;
    `tolerance_interval` is "two-sided", "one-sided" where the latest lies beyond the hardest value, "beyond" where both
    do, "none" for one patient. Fewer than five seeds cannot be resampled well: `seed_limited`. `severity_lost` is the
    same crossing in severities, linear between the levels.

    Raises:
        OutputError: see `patient_table`.
    """
    curves = [curve for curve in curves_of(entries_alone(rows)) if curve.first.operator != RESELECT]
    places: dict[tuple, list[Curve]] = {}
    for curve in curves:
        places.setdefault(curve.place, []).append(curve)
    records = []
    for place, own in places.items():
        tables = [_tables(curve) for curve in own]
        limits_of = _tolerances(own, tables, str(place))
        records += [_record(*each) for each in zip(own, tables, limits_of, strict=True)]
    table = pd.DataFrame([record for record in records if record], columns=COLUMNS)
    table = table.astype({"k": "Int64"} | dict.fromkeys(NUMBERS, float))
    order = [*RUN, "scenario", "operator", "track", "method", "k"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def _tables(curve: Curve) -> list[pd.DataFrame]:
    """Scores at level 0 (if known) and at every setting, on the seeds and patients of all; empty where none are."""
    entries: list[Entry] = [*([curve.clean] if curve.clean else []), *curve.points]
    seeds, patients = entries[0].scores.index, entries[0].scores.columns
    for entry in entries:
        known = entry.scores.dropna(axis=1)
        seeds, patients = seeds.intersection(known.index), patients.intersection(known.columns)
    return [entry.scores.loc[seeds, patients.sort_values()] for entry in entries]


def _record(curve: Curve, tables: Sequence[pd.DataFrame], tolerance: dict) -> dict | None:
    if not tables[0].size:
        return None
    first = curve.first
    head = {name: getattr(first, name) for name in (*COLUMNS[:8], "method", "k", "unit")}
    head |= {"levels": " ".join(f"{level:g}" for level in curve.levels), "seed_limited": len(tables[0]) < 5}
    shown = mean_interval(tables[0])
    record = head | limits("clean", shown) | bounds("ausc", None) | bounds("retention_percent", None)
    if curve.clean is None:
        return record | bounds("clean", None) | {"tolerance_status": NO_CLEAN}
    area = _area(curve, tables)
    if area is not None:
        record |= bounds("ausc", mean_interval(area))
        kept = ratio_interval([area], [tables[0]]) if shown.mean >= CONSTANTS.clean_floor else None
        record |= bounds("retention_percent", kept, 100.0)
    record |= {"severity_lost": _severity_lost(curve, tables), "at_hardest": float(tables[-1].to_numpy().mean())}
    return record | tolerance


def _area(curve: Curve, tables: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Area of every seed and patient; None where the levels have no order or do not end at 5."""
    chosen = _levelled(curve, tables)
    if chosen is None or chosen[0][-1] != LAST:
        return None
    levels, scores = chosen
    q = np.array(levels) / LAST
    width = np.diff(q)
    weights = (np.append(width, 0.0) + np.append(0.0, width)) / 2
    return sum((w * table for w, table in zip(weights, scores, strict=True)), 0.0 * scores[0])


def _levelled(curve: Curve, tables: Sequence[pd.DataFrame]) -> tuple[list[float], list[pd.DataFrame]] | None:
    """Severities and scores from level 0 on, of the settings that have a level; None without any, or of categories."""
    if parameter_of(curve.first.operator) is None:
        return None
    pairs = [(p.level, t) for p, t in zip(curve.points, tables[1:], strict=True) if p.level is not None]
    if not pairs:
        return None
    pairs = [(0.0, tables[0]), *sorted(pairs, key=lambda pair: pair[0])]
    return [level for level, _ in pairs], [table for _, table in pairs]


def _severity_lost(curve: Curve, tables: Sequence[pd.DataFrame]) -> float | None:
    chosen = _levelled(curve, tables)
    if chosen is None:
        return None
    levels, scores = chosen
    means = np.array([[table.to_numpy().mean() for table in scores]])
    found = first_crossing(means, np.array(levels), reciprocal=False)[0]
    return None if np.isinf(found) else float(found)


def _tolerances(curves: Sequence[Curve], tables: Sequence[Sequence[pd.DataFrame]], name: str) -> list[dict]:
    """The columns of the tolerance of the curves of one operator; those on the same patients share their resamples."""
    parameter = parameter_of(curves[0].first.operator)
    records: list[dict] = [{"tolerance_status": NO_PARAMETER} for _ in curves]
    groups: dict[tuple, list[int]] = {}
    for i, (curve, own) in enumerate(zip(curves, tables, strict=True)):
        if parameter is None or curve.clean is None or not own[0].size or any(p.value is None for p in curve.points):
            continue
        values = tuple(float(p.value) for p in curve.points if p.value is not None)
        groups.setdefault((values, tuple(own[0].index), tuple(own[0].columns)), []).append(i)
    for (values, _, patients), members in groups.items():
        assert parameter is not None
        scores = np.stack([[t.to_numpy(float) for t in tables[i]] for i in members])  # (methods, settings, S, N)
        found = _tolerance(scores, values, parameter, name)
        for i, record in zip(members, found, strict=True):
            records[i] = record if len(patients) > 1 else record | _NO_LIMITS
    return records


def _tolerance(scores: np.ndarray, values: Sequence[float], parameter: Parameter, name: str) -> list[dict]:
    """The columns of each method of `scores` (methods, level 0 and settings, S, N)."""
    at = np.array([parameter.identity, *values])
    end = parameter.position(at[-1])

    def share_of_way(means: np.ndarray) -> np.ndarray:
        """Position of the crossing, 1 at the hardest value; `BEYOND` where there is none."""
        crossed = first_crossing(means, at, reciprocal=parameter.reciprocal)
        inside = np.isfinite(crossed)
        return np.where(inside, parameter.position(np.where(inside, crossed, at[-1])) / end, BEYOND)

    rng = generator(0, "tolerance", name)
    found = crossed_bootstrap(scores, share_of_way, resamples=RESAMPLES, rng=rng)

    def value(share: float) -> float | None:
        return float(parameter.value(share * end)) if share <= 1 + 1e-9 else None

    records = []
    for estimate, low, high in zip(found.estimate, found.low, found.high, strict=True):
        tolerance, earliest, latest = value(estimate), value(low), value(high)
        records.append(
            {
                "tolerance": tolerance,
                "tolerance_earliest": earliest,
                "tolerance_latest": latest,
                "tolerance_status": NOT_REACHED if tolerance is None else REACHED,
                "tolerance_interval": "beyond" if earliest is None else "one-sided" if latest is None else "two-sided",
                "hardest": float(at[-1]),
            }
        )
    return records


def first_crossing(means: np.ndarray, at: np.ndarray, *, reciprocal: bool) -> np.ndarray:
    """Where `CONSTANTS.tolerated_loss` is first lost, linear between the settings; infinite where it is not.

    Args:
        means: scores at the settings, shape (..., settings); the first is level 0.
        at: the settings, shape (settings,).
        reciprocal: the first setting is infinite, and next to it the reciprocal is linear.
    """
    loss = means[..., :1] - means
    over = loss >= CONSTANTS.tolerated_loss - 1e-12  # a loss of 0.05 in floating point
    first = np.maximum(over.argmax(axis=-1), 1)
    after = np.take_along_axis(loss, first[..., None], axis=-1)[..., 0]
    before = np.take_along_axis(loss, first[..., None] - 1, axis=-1)[..., 0]
    reached = over.any(axis=-1)
    share = np.where(reached, (CONSTANTS.tolerated_loss - before) / np.where(reached, after - before, 1.0), 1.0)
    start, end = at[first - 1], at[first]
    with np.errstate(invalid="ignore"):
        inner = end / share if reciprocal else start + share * (end - start)
        value = np.where(np.isinf(start), inner, start + share * (end - start)) if reciprocal else inner
    return np.where(reached, value, np.inf)
