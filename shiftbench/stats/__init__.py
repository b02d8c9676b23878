"""Intervals, tests and agreement for scores of patients crossed with seeds."""

from shiftbench.stats.agreement import (
    Agreement,
    Limits,
    ccc,
    icc_a1,
    icc_c1,
    limits_of_agreement,
    over_seeds,
)
from shiftbench.stats.bootstrap import (
    RESAMPLES,
    BootstrapInterval,
    crossed_bootstrap,
    crossed_weights,
    drawn_shares,
    weighted_bootstrap,
    weighted_quantile,
    weighted_tail_mean,
)
from shiftbench.stats.intervals import (
    Interval,
    mean_interval,
    mean_limits,
    paired_difference,
    pooled_interval,
    share_interval,
    unpaired_difference,
)
from shiftbench.stats.ranks import (
    competition_ranks,
    kendall_tau,
    mean_ranks,
    rank_distribution,
    rank_limits,
    tie_groups,
)
from shiftbench.stats.tests import SignedRank, equivalent, holm, signed_rank

__all__ = [
    "RESAMPLES",
    "Agreement",
    "BootstrapInterval",
    "Interval",
    "Limits",
    "SignedRank",
    "ccc",
    "competition_ranks",
    "crossed_bootstrap",
    "crossed_weights",
    "drawn_shares",
    "equivalent",
    "holm",
    "icc_a1",
    "icc_c1",
    "kendall_tau",
    "limits_of_agreement",
    "mean_interval",
    "mean_limits",
    "mean_ranks",
    "over_seeds",
    "paired_difference",
    "pooled_interval",
    "rank_distribution",
    "rank_limits",
    "share_interval",
    "signed_rank",
    "tie_groups",
    "unpaired_difference",
    "weighted_bootstrap",
    "weighted_quantile",
    "weighted_tail_mean",
]
