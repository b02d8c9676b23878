"""Ranks with what they are worth: groups of ties, limits, bootstrap distribution, agreement of two rankings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from shiftbench.stats.bootstrap import RESAMPLES, drawn_shares

Name = TypeVar("Name", bound=Hashable)
_DIGITS = 12  # means that agree to so many are ties: the same predictions, summed in another order


def competition_ranks(scores: ArrayLike) -> np.ndarray:
    """1 + the number of better (higher) scores, along the last axis; ties share the better rank."""
    s = np.round(np.asarray(scores, float), _DIGITS)
    return 1 + (s[..., None, :] > s[..., :, None]).sum(axis=-1)


def mean_ranks(scores: ArrayLike) -> np.ndarray:
    """Ranks along the last axis, the highest score first; ties share the mean of their ranks."""
    s = np.round(np.asarray(scores, float), _DIGITS)
    better = (s[..., None, :] > s[..., :, None]).sum(axis=-1)
    alike = (s[..., None, :] == s[..., :, None]).sum(axis=-1)
    return better + (alike + 1) / 2


def rank_limits(
    means: Mapping[Name, float], p: Mapping[frozenset, float], alpha: float = 0.05
) -> dict[Name, tuple[int, int]]:
    """Best and worst rank of each method: 1 + the number of significantly better ones, M - that of worse ones.

    Args:
        means: of the M methods.
        p: adjusted two-sided p of each pair.
        alpha: below which a difference is significant.
    """
    found = {}
    for name, mean in means.items():
        apart = [other for other in means if other != name and p[frozenset((name, other))] < alpha]
        better = sum(means[other] > mean for other in apart)
        found[name] = (1 + better, len(means) - (len(apart) - better))
    return found


def tie_groups(order: Sequence[Hashable], p: Mapping[frozenset, float], alpha: float = 0.05) -> list[int]:
    """Group of each method, best first: those that do not differ from the best one still without a group join it.

    Args:
        order: methods, best first.
        p: adjusted two-sided p of each pair.
        alpha: below which two differ.
    """
    groups: dict[Hashable, int] = {}
    for leader in order:
        if leader in groups:
            continue
        number = 1 + len(set(groups.values()))
        for name in order:
            if name not in groups and (name == leader or p[frozenset((leader, name))] >= alpha):
                groups[name] = number
    return [groups[name] for name in order]


def rank_distribution(
    scores: Sequence[np.ndarray],
    patients: Sequence[Sequence[Hashable]],
    weights: Sequence[float],
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
) -> np.ndarray:
    """Probability of each rank for each method, shape (M, M), from a bootstrap of patients crossed with seeds.

    In every resample the means of the targets are weighed, and the methods ranked by the result; those that tie share
    their ranks, so that rows and columns sum to 1. One draw of seeds serves all methods: methods of one seed start
    from the same source model, and where they do not, pairing them by seed is as good as any other pairing. One draw
    of patients serves all methods and all targets that have them. With one seed the distribution is conditional on the
    trained models.

    Args:
        scores: per target, shape (M, S, N): methods, seeds, patients of that target.
        patients: per target, the N names; the same name in two targets is the same patient.
        weights: of the targets.
        resamples: number of bootstrap samples.
        rng: see `shiftbench.rng.generator`.

    Raises:
        ValueError: a score is missing.
    """
    if any(np.isnan(target).any() for target in scores):
        raise ValueError("a score is missing: ranks are bootstrapped over patients that every seed has")
    n_methods, n_seeds = scores[0].shape[:2]
    seeds = drawn_shares(n_seeds, resamples=resamples, rng=rng)
    merged = _merged(scores, patients, weights)
    by_seed = np.zeros((resamples, n_methods * n_seeds))
    for own, target in zip(_patient_shares(list(merged), resamples, rng), merged.values(), strict=True):
        by_seed += own @ target.reshape(n_methods * n_seeds, -1).T
    means = (by_seed.reshape(resamples, n_methods, n_seeds) * seeds[:, None, :]).sum(axis=-1)
    return _shares_of_ranks(means)


def kendall_tau(a: ArrayLike, b: ArrayLike) -> float | None:
    """Kendall's tau-b of two rankings of the same things; None where one of them tells nothing apart.

    Reference:
        Kendall, The treatment of ties in ranking problems, Biometrika 33, 1945.
    """
    first, second = (np.sign(np.subtract.outer(x, x)) for x in (np.asarray(a, float), np.asarray(b, float)))
    scale = np.sqrt(float((first**2).sum()) * float((second**2).sum()))
    return float((first * second).sum()) / scale if scale > 0 else None


def _merged(
    scores: Sequence[np.ndarray], patients: Sequence[Sequence[Hashable]], weights: Sequence[float]
) -> dict[tuple, np.ndarray]:
    """Patients to weighed scores (M, S, N), targets with the same patients summed into one."""
    merged: dict[tuple, np.ndarray] = {}
    for target, names, weight in zip(scores, patients, weights, strict=True):
        order = np.argsort([str(name) for name in names], kind="stable")
        key = tuple(names[i] for i in order)
        merged[key] = merged.get(key, 0.0) + weight * target[..., order]
    return merged


def _patient_shares(groups: Sequence[tuple], resamples: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Shares of each group's patients, shape (b, N); groups that have patients in common share one draw.

    A resample without any patient of a small group leaves that group as it is.
    """
    pools = _pools(groups)
    drawn = {pool: drawn_shares(len(pool), resamples=resamples, rng=rng) for pool in dict.fromkeys(pools)}
    shares = []
    for group, pool in zip(groups, pools, strict=True):
        if group == pool:
            shares.append(drawn[pool])
            continue
        place = {name: i for i, name in enumerate(pool)}
        own = drawn[pool][:, [place[name] for name in group]]
        whole = own.sum(axis=1, keepdims=True)
        shares.append(np.where(whole > 0, own / np.where(whole > 0, whole, 1.0), 1 / len(group)))
    return shares


def _pools(groups: Sequence[tuple]) -> list[tuple]:
    """For each group, all patients of the groups that hang together with it by patients in common."""
    pools: list[set] = []
    for group in groups:
        touched = [pool for pool in pools if not pool.isdisjoint(group)]
        pools = [pool for pool in pools if pool.isdisjoint(group)] + [set(group).union(*touched)]
    return [next(tuple(sorted(pool, key=str)) for pool in pools if group[0] in pool) for group in groups]


def _shares_of_ranks(means: np.ndarray) -> np.ndarray:
    """Share of the resamples in which a method has a rank, (M, M), from means (b, M); ties share their ranks."""
    resamples, n_methods = means.shape
    rounded = np.round(means, _DIGITS)
    shares = np.empty((n_methods, n_methods))
    for i in range(n_methods):  # one method at a time: (b, M, M) would not fit for many methods
        own = rounded[:, i : i + 1]
        best = (rounded > own).sum(axis=1)
        alike = (rounded == own).sum(axis=1)
        # 1/k at each of the k ranks from `best` on: differences at both ends, summed up
        steps = np.bincount(best, 1 / alike, n_methods + 1) - np.bincount(best + alike, 1 / alike, n_methods + 1)
        shares[i] = np.cumsum(steps)[:n_methods] / resamples
    return shares
