"""Every pair of ranked methods: by how much they differ, how surely, and whether they are practically tied."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.contests import Contest, Name, contests
from shiftbench.robustness.headline import adjusted
from shiftbench.robustness.patients import RUN, bounds, entries_of, patient_table
from shiftbench.stats import equivalent, signed_rank

COLUMNS = (
    *("track", *RUN, "family", "method", "k", "other", "other_k", "difference", "difference_low", "difference_high"),
    *("p", "p_holm", "beats", "practically_tied", "p_signed_rank_these_seeds", "n_patients", "n_seeds", "conditional"),
)


def pairs(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per leaderboard, family and pair of ranked methods, the better one first.

    `difference` is the paired difference of the macro means with its 95 % interval; `p` is that of the two-sided t
    test, `p_holm` adjusts it over the pairs of the same leaderboard and family, and `beats` says that it is below
    `CONSTANTS.tie_p`. `practically_tied` says that the interval lies within `CONSTANTS.tie_margin`.
    `p_signed_rank_these_seeds` is Wilcoxon's test of the patients, averaged over seeds and targets: it holds for the
    trained models alone, as everything does where `conditional`. Pairs without a seed in common are left out.

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: see `patient_table`.
    """
    found = contests(entries_of(patient_table(rows))) if (rows["metric"] == "dsc").any() else []
    records = [record for contest in found for record in _of_contest(contest)]
    return pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64", "other_k": "Int64"})


def _of_contest(contest: Contest) -> list[dict]:
    means = {name: contest.interval(name).mean for name in contest.ranked}
    order = sorted(means, key=lambda name: -means[name])  # stable: those that tie stay in the order of their names
    differences = {frozenset(pair): contest.difference(*pair) for pair in combinations(order, 2)}
    p_holm = adjusted(differences)
    head = dict(zip(("track", *RUN), contest.board, strict=True)) | {"family": contest.family}
    records = []
    for one, other in combinations(order, 2):
        pair = frozenset((one, other))
        interval = differences[pair]
        if interval is None:
            continue
        records.append(
            head
            | {"method": one[0], "k": one[1], "other": other[0], "other_k": other[1]}
            | bounds("difference", interval)
            | {"p": interval.p_differs(), "p_holm": p_holm[pair], "beats": p_holm[pair] < CONSTANTS.tie_p}
            | {"practically_tied": equivalent(interval, CONSTANTS.tie_margin)}
            | {"p_signed_rank_these_seeds": _signed_rank_p(contest, one, other)}
            | {"n_patients": interval.n_patients, "n_seeds": interval.n_seeds, "conditional": interval.conditional}
        )
    return records


def _signed_rank_p(contest: Contest, one: Name, other: Name) -> float:
    """Of the patients' differences, each the mean over seeds and, by their weights, over the targets that it is in."""
    first, second = contest.patient_means(one), contest.patient_means(other)
    shared = first.index.intersection(second.index)
    return signed_rank(np.asarray(first[shared]), np.asarray(second[shared])).p
