"""The impossible control: nobody can draw another patient's reference, so whoever does has seen it."""

from __future__ import annotations

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import METHOD, RUN, Entry, bounds, entries_of, matched, patient_table
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import holm, mean_interval, paired_difference
from shiftbench.types import BETWEEN_PATIENTS

COLUMNS = (
    *("track", *RUN, "scenario", "target", "method", "k", "structure", "dsc", "between_patients"),
    *("difference", "difference_low", "difference_high", "p_holm", "solved", "n_patients", "n_seeds"),
)


def impossible(rows: pd.DataFrame) -> pd.DataFrame:
    """Whether a method "solves" a control whose references are permuted between patients; none may.

    Solved means better than the DSC between the references of different patients: per structure, the paired one-sided
    difference of the method's DSC and that of the other patients' references on the same reference, with Holm over all
    methods and structures of the run's backbone and budget.

    Args:
        rows: the columns of `shiftbench.types.Row`; the control is known by its rows of `dsc_between_patients`.

    Raises:
        OutputError: see `patient_table`.
    """
    alone = outside_streams(rows)
    between = alone["metric"] == BETWEEN_PATIENTS
    place = ["scenario", "target"]
    controls = pd.MultiIndex.from_frame(alone.loc[between, place].drop_duplicates())
    own = alone[pd.MultiIndex.from_frame(alone[place]).isin(controls)]
    records = []
    for structure, mine in own.groupby("structure", sort=False):
        chance = mine[mine["metric"] == BETWEEN_PATIENTS].assign(metric="dsc")
        known = entries_of(patient_table(mine)) if (mine["metric"] == "dsc").any() else []
        others = {e.identity: e for e in entries_of(patient_table(chance))}
        records += [
            {"structure": structure} | _compared(entry, others[entry.identity])
            for entry in known
            if entry.identity in others
        ]
    table = pd.DataFrame(records, columns=[*COLUMNS, "p"])
    return _corrected(table)[list(COLUMNS)].sort_values(
        [*RUN, "scenario", "target", *METHOD, "structure"], kind="stable", ignore_index=True
    )


def _compared(entry: Entry, chance: Entry) -> dict:
    names = ("track", *RUN, "scenario", "target", "method", "k")
    record = {name: getattr(entry, name) for name in names}
    own, other = mean_interval(entry.scores), mean_interval(chance.scores)
    record |= {"dsc": own.mean, "between_patients": other.mean}
    record |= {"n_patients": own.n_patients, "n_seeds": own.n_seeds}
    pair = matched(entry.scores, chance.scores)
    difference = paired_difference(*pair) if pair else None
    p = difference.p_above() if difference else None
    return record | bounds("difference", difference) | {"p": np.nan if p is None else p}


def _corrected(table: pd.DataFrame) -> pd.DataFrame:
    """Adds `p_holm` and `solved`; where one patient leaves no p, nothing is solved."""
    table = table.assign(p_holm=table["p"].astype(float)).astype({"k": "Int64"})
    for _, index in table.groupby(RUN).groups.items():
        asked = table.loc[index, "p"].dropna().index
        if len(asked):
            table.loc[asked, "p_holm"] = holm(table.loc[asked, "p"].to_numpy(float))
    return table.assign(solved=table["p_holm"] < CONSTANTS.audit_p)
