"""What a method on a target is compared with: source-only on the source, and the oracle on the target."""

from __future__ import annotations

import dataclasses

import numpy as np

from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import Entry, matched
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.spec.target import RESELECT
from shiftbench.stats import Interval, paired_difference, unpaired_difference
from shiftbench.types import Family


def drop(entry: Entry, source: Entry) -> tuple[Interval, bool]:
    """Score on the source minus the entry's, and whether the two are of the same patients.

    Where these are not the same people, of a real site or of a population that is selected anew, the difference is one
    of groups: Welch's interval, which takes the two for independent.

    Args:
        entry: a method on a target.
        source: source-only on the test patients of the source.
    """
    pair = _same_people(entry, source)
    if pair is None:
        return unpaired_difference(source.scores, entry.scores), False
    return paired_difference(*pair), True


def relative_drop(entry: Entry, source: Entry) -> Interval | None:
    """The drop as a share of the score on the source, by linearisation; None below `CONSTANTS.clean_floor`."""
    pair = _same_people(entry, source)
    if pair is not None:
        clean, own = pair
        return ratio_interval([clean - own], [clean]) if _mean(clean) >= CONSTANTS.clean_floor else None
    clean, own = source.scores, entry.scores
    level = _mean(clean)
    if level < CONSTANTS.clean_floor:
        return None
    left = _mean(own) / level
    found = unpaired_difference(clean * (left / level), own / level)  # of mean 0: the spread of the ratio alone
    limits = [None if end is None else 1 - left + end for end in (found.low, found.high)]
    return dataclasses.replace(found, mean=1 - left, low=limits[0], high=limits[1])


def oracle_gap(entry: Entry, oracle: Entry | None) -> Interval | None:
    """Oracle minus the method on the same patients; None without an oracle."""
    pair = matched(oracle.scores, entry.scores) if oracle else None
    return paired_difference(*pair) if pair else None


def _same_people(entry: Entry, source: Entry) -> tuple | None:
    """Both tables on the same seeds and patients; None where the patients are others, or are selected."""
    patients = entry.scores.columns
    # A level may be beyond the reach of some patients: the others are compared with themselves.
    within = patients.isin(source.scores.columns).all()
    if entry.family == Family.REAL or entry.operator == RESELECT or not within:
        return None
    return matched(source.scores[patients], entry.scores)


def _mean(scores) -> float:
    return float(np.nanmean(scores.to_numpy()))
