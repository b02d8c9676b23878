"""Lesions and tubes: what of scattered lesions is found, and how well the centre lines of tubes are met."""

from __future__ import annotations

import pandas as pd

from shiftbench.metrics.scorers import LESION_SCORERS, METRICS, TUBE_SCORERS
from shiftbench.robustness.patients import (
    ENTRY,
    bounds,
    entries_of,
    gains_of,
    known_means,
    limits,
    patient_table,
    plain,
)
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import mean_interval
from shiftbench.types import FAILURES

LEADING = {"lesion_f1": LESION_SCORERS, "cldice": TUBE_SCORERS}  # the metric with an interval, of which table
PARTS = tuple(
    (name, definition)
    for lead, scorers in LEADING.items()
    for name, scorer in scorers.items()
    for definition in scorer.definitions
    if (name, definition) != (lead, METRICS[lead].definition)
)


def column(metric: str, definition: str) -> str:
    """The column of a metric in one of its definitions, as `lesion_f1_0.5`."""
    several = len(METRICS[metric].definitions) > 1
    return f"{metric}_{definition.rpartition('>')[2]}" if several else metric


COLUMNS = (
    *(*ENTRY, "structure", "metric", "definition", "score", "score_low", "score_high", "n_patients", "n_seeds"),
    *("conditional", "n_failed", "gain", "gain_low", "gain_high", *(column(*part) for part in PARTS)),
)


def forms(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, target and structure that is scattered lesions or a tube.

    `score` is the lesion-wise F1 at IoU > 0.1, or the clDice: mean over patients in whom the reference has the
    structure, a missed or failed one 0; `gain` is its paired difference to source-only. The other metrics of lesions
    are means over the cases where they have a value: recall of a size where the reference has lesions of that size,
    false positives, splits and merges over all cases, those without a lesion among them. These three have no worst
    value, so that a method with failures (`n_failed`) has none of them: failing a case must not lower a count.

    Args:
        rows: the columns of `shiftbench.types.Row`; those of streams are not looked at.

    Raises:
        OutputError: see `patient_table`.
    """
    alone = outside_streams(rows)
    wanted = {*LEADING, *(name for name, _ in PARTS)}
    scored = alone[alone["metric"].isin(wanted)]
    records: list[dict] = []
    for lead in LEADING:
        for structure, own in scored[scored["metric"] == lead].groupby("structure", sort=True):
            records += _of_structure(scored[scored["structure"] == structure], str(structure), lead, own)
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    return table.sort_values([*ENTRY, "structure"], kind="stable", ignore_index=True)


def _of_structure(rows: pd.DataFrame, structure: str, lead: str, leading: pd.DataFrame) -> list[dict]:
    entries = entries_of(patient_table(leading, lead))
    parts = {part: known_means(rows, *part) for part in PARTS if part[0] in LEADING[lead]}
    gains = gains_of(entries)
    failed = leading[leading["status"].isin(FAILURES)].groupby(ENTRY, dropna=False).size()
    n_failed = {plain(key): int(n) for key, n in failed.items()}
    head = {"structure": structure, "metric": lead, "definition": METRICS[lead].definition}
    return [
        dict(zip(ENTRY, entry.identity, strict=True))
        | head
        | limits("score", mean_interval(entry.scores))
        | bounds("gain", gains.get(entry.identity))
        | {"n_failed": n_failed.get(entry.identity, 0)}
        | {
            column(*part): means.get(entry.identity)
            for part, means in parts.items()
            if METRICS[part[0]].worst is not None or entry.identity not in n_failed
        }
        for entry in entries
    ]
