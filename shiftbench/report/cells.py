"""The cells of a leaderboard: numbers, intervals, ranks and shares as text."""

from __future__ import annotations

import pandas as pd

from shiftbench.report.words import DASH
from shiftbench.robustness.constants import ORACLE, SOURCE_ONLY
from shiftbench.types import Track


def label(method: str, k: float | None) -> str:
    """A method's name in tables and pictures, with K where the name does not say it."""
    return method if k is None or pd.isna(k) or method.endswith(f"_{k:g}") else f"{method} (K={k:g})"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, or a dash; minus is a minus sign."""
    return DASH if value is None or pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def seconds(value: float | None) -> str:
    """A time with two significant digits."""
    return DASH if value is None or pd.isna(value) else f"{value:.2f}" if value < 1 else f"{value:.3g}"


def with_interval(row: pd.Series, digits: int = 3) -> str:
    """Mean and limits, "0.812 [0.790, 0.834]"; the mean alone where there are no limits."""
    if pd.isna(row["dsc_low"]):
        return number(row["dsc"], digits)
    return f"{number(row['dsc'], digits)} [{number(row['dsc_low'], digits)}, {number(row['dsc_high'], digits)}]"


def rank(row: pd.Series) -> str:
    """Place, number of ranked methods, letter of the tie group and rank interval, "2/4 A [1-3]".

    A "≈" behind it says that the method is practically tied with the first.
    """
    if row["track"] == Track.REFERENCE:
        return "ref."
    if pd.isna(row["rank"]):
        return DASH
    tied = " ≈" if row["rank"] > 1 and (row["tied_with_leader"] is True or row["tied_with_leader"] == 1) else ""
    return f"{row['rank']}/{row['n_ranked']} {_letter(row)} [{_reach(row)}]{tied}"


def short_rank(row: pd.Series) -> str:
    """Rank interval and letter of the tie group, "1-3 A": the order of the lines gives the rank itself."""
    if row["track"] == Track.REFERENCE or pd.isna(row["rank"]):
        return rank(row)
    return f"{_reach(row)} {_letter(row)}"


def _letter(row: pd.Series) -> str:
    return chr(ord("A") + min(row["tie_group"], 26) - 1)


def _reach(row: pd.Series) -> str:
    low, high = row["rank_low"], row["rank_high"]
    return f"{low}" if low == high else f"{low}-{high}"


def first(row: pd.Series) -> str:
    """Probability of rank 1 in percent, or a dash."""
    p = row["p_rank_1"]
    if pd.isna(p):
        return DASH
    return "< 1 %" if 0 < p < 0.005 else "> 99 %" if 0.995 <= p < 1 else f"{100 * p:.0f} %"


def recovered(row: pd.Series) -> str:
    """Recovered share in percent, or why there is none."""
    if row["method"] in (SOURCE_ONLY, ORACLE):
        return DASH
    if row["gap_status"] != "ok" or pd.isna(row["recovered_percent"]):
        return row["gap_status"] if row["gap_status"] in ("no gap", "no oracle") else DASH
    return f"{number(row['recovered_percent'], 0)} %" + (
        " (audit)" if row["audit"] is True or row["audit"] == 1 else ""
    )


def harmed(row: pd.Series) -> str:
    """Share of patients harmed in percent, behind it that of source-only against itself with other seeds."""
    if row["method"] == SOURCE_ONLY or pd.isna(row["harmed_percent"]):
        return DASH if pd.isna(row["harmed_by_reseeding_percent"]) else f"({row['harmed_by_reseeding_percent']:.0f} %)"
    text = f"{row['harmed_percent']:.0f} %"
    return (
        text if pd.isna(row["harmed_by_reseeding_percent"]) else f"{text} ({row['harmed_by_reseeding_percent']:.0f} %)"
    )


def of(row: pd.Series, part: str, whole: str) -> str:
    """Two counts, "34 of 36", or a dash where there is nothing to count."""
    return DASH if pd.isna(row[whole]) or row[whole] == 0 else f"{row[part]} of {row[whole]}"


def false_positives(row: pd.Series) -> str:
    """Share of the negative cases with a false positive in percent, or a dash where there are none."""
    n = row["negative_cases"]
    return DASH if pd.isna(n) or n == 0 else f"{100 * row['false_positives'] / n:.0f}%"
