"""Correlation of two scores of patients crossed with seeds: over cases, and over the means of targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from shiftbench.rng import generator
from shiftbench.stats import BootstrapInterval, crossed_bootstrap

RESAMPLES = 2_000
FEWEST = 3  # points
SAME = 1e-9  # DSC: a score that varies less is constant, and correlates with nothing
KINDS = ("pearson", "spearman")
FEWEST_PATIENTS = 5  # that are resampled
Pair = tuple[pd.DataFrame, pd.DataFrame]  # two scores (seeds, patients) of one target, with the same labels


def over_cases(pairs: Sequence[Pair], name: str) -> BootstrapInterval | None:
    """Pearson and Spearman, shape (2,), over all patients of all targets; None with under 3 points or a constant.

    Values are centred, and ranks are taken, within each seed; the ranks are not taken anew in a resample.

    Args:
        pairs: one per target.
        name: of what is computed, for the draws.
    """
    known = _complete(pairs)
    both = [np.stack([a.to_numpy(float), b.to_numpy(float)]) for a, b in known]  # (2, S, N) each
    sizes = [values.shape[-1] for values in both]
    if not both or sum(sizes) < FEWEST:
        return None
    points = np.concatenate(both, axis=-1)  # (2, S, all)
    forms = np.stack([points, rankdata(points, axis=-1)])  # (forms, 2, S, all)
    forms = forms - forms.mean(axis=-1, keepdims=True)
    if (np.abs(forms[0]).max(axis=(1, 2)) < SAME).any():
        return None
    x, y = forms[:, 0], forms[:, 1]
    moments = np.stack([x, y, x * x, y * y, x * y], axis=1)  # (forms, 5, S, all)
    parts = np.split(moments, np.cumsum(sizes)[:-1], axis=-1)
    domains, weights = _by_patients(parts, [tuple(a.columns) for a, _ in known])

    def correlations(*means: np.ndarray) -> np.ndarray:
        m = sum(w * mean.mean(axis=-1) for w, mean in zip(weights, means, strict=True))  # (b, forms, 5)
        covariance = m[..., 4] - m[..., 0] * m[..., 1]
        return _ratio(covariance, m[..., 2] - m[..., 0] ** 2, m[..., 3] - m[..., 1] ** 2)

    return _resampled(domains, correlations, f"over cases {name}")


def over_targets(pairs: Sequence[Pair], name: str) -> BootstrapInterval | None:
    """Pearson and Spearman, shape (2,), of the targets' means over patients and seeds; None under 3 or constant."""
    known = _complete(pairs)
    if len(known) < FEWEST or len(known) < len(pairs):
        return None
    parts = [np.stack([a.to_numpy(float), b.to_numpy(float)]) for a, b in known]
    if (np.ptp([part.mean(axis=(1, 2)) for part in parts], axis=0) < SAME).any():
        return None
    domains, _ = _by_patients(parts, [tuple(a.columns) for a, _ in known])

    def correlations(*means: np.ndarray) -> np.ndarray:
        points = np.concatenate(means, axis=-1)  # (b, 2, targets)
        forms = np.stack([points, rankdata(points, axis=-1)], axis=1)
        forms = forms - forms.mean(axis=-1, keepdims=True)
        x, y = forms[:, :, 0], forms[:, :, 1]
        return _ratio((x * y).sum(-1), (x * x).sum(-1), (y * y).sum(-1))

    return _resampled(domains, correlations, f"over targets {name}")


def _resampled(domains: list[np.ndarray], correlations: Callable[..., np.ndarray], name: str) -> BootstrapInterval:
    """The estimate with its limits; with few patients they are NaN, for so few show a resample nothing new."""
    found = crossed_bootstrap(domains, correlations, resamples=RESAMPLES, rng=generator(0, name))
    if max(domain.shape[-1] for domain in domains) >= FEWEST_PATIENTS:
        return found
    unknown = np.full_like(found.estimate, np.nan)
    return BootstrapInterval(found.estimate, unknown, unknown, found.seed_limited)


def _complete(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs on the seeds that all share and the patients that every seed has; without those that have none."""
    if not pairs:
        return []
    seeds = pairs[0][0].index
    for a, _ in pairs[1:]:
        seeds = seeds.intersection(a.index)
    cut = [(a.loc[seeds], b.loc[seeds, a.columns]) for a, b in pairs]
    whole = [(a, b, (a.notna() & b.notna()).all()) for a, b in cut]
    return [(a.loc[:, kept], b.loc[:, kept]) for a, b, kept in whole if len(seeds) and kept.any()]


def _by_patients(
    parts: Sequence[np.ndarray], patients: Sequence[tuple[str, ...]]
) -> tuple[list[np.ndarray], list[float]]:
    """Targets with the same patients stacked as (..., targets, S, N), and each stack's share of all points."""
    groups: dict[tuple[str, ...], list[np.ndarray]] = {}
    for part, who in zip(parts, patients, strict=True):
        groups.setdefault(who, []).append(part)
    sizes = [len(own) * own[0].shape[-1] for own in groups.values()]
    return [np.stack(own, axis=-3) for own in groups.values()], [size / sum(sizes) for size in sizes]


def _ratio(covariance: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation; a resample in which one of the two is constant shows none, 0."""
    scale = np.sqrt(np.clip(one * other, 0.0, None))
    return np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > SAME**2)
