"""Intervals of means of patients crossed with seeds.

A table of scores has one row per seed (a trained model) and one column per patient; every patient is predicted by
every seed, so the two are crossed and neither may be resampled or counted as if it were the other's replicate.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    n_seeds, n = y.shape
    if n < 2:
        return _interval(float(y.mean()), None, None, n, n_seeds, level)
    variance, df = _two_way(y)
    return _interval(float(y.mean()), float(variance), float(df), n, n_seeds, level)


def mean_limits(values: ArrayLike, level: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means with the limits of `mean_interval`, for many tables at once.

    Args:
        values: shape (..., S, N) with N > 1 and no missing score.
        level: of confidence.

    Returns:
        Means, lower and upper limits, shape (...).

    Raises:
        ValueError: there are fewer than two patients, or a score is missing.
    """
    y = np.asarray(values, float)
    if y.shape[-1] < 2 or np.isnan(y).any():
        raise ValueError("limits of many means need two patients and every score")
    variance, df = _two_way(y)
    mean, half = y.mean(axis=(-2, -1)), stdtrit(df, 0.5 + level / 2) * np.sqrt(variance)
    return mean, mean - half, mean + half


def pooled_interval(
    tables: Sequence[pd.DataFrame], weights: Sequence[float] | None = None, level: float = 0.95
) -> Interval:
    """Weighted mean of the means of several targets, with an interval that knows which patients and seeds they share.

    Where all targets have the same seeds and patients the table is averaged first. Otherwise each value's share in the
    result is summed per patient and per seed over all targets, and the variance is that of these sums: seeds plus
    patients minus the residual, which both of them hold. Where a seed lacks patients or targets the residual cannot be
    told apart, and the two-way cluster variance stands in: right where seeds have patients of their own, and somewhat
    small where they share most of them.

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
    first, second = paired(a, b)
    return mean_interval(first - second, level)


def paired(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Both tables as arrays (S, N) with the same seeds and patients in the same places.

    Raises:
        ValueError: the two have not the same cases.
    """
    unequal = "unequal case sets: a paired difference needs the same seeds and patients"
    if isinstance(a, pd.DataFrame) and isinstance(b, pd.DataFrame):
        if set(a.index) != set(b.index) or set(a.columns) != set(b.columns):
            raise ValueError(unequal)
        if not (a.index.equals(b.index) and a.columns.equals(b.columns)):
            b = b.loc[a.index, a.columns]
    first, second = np.atleast_2d(np.asarray(a, float)), np.atleast_2d(np.asarray(b, float))
    if first.shape != second.shape or (np.isnan(first) != np.isnan(second)).any():
        raise ValueError(unequal)
    return first, second


def unpaired_difference(a: ArrayLike | pd.DataFrame, b: ArrayLike | pd.DataFrame, level: float = 0.95) -> Interval:
    """Mean of a minus mean of b with Welch's interval, for different patients (shared seeds only widen it)."""
    one, two = mean_interval(a, level), mean_interval(b, level)
    n_patients, n_seeds = min(one.n_patients, two.n_patients), min(one.n_seeds, two.n_seeds)
    if one.standard_error is None or two.standard_error is None:
        return _interval(one.mean - two.mean, None, None, n_patients, n_seeds, level)
    variances = np.array([one.standard_error**2, two.standard_error**2])
    df = float(_satterthwaite(variances, np.array([one.df, two.df], float)))
    return _interval(one.mean - two.mean, float(variances.sum()), df, n_patients, n_seeds, level)


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


def _two_way(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Variance of the mean of complete tables (..., S, N) with N > 1, and its degrees of freedom."""
    n_seeds, n = y.shape[-2:]
    centred = y - y.mean(axis=(-2, -1), keepdims=True)
    patients = centred.mean(axis=-2)
    ms_patients = n_seeds * (patients**2).sum(axis=-1) / (n - 1)
    if n_seeds == 1:
        return ms_patients / n, np.full_like(ms_patients, n - 1)
    seeds = centred.mean(axis=-1)
    ms_seeds = n * (seeds**2).sum(axis=-1) / (n_seeds - 1)
    residual = centred - seeds[..., :, None] - patients[..., None, :]
    ms_residual = (residual**2).sum(axis=(-2, -1)) / ((n_seeds - 1) * (n - 1))
    parts = np.stack([ms_seeds, ms_patients, -ms_residual]) / (n_seeds * n)
    return _largest(parts, np.array([n_seeds - 1, n - 1, (n_seeds - 1) * (n - 1)], float))


def _two_way_clusters(
    tables: Sequence[pd.DataFrame], weights: np.ndarray, seeds: pd.Index, patients: pd.Index
) -> tuple[float | None, float | None]:
    """Variance of a weighted mean of means of tables that share some patients or seeds, and its degrees of freedom."""
    if any(table.shape[1] < 2 for table in tables):
        return None, None
    crossed = all(len(table) == len(seeds) and not table.isna().any(axis=None) for table in tables)
    by_seed, by_patient = np.zeros(len(seeds)), np.zeros(len(patients))
    cells = np.zeros((len(seeds), len(patients)))
    own, own_df = [], []
    for table, weight in zip(tables, weights, strict=True):
        values = table.to_numpy(float)
        part = np.nan_to_num(values - np.nanmean(values)) * weight / np.isfinite(values).sum()
        rows, columns = seeds.get_indexer(table.index), patients.get_indexer(table.columns)
        n = table.shape[1]
        per_patient = part.sum(axis=0) * np.sqrt(n / (n - 1))
        by_seed[rows] += part.sum(axis=1)
        by_patient[columns] += per_patient
        cells[np.ix_(rows, columns)] += _residual(part) if crossed and len(seeds) > 1 else part
        own.append(float((per_patient**2).sum()))
        own_df.append(n - 1.0)
    v_patients = float((by_patient**2).sum())
    df_patients = min(len(patients) - 1.0, float(_satterthwaite(np.array(own), np.array(own_df))))
    if len(seeds) == 1:
        return v_patients, df_patients
    v_seeds = float((by_seed**2).sum()) * len(seeds) / (len(seeds) - 1)
    v_cells = float((cells**2).sum())
    df = np.array([len(seeds) - 1, df_patients, (len(seeds) - 1) * df_patients])
    variance, freedom = _largest(np.array([v_seeds, v_patients, -v_cells]), df)
    return float(variance), float(freedom)


def _residual(part: np.ndarray) -> np.ndarray:
    """What is left of a complete table (S, N) of mean 0 without seed and patient effects, scaled to be unbiased.

    Whole cells in its place would count seeds and patients a second time, and take them off the variance.
    """
    n_seeds, n = part.shape
    left = part - part.mean(axis=1, keepdims=True) - part.mean(axis=0, keepdims=True)
    return left * np.sqrt(n_seeds * n / ((n_seeds - 1) * (n - 1)))


def _largest(parts: np.ndarray, df: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The variance max(seeds + patients - residual, seeds, patients) from its parts (3, ...), with its df.

    The difference alone is too small, or negative, where the estimate of the residual happens to be large.
    """
    total, larger = parts.sum(axis=0), parts[:2].max(axis=0)
    whole = total >= larger
    alone = np.where(parts[0] > parts[1], df[0], df[1])
    return np.where(whole, total, larger), np.where(whole, _satterthwaite(parts, df), alone)


def _satterthwaite(variances: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Degrees of freedom of sums of independent variance estimates, which lie along the first axis."""
    scale = np.tensordot(1 / df, variances**2, axes=1)
    return np.where(scale > 0, variances.sum(axis=0) ** 2 / np.where(scale > 0, scale, 1.0), df.max())


def _interval(
    mean: float, variance: float | None, df: float | None, n_patients: int, n_seeds: int, level: float
) -> Interval:
    if variance is None or df is None:
        return Interval(mean, None, None, n_patients, n_seeds, n_seeds == 1)
    error = float(np.sqrt(variance))
    half = float(stdtrit(df, 0.5 + level / 2)) * error
    return Interval(mean, mean - half, mean + half, n_patients, n_seeds, n_seeds == 1, error, df)
