"""Intervals against closed forms and simulated coverage; Holm, Wilson and the bootstrap against independent results."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from shiftbench.rng import generator
from shiftbench.stats import (
    Interval,
    crossed_bootstrap,
    crossed_weights,
    drawn_shares,
    equivalent,
    holm,
    mean_interval,
    mean_limits,
    paired_difference,
    pooled_interval,
    share_interval,
    signed_rank,
    unpaired_difference,
    weighted_bootstrap,
    weighted_quantile,
    weighted_tail_mean,
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
    alike = np.array([[0.0, 0.1], [1.1, 1.0]])  # MSs = 1, MSc = 0, MSe = 0.01: patients vary less than by chance
    interval = mean_interval(alike)
    assert interval.standard_error**2 == pytest.approx(1 / 4) and interval.df == pytest.approx(1)
    assert mean_interval(alike.T).standard_error ** 2 == pytest.approx(1 / 4)
    crossed = np.array([[0.0, 1.0], [1.0, 0.0]])  # MSs = MSc = 0, MSe = 1: the sum would be negative
    assert mean_interval(crossed).standard_error == 0.0


def test_limits_of_many_tables_are_those_of_each():
    for shape in ((4, 3, 12), (2, 2, 1, 9)):
        tables = generator(0, "many", shape).random(shape)
        found = np.stack(mean_limits(tables, level=0.9)).reshape(3, -1)
        each = [mean_interval(table, level=0.9) for table in tables.reshape(-1, *shape[-2:])]
        np.testing.assert_allclose(found, [[i.mean for i in each], [i.low for i in each], [i.high for i in each]])
    for bad in (np.ones((2, 3, 1)), np.full((2, 3, 4), np.nan)):
        with pytest.raises(ValueError, match="two patients"):
            mean_limits(bad)


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


def test_two_parts_of_the_patients_have_about_the_variance_of_the_whole():
    draw = generator(0, "parts")
    ratios = []
    for _ in range(200):
        whole = pd.DataFrame(simulated(draw, 3, 60, seed_sd=0.01))
        parts = pooled_interval([whole.iloc[:, :30], whole.iloc[:, 30:]])
        ratios.append(parts.standard_error / mean_interval(whole).standard_error)
    assert np.mean(ratios) == pytest.approx(1, abs=0.01), "what seeds and patients explain is no residual"
    a, b = simulated(draw, 3, 20), simulated(draw, 3, 30)
    tables = [pd.DataFrame(a), pd.DataFrame(b, columns=range(100, 130))]
    by_hand = [[], [], []]
    for y in (a, b):
        n = y.shape[1]
        seeds, patients = y.mean(axis=1) - y.mean(), y.mean(axis=0) - y.mean()
        residual = y - y.mean() - seeds[:, None] - patients
        by_hand[0].append(seeds / 2)
        by_hand[1].append((patients**2).sum() / (n - 1) / n / 4)
        by_hand[2].append((residual**2).sum() / (2 * (n - 1)) / (3 * n) / 4)
    of_seeds = (sum(by_hand[0]) ** 2).sum() / 2 / 3
    larger = max(of_seeds + sum(by_hand[1]) - sum(by_hand[2]), of_seeds, sum(by_hand[1]))
    assert pooled_interval(tables).standard_error ** 2 == pytest.approx(larger)


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


@pytest.mark.slow
def test_holm_is_that_of_statsmodels():
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    draw = generator(0, "holm oracle")
    for _ in range(50):
        p = np.round(draw.random(draw.integers(1, 12)) ** 2, 2)
        np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], atol=1e-15)


def test_practically_tied_needs_the_whole_interval_within_the_margin():
    within = Interval(0.002, -0.004, 0.008, 30, 3, False)
    assert equivalent(within, 0.01) and not equivalent(within, 0.008) and not equivalent(within, 0.0079)
    assert not equivalent(Interval(-0.002, -0.012, 0.008, 30, 3, False), 0.01)
    assert not equivalent(Interval(0.0, None, None, 1, 1, True), 0.01), "one patient shows nothing"
    with pytest.raises(ValueError, match="margin"):
        equivalent(within, 0.0)


def test_the_rank_test_is_scipys_on_patients_averaged_over_seeds_with_pratts_zeros():
    draw = generator(0, "wilcoxon")
    a = pd.DataFrame(np.round(draw.random((3, 15)), 1), columns=[f"p{i}" for i in range(15)])
    b = a + np.round(draw.normal(0.05, 0.1, 15), 1)
    found = signed_rank(a, b.iloc[::-1, ::-1])
    expected = scipy_stats.wilcoxon((a - b).mean(), zero_method="pratt")
    assert found.p == pytest.approx(expected.pvalue) and found.conditional
    exact = np.tile(0.5 + np.array([0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, -0.35]), (4, 1))
    zeros = signed_rank(exact, np.full((4, 10), 0.5))
    assert (zeros.n_patients, zeros.n_zeros) == (10, 3)
    dropped = scipy_stats.wilcoxon(exact[0] - 0.5, zero_method="wilcox").pvalue
    assert zeros.p == pytest.approx(scipy_stats.wilcoxon(exact[0] - 0.5, zero_method="pratt").pvalue) != dropped
    assert signed_rank(exact, exact).p == 1.0
    with pytest.raises(ValueError, match="unequal case sets"):
        signed_rank(a, b.iloc[:, :5])


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


def test_a_mean_of_drawn_units_varies_as_the_mean_of_the_units_does():
    units = generator(0, "units").normal(size=4)
    shares = drawn_shares(4, resamples=200_000, rng=generator(0, "draw"))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (shares @ units).var() == pytest.approx(units.var(ddof=1) / 4, rel=0.02)
    usual = drawn_shares(4, resamples=200_000, rng=generator(0, "draw"), draws=4)
    assert (usual @ units).var() == pytest.approx(units.var(ddof=0) / 4, rel=0.02), "as many draws as units: too little"
    assert drawn_shares(1, resamples=3, rng=generator(0)).tolist() == [[1.0]] * 3


def test_weights_hold_one_draw_of_seeds_and_one_of_patients_per_domain():
    seeds, patients = crossed_weights(3, [5, 7], resamples=100, rng=generator(0, "weights"))
    assert seeds.shape == (100, 3) and [w.shape for w in patients] == [(100, 5), (100, 7)]
    for weights in (seeds, *patients):
        np.testing.assert_allclose(weights.sum(axis=1), 1)
    assert np.unique(patients[0]).size > 2 and (patients[0] != patients[1][:, :5]).any()


def test_a_bootstrap_of_weights_gives_the_bootstrap_of_means():
    values = simulated(generator(0, "weights"), 5, 40)

    def mean(weights):
        return (weights * values).sum(axis=(1, 2))

    by_weights = weighted_bootstrap(5, [40], mean, resamples=3000, rng=generator(1))
    by_means = crossed_bootstrap(values, lambda m: m, resamples=3000, rng=generator(1))
    for name in ("estimate", "low", "high"):
        assert getattr(by_weights, name) == pytest.approx(getattr(by_means, name))


def test_the_bootstrap_of_weights_does_not_depend_on_how_many_fit_into_memory(monkeypatch):
    values = simulated(generator(0, "chunks"), 3, 20)

    def tail(weights):
        return weighted_tail_mean(values, weights, 0.1)

    whole = weighted_bootstrap(3, [20], tail, resamples=500, rng=generator(1))
    monkeypatch.setattr("shiftbench.stats.bootstrap._CELLS", 7 * 60)
    assert weighted_bootstrap(3, [20], tail, resamples=500, rng=generator(1)) == whole
    assert whole.seed_limited and whole.low < whole.estimate < whole.high


def test_weighted_quantiles_and_tail_means_are_those_of_repeated_scores():
    draw = generator(0, "tails")
    values, counts = draw.random((3, 8)), draw.integers(0, 4, (6, 3, 8))
    counts[:, 0, 0] += 1
    weights = counts / counts.sum(axis=(1, 2), keepdims=True)
    for q in (0.05, 0.5, 1.0):
        repeated = [np.repeat(values.ravel(), c.ravel()) for c in counts]
        expected = [np.quantile(r, q, method="inverted_cdf") for r in repeated]
        np.testing.assert_allclose(weighted_quantile(values, weights, q), expected)
    for share in (0.1, 0.25, 1.0):
        fine = [np.sort(np.repeat(r, 20)) for r in repeated]  # so that the share is a whole number of scores
        expected = [f[: round(share * f.size)].mean() for f in fine]
        np.testing.assert_allclose(weighted_tail_mean(values, weights, share), expected, atol=1e-12)


def test_seeds_of_methods_draw_together_unless_they_are_of_other_groups():
    draw = generator(0, "groups")
    seeds = draw.normal(0, 0.1, (4, 1)) + np.zeros((4, 12))
    pair = np.stack([seeds, seeds + 0.2])

    def gain(means):
        return means[:, 1] - means[:, 0]

    def spread(groups):
        found = crossed_bootstrap(pair, gain, resamples=2000, rng=generator(1), seed_groups=groups)
        return found.high - found.low

    assert spread(None) == pytest.approx(0) and spread(["source", "source"]) == pytest.approx(0)
    assert spread(["a", "b"]) > 0.1
    with pytest.raises(ValueError, match="one label per method"):
        crossed_bootstrap(pair, gain, resamples=10, rng=draw, seed_groups=["a"])


def test_the_order_of_methods_changes_no_bootstrap():
    values, order = generator(0, "order").random((4, 5, 12)), [2, 0, 3, 1]
    for labels in (None, ["x", "y", "x", "z"]):
        shuffled = None if labels is None else [labels[i] for i in order]
        one = crossed_bootstrap(values, lambda m: m, resamples=300, rng=generator(1), seed_groups=labels)
        two = crossed_bootstrap(values[order], lambda m: m, resamples=300, rng=generator(1), seed_groups=shuffled)
        np.testing.assert_allclose(two.low, one.low[order], rtol=1e-12)
        np.testing.assert_allclose(two.high, one.high[order], rtol=1e-12)


def test_a_missing_score_is_refused_by_the_bootstrap():
    with pytest.raises(ValueError, match="a score is missing"):
        crossed_bootstrap(np.array([[0.1, np.nan], [0.2, 0.3]]), lambda m: m, rng=generator(0))
