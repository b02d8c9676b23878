"""How far the probabilities of each method can be believed on each target."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shiftbench.metrics.scorers import CALIBRATION_SCORERS
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.patients import (
    ENTRY,
    Entry,
    bounds,
    entries_of,
    limits,
    matched,
    patient_table,
    plain,
    rows_of,
)
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import mean_interval, paired_difference
from shiftbench.types import Status

VALUES = {  # column: metric and definition
    "brier": ("brier", "region"),
    "nll": ("nll", "region"),
    "ece": ("ece", "region"),
    "ace": ("ace", "region"),
    "ece_volume": ("ece", "volume"),
}
_ENDS = ("", "_low", "_high")
COLUMNS = (
    *(*ENTRY, "n_patients", "n_seeds", "conditional"),
    *(f"{name}{kind}{end}" for name in VALUES for kind in ("", "_change") for end in _ENDS),
    "clipped_percent",
)


def calibration(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target: mean Brier, NLL, ECE and ACE around the references, ECE in the whole volume.

    Means are over the structures of a case, then the cases of a patient, then patients and seeds, with two-way t
    intervals. `brier_change` and its like are paired differences to source-only; below 0 the method is better. A
    failure has the worst values, a missed structure those of its probabilities. `clipped_percent` is the mean share
    of voxels in the region whose loss the NLL understates. A method that gives labels alone has no row.

    Args:
        rows: the columns of `shiftbench.types.Row`; those of streams are not looked at.

    Raises:
        OutputError: see `patient_table`.
    """
    scored = outside_streams(rows)
    scored = scored[scored["metric"].isin(CALIBRATION_SCORERS)]
    records: dict[tuple, dict] = {}
    if (scored["status"] != Status.NOT_APPLICABLE).any():
        clipped = _clipped(scored)
        for name, (metric, definition) in VALUES.items():
            entries = [e for e in entries_of(patient_table(scored, metric, definition)) if e.ranked]
            base = {(e.backbone, e.budget, *e.place): e for e in entries if e.method == SOURCE_ONLY}
            for entry in entries:
                record = records.setdefault(entry.identity, {"clipped_percent": clipped.get(entry.identity)})
                record |= limits(name, mean_interval(entry.scores))
                record |= _change(name, entry, base.get((entry.backbone, entry.budget, *entry.place)))
    lines = [dict(zip(ENTRY, key, strict=True)) | record for key, record in records.items()]
    table = pd.DataFrame(lines, columns=COLUMNS).astype({"k": "Int64"})
    return table.sort_values(ENTRY, kind="stable", ignore_index=True)


def _change(name: str, entry: Entry, base: Entry | None) -> dict:
    pair = matched(entry.scores, base.scores) if base and entry.method != SOURCE_ONLY else None
    return bounds(f"{name}_change", paired_difference(*pair) if pair else None)


def _clipped(rows: pd.DataFrame) -> dict[tuple, float]:
    """Mean percentage of clipped voxels, over the cases and structures whose NLL was computed."""
    chosen = rows_of(rows, "nll")
    share = chosen["detail"].astype(str).str.extract(r"clipped_share=([0-9.e+-]+)", expand=False).astype(float)
    means = (100.0 * share).groupby([chosen[name] for name in ENTRY], dropna=False).mean()
    return {plain(key): float(value) for key, value in means.items() if np.isfinite(value)}
