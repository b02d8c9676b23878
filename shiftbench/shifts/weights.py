"""Weights of cases: tilts and density ratios, and what a weighting costs and does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from shiftbench.errors import SpecError, nearest


def tilted(values: np.ndarray, strength: float, attribute: str = "") -> np.ndarray:
    """Weights proportional to exp(strength z), with sum 1; z are the values in standard deviations.

    A normal attribute moves by `strength` standard deviations, and the effective sample size falls to about
    exp(-strength^2) of the cases.

    Raises:
        SpecError: the values do not vary.
    """
    spread = float(np.std(values))
    if spread == 0:
        raise SpecError(
            f"the attribute '{attribute}' is the same in every case", where="reselect", remedy="use another"
        )
    exponent = strength * (values - values.mean()) / spread
    weights = np.exp(exponent - exponent.max())
    return weights / weights.sum()


def effective_sample_size(weights: Sequence[float] | np.ndarray) -> float:
    """Kish's (sum w)^2 / sum w^2: how many equally weighted samples say as much; 0 without any weight."""
    w = np.asarray(weights, float)
    squares = float(np.sum(w**2))
    return float(np.sum(w)) ** 2 / squares if squares > 0 else 0.0


def distribution_shift(
    values: Sequence[str | float], weights: np.ndarray, before: Sequence[str | float] | None = None
) -> float:
    """Distance between the weighted values and the values before, all alike.

    Numbers: Wasserstein-1 in their unit. Categories: total variation, which is Wasserstein-1 where any two categories
    are one apart.
    """
    before = values if before is None else before
    if all(is_number(value) for value in (*values, *before)):
        return wasserstein([float(v) for v in values], weights, [float(v) for v in before])
    shares = [
        sum(float(w) for v, w in zip(who, how, strict=True) if str(v) == name)
        for name in sorted({str(v) for v in (*values, *before)})
        for who, how in ((values, weights), (before, np.full(len(before), -1 / len(before))))
    ]
    return 0.5 * float(np.sum(np.abs(np.reshape(shares, (-1, 2)).sum(axis=1))))


def wasserstein(
    values: Sequence[float], weights: Sequence[float] | np.ndarray, before: Sequence[float] | None = None
) -> float:
    """Wasserstein-1 distance between weighted values and those before (by default the same ones, unweighted)."""
    from scipy.stats import wasserstein_distance  # imported where it is used: it takes half a second

    return float(wasserstein_distance(values, values if before is None else before, u_weights=weights))


def is_number(value: str | float) -> bool:
    """Whether an attribute is a number; a manifest's columns are texts."""
    try:
        float(value)
    except ValueError:
        return False
    return True


def importance_weights(
    source: np.ndarray, target: np.ndarray, how: Literal["histogram", "kde", "logistic"] = "histogram"
) -> np.ndarray:
    """Weights (n,) with sum 1 under which source cases are distributed as the target's.

    Args:
        source: attributes of the source's cases, (n,) or (n, d).
        target: those of the target's cases, (m,) or (m, d).
        how: "histogram" (one attribute, bins by Freedman and Diaconis' rule on the source), "kde" (ratio of Gaussian
            kernel densities with Scott's bandwidth) or "logistic" (odds of a logistic regression that tells target from
            source, for several attributes).

    Raises:
        SpecError: an unknown way, several attributes in a histogram, or populations that do not overlap.

    Reference:
        Sugiyama, Suzuki, Kanamori, Density Ratio Estimation in Machine Learning, 2012.
    """
    ways: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
        "histogram": _histogram_ratio,
        "kde": _kde_ratio,
        "logistic": _logistic_ratio,
    }
    if how not in ways:
        raise SpecError(f"unknown way '{how}' to weight cases", where="reselect", remedy=nearest(how, ways))
    two = [np.asarray(x, float).reshape(len(x), -1) for x in (source, target)]
    ratio = ways[how](*two)
    if not np.isfinite(ratio).all() or ratio.sum() <= 0:
        raise SpecError("the two populations do not overlap", where="reselect", remedy="use another attribute")
    return ratio / ratio.sum()


def _histogram_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    if source.shape[1] != 1:
        raise SpecError("a histogram takes one attribute", where="reselect", remedy="use how = 'logistic'")
    edges = np.histogram_bin_edges(source[:, 0], bins="fd")
    edges[0], edges[-1] = -np.inf, np.inf
    bins = [np.searchsorted(edges, x[:, 0], side="right") - 1 for x in (source, target)]
    counts = [np.bincount(np.minimum(b, len(edges) - 2), minlength=len(edges) - 1) for b in bins]
    return (counts[1] / np.maximum(counts[0], 1))[np.minimum(bins[0], len(edges) - 2)]


def _kde_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    from scipy.stats import gaussian_kde

    return gaussian_kde(target.T)(source.T) / gaussian_kde(source.T)(source.T)


def _logistic_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    both = StandardScaler().fit_transform(np.concatenate([source, target]))
    domain = np.r_[np.zeros(len(source)), np.ones(len(target))]
    model = LogisticRegression(max_iter=1000).fit(both, domain)
    return np.exp(model.decision_function(both[: len(source)]))
