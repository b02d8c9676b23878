"""Ratios of sums of scores, with intervals that know that both sums are of the same patients and seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shiftbench.stats import Interval, pooled_interval


def ratio_interval(
    tops: Sequence[pd.DataFrame], bottoms: Sequence[pd.DataFrame], weights: Sequence[float] | None = None
) -> Interval | None:
    """Weighted sum of the means of `tops` over that of `bottoms`; the interval is that of its linearisation.

    With R = T / B, each value enters the variance as (t - R b) / B, so that what moves both sums alike does not widen
    the interval. Patients and seeds that several tables share are known by their names.

    Args:
        tops: one table per target, seeds as index and patients as columns.
        bottoms: as `tops`, with the same seeds and patients in each.
        weights: of the targets; equal if None.

    Returns:
        None where the lower sum is not positive.
    """
    share = np.ones(len(tops)) if weights is None else np.asarray(weights, float)
    share = share / share.sum()
    pairs = [(top.where(bottom.notna()), bottom.where(top.notna())) for top, bottom in zip(tops, bottoms, strict=True)]
    whole = float(sum(w * np.nanmean(bottom.to_numpy(float)) for w, (_, bottom) in zip(share, pairs, strict=True)))
    if not whole > 0:
        return None
    part = float(sum(w * np.nanmean(top.to_numpy(float)) for w, (top, _) in zip(share, pairs, strict=True)))
    ratio = part / whole
    return pooled_interval([ratio + (top - ratio * bottom) / whole for top, bottom in pairs], list(share))
