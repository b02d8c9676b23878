"""Concordance, intraclass correlation, limits of agreement: published tables, another library, simulations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from shiftbench.rng import generator
from shiftbench.stats import ccc, icc_a1, icc_c1, limits_of_agreement, over_seeds

# Shrout and Fleiss, Psychological Bulletin 86:420-428, 1979, table 2: six targets, four judges.
JUDGES = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float).T


def pair(n=40, bias=0.0, noise=3.0, slope=1.0, seed=0, spread=10.0) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(seed, "pair", n)
    true = rng.normal(100, spread, n)
    return slope * true + bias + rng.normal(0, noise, n), true


def test_the_table_of_shrout_and_fleiss():
    absolute, consistent = icc_a1(*JUDGES), icc_c1(*JUDGES)
    assert absolute.estimate == pytest.approx(0.29, abs=0.005)
    assert consistent.estimate == pytest.approx(0.71, abs=0.005)
    assert (absolute.low, absolute.high) == pytest.approx((0.02, 0.76), abs=0.005)
    assert (consistent.low, consistent.high) == pytest.approx((0.34, 0.95), abs=0.005)


@pytest.mark.parametrize(("n", "bias", "noise"), [(8, 0.0, 3.0), (40, 4.0, 3.0), (200, -10.0, 20.0)])
def test_intraclass_correlations_agree_with_an_independent_library(n, bias, noise):
    pingouin = pytest.importorskip("pingouin")
    ratings = pair(n, bias, noise)
    long = pd.DataFrame([(i, j, r[i]) for j, r in enumerate(ratings) for i in range(n)], columns=["who", "by", "value"])
    theirs = pingouin.intraclass_corr(long, targets="who", raters="by", ratings="value").set_index("Type")
    for ours, name in ((icc_a1(*ratings), "ICC(A,1)"), (icc_c1(*ratings), "ICC(C,1)")):
        own = theirs.loc[name] if name in theirs.index else theirs.loc[{"ICC(A,1)": "ICC2", "ICC(C,1)": "ICC3"}[name]]
        assert ours.estimate == pytest.approx(own["ICC"], abs=1e-9)
        limits = own["CI95"] if "CI95" in own else own["CI95%"]
        assert (ours.low, ours.high) == pytest.approx(tuple(limits), abs=0.00501)  # which rounds to two digits


def test_concordance_is_the_distance_from_the_line_of_identity():
    x, y = pair(bias=5.0)
    expected = 1 - ((x - y) ** 2).mean() / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)
    assert ccc(x, y).estimate == pytest.approx(expected)
    assert ccc(x, x).estimate == ccc(x, x).low == ccc(x, x).high == 1.0
    assert ccc(x, 2 * x.mean() - x).estimate == pytest.approx(-1.0)


def test_a_constant_contamination_is_seen_by_absolute_agreement_and_not_by_consistency():
    """METRICS.md 5.6: 10 % of background at 40 in targets at 98 +- 8, so the bias is -5.8."""
    target = generator(0, "contaminated").normal(98, 8, 4000)
    measured = 0.9 * target + 0.1 * 40
    bias = limits_of_agreement(measured, target).bias[0]
    assert bias == pytest.approx(-5.8, abs=0.05)
    assert icc_c1(measured, target).estimate > 0.99
    assert icc_a1(measured, target).estimate == pytest.approx(0.768, abs=0.02)
    assert ccc(measured, target).estimate == pytest.approx(0.763, abs=0.02)
    assert np.corrcoef(measured, target)[0, 1] == pytest.approx(1.0)  # why correlation alone says nothing


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(-20, 20), st.floats(0.1, 30))
def test_coefficients_do_not_change_with_the_unit_or_the_order_of_the_two(seed, bias, noise):
    x, y = pair(12, bias, noise, seed=seed)
    for coefficient in (ccc, icc_a1, icc_c1):
        found, other, scaled = coefficient(x, y), coefficient(y, x), coefficient(7 * x - 3, 7 * y - 3)
        assert found.low <= found.estimate <= found.high
        for one in (other, scaled):
            got = (one.estimate, one.low, one.high)
            assert got == pytest.approx((found.estimate, found.low, found.high), rel=1e-6, abs=1e-6)
    assert ccc(x, y).estimate <= 1 and abs(ccc(x, y).estimate) <= abs(np.corrcoef(x, y)[0, 1]) + 1e-12


def test_a_wider_spread_of_patients_raises_agreement_with_the_same_error():
    narrow, wide = (ccc(*pair(400, 2.0, spread=spread)).estimate for spread in (3.0, 30.0))
    assert narrow < 0.7 < 0.98 < wide


def test_where_nobody_differs_there_is_nothing_to_agree_on():
    level = np.full(6, 3.0)
    assert ccc(level, level) is None and icc_a1(level, level) is None and icc_c1(level, level) is None
    assert ccc(level, level + 1) is None
    one_sided = ccc(level, np.arange(6.0))
    assert one_sided.estimate == 0.0 and one_sided.low is None
    assert limits_of_agreement(level, level).upper == (0.0, 0.0, 0.0)
    assert limits_of_agreement([1.0], [2.0]) is None


def test_too_few_patients_have_an_estimate_and_no_interval():
    assert icc_a1([1.0, 2.0], [1.5, 2.0]).low is None and ccc([1.0, 2.0, 4.0], [1.0, 2.5, 4.0]).low is None
    for bad in (([1.0], [2.0]), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 2.0]), ([1.0, 2.0],)):
        with pytest.raises(ValueError, match="same patients|not finite"):
            icc_a1(*bad)
    with pytest.raises(ValueError, match="not finite"):
        limits_of_agreement([1.0, np.inf], [1.0, 2.0])


def test_limits_of_agreement_are_those_of_bland_and_altman():
    x, y = pair(60, 4.0)
    found, d = limits_of_agreement(x, y), x - y
    assert found.bias[0] == pytest.approx(d.mean()) and found.sd == pytest.approx(d.std(ddof=1))
    assert found.lower[0] == pytest.approx(d.mean() - 1.959964 * d.std(ddof=1), rel=1e-6)
    assert found.upper[0] == pytest.approx(d.mean() + 1.959964 * d.std(ddof=1), rel=1e-6)
    error = d.std(ddof=1) * np.sqrt(1 / 60 + 1.96**2 / (2 * 59))  # Bland and Altman's approximation
    for limit in (found.lower, found.upper):
        assert (limit[2] - limit[1]) / 2 == pytest.approx(2.0 * error, rel=0.03)


@pytest.mark.parametrize("n", [8, 25])
def test_the_intervals_cover_what_they_should(n):
    rng, draws = generator(0, "coverage", n), 1500
    spread, noise, bias = 10.0, 4.0, 3.0
    variance = 2 * spread**2 + noise**2
    truth = {"ccc": 2 * spread**2 / (variance + bias**2), "upper": bias + float(norm.ppf(0.975)) * noise, "bias": bias}
    truth["icc_c1"] = 2 * spread**2 / variance
    hits = dict.fromkeys(truth, 0)
    for _ in range(draws):
        y = rng.normal(0, spread, n)
        x = y + bias + rng.normal(0, noise, n)
        limits, agreed, consistent = limits_of_agreement(x, y), ccc(x, y), icc_c1(x, y)
        ends = {"upper": limits.upper[1:], "bias": limits.bias[1:], "ccc": (agreed.low, agreed.high)}
        ends["icc_c1"] = (consistent.low, consistent.high)
        for name, (low, high) in ends.items():
            hits[name] += low <= truth[name] <= high
    shares = {name: n_hits / draws for name, n_hits in hits.items()}
    assert shares["upper"] == pytest.approx(0.95, abs=0.02) and shares["bias"] == pytest.approx(0.95, abs=0.02)
    assert shares["ccc"] > (0.88 if n == 8 else 0.92) and shares["icc_c1"] > 0.92  # Lin's are asymptotic


# --- several seeds ----------------------------------------------------------------------------------------------------


def seeds(n_seeds=4, n=30, between=0.0, noise=3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = generator(0, "seeds", n_seeds)
    true = rng.normal(100, 10, n)
    first = true + rng.normal(0, noise, (n_seeds, n)) + rng.normal(0, between, (n_seeds, 1))
    return first, np.tile(true, (n_seeds, 1))


@pytest.mark.parametrize("coefficient", [ccc, icc_a1, icc_c1])
def test_one_seed_has_the_interval_of_its_patients(coefficient):
    first, second = seeds(1)
    assert over_seeds(coefficient, first, second, rng=generator(0)) == coefficient(first[0], second[0])


@pytest.mark.parametrize("coefficient", [ccc, icc_a1, icc_c1])
def test_several_seeds_are_averaged_and_not_pooled(coefficient):
    first, second = seeds(between=20.0)
    found = over_seeds(coefficient, first, second, rng=generator(0))
    each = [coefficient(a, b).estimate for a, b in zip(first, second, strict=True)]
    assert found.estimate == pytest.approx(np.mean(each))
    assert found.low < found.estimate < found.high and found.n == 30
    assert over_seeds(coefficient, first, second, rng=generator(0)) == found  # the same draws


def test_more_seeds_of_the_same_patients_do_not_narrow_the_interval_as_more_patients_would():
    few, many = (over_seeds(ccc, *seeds(n_seeds, noise=6.0), rng=generator(0)) for n_seeds in (2, 30))
    wide = over_seeds(ccc, *seeds(2, n=900, noise=6.0), rng=generator(0))
    assert many.high - many.low > 0.5 * (few.high - few.low) and wide.high - wide.low < 0.4 * (few.high - few.low)


@pytest.mark.parametrize("coefficient", [ccc, icc_a1, icc_c1])
def test_the_bootstrap_has_the_width_of_the_analytic_interval(coefficient):
    first, second = seeds(1, n=120)
    analytic = coefficient(first[0], second[0])
    same = over_seeds(coefficient, np.repeat(first, 2, axis=0), np.repeat(second, 2, axis=0), rng=generator(0))
    assert same.estimate == pytest.approx(analytic.estimate)
    if coefficient is not icc_a1:  # whose analytic interval takes the two outlines for a sample of outlines
        assert (same.low, same.high) == pytest.approx((analytic.low, analytic.high), abs=0.01)


def test_patients_that_a_seed_has_not_are_left_out_of_that_seed():
    first, second = seeds(3)
    first[0, :5] = np.nan
    found = over_seeds(ccc, first, second, rng=generator(0))
    each = [ccc(first[0, 5:], second[0, 5:]), ccc(first[1], second[1]), ccc(first[2], second[2])]
    assert found.estimate == pytest.approx(np.mean([one.estimate for one in each])) and found.n == 30
    first[1:] = np.nan
    assert over_seeds(ccc, first, second, rng=generator(0)).estimate == pytest.approx(each[0].estimate)
    assert over_seeds(ccc, np.full((2, 4), np.nan), second[:2, :4], rng=generator(0)) is None
