"""Differences between ranked methods."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.cells import label
from shiftbench.report.sections.section import Section, limits_cell, number_cell
from shiftbench.report.words import TRACK_NAMES
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.contests import OVERALL
from shiftbench.robustness.patients import RUN
from shiftbench.robustness.streams import outside_streams
from shiftbench.robustness.tables.pairs import pairs

WORDS = (
    "Overall mean DSC of the first method minus that of each other one, on the same patients and seeds, with its 95 %"
    f" interval. p: two-sided paired t, Holm over all pairs of the board. tied: the interval lies within"
    f" {CONSTANTS.tie_margin:.2f}. p (ranks): Wilcoxon's test of the patients, of these trained models alone; so is all"
    " of it with one seed. The file has all pairs and families."
)


def section(rows: pd.DataFrame) -> Section:
    """All pairs and families in the file; on the page those with the first of each leaderboard."""
    table = pairs(outside_streams(rows))
    overall = table[table["family"] == OVERALL]
    first = overall.drop_duplicates(["track", *RUN])[["track", *RUN, "method", "k"]]
    shown = overall.merge(first, on=["track", *RUN, "method", "k"])
    body = tuple(
        (
            *(f"{TRACK_NAMES.get(row.track, row.track)} · {row.backbone} · {row.budget}", label(row.method, row.k)),
            *(label(row.other, row.other_k), limits_cell(row, "difference"), number_cell(row.p_holm)),
            *("yes" if row.practically_tied else "no", number_cell(row.p_signed_rank_these_seeds)),
            f"{row.n_patients} x {row.n_seeds}",
        )
        for row in shown.itertuples()
    )
    head = ("Leaderboard", "First", "Other", "Difference", "p (Holm)", "Tied", "p (ranks)", "Patients x seeds")
    return Section("pairs.csv", "How far the first is ahead", WORDS, "", table, head, body, 3, on_terminal=False)
