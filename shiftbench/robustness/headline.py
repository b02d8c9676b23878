"""One number per method and shift family, with ranks, ties and what the ranks are worth."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.contests import LABELLED_TRACKS, OVERALL, UNRANKED_FAMILIES, Contest, Name, contests
from shiftbench.robustness.patients import RUN, entries_of, limits, patient_table
from shiftbench.stats import Interval, equivalent, holm, rank_distribution, rank_limits, tie_groups

__all__ = ["COLUMNS", "LABELLED_TRACKS", "OVERALL", "UNRANKED_FAMILIES", "adjusted", "headline", "lines"]

RANKS = ("rank", "tie_group", "rank_low", "rank_high", "p_rank_1", "tied_with_leader")
COLUMNS = (
    *("track", "backbone", "budget", "family", "method", "k", "dsc", "dsc_low", "dsc_high"),
    *("n_patients", "n_seeds", "conditional", "n_targets", *RANKS, "note"),
)
_WHOLE = dict.fromkeys(("k", "rank", "tie_group", "rank_low", "rank_high"), "Int64")


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (track, backbone, budget), family and method: macro mean DSC over the targets of the family, rank.

    The family "overall" weighs the families equally. Controls and faults never enter; annotation targets are reported,
    but enter neither rank nor "overall" of methods without target labels. `note` says why a rank is missing.

    One method beats another where the paired difference is not zero by a two-sided t test at 5 %, Holm over all pairs
    of the contest. Methods that do not differ from the leader of their group share `tie_group`; `rank_low` and
    `rank_high` leave room for all that do not differ. `p_rank_1` is the share of bootstrap samples of patients crossed
    with seeds in which a method is first. `tied_with_leader` says that the 95 % interval of its difference to the best
    method lies within `CONSTANTS.tie_margin`. Where `conditional`, all of this holds for the one trained model per
    method only: it does not say that one method beats another.

    Args:
        rows: the columns of `shiftbench.types.Row`; the patients are needed to compare methods with each other.

    Raises:
        OutputError: see `patient_table`.
    """
    records = [line for contest in contests(entries_of(patient_table(rows))) for line in lines(contest)]
    return pd.DataFrame(records, columns=COLUMNS).astype(_WHOLE)


def lines(contest: Contest) -> list[dict]:
    """The rows of one contest, best first."""
    head = dict(zip(("track", *RUN), contest.board, strict=True)) | {"family": contest.family}
    found = []
    for (method, k), own in contest.entries.items():
        record = head | {"method": method, "k": k} | limits("dsc", contest.interval((method, k)))
        record |= {"n_targets": len(own), "note": contest.reasons[method, k]} | dict.fromkeys(RANKS)
        found.append(record)
    found.sort(key=lambda line: (-line["dsc"], line["method"], line["k"] or 0))
    contenders = [line for line in found if not line["note"]]
    if contenders:
        _rank(contest, contenders)
    return found


def _rank(contest: Contest, contenders: list[dict]) -> None:
    """Fills in the columns `RANKS` of the ranked lines, which are sorted."""
    means = {(line["method"], line["k"]): line["dsc"] for line in contenders}
    order = list(means)
    differences = {frozenset((a, b)): contest.difference(a, b) for i, a in enumerate(order) for b in order[i + 1 :]}
    p = adjusted(differences)
    groups = tie_groups(order, p, CONSTANTS.tie_p)
    reach = rank_limits(means, p, CONSTANTS.tie_p)
    first = _first(contest)
    for name, line, group in zip(order, contenders, groups, strict=True):
        to_leader = differences.get(frozenset((order[0], name)))
        line |= {
            "rank": 1 + sum(mean > line["dsc"] for mean in means.values()),
            "tie_group": group,
            "rank_low": reach[name][0],
            "rank_high": reach[name][1],
            "p_rank_1": first.get(name),
            "tied_with_leader": name == order[0]
            or (to_leader is not None and equivalent(to_leader, CONSTANTS.tie_margin)),
        }


def adjusted(differences: Mapping[frozenset, Interval | None]) -> dict[frozenset, float]:
    """Holm-adjusted two-sided p of each pair of methods (1 where two share no seed)."""
    p = [None if found is None else found.p_differs() for found in differences.values()]
    return dict(zip(differences, holm([1.0 if value is None else value for value in p]).tolist(), strict=True))


def _first(contest: Contest) -> dict[Name, float]:
    """Probability of rank 1 of each ranked method; empty where they have no complete scores in common."""
    aligned = contest.aligned(merged=True)
    if aligned is None:
        return {}
    rng = generator(0, "ranks", *contest.board, contest.family)
    shares = rank_distribution(aligned.scores, aligned.patients, aligned.weights, rng=rng)
    return dict(zip(contest.ranked, shares[:, 0].tolist(), strict=True))
