"""Intervals, tests and agreement for scores of patients crossed with seeds."""

from shiftbench.stats.intervals import (
    BootstrapInterval,
    Interval,
    crossed_bootstrap,
    holm,
    mean_interval,
    paired_difference,
    pooled_interval,
    share_interval,
    unpaired_difference,
)

__all__ = [
    "BootstrapInterval",
    "Interval",
    "crossed_bootstrap",
    "holm",
    "mean_interval",
    "paired_difference",
    "pooled_interval",
    "share_interval",
    "unpaired_difference",
]
