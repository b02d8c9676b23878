"""Intervals against closed forms and simulated coverage; Holm, Wilson and the bootstrap against independent results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from shiftbench.rng import generator
from shiftbench.stats import (
    crossed_bootstrap,
    holm,
    mean_interval,
    paired_difference,
    pooled_interval,
    share_interval,
    unpaired_difference,
)


def simulated(draw, n_seeds, n, seed_sd=0.015, case_sd=0.10, interaction=0.03) -> np.ndarray:
    """Scores around 0 with a skewed case effect, a seed effect and their interaction."""
    case = (draw.gamma(2, 1, n) - 2) / np.sqrt(2) * case_sd
    return draw.normal(0, seed_sd, (n_seeds, 1)) + case + draw.normal(0, interaction, (n_seeds, n))


def test_one_seed_gives_the_t_interval_over_patients_and_says_that_it_is_conditional():
    values = generator(0, "one seed").normal(0.8, 0.1, 15)
    interval = mean_interval(values)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert interval.conditional and (interval.n_patients, interval.n_seeds) == (15, 1)
    assert interval.p_differs(0.8) == pytest.approx(scipy_stats.ttest_1samp(values, 0.8).pvalue)
    assert interval.p_above(0.8) == pytest.approx(scipy_stats.ttest_1samp(values, 0.8, alternative="greater").pvalue)


def test_one_patient_has_a_mean_and_no_interval():
    for values in ([[0.7]], [[0.7], [0.9]]):
        interval = mean_interval(values)
        assert interval.mean == pytest.approx(np.mean(values))
        assert interval.low is None and interval.high is None and interval.p_differs() is None


def test_the_two_way_variance_takes_the_larger_of_its_parts_by_hand():
    seeds_only = np.array([[0.1] * 4, [0.3] * 4, [0.5] * 4])  # MSs = 0.16, MSc = MSe = 0
    interval = mean_interval(seeds_only)
    assert interval.standard_error**2 == pytest.approx(0.16 / 12) and interval.df == pytest.approx(2)
    both = np.add.outer([0.0, 0.2], [0.0, 0.1, 0.5])  # MSs = 0.06, MSc = 0.14, MSe = 0
    interval = mean_interval(both)
    assert interval.standard_error**2 == pytest.approx(0.20 / 6)
    assert interval.df == pytest.approx(0.20**2 / (0.06**2 / 1 + 0.14**2 / 2))
    crossed = np.array([[0.0, 1.0], [1.0, 0.0]])  # MSs = MSc = 0, MSe = 1: the sum would be negative
    assert mean_interval(crossed).standard_error == 0.0


@pytest.mark.parametrize(("n_seeds", "n", "seed_sd"), [(3, 20, 0.015), (5, 40, 0.015), (3, 50, 0.03)])
def test_the_interval_covers_the_truth_about_95_times_in_100(n_seeds, n, seed_sd):
    draw = generator(0, "coverage", n_seeds, n)
    intervals = [mean_interval(simulated(draw, n_seeds, n, seed_sd)) for _ in range(1500)]
    coverage = np.mean([i.low <= 0 <= i.high for i in intervals])
    assert 0.92 <= coverage <= 0.975


def test_pooled_targets_that_share_seeds_but_not_patients_are_covered_too():
    draw = generator(0, "pooled coverage")
    hits = []
    for _ in range(500):
        y = simulated(draw, 3, 50, seed_sd=0.03)
        tables = [pd.DataFrame(y[:, :20], columns=range(20)), pd.DataFrame(y[:, 20:], columns=range(20, 50))]
        interval = pooled_interval(tables)
        assert interval.n_patients == 50 and interval.n_seeds == 3
        hits.append(interval.low <= 0 <= interval.high)
    assert 0.90 <= np.mean(hits) <= 0.985


def test_targets_on_the_same_patients_are_averaged_per_patient_first():
    draw = generator(0, "shared patients")
    a, b = (pd.DataFrame(draw.random((2, 9))) for _ in range(2))
    assert pooled_interval([a, b], [1, 3]) == mean_interval(0.25 * a + 0.75 * b)
    twice = pooled_interval([a, a])
    assert twice == mean_interval(a), "the same patients twice are no more patients"


def test_targets_on_other_patients_add_their_variances():
    draw = generator(0, "disjoint patients")
    a, b = pd.DataFrame(draw.random((1, 9))), pd.DataFrame(draw.random((1, 30)), columns=range(100, 130))
    pooled = pooled_interval([a, b], [1, 3])
    one, two = mean_interval(a), mean_interval(b)
    assert pooled.mean == pytest.approx(0.25 * one.mean + 0.75 * two.mean)
    assert pooled.standard_error**2 == pytest.approx(
        (0.25 * one.standard_error) ** 2 + (0.75 * two.standard_error) ** 2
    )


def test_seeds_with_other_patients_count_as_the_replicates():
    draw = generator(0, "nested")
    y = np.full((4, 40), np.nan)
    for seed in range(4):
        y[seed, 10 * seed : 10 * seed + 10] = draw.normal(0, 0.1) + draw.normal(0, 0.01, 10)
    means = np.nanmean(y, axis=1)
    assert mean_interval(y).standard_error == pytest.approx(np.std(means, ddof=1) / 2, rel=0.05)


def test_a_paired_difference_is_the_interval_of_the_differences_matched_by_label():
    draw = generator(0, "paired")
    a = pd.DataFrame(draw.random((3, 12)), index=[0, 1, 2], columns=[f"p{i}" for i in range(12)])
    b = a - 0.1 + draw.normal(0, 0.01, (3, 12))
    shuffled = b.iloc[::-1, draw.permutation(12)]
    assert paired_difference(a, shuffled) == paired_difference(a.to_numpy(), b.to_numpy())
    assert paired_difference(a, b).low > 0.08


def test_unequal_case_sets_are_refused():
    a = pd.DataFrame(np.ones((2, 3)), columns=["p", "q", "r"])
    for b in (a.rename(columns={"r": "s"}), a.iloc[:, :2], a.iloc[:1]):
        with pytest.raises(ValueError, match="unequal case sets"):
            paired_difference(a, b)
    with pytest.raises(ValueError, match="unequal case sets"):
        paired_difference(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(ValueError, match="unequal case sets"):
        paired_difference([[1.0, np.nan]], [[np.nan, 1.0]])


def test_unpaired_differences_are_welchs():
    draw = generator(0, "welch")
    a, b = draw.normal(0.8, 0.1, 12), draw.normal(0.7, 0.05, 40)
    expected = scipy_stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    interval = unpaired_difference(a, b)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_holm_equals_its_definition_on_a_worked_example_and_keeps_the_order():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).size == 0 and holm([0.9, 0.8]).tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="outside"):
        holm([0.1, float("nan")])


def test_holm_rejects_exactly_what_the_step_down_procedure_rejects():
    draw = generator(0, "holm")
    for _ in range(200):
        p = draw.random(draw.integers(1, 8)) ** 3
        rejected = np.zeros(p.size, bool)
        for step, index in enumerate(np.argsort(p)):
            if p[index] > 0.05 / (p.size - step):
                break
            rejected[index] = True
        assert ((holm(p) <= 0.05) == rejected).all()


def test_shares_have_wilsons_interval():
    expected = scipy_stats.binomtest(3, 25).proportion_ci(method="wilson")
    interval = share_interval(3, 25)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert share_interval(0, 10).low == 0.0 < share_interval(0, 10).high
    with pytest.raises(ValueError, match="no share"):
        share_interval(3, 2)


def test_the_crossed_bootstrap_is_reproducible_and_near_the_t_interval_of_a_mean():
    values = simulated(generator(0, "bootstrap"), 8, 60)
    first, second = (crossed_bootstrap(values, lambda m: m, resamples=4000, rng=generator(1, "b")) for _ in range(2))
    assert first == second and not first.seed_limited
    interval = mean_interval(values)
    assert first.estimate == pytest.approx(interval.mean)
    assert first.high - first.low == pytest.approx(interval.high - interval.low, rel=0.2)


def test_the_crossed_bootstrap_keeps_pairs_and_takes_any_functional_of_several_domains():
    draw = generator(0, "pairs")
    base = draw.random((3, 20))
    pair = np.stack([base, base + 0.1])
    difference = crossed_bootstrap(pair, lambda m: m[:, 1] - m[:, 0], resamples=500, rng=draw)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1)) and difference.seed_limited
    ratio = crossed_bootstrap([pair, pair[..., :7]], lambda a, b: a[:, 1] / b[:, 0], resamples=500, rng=draw)
    assert ratio.low < ratio.estimate < ratio.high
    with pytest.raises(ValueError, match="number of seeds"):
        crossed_bootstrap([pair, pair[:, :2]], lambda a, b: a, rng=draw)
