"""Corruption error: what is lost over the severities of an operator, against source-only of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS, SOURCE_ONLY
from shiftbench.robustness.curves import Curve, curves_of
from shiftbench.robustness.patients import RUN, bounds
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.robustness.streams import entries_alone
from shiftbench.stats import Interval, mean_interval, pooled_interval
from shiftbench.types import Family

ALL = "all"  # the mean over operators
DECAY = 2 / 3  # weight of a severity in the degradation of ROOD-MRI, against the one before it
COLUMNS = (
    *("track", *RUN, "scenario", "source", "operator", "method", "k", "levels"),
    *("n_operators", "n_ce", "n_relative_ce"),
    *("error", "error_low", "error_high", "clean_error", "ce", "ce_low", "ce_high"),
    *("relative_ce", "relative_ce_low", "relative_ce_high", "rood_degradation_percent", "n_patients", "n_seeds"),
)
Tables = tuple[list[pd.DataFrame], list[pd.DataFrame]]


def corruption(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and acquisition operator, and one per method over all of them (`operator` is "all").

    With the error e = 1 - DSC at the severities that were run (q >= 1), on patients and seeds that the method and
    source-only share:

    - `error`: mean of e over the severities, and `clean_error`: e on the source test (without interval);
    - `ce`: sum of e of the method over the sum of e of source-only, a ratio of sums: 1 is as source-only, less is
      better. Null where source-only's mean error is below `CONSTANTS.error_floor`;
    - `relative_ce`: the same with the clean error of each subtracted, of what the corruption adds; null where what
      source-only loses is below the floor, or the method was not run on the source;
    - `rood_degradation_percent`: mean over severities of (u(0) - u(q)) / u(0) with weights (2/3)^(q-1), milder ones
      weighing more, in percent; a ratio of means, for comparison with ROOD-MRI.

    Over all operators each is the mean, mCE in the case of `ce`, and given only to methods that have every operator on
    which source-only has it (`n_ce` and `n_relative_ce` of `n_operators`). Intervals are linearised, and known to share
    patients and seeds.

    Raises:
        OutputError: see `patient_table`.

    Reference:
        Hendrycks, Dietterich, Benchmarking neural network robustness to common corruptions, ICLR 2019; Boone et al.,
        ROOD-MRI, NeuroImage 278, 2023.
    """
    curves = [
        curve
        for curve in curves_of(entries_alone(rows))
        if curve.first.family == Family.ACQUISITION and all(point.level is not None for point in curve.points)
    ]
    base = {curve.place: curve for curve in curves if curve.first.method == SOURCE_ONLY}
    methods: dict[tuple, list[dict]] = {}
    for curve in curves:
        if curve.place in base:
            first = curve.first
            who = (first.track, first.backbone, first.budget, first.method, first.k)
            methods.setdefault(who, []).append(_of_operator(curve, base[curve.place]))
    records: list[dict] = []
    most = _most(methods)
    for who, own in methods.items():
        head = dict(zip(("track", *RUN, "method", "k"), who, strict=True))
        records += [head | line for line in (*own, _over_operators(own, most[who[1:3]]))]
    whole = dict.fromkeys(("k", "n_ce", "n_relative_ce", "n_patients", "n_seeds"), "Int64")
    table = pd.DataFrame(records, columns=COLUMNS).astype(whole)
    order = [*RUN, "scenario", "operator", "track", "method", "k"]
    return table.sort_values(order, kind="stable", ignore_index=True, na_position="first")


def _of_operator(curve: Curve, base: Curve) -> dict:
    """The record of one method on one operator, with the linearised parts of its ratios under `_`."""
    first = curve.first
    record: dict[str, Any] = {
        "scenario": first.scenario,
        "source": first.source,
        "operator": first.operator,
        "n_operators": 1,
    }
    record |= {"levels": " ".join(f"{level:g}" for level in curve.levels)}
    own_error, base_error = _errors(curve, base)
    if not own_error:
        return record
    error = mean_interval(sum(own_error[1:], own_error[0]) / len(own_error))
    record |= bounds("error", error) | {"n_patients": error.n_patients, "n_seeds": error.n_seeds}
    parts = {"ce": (_total(own_error), _total(base_error))}
    clean = _clean(curve, base, own_error[0])
    if clean is not None:
        own_clean, base_clean = clean
        n = len(own_error)
        record |= {"clean_error": float(np.nanmean(own_clean.to_numpy()))}
        parts["relative_ce"] = (parts["ce"][0] - n * own_clean, parts["ce"][1] - n * base_clean)
        record |= {"rood_degradation_percent": _degradation(curve.levels, own_error, own_clean)}
    for name, (top, bottom) in parts.items():
        if np.nanmean(bottom.to_numpy()) >= CONSTANTS.error_floor * len(own_error):
            found = ratio_interval([top], [bottom])
            if found is not None:
                record |= bounds(name, found) | {f"_{name}": found.mean + (top - found.mean * bottom) / _mean(bottom)}
    return record


def _errors(curve: Curve, base: Curve) -> Tables:
    """Errors of the method and of source-only at every severity, on common patients; empty without such."""
    others = {point.place: point for point in base.points}
    if set(others) != {point.place for point in curve.points}:
        return [], []
    pairs = [(point.scores, others[point.place].scores) for point in curve.points]
    return _common(pairs)


def _clean(curve: Curve, base: Curve, like: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Errors on the source test on the patients of `like`, of the method and of source-only."""
    if curve.clean is None or base.clean is None:
        return None
    found = []
    for entry in (curve.clean, base.clean):
        if not (like.columns.isin(entry.scores.columns).all() and like.index.isin(entry.scores.index).all()):
            return None
        found.append(1 - entry.scores.loc[like.index, like.columns])
    return found[0], found[1]


def _common(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> Tables:
    """1 - score of each pair on the seeds and patients that all tables have."""
    tables = [table.dropna(axis=1) for pair in pairs for table in pair]
    seeds, patients = tables[0].index, tables[0].columns
    for table in tables[1:]:
        seeds, patients = seeds.intersection(table.index), patients.intersection(table.columns)
    if not len(seeds) or not len(patients):
        return [], []
    errors = [1 - table.loc[seeds, patients] for table in tables]
    return errors[::2], errors[1::2]


def _total(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return sum(tables[1:], tables[0])


def _mean(table: pd.DataFrame) -> float:
    return float(np.nanmean(table.to_numpy()))


def _degradation(levels: Sequence[float], errors: Sequence[pd.DataFrame], clean: pd.DataFrame) -> float | None:
    """Weighted mean of the relative loss against the clean score, in percent."""
    score = 1 - _mean(clean)
    if score < CONSTANTS.clean_floor:
        return None
    lost = np.array([_mean(error) - _mean(clean) for error in errors]) / score
    return 100.0 * float(np.average(lost, weights=DECAY ** (np.array(levels) - 1)))


def _most(methods: dict[tuple, list[dict]]) -> dict[tuple, dict[str, int]]:
    """Backbone and budget to the number of operators on which source-only has each ratio, and of all operators."""
    return {
        who[1:3]: {name: sum(name in line for line in own) for name in _AVERAGED} | {"operators": len(own)}
        for who, own in methods.items()
        if who[3] == SOURCE_ONLY
    }


_AVERAGED = ("_ce", "_relative_ce", "error", "rood_degradation_percent", "clean_error")


def _over_operators(own: Sequence[dict], most: dict[str, int]) -> dict:
    """The means over operators, of what is known on all that source-only has."""
    record: dict = {"operator": ALL, "n_operators": len(own)}
    for name in ("error", "clean_error", "rood_degradation_percent"):
        values = [line[name] for line in own if line.get(name) is not None]
        if values and len(values) == most["operators"]:
            record[name] = float(np.mean(values))
    for name in ("ce", "relative_ce"):
        tables = [line[f"_{name}"] for line in own if f"_{name}" in line]
        if tables and len(tables) == most[f"_{name}"]:
            found: Interval = pooled_interval(tables)
            record |= bounds(name, found) | {f"n_{name}": len(tables)}
            record |= {"n_patients": found.n_patients, "n_seeds": found.n_seeds}
    return record
