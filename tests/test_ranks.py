"""Ranks: their limits, their bootstrap, ties, what changes the winner, and that no order changes any of it."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from synthetic_rows import make_rows

from shiftbench.report.sections import pairs as pairs_section
from shiftbench.report.sections import ranks
from shiftbench.rng import generator
from shiftbench.robustness import headline
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import entries_of, patient_table
from shiftbench.robustness.tables.pairs import pairs
from shiftbench.robustness.tables.ranking import MEAN, ranking_sensitivity
from shiftbench.stats import (
    competition_ranks,
    kendall_tau,
    mean_interval,
    mean_ranks,
    paired_difference,
    rank_distribution,
    rank_limits,
    signed_rank,
    tie_groups,
)
from shiftbench.types import Row

N = 24
NAMES = tuple(f"p{i:02d}" for i in range(N))
BASE = Row(**make_rows(patients=1, methods=("erm",), levels=(1,)).iloc[0].to_dict())


def rows_of(scores: dict[str, np.ndarray], target="t", family="acquisition", metric="dsc", names=NAMES) -> list[dict]:
    """DSC (or another metric) of methods, each (S, N), on one target."""
    line = replace(BASE, target=target, family=family, metric=metric, definition="counts" if metric == "dsc" else "S")
    return [
        asdict(replace(line, method=method, track="tta", k=None, seed=s, case=name, patient=name, value=float(value)))
        for method, table in scores.items()
        for s, row in enumerate(np.atleast_2d(table))
        for name, value in zip(names, row, strict=True)
    ]


def around(*means: float, spread=0.02, seeds=1, key="ranks") -> dict[str, np.ndarray]:
    """Methods m0, m1, ... with the same patients."""
    draw = generator(0, key)
    patients = draw.normal(0, 0.05, N)
    patients -= patients.mean()
    return {f"m{i}": mean + patients + draw.normal(0, spread, (seeds, N)) for i, mean in enumerate(means)}


def of(table: pd.DataFrame, **where) -> pd.DataFrame:
    for column, value in where.items():
        table = table[table[column] == value]
    return table


def test_competition_ranks_and_mean_ranks_are_scipys_with_the_highest_first():
    scores = np.array([[0.5, 0.9, 0.5, 0.1, 0.9], [0.1, 0.2, 0.3, 0.4, 0.5]])
    for ours, method in ((competition_ranks, "min"), (mean_ranks, "average")):
        np.testing.assert_array_equal(ours(scores), [scipy_stats.rankdata(-row, method=method) for row in scores])
    assert competition_ranks([0.1 + 0.2, 0.3]).tolist() == [1, 1], "rounding makes no rank"


def test_kendalls_tau_is_scipys_with_ties():
    draw = generator(0, "tau")
    for _ in range(50):
        a, b = draw.integers(0, 5, 9), draw.integers(0, 5, 9)
        assert kendall_tau(a, b) == pytest.approx(scipy_stats.kendalltau(a, b).statistic)
    assert kendall_tau([1, 1, 1], [1, 2, 3]) is None and kendall_tau([1, 2, 3], [3, 2, 1]) == -1


def test_rank_limits_leave_room_for_all_that_do_not_differ():
    means = {"a": 0.9, "b": 0.8, "c": 0.7, "d": 0.1}
    apart = {frozenset("ad"), frozenset("bd"), frozenset("ac")}
    p = {frozenset((x, y)): 0.01 if {x, y} in apart else 0.5 for x in means for y in means if x != y}
    assert rank_limits(means, p) == {"a": (1, 2), "b": (1, 3), "c": (2, 4), "d": (3, 4)}
    assert rank_limits(means, dict.fromkeys(p, 0.05))["a"] == (1, 4), "at the level itself there is no difference"
    assert tie_groups(list(means), p) == [1, 1, 2, 2]


def test_the_distribution_of_ranks_of_two_methods_is_the_sign_of_their_bootstrapped_difference():
    draw = generator(0, "two methods")
    a = draw.normal(0.5, 0.1, (4, 30))
    gain = draw.normal(0, 0.05, 30) + draw.normal(0, 0.002, (4, 30))
    b = a - gain + gain.mean() - 0.01
    shares = rank_distribution([np.stack([a, b])], [range(30)], [1.0], rng=generator(0, "b"))
    expected = scipy_stats.norm.cdf(0.01 / mean_interval(a - b).standard_error)
    assert 0.8 < expected < 0.95 and shares[0, 0] == pytest.approx(expected, abs=0.02)
    np.testing.assert_allclose([shares.sum(axis=0), shares.sum(axis=1)], 1)
    assert shares[0, 0] == pytest.approx(shares[1, 1])


def test_methods_that_tie_in_a_resample_share_their_ranks():
    same = generator(0, "same").random((3, 10))
    worse, better = same - 0.5, same + 0.5
    shares = rank_distribution(
        [np.stack([same, worse, same, better])], [range(10)], [1.0], resamples=50, rng=generator(0)
    )
    np.testing.assert_allclose(shares[:, 0], [0, 0, 0, 1])
    np.testing.assert_allclose(shares[0], [0, 0.5, 0.5, 0])
    np.testing.assert_allclose(shares[0], shares[2])
    np.testing.assert_allclose(shares[1], [0, 0, 0, 1])


def test_targets_with_the_same_patients_share_their_draw_and_others_do_not():
    draw = generator(0, "draws")
    y = draw.normal(0, 0.1, (2, 1, 30))
    y[0] += y[1].mean() - y[0].mean() + 0.005
    opposite = 2 * y.mean(axis=0) - y  # what the first method gains on a patient in one target it loses in the other
    opposite[0] += 0.005
    people, strangers = list(range(30)), list(range(100, 130))
    shared = rank_distribution([y, opposite], [people, people], [0.5, 0.5], rng=generator(0))
    apart = rank_distribution([y, opposite], [people, strangers], [0.5, 0.5], rng=generator(0))
    assert shared[0, 0] == 1 and apart[0, 0] < 0.9
    shuffled = rank_distribution([y, opposite[..., ::-1]], [people, people[::-1]], [0.5, 0.5], rng=generator(0))
    np.testing.assert_array_equal(shuffled, shared)
    part = rank_distribution([y, opposite[..., :20]], [people, people[:20]], [0.5, 0.5], rng=generator(0))
    assert 0 < part[0, 0] < 1


def test_a_missing_score_is_refused_by_the_bootstrap_of_ranks():
    y = np.ones((2, 2, 5))
    y[0, 1, 2] = np.nan
    with pytest.raises(ValueError, match="missing"):
        rank_distribution([y], [range(5)], [1.0], rng=generator(0))


def test_the_headline_says_what_its_ranks_are_worth():
    table = headline(pd.DataFrame(rows_of(around(0.80, 0.801, 0.70, seeds=3, spread=0.01)))).query(
        "family == 'overall'"
    )
    table = table.set_index("method")
    assert table["rank"].to_dict() == {"m1": 1, "m0": 2, "m2": 3} or table["rank"].to_dict() == {
        "m0": 1,
        "m1": 2,
        "m2": 3,
    }
    assert table.loc[["m0", "m1"], "rank_low"].tolist() == [1, 1]
    assert table.loc[["m0", "m1"], "rank_high"].tolist() == [2, 2]
    assert (table.loc["m2", "rank_low"], table.loc["m2", "rank_high"]) == (3, 3)
    assert table["p_rank_1"].sum() == pytest.approx(1) and table.loc["m2", "p_rank_1"] == 0
    assert table["p_rank_1"].idxmax() == table["rank"].idxmin()
    assert table["tied_with_leader"].to_dict() == {"m0": True, "m1": True, "m2": False}
    assert not table["conditional"].any()


def test_practically_tied_is_not_the_same_as_not_told_apart():
    noisy = headline(pd.DataFrame(rows_of(around(0.80, 0.80, spread=0.08)))).query("family == 'overall'")
    assert noisy["tie_group"].tolist() == [1, 1] and noisy["tied_with_leader"].tolist() == [True, False]
    close = headline(pd.DataFrame(rows_of(around(0.800, 0.796, spread=0.002)))).query("family == 'overall'")
    assert close["tie_group"].tolist() == [1, 2] and close["tied_with_leader"].tolist() == [True, True]
    assert CONSTANTS.tie_margin == 0.01


def test_one_seed_is_conditional_and_more_seeds_make_the_same_lead_less_certain():
    draw = generator(0, "seed effects")
    base = around(0.80, 0.79, spread=0.005)
    one = headline(pd.DataFrame(rows_of(base))).query("family == 'overall'").set_index("method")
    wobble = {name: table + draw.normal(0, 0.03, (3, 1)) for name, table in base.items()}
    wobble = {name: table - table.mean() + base[name].mean() for name, table in wobble.items()}
    three = headline(pd.DataFrame(rows_of(wobble))).query("family == 'overall'").set_index("method")
    assert one["conditional"].all() and not three["conditional"].any()
    assert one.loc["m0", "dsc"] == pytest.approx(three.loc["m0", "dsc"])
    assert one.loc["m0", "p_rank_1"] > 0.99 > 0.95 > three.loc["m0", "p_rank_1"]
    assert one["rank_high"].tolist() == [1, 2] and three["rank_high"].tolist() == [2, 2]


def test_unranked_methods_have_no_limits_and_take_no_part():
    rows = pd.DataFrame(rows_of(around(0.8, 0.7)) + rows_of(around(0.8), target="u"))
    table = headline(rows).query("family == 'overall'").set_index("method")
    assert pd.isna(table.loc["m1", ["rank", "rank_low", "p_rank_1", "tied_with_leader"]]).all()
    assert (table.loc["m0", "rank_high"], table.loc["m0", "p_rank_1"]) == (1, 1.0)


def test_a_target_that_source_only_has_and_the_board_lacks_makes_the_board_unranked():
    rows = pd.DataFrame(rows_of(around(0.8, 0.7)))
    base = pd.DataFrame([*rows_of({"erm": around(0.6)["m0"]}), *rows_of({"erm": around(0.6)["m0"]}, target="u")])
    table = headline(pd.concat([rows, base.assign(track="dg")], ignore_index=True))
    assert of(table, track="tta")["rank"].isna().all()
    assert set(of(table, track="tta")["note"]) == {"not ranked: not applicable or not scored on 1 of 2 targets"}
    assert of(table, track="dg")["rank"].notna().all()
    elsewhere = base.assign(track="dg", backbone="other")
    assert of(headline(pd.concat([rows, elsewhere], ignore_index=True)), track="tta")["rank"].notna().all()


def outliers() -> list[dict]:
    """m0 leads by the mean: a few patients fail under m1, which is better on all others."""
    steady = around(0.80, spread=0.001, seeds=2)["m0"]
    fails = steady + 0.1
    fails[:, :4] -= 0.9
    return rows_of({"m0": steady, "m1": fails, "m2": steady - 0.3})


def test_the_winner_by_the_mean_may_lose_by_the_median_and_by_ranks():
    table = ranking_sensitivity(pd.DataFrame(outliers()))
    winners = {
        view: own.loc[own["rank"] == 1, "method"].tolist() for view, own in of(table, family="overall").groupby("view")
    }
    assert winners == {MEAN: ["m0"], "rank per patient": ["m1"], "median": ["m1"]}
    views = of(table, family="overall").drop_duplicates("view").set_index("view")
    assert views["winner_changes"].to_dict() == {MEAN: False, "rank per patient": True, "median": True}
    assert views["tau"].to_dict() == pytest.approx({MEAN: 1, "rank per patient": 1 / 3, "median": 1 / 3})
    per_patient = of(table, family="overall", view="rank per patient").set_index("method")["score"]
    assert per_patient.to_dict() == pytest.approx({"m0": 44 / 24, "m1": 32 / 24, "m2": 68 / 24})
    assert of(table, family="overall", view=MEAN)["p_rank_1"].sum() == pytest.approx(1)
    assert of(table, family="overall", view="median")["p_rank_1"].isna().all()


def test_leaving_a_target_out_renews_the_weights_of_the_families():
    easy, hard = around(0.9, 0.8, key="easy"), around(0.30, 0.45, key="hard")
    rows = rows_of(easy, "t") + rows_of(easy, "u") + rows_of(hard, "v", family="population")
    table = of(ranking_sensitivity(pd.DataFrame(rows)), family="overall")
    score = {view: own.set_index("method")["score"] for view, own in table.groupby("view")}
    where = f"without {BASE.scenario}: "
    assert score[MEAN]["m0"] == pytest.approx((np.mean(easy["m0"]) + np.mean(hard["m0"])) / 2)
    assert score[f"{where}t"]["m0"] == pytest.approx(score[MEAN]["m0"])
    assert score[f"{where}v"]["m0"] == pytest.approx(np.mean(easy["m0"]))
    changes = table.drop_duplicates("view").set_index("view")["winner_changes"]
    assert changes[f"{where}v"] and not changes[f"{where}t"]


def test_leaving_a_metric_out_ranks_by_the_other():
    dsc, nsd = around(0.8, 0.7, 0.6), around(0.2, 0.5, 0.6)
    table = of(ranking_sensitivity(pd.DataFrame(rows_of(dsc) + rows_of(nsd, metric="nsd"))), family="overall")
    ranks_of = {view: own.set_index("method")["rank"].to_dict() for view, own in table.groupby("view")}
    assert ranks_of["without dsc"] == {"m0": 3, "m1": 2, "m2": 1}
    assert ranks_of["without nsd"] == ranks_of[MEAN] == {"m0": 1, "m1": 2, "m2": 3}
    assert ranks_of["mean rank of dsc, nsd"] == {"m0": 1, "m1": 1, "m2": 1}
    changes = table.drop_duplicates("view").set_index("view")
    assert changes.loc["without dsc", "winner_changes"] and not changes.loc["mean rank of dsc, nsd", "winner_changes"]
    assert changes.loc["without dsc", "tau"] == -1


def test_the_order_of_rows_and_methods_changes_no_digit_of_the_ranks():
    rows = pd.DataFrame(outliers() + rows_of(around(0.8, 0.79, 0.81, seeds=2), "u", family="population"))
    for seed in range(2):
        shuffled = rows.iloc[generator(seed, "shuffle").permutation(len(rows))]
        pd.testing.assert_frame_equal(ranking_sensitivity(shuffled), ranking_sensitivity(rows), check_exact=True)
        pd.testing.assert_frame_equal(headline(shuffled), headline(rows), check_exact=True)


def test_the_order_of_structures_cases_and_draws_changes_no_digit_of_a_patients_score():
    draw = generator(0, "structures")
    parts = ["abcdefg", "tuvwxyz", range(9)]
    rows = pd.DataFrame(
        asdict(replace(BASE, structure=structure, case=case, draw=number, seed=seed, value=float(draw.random())))
        for structure, case, number, seed in product(*parts, (0, 1))
    )
    table, [entry] = patient_table(rows), entries_of(patient_table(rows))
    for seed in range(9):
        again = patient_table(rows.iloc[generator(seed, "shuffle").permutation(len(rows))])
        pd.testing.assert_frame_equal(again, table, check_exact=True)
    by_hand = rows.groupby(["seed", "draw", "case"])["value"].mean().groupby(["seed", "draw"]).mean()
    assert entry.scores.iloc[:, 0].tolist() == pytest.approx(by_hand.groupby("seed").mean().tolist())


def test_a_seed_without_a_patient_has_a_gap_in_the_table_and_no_bootstrap_of_ranks():
    rows = pd.DataFrame(rows_of(around(0.8, 0.7, seeds=2)))
    rows = rows[(rows["seed"] == 0) | (rows["patient"] != "p03")]
    [first, _] = entries_of(patient_table(rows))
    assert first.scores.shape == (2, N) and first.scores.isna().to_numpy().sum() == 1
    overall = headline(rows).query("family == 'overall'")
    assert overall["rank"].tolist() == [1, 2] and overall["p_rank_1"].isna().all()


def test_another_method_on_another_board_changes_no_rank():
    rows = pd.DataFrame(rows_of(around(0.80, 0.797, seeds=3, spread=0.03)))
    other = rows.assign(backbone="other", value=rows["value"] - 0.1)
    alone, beside = headline(rows), headline(pd.concat([other, rows], ignore_index=True))
    pd.testing.assert_frame_equal(of(beside, backbone=BASE.backbone).reset_index(drop=True), alone)
    assert 0 < alone["p_rank_1"].min() < 1


def test_methods_without_seeds_in_common_are_ranked_by_the_mean_and_told_apart_by_nothing():
    a, b = around(0.8, 0.6).values()
    second = pd.DataFrame(rows_of({"m1": b})).assign(seed=7)
    rows = pd.concat([pd.DataFrame(rows_of({"m0": a})), second], ignore_index=True)
    table = headline(rows).query("family == 'overall'").set_index("method")
    assert table["rank"].tolist() == [1, 2] and table["tie_group"].tolist() == [1, 1]
    assert table["p_rank_1"].isna().all() and table["rank_high"].tolist() == [2, 2]
    assert table["tied_with_leader"].tolist() == [True, False]
    assert ranking_sensitivity(rows).empty


def test_the_section_names_the_winner_and_what_changes_it():
    section = ranks.section(pd.DataFrame(outliers()))
    assert section.file == "ranks.csv" and {len(line) for line in section.body} == {len(section.head)}
    line = dict(zip(section.head, section.body[-1], strict=True))
    assert len(section.body) == 1 and line["First by the mean"] == "m0"
    assert line["First otherwise"] == "rank per patient: m1; median: m1"
    assert line["Ranks"] == "1-2 of 3" and line["tau"] == "0.333"
    settled = ranks.section(pd.DataFrame(rows_of(around(0.9, 0.5, spread=0.01))))
    cells = dict(zip(settled.head, settled.body[-1], strict=True))
    assert cells["First otherwise"] == "no other" and cells["Ranks"] == "1 of 2" and cells["P(rank 1)"] == "100 %"
    assert cells["First by the mean"] == "m0 (one seed)"
    assert ranks.section(pd.DataFrame(rows_of(around(0.9)))).table.empty


def test_pairs_say_how_far_two_methods_differ_and_how_surely():
    scores = around(0.80, 0.798, 0.70, seeds=3, spread=0.01)
    table = of(pairs(pd.DataFrame(rows_of(scores))), family="overall").set_index(["method", "other"])
    assert list(table.index) == [("m0", "m1"), ("m0", "m2"), ("m1", "m2")]
    expected = paired_difference(scores["m0"], scores["m2"])
    far = table.loc[("m0", "m2")]
    found = (far["difference"], far["difference_low"], far["difference_high"], far["p"])
    assert found == pytest.approx((expected.mean, expected.low, expected.high, expected.p_differs()))
    assert far["p_signed_rank_these_seeds"] == pytest.approx(signed_rank(scores["m0"], scores["m2"]).p)
    assert far["beats"] and not far["practically_tied"] and not far["conditional"]
    near = table.loc[("m0", "m1")]
    assert near["practically_tied"] and not near["beats"] and near["p_holm"] == near["p"] > 0.05
    assert far["p_holm"] > far["p"], "adjusted for all three pairs"
    line = dict(zip(pairs_section.section(pd.DataFrame(rows_of(scores))).head, *cells_of_pairs(scores), strict=True))
    assert (line["First"], line["Other"], line["Tied"], line["Patients x seeds"]) == ("m0", "m1", "yes", "24 x 3")


def cells_of_pairs(scores) -> list[tuple[str, ...]]:
    section = pairs_section.section(pd.DataFrame(rows_of(scores)))
    assert section.file == "pairs.csv" and [line[2] for line in section.body] == ["m1", "m2"]
    return [section.body[0]]


def test_the_rank_test_of_a_pair_averages_targets_by_their_weights():
    one, two = around(0.8, 0.79, key="one"), around(0.7, 0.72, key="two")
    far = [f"q{i:02d}" for i in range(N)]
    same = pd.DataFrame(rows_of(one, "t") + rows_of(two, "u"))
    other = pd.DataFrame(rows_of(one, "t") + rows_of(two, "u", names=far))
    mean = {name: (one[name] + two[name]) / 2 for name in one}
    both = {name: np.concatenate([one[name], two[name]], axis=1) for name in one}
    few = pd.DataFrame(rows_of(one, "t") + rows_of({k: v[:, :20] for k, v in two.items()}, "u", names=NAMES[:20]))
    some = {name: np.concatenate([mean[name][:, :20], one[name][:, 20:]], axis=1) for name in one}
    for rows, scores in ((same, mean), (other, both), (few, some)):
        found = of(pairs(rows), family="overall").iloc[0]
        assert found["p_signed_rank_these_seeds"] == pytest.approx(signed_rank(scores["m0"], scores["m1"]).p)
        if rows is not few:
            assert found["difference"] == pytest.approx(abs(np.mean(mean["m0"] - mean["m1"])))


def test_what_one_pair_alone_would_show_is_no_win_among_three():
    scores = around(0.8, 0.8)
    interval = paired_difference(scores["m0"], scores["m1"])
    lead = scipy_stats.t.isf(0.03 / 2, interval.df) * interval.standard_error
    scores["m1"] = scores["m1"] + interval.mean - lead
    alone = of(pairs(pd.DataFrame(rows_of(scores))), family="overall")
    assert alone["p"].item() == pytest.approx(0.03) and alone["beats"].item()
    three = of(pairs(pd.DataFrame(rows_of(scores | {"m2": scores["m1"]}))), family="overall")
    assert three["p_holm"].tolist() == pytest.approx([0.09, 0.09, 1.0]) and not three["beats"].any()
    ranked = of(headline(pd.DataFrame(rows_of(scores | {"m2": scores["m1"]}))), family="overall")
    assert ranked["rank_high"].tolist() == [3, 3, 3] and ranked["tie_group"].tolist() == [1, 1, 1]
