"""Bootstrap of patients crossed with seeds, for whatever is no plain mean."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 10_000
_CELLS = 2**22  # weights of single scores held at once: 32 MB


@dataclass(frozen=True)
class BootstrapInterval:
    """A functional with percentile limits; `seed_limited` says that fewer than five seeds were resampled."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_limited: bool


def drawn_shares(n: int, *, resamples: int, rng: np.random.Generator, draws: int | None = None) -> np.ndarray:
    """Share of each of `n` units in draws with replacement, shape (resamples, n); rows sum to 1.

    The mean of n draws varies by (n - 1) / n of what the mean of n units does, which for three seeds is two thirds;
    that of n - 1 draws varies as it should.

    Args:
        n: number of units.
        resamples: number of draws.
        rng: see `shiftbench.rng.generator`.
        draws: units in each draw; n - 1 if None (1 where there is only one).

    Reference:
        Rao, Wu, Resampling inference with complex survey data, J Am Stat Assoc 83, 1988.
    """
    m = max(1, n - 1) if draws is None else draws
    drawn = rng.integers(0, n, (resamples, m), dtype=np.int64)
    drawn += n * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * n).reshape(resamples, n) / m


def crossed_weights(
    n_seeds: int, n_patients: Sequence[int], *, resamples: int, rng: np.random.Generator
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Weights of seeds (b, S) and, for each domain, of its patients (b, N); a score weighs the product of the two.

    One draw of seeds holds for all domains; every domain draws patients of its own.

    Args:
        n_seeds: number of seeds S.
        n_patients: of each domain.
        resamples: number of draws b.
        rng: see `shiftbench.rng.generator`.
    """
    seeds = drawn_shares(n_seeds, resamples=resamples, rng=rng)
    return seeds, [drawn_shares(n, resamples=resamples, rng=rng) for n in n_patients]


def crossed_bootstrap(
    values: ArrayLike | Sequence[np.ndarray],
    functional: Callable[..., np.ndarray],
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
    level: float = 0.95,
    seed_groups: Sequence[Hashable] | None = None,
) -> BootstrapInterval:
    """Percentile interval of any functional of means, resampling seeds and patients independently of each other.

    One draw of patients serves all methods, so that pairs are kept, and so does one draw of seeds unless `seed_groups`
    says otherwise. For a functional of single scores (a quantile, CVaR) see `weighted_bootstrap`.

    Args:
        values: shape (..., S, N), the leading axes being methods or levels on the same patients; or a list of such
            arrays, one per domain, each with patients of its own and the same seeds.
        functional: gets the means, shape (b, ...), one argument per domain; returns shape (b, ...).
        resamples: number of bootstrap samples b.
        rng: see `shiftbench.rng.generator`.
        level: of confidence.
        seed_groups: a label for each entry of the first axis (a method's source checkpoints, say). Entries with the
            same label share their draw of seeds; other labels draw independently, in the order of the labels, so that
            the order of the methods changes nothing.

    Raises:
        ValueError: a score is missing, the domains have different numbers of seeds, or there are not as many groups
            as methods.
    """
    domains = (
        [np.asarray(v, float) for v in values] if isinstance(values, list | tuple) else [np.asarray(values, float)]
    )
    n_seeds = domains[0].shape[-2]
    if any(domain.shape[-2] != n_seeds for domain in domains):
        raise ValueError("the domains have not the same number of seeds")
    if any(np.isnan(domain).any() for domain in domains):
        raise ValueError("a score is missing: a bootstrap of means needs every patient of every seed")
    seeds = _seed_shares(n_seeds, seed_groups, resamples, rng)
    if seeds.ndim == 3 and any(domain.ndim < 3 or len(domain) != seeds.shape[1] for domain in domains):
        raise ValueError("seed_groups needs one label per method")
    means = [
        _weighted_means(domain, seeds, drawn_shares(domain.shape[-1], resamples=resamples, rng=rng))
        for domain in domains
    ]
    estimate = np.asarray(functional(*[domain.mean(axis=(-2, -1))[None] for domain in domains]))[0]
    return _percentiles(estimate, np.asarray(functional(*means)), level, n_seeds)


def weighted_bootstrap(
    n_seeds: int,
    n_patients: Sequence[int],
    functional: Callable[..., np.ndarray],
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
    level: float = 0.95,
) -> BootstrapInterval:
    """Percentile interval of a functional of single scores, as CVaR, a quantile or a share of patients.

    Args:
        n_seeds: number of seeds S.
        n_patients: of each domain.
        functional: gets the weights of the scores, shape (b, S, N), one argument per domain, each summing to 1 in
            every resample; returns shape (b, ...). It knows the scores itself: `weighted_quantile` and
            `weighted_tail_mean` take them beside the weights. Called with one uniform resample for the estimate and
            then with so many at a time as fit into memory.
        resamples: number of bootstrap samples.
        rng: see `shiftbench.rng.generator`.
        level: of confidence.
    """
    uniform = [np.full((1, n_seeds, n), 1 / (n_seeds * n)) for n in n_patients]
    estimate = np.asarray(functional(*uniform))[0]
    seeds, patients = crossed_weights(n_seeds, n_patients, resamples=resamples, rng=rng)
    step = max(1, _CELLS // (n_seeds * sum(n_patients)))
    parts = []
    for start in range(0, resamples, step):
        part = slice(start, start + step)
        parts.append(np.asarray(functional(*[seeds[part, :, None] * own[part, None, :] for own in patients])))
    return _percentiles(estimate, np.concatenate(parts), level, n_seeds)


def weighted_quantile(values: ArrayLike, weights: np.ndarray, q: float) -> np.ndarray:
    """Smallest score whose cumulative weight reaches `q`, shape (b,): numpy's "inverted_cdf" where weights are equal.

    Args:
        values: scores (S, N).
        weights: shape (b, S, N), summing to 1 in each resample.
        q: in (0, 1].
    """
    scores, shares = _sorted(values, weights)
    reached = np.cumsum(shares, axis=1) >= q - 1e-12  # sums of n shares 1/n fall short of k/n by rounding
    return scores[np.where(reached.any(axis=1), reached.argmax(axis=1), scores.size - 1)]


def weighted_tail_mean(values: ArrayLike, weights: np.ndarray, share: float) -> np.ndarray:
    """Mean of the lowest `share` of the weight, shape (b,): the conditional value at risk (CVaR) of a score.

    Args:
        values: scores (S, N).
        weights: shape (b, S, N), summing to 1 in each resample.
        share: in (0, 1]; the score at its border enters in part.

    Reference:
        Rockafellar, Uryasev, Conditional value-at-risk for general loss distributions, J Bank Finance 26, 2002.
    """
    scores, shares = _sorted(values, weights)
    before = np.cumsum(shares, axis=1) - shares
    return np.clip(share - before, 0.0, shares) @ scores / share


def _sorted(values: ArrayLike, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All scores (n,) in increasing order, and their weights (b, n)."""
    flat = np.asarray(values, float).ravel()
    order = np.argsort(flat, kind="stable")
    return flat[order], weights.reshape(len(weights), -1)[:, order]


def _seed_shares(
    n_seeds: int, groups: Sequence[Hashable] | None, resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Shares of the seeds, shape (b, S), or (b, M, S) where methods have groups of their own."""
    if groups is None:
        return drawn_shares(n_seeds, resamples=resamples, rng=rng)
    drawn = {label: drawn_shares(n_seeds, resamples=resamples, rng=rng) for label in sorted(set(groups), key=str)}
    return np.stack([drawn[label] for label in groups], axis=1)


def _weighted_means(domain: np.ndarray, seeds: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Means (b, ...) of scores (..., S, N) under weights of seeds, (b, S) or (b, M, S), and of patients (b, N)."""
    lead = domain.shape[:-2]
    by_seed = (patients @ domain.reshape(-1, domain.shape[-1]).T).reshape(len(patients), *lead, domain.shape[-2])
    shape = (*seeds.shape[:-1], *(1,) * (by_seed.ndim - seeds.ndim), seeds.shape[-1])
    return (by_seed * seeds.reshape(shape)).sum(axis=-1)


def _percentiles(estimate: np.ndarray, sample: np.ndarray, level: float, n_seeds: int) -> BootstrapInterval:
    tail = (1 - level) / 2
    low, high = np.quantile(sample, [tail, 1 - tail], axis=0)
    return BootstrapInterval(estimate, low, high, n_seeds < 5)
