"""Intervals and tests for scores of patients crossed with seeds.

A table of scores has one row per seed (a trained model) and one column per patient; every patient is predicted by
every seed, so the two are crossed and neither may be resampled or counted as if it were the other's replicate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr, stdtrit


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence limits; the limits are None where one patient leaves nothing to estimate from.

    Attributes:
        conditional: one seed, so the interval holds for patients given this trained model, not for the method.
        standard_error: of the mean, or None.
        df: degrees of freedom of the t distribution, or None.
    """

    mean: float
    low: float | None
    high: float | None
    n_patients: int
    n_seeds: int
    conditional: bool
    standard_error: float | None = None
    df: float | None = None

    def p_above(self, value: float = 0.0) -> float | None:
        """One-sided p of the hypothesis that the true mean is at most `value`."""
        if self.standard_error is None or self.df is None:
            return None
        if self.standard_error == 0.0:
            return 0.0 if self.mean > value else 1.0
        return float(stdtr(self.df, (value - self.mean) / self.standard_error))

    def p_differs(self, value: float = 0.0) -> float | None:
        """Two-sided p of the hypothesis that the true mean is `value`."""
        if self.standard_error is None or self.df is None:
            return None
        if self.standard_error == 0.0:
            return 1.0 if self.mean == value else 0.0
        return float(2 * stdtr(self.df, -abs(self.mean - value) / self.standard_error))


def mean_interval(values: ArrayLike | pd.DataFrame, level: float = 0.95) -> Interval:
    """Mean with a t interval from two-way random effects; with one seed, from the patients alone.

    The variance of the mean is max(MSs + MSc - MSe, MSs, MSc) / (S N) with the mean squares of seeds, patients and
    residual; the degrees of freedom are Satterthwaite's.

    Args:
        values: shape (S, N), or (N,) for one seed; one score per seed and patient (cases averaged to patients). NaN
            marks a patient that a seed has not; see `pooled_interval`.
        level: of confidence.

    Raises:
        ValueError: there is no value.
    """
    y = np.atleast_2d(np.asarray(values, float))
    if y.size == 0 or np.isnan(y).all():
        raise ValueError("no values to average")
    if np.isnan(y).any():
        return pooled_interval([pd.DataFrame(y).dropna(how="all").dropna(axis=1, how="all")], level=level)
    variance, df = _two_way(y)
    return _interval(float(y.mean()), variance, df, y.shape[1], y.shape[0], level)


def pooled_interval(
    tables: Sequence[pd.DataFrame], weights: Sequence[float] | None = None, level: float = 0.95
) -> Interval:
    """Weighted mean of the means of several targets, with an interval that knows which patients and seeds they share.

    Where all targets have the same seeds and patients the table is averaged first. Otherwise each value's share in the
    result is summed per patient and per seed over all targets, and the variance is the two-way cluster variance.

    Args:
        tables: per target, scores with seeds as index and patients as columns; NaN where a seed has not a patient.
        weights: of the targets; equal if None.
        level: of confidence.

    Reference:
        Cameron, Gelbach, Miller, Robust inference with multiway clustering, J Bus Econ Stat 29, 2011.
    """
    share = np.ones(len(tables)) if weights is None else np.asarray(weights, float)
    share = share / share.sum()
    arrays = [table.to_numpy(float) for table in tables]
    first = tables[0]
    same = all(table.index.equals(first.index) and table.columns.equals(first.columns) for table in tables)
    if same and not any(np.isnan(array).any() for array in arrays):
        return mean_interval(sum(w * array for w, array in zip(share, arrays, strict=True)), level)
    mean = float(sum(w * np.nanmean(array) for w, array in zip(share, arrays, strict=True)))
    patients = pd.Index(np.unique(np.concatenate([table.columns.to_numpy() for table in tables])))
    seeds = pd.Index(np.unique(np.concatenate([table.index.to_numpy() for table in tables])))
    variance, df = _two_way_clusters(tables, share, seeds, patients)
    return _interval(mean, variance, df, len(patients), len(seeds), level)


def paired_difference(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame, level: float = 0.95) -> Interval:
    """Mean of a - b with its interval, on the same seeds and patients.

    Args:
        a: scores (S, N); data frames (seeds as index, patients as columns) are matched by their labels.
        b: as `a`.
        level: of confidence.

    Raises:
        ValueError: the two have not the same cases.
    """
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        if set(a.index) != set(b.index) or set(a.columns) != set(b.columns):
            raise ValueError("unequal case sets: a paired difference needs the same seeds and patients")
        b = b.loc[a.index, a.columns]
    first, second = np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float))
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        raise ValueError("unequal case sets: a paired difference needs the same seeds and patients")
    return mean_interval(first - second, level)


def unpaired_difference(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame, level: float = 0.95) -> Interval:
    """Mean of a minus mean of b with Welch's interval, for different patients (shared seeds only widen it)."""
    one, two = mean_interval(a, level), mean_interval(b, level)
    n_patients, n_seeds = min(one.n_patients, two.n_patients), min(one.n_seeds, two.n_seeds)
    if one.standard_error is None or two.standard_error is None:
        return _interval(one.mean - two.mean, None, None, n_patients, n_seeds, level)
    variances = np.array([one.standard_error**2, two.standard_error**2])
    df = _satterthwaite(variances, np.array([one.df, two.df], float))
    return _interval(one.mean - two.mean, float(variances.sum()), df, n_patients, n_seeds, level)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Holm's step-down adjusted p-values, in the order given.

    Raises:
        ValueError: a value is no probability.
    """
    p = np.asarray(p_values, float)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a p-value lies outside [0, 1]")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def share_interval(successes: float, n: int, level: float = 0.95) -> Interval:
    """Share of `n` patients with Wilson's interval; `successes` may be an average over seeds.

    Raises:
        ValueError: n is not positive, or successes lie outside [0, n].
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is no share")
    z = float(ndtri(0.5 + level / 2))
    p = successes / n
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return Interval(p, max(0.0, float(centre - half)), min(1.0, float(centre + half)), n, 1, False)


@dataclass(frozen=True)
class BootstrapInterval:
    """A functional of means with percentile limits; `seed_limited` says that fewer than five seeds were resampled."""

    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seed_limited: bool


def crossed_bootstrap(
    values: ArrayLike | Sequence[np.ndarray],
    functional: Callable[..., np.ndarray],
    *,
    resamples: int = 10_000,
    rng: np.random.Generator,
    level: float = 0.95,
) -> BootstrapInterval:
    """Percentile interval of any functional of means, resampling seeds and patients independently of each other.

    One draw of seeds and one draw of patients serve all methods, so that pairs are kept.

    Args:
        values: shape (..., S, N), the leading axes being methods or levels on the same patients; or a list of such
            arrays, one per domain, each with patients of its own and the same seeds.
        functional: gets the means, shape (b, ...), one argument per domain; returns shape (b, ...).
        resamples: number of bootstrap samples b.
        rng: see `shiftbench.rng.generator`.
        level: of confidence.
    """
    domains = (
        [np.asarray(v, float) for v in values] if isinstance(values, list | tuple) else [np.asarray(values, float)]
    )
    n_seeds = domains[0].shape[-2]
    if any(domain.shape[-2] != n_seeds for domain in domains):
        raise ValueError("the domains have not the same number of seeds")
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples) / n_seeds  # (b, S)
    means = []
    for domain in domains:
        n = domain.shape[-1]
        patients = rng.multinomial(n, np.full(n, 1 / n), size=resamples) / n  # (b, N)
        means.append(np.moveaxis((domain @ patients.T * seeds.T).sum(axis=-2), -1, 0))  # (b, ...)
    sample = np.asarray(functional(*means))
    tail = (1 - level) / 2
    low, high = np.quantile(sample, [tail, 1 - tail], axis=0)
    estimate = np.asarray(functional(*[domain.mean(axis=(-2, -1))[None] for domain in domains]))[0]
    return BootstrapInterval(estimate, low, high, n_seeds < 5)


def _two_way(y: np.ndarray) -> tuple[float | None, float | None]:
    """Variance of the mean of a complete table (S, N) and its degrees of freedom."""
    n_seeds, n = y.shape
    if n < 2:
        return None, None
    patients = y.mean(axis=0) - y.mean()
    ms_patients = n_seeds * float((patients**2).sum()) / (n - 1)
    if n_seeds == 1:
        return ms_patients / n, n - 1.0
    seeds = y.mean(axis=1) - y.mean()
    ms_seeds = n * float((seeds**2).sum()) / (n_seeds - 1)
    residual = y - y.mean() - seeds[:, None] - patients[None, :]
    ms_residual = float((residual**2).sum()) / ((n_seeds - 1) * (n - 1))
    parts = np.array([ms_seeds, ms_patients, -ms_residual]) / (n_seeds * n)
    return _largest(parts, np.array([n_seeds - 1, n - 1, (n_seeds - 1) * (n - 1)], float))


def _two_way_clusters(
    tables: Sequence[pd.DataFrame], weights: np.ndarray, seeds: pd.Index, patients: pd.Index
) -> tuple[float | None, float | None]:
    """Variance of a weighted mean of means of tables that share some patients or seeds, and its degrees of freedom."""
    if any(table.shape[1] < 2 for table in tables):
        return None, None
    cells = np.zeros((len(seeds), len(patients)))
    by_patient = np.zeros(len(patients))
    own, own_df = [], []
    for table, weight in zip(tables, weights, strict=True):
        values = table.to_numpy(float)
        part = np.nan_to_num(values - np.nanmean(values)) * weight / np.isfinite(values).sum()
        rows, columns = seeds.get_indexer(table.index), patients.get_indexer(table.columns)
        cells[np.ix_(rows, columns)] += part
        n = table.shape[1]
        per_patient = part.sum(axis=0) * np.sqrt(n / (n - 1))
        by_patient[columns] += per_patient
        own.append(float((per_patient**2).sum()))
        own_df.append(n - 1.0)
    v_patients = float((by_patient**2).sum())
    df_patients = min(len(patients) - 1.0, _satterthwaite(np.array(own), np.array(own_df)))
    if len(seeds) == 1:
        return v_patients, df_patients
    v_seeds = float((cells.sum(axis=1) ** 2).sum()) * len(seeds) / (len(seeds) - 1)
    v_cells = float((cells**2).sum())
    df = np.array([len(seeds) - 1, df_patients, (len(seeds) - 1) * df_patients])
    return _largest(np.array([v_seeds, v_patients, -v_cells]), df)


def _largest(parts: np.ndarray, df: np.ndarray) -> tuple[float, float]:
    """The variance max(seeds + patients - residual, seeds, patients) from its parts, with Satterthwaite's df."""
    seeds, patients = parts[0], parts[1]
    if parts.sum() >= max(seeds, patients):
        return float(parts.sum()), _satterthwaite(parts, df)
    return (float(seeds), float(df[0])) if seeds > patients else (float(patients), float(df[1]))


def _satterthwaite(variances: np.ndarray, df: np.ndarray) -> float:
    """Degrees of freedom of a sum of independent variance estimates."""
    scale = float((variances**2 / df).sum())
    return float(variances.sum()) ** 2 / scale if scale > 0 else float(df.max())


def _interval(
    mean: float, variance: float | None, df: float | None, n_patients: int, n_seeds: int, level: float
) -> Interval:
    if variance is None or df is None:
        return Interval(mean, None, None, n_patients, n_seeds, n_seeds == 1)
    error = float(np.sqrt(variance))
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, n_patients, n_seeds, n_seeds == 1, error, df)
