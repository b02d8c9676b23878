"""How far the winner depends on how scores are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from shiftbench.metrics.scorers import METRICS
from shiftbench.robustness.contests import Aligned, Contest, contests, target_weights
from shiftbench.robustness.headline import lines
from shiftbench.robustness.patients import RUN, entries_of, patient_table
from shiftbench.stats import competition_ranks, kendall_tau, mean_ranks

MEAN = "mean"  # the view of the headline
COLUMNS = (
    *("track", *RUN, "family", "view", "method", "k", "score", "rank", "n_ranked", "tau", "winner_changes"),
    *("rank_low", "rank_high", "p_rank_1", "conditional"),
)
_WHOLE = dict.fromkeys(("k", "rank", "n_ranked", "rank_low", "rank_high"), "Int64")


def ranking_sensitivity(rows: pd.DataFrame, metrics: Sequence[str] = ("dsc", "nsd")) -> pd.DataFrame:
    """One row per leaderboard, family, view and ranked method: its rank where scores are put together in another way.

    The views, of which all but the last are of DSC, on the seeds that all methods have:

    - `mean`: macro mean, as in the headline, with the rank interval and the probability of rank 1;
    - `rank per patient`: mean rank among the methods over patients and seeds, then targets (rank, then aggregate);
    - `median`: over patients and seeds, then the mean over targets;
    - `without TARGET`: the mean over the other targets;
    - `mean rank of METRICS` and `without METRIC`: mean of the ranks by each metric's macro mean.

    `score` is what the view ranks by: a mean rank is better the smaller it is. `tau` is Kendall's tau-b between the
    ranks of the view and those of the mean, and `winner_changes` says that no method that leads by the mean leads here.
    Contests of fewer than two ranked methods, or whose methods have no complete scores in common, are left out.

    Args:
        rows: the columns of `shiftbench.types.Row`.
        metrics: the first one is that of the other views.

    Raises:
        OutputError: see `patient_table`.
    """
    found = {name: _contests(rows, name) for name in metrics}
    records = [record for key, own in found[metrics[0]].items() for record in _of_contest(own, key, found)]
    return pd.DataFrame(records, columns=COLUMNS).astype(_WHOLE)


def _contests(rows: pd.DataFrame, metric: str) -> dict[tuple, Contest]:
    if not ((rows["metric"] == metric) & (rows["definition"] == METRICS[metric].definition)).any():
        return {}
    return {(c.board, c.family): c for c in contests(entries_of(patient_table(rows, metric)))}


def _of_contest(contest: Contest, key: tuple, found: Mapping[str, Mapping[tuple, Contest]]) -> list[dict]:
    aligned = contest.aligned(merged=False) if len(contest.ranked) > 1 else None
    if aligned is None:
        return []
    others = {name: same[key] for name, same in found.items() if key in same and same[key] is not contest}
    views = _views(contest, aligned) | _metric_views(contest, aligned, next(iter(found)), others)
    known = {(line["method"], line["k"]): line for line in lines(contest)}
    head = dict(zip(("track", *RUN), contest.board, strict=True)) | {"family": contest.family}
    by_mean = competition_ranks(views[MEAN][0])
    records = []
    for view, (score, sign) in views.items():
        ranks = competition_ranks(sign * score)
        about = {"view": view, "n_ranked": len(ranks), "tau": kendall_tau(-ranks, -by_mean)}
        about["winner_changes"] = not ((ranks == 1) & (by_mean == 1)).any()
        for i in np.lexsort((np.arange(len(ranks)), ranks)):
            method, k = name = contest.ranked[i]
            own = {"method": method, "k": k, "score": float(score[i]), "rank": int(ranks[i])}
            extra = ("rank_low", "rank_high", "p_rank_1", "conditional")
            worth = {column: known[name][column] for column in extra} if view == MEAN else {}
            records.append(head | about | own | worth)
    return records


View = tuple[np.ndarray, int]  # scores of the methods, and 1 where high is good, -1 where it is not


def _views(contest: Contest, aligned: Aligned) -> dict[str, View]:
    """The views of one metric."""
    places = contest.places
    views: dict[str, View] = {
        MEAN: (_over_targets(aligned, lambda y: y.mean(axis=(1, 2))), 1),
        "rank per patient": (_over_targets(aligned, lambda y: mean_ranks(np.moveaxis(y, 0, -1)).mean(axis=(0, 1))), -1),
        "median": (_over_targets(aligned, lambda y: np.median(y, axis=(1, 2))), 1),
    }
    means = np.stack([target.mean(axis=(1, 2)) for target in aligned.scores], axis=1)  # (M, targets)
    for i, place in enumerate(places if len(places) > 1 else []):
        weights = target_weights(places[:i] + places[i + 1 :])
        kept = np.array([weights.get(other, 0.0) for other in places])
        views[f"without {place[1]}: {place[3]}"] = (means @ kept, 1)
    return views


def _metric_views(contest: Contest, aligned: Aligned, first: str, others: Mapping[str, Contest]) -> dict[str, View]:
    """Mean of the ranks by each metric's macro mean, with all metrics and without each of them."""
    scores = {first: _over_targets(aligned, lambda y: y.mean(axis=(1, 2)))}
    for name, other in others.items():
        if set(contest.ranked) <= set(other.ranked) and other.places == contest.places:
            scores[name] = np.array([other.interval(method).mean for method in contest.ranked])
    ranks = {name: competition_ranks(score).astype(float) for name, score in scores.items()}
    if len(ranks) < 2:
        return {}
    views: dict[str, View] = {f"mean rank of {', '.join(ranks)}": (np.mean(list(ranks.values()), axis=0), -1)}
    for left_out in ranks:
        kept = [own for name, own in ranks.items() if name != left_out]
        views[f"without {left_out}"] = (np.mean(kept, axis=0), -1)
    return views


def _over_targets(aligned: Aligned, of_target: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Weighted mean over targets of what `of_target` says of the scores (M, S, N), shape (M,)."""
    return np.average([of_target(y) for y in aligned.scores], axis=0, weights=aligned.weights)
