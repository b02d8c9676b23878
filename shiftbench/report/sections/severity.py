"""Severity curves in three numbers."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, limits_cell, method_cell, share_cell
from shiftbench.report.words import DASH
from shiftbench.robustness.constants import CONSTANTS, SOURCE_ONLY
from shiftbench.robustness.tables.severity import NOT_REACHED, REACHED, severity
from shiftbench.types import Track

WORDS = (
    "Source-only on every operator and, beneath it, the method with the highest DSC at the hardest setting; the file"
    " has every method. u(0): DSC on the source test. area: under the DSC over severity / 5, from 0 to 1; levels that"
    " were not run are bridged by a straight line, without level 5 there is none. tolerance: the value of the parameter"
    f" at which {CONSTANTS.tolerated_loss:g} DSC is first lost against u(0), linear between the settings, with its 95 %"
    " interval (bootstrap of patients crossed with seeds, mildest value first; too narrow with fewer than five seeds)."
)


def section(rows: pd.DataFrame) -> Section:
    """Every method and operator in the file; on the page two lines per operator that has a parameter."""
    table = severity(rows)
    known = table[table["tolerance_status"].isin([REACHED, NOT_REACHED])]
    body = tuple(
        (
            *(row.scenario, row.operator, method_cell(row), row.backbone, row.levels or DASH),
            *(limits_cell(row, "clean"), limits_cell(row, "ausc"), share_cell(row.retention_percent)),
            tolerance_cell(row),
        )
        for _, own in known.groupby(["backbone", "budget", "scenario", "operator"], sort=False)
        for row in _shown(own).itertuples()
    )
    head = ("Scenario", "Operator", "Method", "Backbone", "Levels", "u(0)", "Area", "Retention", "Tolerance")
    return Section("severity.csv", "How much of an operator is tolerated", WORDS, "", table, head, body, 5)


def _shown(own: pd.DataFrame) -> pd.DataFrame:
    """Source-only and the method with the highest score at the hardest setting."""
    others = own[(own["method"] != SOURCE_ONLY) & (own["track"] != Track.REFERENCE)]
    best = others.sort_values("at_hardest", ascending=False, kind="stable").head(1)
    return pd.concat([own[own["method"] == SOURCE_ONLY], best])


def tolerance_cell(row) -> str:
    """A tolerance with its interval in the operator's unit: "4.2 mm [3.1, 5.6]", "not reached up to 7 mm"."""
    unit = f" {row.unit}" if row.unit and not pd.isna(row.unit) else ""
    if row.tolerance_status != REACHED:
        text = f"not reached up to {_short(row.hardest)}{unit}"
        return f"{text} (95 %: from {_short(row.tolerance_earliest)})" if _known(row.tolerance_earliest) else text
    text = f"{_short(row.tolerance)}{unit}"
    if not _known(row.tolerance_earliest):
        return text
    latest = _short(row.tolerance_latest) if _known(row.tolerance_latest) else "not reached"
    return f"{text} [{_short(row.tolerance_earliest)}, {latest}]"


def _known(value: float | None) -> bool:
    return value is not None and not pd.isna(value)


def _short(value: float) -> str:
    return f"{value:.3g}".replace("-", "−")
