"""The thresholds of the leaderboard, in one table, and the two methods that every comparison is made with."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Constants:
    """Thresholds of the leaderboard; DSC unless said otherwise."""

    gap_floor: float = 0.02  # the recovered share is given where the lower 95 % bound of the oracle gap exceeds this
    harm: float = 0.02  # a patient who loses more than this against source-only is harmed
    harm_small: float = 0.01  # shown beside it
    audit_recovered_percent: float = 110.0  # above the oracle by more than this is looked into
    audit_p: float = 0.025  # one-sided: the lower 95 % bound of method - oracle exceeds 0
    tie_p: float = 0.05  # two-sided, after Holm
    tie_margin: float = 0.01  # practically tied: the 95 % interval of the difference lies within this on both sides
    min_patients: int = 20  # fewer in a pooled family: interval, but no rank
    clean_floor: float = 0.05  # nothing is given relative to a clean score below this
    error_floor: float = 0.02  # nothing is given relative to an error of source-only below this, mean over levels
    tolerated_loss: float = 0.05  # an operator is tolerated up to the value at which this is lost against level 0
    failure: float = 0.5  # a score below this is a failure of the segmentation (what is hardly of use to anyone)
    tail: float = 0.10  # share of the patients, worst first, whose mean is the conditional value at risk


CONSTANTS = Constants()
SOURCE_ONLY, ORACLE = "erm", "target_oracle"
