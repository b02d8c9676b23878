"""Agreement of two measurements of the same patients: concordance, intraclass correlation, limits of agreement.

All three coefficients depend on how far the patients lie apart: the same error gives a higher one where patients differ
more. They are read beside the bias, in the unit of the feature, and beside the spread of the patients.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import fdtri, nctdtrit, ndtri

Coefficient = Callable[..., "Agreement | None"]


@dataclass(frozen=True)
class Agreement:
    """A coefficient with its confidence limits, which are None where `n` is too small or one rating is constant."""

    estimate: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class Limits:
    """Mean of first - second and the limits between which a share of the differences lies, each with its interval.

    Attributes:
        bias: (estimate, low, high) of the mean difference.
        lower: (estimate, low, high) of bias - z SD.
        upper: (estimate, low, high) of bias + z SD.
        sd: of the differences.
    """

    bias: tuple[float, float, float]
    lower: tuple[float, float, float]
    upper: tuple[float, float, float]
    sd: float
    n: int


def ccc(first: ArrayLike, second: ArrayLike, level: float = 0.95) -> Agreement | None:
    """Lin's concordance correlation coefficient, with the limits of its z transform.

    Args:
        first: shape (n,), one value per patient.
        second: shape (n,), of the same patients.
        level: of confidence.

    Returns:
        None where the patients do not differ in either measurement, so that there is nothing to agree on.

    Raises:
        ValueError: shapes differ, there are fewer than two patients, or a value is not finite.

    Reference:
        Lin, A concordance correlation coefficient to evaluate reproducibility, Biometrics 45:255-268, 1989, with the
        correction in Biometrics 56:324-325, 2000.
    """
    x, y = _ratings(first, second)
    n, var_x, var_y = len(x), float(x.var()), float(y.var())
    if var_x + var_y == 0:
        return None
    shift = float(x.mean() - y.mean())
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    estimate = 2 * covariance / (var_x + var_y + shift**2)
    if n < 4 or var_x * var_y == 0 or covariance == 0:
        return Agreement(estimate, None, None, n)
    if estimate**2 >= 1 - 1e-12:
        return Agreement(estimate, estimate, estimate, n)
    r = covariance / math.sqrt(var_x * var_y)
    u = shift**2 / math.sqrt(var_x * var_y)
    rest = 1 - estimate**2
    variance = (1 - r**2) * estimate**2 / (rest * r**2)
    variance += 2 * estimate**3 * (1 - estimate) * u / (r * rest**2) - estimate**4 * u**2 / (2 * r**2 * rest**2)
    half = float(ndtri(0.5 + level / 2)) * math.sqrt(max(variance, 0.0) / (n - 2))
    z = math.atanh(estimate)
    return Agreement(estimate, math.tanh(z - half), math.tanh(z + half), n)


def icc_a1(*ratings: ArrayLike, level: float = 0.95) -> Agreement | None:
    """Intraclass correlation of single ratings, two-way, absolute agreement: ICC(A,1), also known as ICC(2,1).

    Args:
        *ratings: two or more of shape (n,), one value per patient.
        level: of confidence.

    Returns:
        None where no two ratings differ, so that there is nothing to agree on.

    Raises:
        ValueError: fewer than two patients or measurements, or a value is not finite.

    Reference:
        McGraw and Wong, Forming inferences about some intraclass correlation coefficients, Psychological Methods
        1:30-46, 1996, tables 4 and 7.
    """
    table = _ratings(*ratings)
    k, n = table.shape
    patients, raters, rest = _mean_squares(table)
    scale = patients + (k - 1) * rest + k / n * (raters - rest)
    if scale <= 0:
        return None
    rho = (patients - rest) / scale
    if n < 3 or rho >= 1 - 1e-12:
        return Agreement(rho, None if n < 3 else rho, None if n < 3 else rho, n)
    a, b = k * rho / (n * (1 - rho)), 1 + k * rho * (n - 1) / (n * (1 - rho))
    df = (a * raters + b * rest) ** 2 / ((a * raters) ** 2 / (k - 1) + (b * rest) ** 2 / ((n - 1) * (k - 1)))
    upper, lower = float(fdtri(n - 1, df, 0.5 + level / 2)), float(fdtri(df, n - 1, 0.5 + level / 2))
    other = k * raters + (k * n - k - n) * rest
    low = n * (patients - upper * rest) / (upper * other + n * patients)
    high = n * (lower * patients - rest) / (other + n * lower * patients)
    return Agreement(rho, max(low, -1 / (k - 1)), high, n)


def icc_c1(*ratings: ArrayLike, level: float = 0.95) -> Agreement | None:
    """Intraclass correlation of single ratings, two-way, consistency: ICC(C,1), also known as ICC(3,1).

    It does not see a bias that is the same for all patients: for comparison with `icc_a1` only, never alone.

    Args:
        *ratings: two or more of shape (n,), one value per patient.
        level: of confidence.

    Returns:
        None where the patients' mean ratings and the residuals are all equal.

    Raises:
        ValueError: fewer than two patients or measurements, or a value is not finite.
    """
    table = _ratings(*ratings)
    k, n = table.shape
    patients, _, rest = _mean_squares(table)
    if patients + (k - 1) * rest <= 0:
        return None
    rho = (patients - rest) / (patients + (k - 1) * rest)
    if n < 3 or rest <= patients * 1e-12:
        return Agreement(rho, None if n < 3 else rho, None if n < 3 else rho, n)
    df = (n - 1) * (k - 1)
    low = patients / rest / float(fdtri(n - 1, df, 0.5 + level / 2))
    high = patients / rest * float(fdtri(df, n - 1, 0.5 + level / 2))
    return Agreement(rho, (low - 1) / (low + k - 1), (high - 1) / (high + k - 1), n)


def limits_of_agreement(
    first: ArrayLike, second: ArrayLike, *, share: float = 0.95, level: float = 0.95
) -> Limits | None:
    """Bland and Altman's limits, with exact intervals for differences that are normal.

    Args:
        first: shape (n,), one value per patient.
        second: shape (n,), of the same patients.
        share: of the differences that lies between the limits.
        level: of confidence of the three intervals.

    Returns:
        None for a single patient.

    Raises:
        ValueError: shapes differ, or a value is not finite.

    Reference:
        Bland and Altman, Lancet 327:307-310, 1986; Carkeet, Exact parametric confidence intervals for Bland-Altman
        limits of agreement, Optometry and Vision Science 92:e71-e80, 2015.
    """
    x, y = _ratings(first, second, fewest=1)
    difference = x - y
    n = difference.size
    if n < 2:
        return None
    bias, sd, z = float(difference.mean()), float(difference.std(ddof=1)), float(ndtri(0.5 + share / 2))

    def limit(factor: float) -> tuple[float, float, float]:
        ends = (float(nctdtrit(n - 1, factor * math.sqrt(n), p)) for p in (0.5 - level / 2, 0.5 + level / 2))
        low, high = (bias + end / math.sqrt(n) * sd for end in ends)
        return bias + factor * sd, low, high

    return Limits(limit(0.0), limit(-z), limit(z), sd, n)


def over_seeds(
    coefficient: Coefficient,
    first: np.ndarray,
    second: np.ndarray,
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    level: float = 0.95,
) -> Agreement | None:
    """Mean over seeds of a coefficient, `ccc`, `icc_a1` or `icc_c1`, of two measurements of the same patients.

    One seed has the analytic interval, which holds for this trained model. With several the interval is a percentile
    one of a bootstrap that draws patients, the same for all seeds, and seeds, independently of each other; with fewer
    than five seeds it knows little about them.

    Args:
        coefficient: one of those of this module.
        first: shape (S, N); NaN marks a patient that a seed has not, in either.
        second: shape (S, N).
        rng: see `shiftbench.rng.generator`; used with several seeds.
        resamples: of the bootstrap.
        level: of confidence.

    Returns:
        `n` is the number of patients that any seed has; None where no seed has a defined coefficient.
    """
    paired = np.isfinite(first) & np.isfinite(second)
    found = [
        coefficient(first[s, has], second[s, has], level=level) if has.sum() > 1 else None
        for s, has in enumerate(paired)
    ]
    defined = [s for s, one in enumerate(found) if one is not None]
    if not defined:
        return None
    if len(first) == 1:
        return found[0]
    n_seeds, n_patients = len(defined), first.shape[1]
    patients = rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=resamples)  # (b, N)
    seeds = rng.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=resamples)  # (b, S)
    drawn = [
        _of_moments(coefficient, patients[:, paired[s]], first[s, paired[s]], second[s, paired[s]]) for s in defined
    ]
    values = np.stack(drawn, axis=1)  # (b, S)
    shares = np.where(np.isfinite(values), seeds, 0)
    with np.errstate(invalid="ignore"):  # a draw without any value
        sample = (np.nan_to_num(values) * shares).sum(axis=1) / shares.sum(axis=1)
    low, high = np.nanquantile(sample, [0.5 - level / 2, 0.5 + level / 2])
    estimate = float(np.mean([one.estimate for one in found if one is not None]))
    return Agreement(estimate, float(low), float(high), int(paired.any(axis=0).sum()))


def _of_moments(coefficient: Coefficient, weights: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A coefficient (b,) of resampled patients from their weights (b, n); NaN where it is undefined."""
    with np.errstate(invalid="ignore", divide="ignore"):
        n = weights.sum(axis=1)
        moments = weights @ np.stack([x, y, x * x + y * y, x * y], axis=1) / n[:, None]
        mean_x, mean_y, squares, product = moments.T
        spread = squares - mean_x**2 - mean_y**2  # the sum of both variances
        covariance, shift = product - mean_x * mean_y, (mean_x - mean_y) ** 2
        if coefficient is ccc:
            value = 2 * covariance / (spread + shift)
        else:  # mean squares of two ratings
            patients, rest = ((spread + sign * 2 * covariance) * n / (2 * (n - 1)) for sign in (1, -1))
            raters = n * shift / 2 if coefficient is icc_a1 else rest
            value = (patients - rest) / (patients + rest + 2 / n * (raters - rest))
    level = spread <= 1e-12 * squares  # the patients drawn do not differ, but for rounding
    return np.where(level | (n < 2), np.nan, value)


def _ratings(*ratings: ArrayLike, fewest: int = 2) -> np.ndarray:
    """Ratings (k, n) as an array."""
    rows = [np.asarray(row, float).ravel() for row in ratings]
    if len(rows) < 2 or len({row.size for row in rows}) > 1 or rows[0].size < fewest:
        raise ValueError(
            f"ratings of {[row.size for row in rows]} patients; give two or more ratings of the same patients"
        )
    table = np.stack(rows)
    if not np.isfinite(table).all():
        raise ValueError("a rating is not finite")
    return table


def _mean_squares(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of patients, raters and residual of complete ratings (k, n)."""
    k, n = table.shape
    by_patient, by_rater = table.mean(axis=0) - table.mean(), table.mean(axis=1) - table.mean()
    rest = table - table.mean() - by_patient - by_rater[:, None]
    squares = (k * (by_patient**2).sum() / (n - 1), n * (by_rater**2).sum() / (k - 1))
    return float(squares[0]), float(squares[1]), float((rest**2).sum() / ((n - 1) * (k - 1)))
