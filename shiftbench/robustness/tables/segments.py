"""How well methods tell instances apart: panoptic quality per target and structure, with what it is made of."""

from __future__ import annotations

import pandas as pd

from shiftbench.robustness.patients import (
    ENTRY,
    bounds,
    entries_of,
    gains_of,
    known_means,
    limits,
    patient_table,
)
from shiftbench.stats import mean_interval

PARTS = ("sq", "rq", "instance_precision", "instance_recall")
COLUMNS = (
    *(*ENTRY, "structure", "pq", "pq_low", "pq_high", "n_patients", "n_seeds", "conditional"),
    *("gain", "gain_low", "gain_high", *PARTS),
)


def segments(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, target and structure whose segments are counted.

    `pq` is the mean over patients with at least one reference segment, `gain` its paired difference to source-only.
    `rq`, `instance_precision` and `instance_recall` are means over the same cases; `sq` over those with a match, and
    precision over those with a prediction, for elsewhere they have no value.

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: see `patient_table`.
    """
    counted = rows[rows["metric"] == "pq"]["structure"].unique()
    records = [record for name in counted for record in _of_structure(rows[rows["structure"] == name], str(name))]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    return table.sort_values([*ENTRY, "structure"], kind="stable", ignore_index=True)


def _of_structure(rows: pd.DataFrame, structure: str) -> list[dict]:
    entries = entries_of(patient_table(rows, "pq"))
    parts = {name: known_means(rows, name) for name in PARTS}
    gains = gains_of(entries)
    return [
        dict(zip(ENTRY, entry.identity, strict=True))
        | {"structure": structure}
        | limits("pq", mean_interval(entry.scores))
        | bounds("gain", gains.get(entry.identity))
        | {name: means.get(entry.identity) for name, means in parts.items()}
        for entry in entries
    ]
