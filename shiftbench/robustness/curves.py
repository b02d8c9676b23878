"""How each method's score falls with the severity of an operator."""

from __future__ import annotations

import pandas as pd

from shiftbench.robustness.patients import METHOD, RUN, Entry, entries_of, limits, patient_table
from shiftbench.stats import mean_interval

COLUMNS = (
    *("track", *RUN, "scenario", "source", "operator", "method", "k", "level", "value", "unit"),
    *("dsc", "dsc_low", "dsc_high", "n_patients", "n_seeds", "conditional"),
)


def severity_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean DSC of each method at each level of each operator; level 0 is the method's score on the source test.

    A target that was given as a parameter value has no level, only `value`.

    Returns:
        One row per track, backbone, budget, scenario, operator, method and level: `value` and `unit` of the parameter,
        `dsc` with `dsc_low` and `dsc_high`, patients, seeds.

    Raises:
        OutputError: see `patient_table`.
    """
    entries = entries_of(patient_table(rows))
    sources = {(*_runner(e), e.scenario, e.source): e for e in entries if e.is_source_test}
    records, opened = [], set()
    for entry in entries:
        if entry.operator is None or entry.level == 0 or entry.is_source_test:
            continue
        curve = (*_runner(entry), entry.scenario, entry.source)
        if (*curve, entry.operator) not in opened and curve in sources:
            opened.add((*curve, entry.operator))
            records.append(_point(entry, sources[curve], level=0.0, value=None))
        records.append(_point(entry, entry, level=entry.level, value=entry.value))
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64", "level": float, "value": float})
    order = [*RUN, "scenario", "operator", *METHOD, "level", "value"]
    return table.sort_values(order, ignore_index=True)


def _runner(entry: Entry) -> tuple:
    return (entry.backbone, entry.budget, entry.track, entry.method, entry.k)


def _point(curve: Entry, at: Entry, *, level: float | None, value: float | None) -> dict:
    """A point of `curve` with the scores of entry `at`."""
    place = {name: getattr(curve, name) for name in ("track", *RUN, "scenario", "source", "operator", "method", "k")}
    return place | {"level": level, "value": value, "unit": curve.unit} | limits("dsc", mean_interval(at.scores))
