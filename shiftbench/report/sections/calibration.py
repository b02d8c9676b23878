"""Calibration."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.sections.section import Section, method_cell, number_cell
from shiftbench.robustness.tables.calibration import VALUES, calibration
from shiftbench.robustness.tables.failure_detection import POOLED_WITHOUT

WORDS = (
    "Whether a probability is the frequency that it promises, per structure against the rest, within a fixed distance"
    " of its reference; lower is better. Each cell: on the source test → mean over the targets without controls and"
    " faults. Brier score and negative log-likelihood (NLL) also reward sharpness; ECE (bins of equal width) and ACE"
    " (of equal mass) do not: a network that always says the mean frequency has none. ECE in the whole volume is small"
    " because background is. The file has each target with 95 % intervals and differences to source-only."
)
_RUN = ["backbone", "budget", "scenario", "source", "track", "method", "k"]


def section(rows: pd.DataFrame) -> Section:
    """Every target in the file; on the page one line per scenario and method."""
    table = calibration(rows)
    body = []
    for _, own in table.groupby(_RUN, dropna=False, sort=True):
        first = own.iloc[0]
        home, away = own["target"] == first["source"], ~own["family"].isin(POOLED_WITHOUT)
        pairs = ((own.loc[home, name].mean(), own.loc[away & ~home, name].mean()) for name in VALUES)
        cells = (f"{number_cell(one)} → {number_cell(other)}" for one, other in pairs)
        body.append((first["scenario"], method_cell(first), first["backbone"], *cells))
    head = ("Scenario", "Method", "Backbone", "Brier", "NLL", "ECE", "ACE", "ECE, volume")
    return Section("calibration.csv", "Calibration", WORDS, "", table, head, tuple(body), 3, on_terminal=False)
