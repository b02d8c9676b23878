"""The transfer matrix: the score of every method from every source to every target, with what it is compared with."""

from __future__ import annotations

import pandas as pd

from shiftbench.robustness.constants import ORACLE, SOURCE_ONLY
from shiftbench.robustness.drops import drop, oracle_gap, relative_drop
from shiftbench.robustness.patients import RUN, Entry, bounds, limits
from shiftbench.robustness.streams import entries_alone
from shiftbench.stats import mean_interval

COLUMNS = (
    *("track", *RUN, "method", "k", "scenario", "source", "target", "family", "operator", "level"),
    *("level_value", "level_unit", "dsc", "dsc_low", "dsc_high", "drop", "drop_low", "drop_high", "drop_paired"),
    *("relative_drop_percent", "relative_drop_percent_low", "relative_drop_percent_high"),
    *("oracle_gap", "oracle_gap_low", "oracle_gap_high", "n_patients", "n_seeds", "conditional"),
)


def transfer(rows: pd.DataFrame) -> pd.DataFrame:
    """T[method, source, target] as a long table: the mean over seeds of the mean over patients of each cell.

    The diagonal (target = source) is the source's own test set. Several sources come from several scenarios: a cell is
    known by scenario, source and target, since two scenarios may give their domains the same names.

    `drop` is source-only on the source minus the method on the target (paired where the patients are the same), and
    `relative_drop_percent` that as a share of source-only on the source, given where this is at least
    `CONSTANTS.clean_floor`. `oracle_gap` is the oracle minus the method on the same patients of the target: it does not
    confound the shift with how hard the target's patients are.

    Raises:
        OutputError: see `patient_table`.
    """
    entries = entries_alone(rows)
    run = {(e.backbone, e.budget, *e.place, e.method): e for e in entries}
    sources = {(e.backbone, e.budget, e.scenario, e.source): e for e in entries if is_source_reference(e)}
    records = [
        _cell(
            entry,
            sources.get((entry.backbone, entry.budget, entry.scenario, entry.source)),
            run.get((entry.backbone, entry.budget, *entry.place, ORACLE)),
        )
        for entry in entries
    ]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    order = [*RUN, "scenario", "source", "track", "method", "k", "family", "target", "level"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def is_source_reference(entry: Entry) -> bool:
    """Whether this is source-only on the source's own test patients."""
    return entry.method == SOURCE_ONLY and entry.is_source_test


def _cell(entry: Entry, source: Entry | None, oracle: Entry | None) -> dict:
    difference, paired = drop(entry, source) if source else (None, None)
    relative = relative_drop(entry, source) if source else None
    shift = {"level_value": entry.value, "level_unit": entry.unit, "drop_paired": paired}
    return (
        {name: getattr(entry, name) for name in COLUMNS[:11]}
        | shift
        | limits("dsc", mean_interval(entry.scores))
        | bounds("drop", difference)
        | bounds("relative_drop_percent", relative, 100.0)
        | bounds("oracle_gap", None if entry.method == ORACLE else oracle_gap(entry, oracle))
    )
