"""What the ranks of the leaderboards are worth."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.cells import first
from shiftbench.report.sections.section import Section, method_cell, number_cell
from shiftbench.report.words import TRACK_NAMES
from shiftbench.robustness.contests import OVERALL
from shiftbench.robustness.patients import RUN
from shiftbench.robustness.streams import outside_streams
from shiftbench.robustness.tables.ranking import MEAN, ranking_sensitivity

WORDS = (
    "Who is first by the mean DSC, with the ranks it may have and the share of bootstrap samples (patients crossed with"
    " seeds) in which it is first; and who would be first if scores were put together in another way: by the mean rank"
    " per patient, by the median, without one target, by the mean rank of DSC and NSD, or by one of them. tau: smallest"
    " Kendall correlation of these rankings with that by the mean. One seed: it holds for these trained models alone."
    " The file has every ranking, of families too."
)
SHOWN = 3  # views named in a cell; the file has all


def section(rows: pd.DataFrame) -> Section:
    """All families, views and methods in the file; on the page one line per leaderboard, of all families together."""
    table = ranking_sensitivity(outside_streams(rows))
    overall = table[table["family"] == OVERALL]
    body = tuple(_line(own) for _, own in overall.groupby(["track", *RUN], sort=False))
    head = ("Leaderboard", "First by the mean", "First otherwise", "Ranks", "P(rank 1)", "tau")
    return Section("ranks.csv", "What the ranks are worth", WORDS, "", table, head, body, 3)


def _line(own: pd.DataFrame) -> tuple[str, ...]:
    by_mean = own[own["view"] == MEAN]
    winners = by_mean[by_mean["rank"] == 1]
    one = winners.iloc[0]
    low, high = winners["rank_low"].min(), winners["rank_high"].max()
    changed = own[own["winner_changes"].astype(bool) & (own["rank"] == 1)]
    others = {view: _names(same) for view, same in changed.groupby("view", sort=False)}
    named = [f"{view}: {names}" for view, names in list(others.items())[:SHOWN]]
    rest = [f"and {len(others) - SHOWN} more"] if len(others) > SHOWN else []
    track = str(one["track"])
    return (
        f"{TRACK_NAMES.get(track, track)} · {one['backbone']} · {one['budget']}",
        _names(winners) + (" (one seed)" if one["conditional"] else ""),
        "; ".join([*named, *rest]) or "no other",
        f"{low if low == high else f'{low}-{high}'} of {one['n_ranked']}",
        first(one),
        number_cell(own["tau"].min()),
    )


def _names(winners: pd.DataFrame) -> str:
    return ", ".join(method_cell(row) for row in winners.itertuples())
