"""Tests of differences: correction for their number, equivalence, and a rank test beside the t test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from shiftbench.stats.intervals import Interval, paired


@dataclass(frozen=True)
class SignedRank:
    """Wilcoxon's signed-rank test of the patients' differences.

    Attributes:
        p: two-sided, given the seeds that were trained: it says nothing about other seeds.
        n_patients: of the differences, zeros included.
        n_zeros: of them.
        conditional: always true.
    """

    p: float
    n_patients: int
    n_zeros: int
    conditional: bool = True


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given.

    Raises:
        ValueError: a value is no probability.
    """
    p = np.asarray(p_values, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a p-value lies outside [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def equivalent(difference: Interval, margin: float) -> bool:
    """Whether the interval of a difference lies inside +-`margin`: practically tied.

    With a 95 % interval these are two one-sided tests at 2.5 %. Without limits nothing is known, so it is False.

    Raises:
        ValueError: the margin is not positive.

    Reference:
        Schuirmann, A comparison of the two one-sided tests procedure and the power approach for assessing the
        equivalence of average bioavailability, J Pharmacokinet Biopharm 15, 1987.
    """
    if margin <= 0:
        raise ValueError("the margin of equivalence is positive")
    if difference.low is None or difference.high is None:
        return False
    return -margin < difference.low and difference.high < margin


def signed_rank(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame) -> SignedRank:
    """Wilcoxon's signed-rank test of a - b over patients, each averaged over the seeds first; zeros are Pratt's.

    It stands beside the t test and never in its place: seeds are no replicates here, so p holds for these trained
    models alone. Scores of all seeds as if they were patients reject a true null in about half of all cases.

    Args:
        a: scores (S, N), or (N,) for one seed; data frames are matched by their labels.
        b: as `a`.

    Raises:
        ValueError: the two have not the same cases.

    Reference:
        Pratt, Remarks on zeros and ties in the Wilcoxon signed rank procedures, J Am Stat Assoc 54, 1959.
    """
    from scipy.stats import wilcoxon  # most of what uses this package never asks for it, and it loads slowly

    first, second = paired(a, b)
    difference = np.nanmean(first - second, axis=0)
    zeros = int((difference == 0).sum())
    p = 1.0 if zeros == difference.size else float(wilcoxon(difference, zero_method="pratt").pvalue)
    return SignedRank(p, difference.size, zeros)
