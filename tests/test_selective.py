"""Curves of risk against coverage and OOD detection: hand values, brute force over orders, closed forms, tables."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from synthetic_rows import fail, not_applicable
from synthetic_rows import make_rows as rows_of_all_scenarios

from shiftbench.errors import OutputError
from shiftbench.metrics.selective import (
    augrc,
    aurc,
    e_aurc,
    fpr_at_tpr,
    generalised_risk,
    ood_auroc,
    optimal_augrc,
    optimal_aurc,
    resampled_areas,
    risk_coverage,
)
from shiftbench.report.retention import retention_curves
from shiftbench.report.sections import calibration as calibration_section
from shiftbench.report.sections import failure_detection as failure_section
from shiftbench.rng import generator
from shiftbench.robustness.tables.calibration import calibration
from shiftbench.robustness.tables.failure_detection import failure_detection, risk_curves
from shiftbench.stats import mean_interval
from shiftbench.types import Status

cases = st.lists(st.tuples(st.integers(0, 4), st.floats(0, 1)), min_size=1, max_size=6)
METHODS = ("erm", "histmatch", "tent_bn", "target_oracle")


def make_rows(**options) -> pd.DataFrame:
    """Rows of a control, an operator at three levels and a target of several causes."""
    rows = rows_of_all_scenarios(**options)
    return rows[rows["scenario"].isin(["control", "flip-angle", "new-site"])].reset_index(drop=True)


def over_all_orders(confidence, risk):
    """(AURC, AUGRC) as means over every order that the confidences allow."""
    areas = []
    for order in permutations(range(len(risk))):
        c = np.array(confidence)[list(order)]
        if (np.diff(c) <= 0).all():
            kept = np.cumsum(np.array(risk)[list(order)])
            n = len(risk)
            joint = np.r_[0.0, kept] / n
            areas.append(((kept / np.arange(1, n + 1)).mean(), ((joint[1:] + joint[:-1]) / 2).mean()))
    return np.mean(areas, axis=0)


def test_areas_by_hand():
    confidence, risk = [0.9, 0.8, 0.3], [0.1, 0.6, 0.2]
    coverage, selective = risk_coverage(confidence, risk)
    np.testing.assert_allclose(coverage, [1 / 3, 2 / 3, 1])
    np.testing.assert_allclose(selective, [0.1, 0.35, 0.3])
    np.testing.assert_allclose(generalised_risk(confidence, risk)[1], [0, 0.1 / 3, 0.7 / 3, 0.3])
    assert aurc(confidence, risk) == pytest.approx((0.1 + 0.35 + 0.3) / 3)
    assert optimal_aurc(risk) == pytest.approx((0.1 + 0.15 + 0.3) / 3)
    assert e_aurc(confidence, risk) == pytest.approx(0.2 / 3)
    assert augrc(confidence, risk) == pytest.approx((0.1 / 3 / 2 + (0.1 + 0.7) / 3 / 2 + (0.7 / 3 + 0.3) / 2) / 3)


@settings(max_examples=80, deadline=None)
@given(drawn=cases)
def test_ties_are_the_mean_over_all_orders(drawn):
    confidence, risk = zip(*drawn, strict=True)
    expected = over_all_orders(confidence, risk)
    assert (aurc(confidence, risk), augrc(confidence, risk)) == pytest.approx(tuple(expected), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(drawn=cases, seed=st.integers(0, 99))
def test_the_order_of_cases_changes_nothing_and_a_monotone_map_of_confidence_neither(drawn, seed):
    confidence, risk = (np.array(values, float) for values in zip(*drawn, strict=True))
    order = np.random.default_rng(seed).permutation(len(risk))
    for measure in (aurc, augrc, e_aurc):
        assert measure(confidence[order], risk[order]) == pytest.approx(measure(confidence, risk), abs=1e-12)
        assert measure(np.exp(confidence), risk) == pytest.approx(measure(confidence, risk), abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(drawn=cases)
def test_no_order_is_better_than_the_optimum_and_none_says_nothing_at_its_closed_form(drawn):
    confidence, risk = zip(*drawn, strict=True)
    n, rising = len(risk), np.sort(risk)
    assert optimal_augrc(risk) == pytest.approx((rising * (n - np.arange(1, n + 1) + 0.5)).sum() / n**2, abs=1e-12)
    assert optimal_aurc(risk) == pytest.approx((np.cumsum(rising) / np.arange(1, n + 1)).mean(), abs=1e-12)
    assert e_aurc(confidence, risk) >= -1e-12 and augrc(confidence, risk) >= optimal_augrc(risk) - 1e-12
    assert aurc(np.zeros(n), risk) == pytest.approx(np.mean(risk), abs=1e-12)
    assert augrc(np.zeros(n), risk) == pytest.approx(np.mean(risk) / 2, abs=1e-12)


def test_perfect_confidence_in_binary_failures_has_the_known_areas():
    n, failures = 1000, 200
    risk = np.r_[np.zeros(n - failures), np.ones(failures)]
    rate = failures / n
    assert optimal_augrc(risk) == pytest.approx(rate**2 / 2, abs=1e-9)
    assert optimal_aurc(risk) == pytest.approx(rate + (1 - rate) * np.log(1 - rate), abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(drawn=cases, seed=st.integers(0, 999))
def test_a_resample_is_worth_the_list_of_its_cases(drawn, seed):
    confidence, risk = (np.array(values, float) for values in zip(*drawn, strict=True))
    counts = np.random.default_rng(seed).multinomial(len(risk), np.full(len(risk), 1 / len(risk)), size=3)
    listed = [np.repeat(np.arange(len(risk)), times) for times in counts]
    expected = [(aurc(confidence[each], risk[each]), augrc(confidence[each], risk[each])) for each in listed]
    found = np.stack(resampled_areas(confidence, risk, counts), axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    one=st.lists(st.integers(0, 6), min_size=1, max_size=30), other=st.lists(st.integers(0, 6), min_size=1, max_size=30)
)
def test_auroc_is_that_of_scikit_learn(one, other):
    labels = np.r_[np.ones(len(one)), np.zeros(len(other))]
    assert ood_auroc(one, other) == pytest.approx(roc_auc_score(labels, np.r_[one, other]), abs=1e-12)
    rates, kept, thresholds = roc_curve(labels, np.r_[one, other], drop_intermediate=False)
    first = np.flatnonzero(kept >= 0.95 - 1e-12)[0]
    assert fpr_at_tpr(one, other) == pytest.approx(rates[first], abs=1e-12)


def test_ties_at_the_threshold_pass_and_failures_are_told_apart():
    source = np.arange(20) / 20  # 19 of 20 are at least 0.05
    assert fpr_at_tpr(source, [0.05, 0.049, 0.9, -np.inf]) == 0.5
    assert fpr_at_tpr(source, [0.05, 0.049, 0.9, -np.inf], tpr=1.0) == 0.75
    assert ood_auroc(source, [-np.inf, -np.inf]) == 1.0 and ood_auroc(source, source) == 0.5


def test_what_cannot_be_ordered_is_refused():
    with pytest.raises(ValueError, match="confidence has shape"):
        aurc([0.5], [0.1, 0.2])
    with pytest.raises(ValueError, match="without NaN"):
        augrc([np.nan], [0.1])
    with pytest.raises(ValueError, match="without NaN"):
        ood_auroc([], [0.1])
    with pytest.raises(ValueError, match="not finite"):
        aurc([0.5], [np.inf])
    with pytest.raises(ValueError, match=r"not in \(0, 1\]"):
        fpr_at_tpr([0.5], [0.5], tpr=0.0)
    with pytest.raises(ValueError, match="resample without a case"):
        resampled_areas([0.5, 0.6], [0.1, 0.1], [[0, 0]])


def confident(rows: pd.DataFrame, *, noise: float = 0.0, definition: str = "soft_dice") -> pd.DataFrame:
    """`rows` with a confidence per structure: the DSC and noise; null where a case failed."""
    of_dsc = rows[rows["metric"] == "dsc"]
    added = generator(0, "confidence", noise).normal(0, noise, len(of_dsc)) if noise else 0.0
    ok = of_dsc["status"] == Status.OK
    made = of_dsc.assign(metric="confidence", definition=definition, value=(of_dsc["value"] + added).where(ok))
    return pd.concat([rows, made], ignore_index=True)


def pooled(table, method, scope="all", risk="1-dsc", scenario="new-site"):
    (line,) = table[
        (table.method == method) & (table.scope == scope) & (table.risk == risk) & (table.scenario == scenario)
    ].itertuples()
    return line


def test_the_table_is_the_function_of_the_cases_averaged_over_seeds():
    rows = confident(make_rows(patients=8, seeds=(0, 1), methods=METHODS), noise=0.05)
    table = failure_detection(rows)
    own = rows[(rows.scenario == "new-site") & (rows.method == "tent_bn")]
    case = own.pivot_table(index=["seed", "target", "case"], columns="metric", values="value")
    values = [(aurc(g.confidence, 1 - g.dsc), augrc(g.confidence, 1 - g.dsc)) for _, g in case.groupby("seed")]
    line = pooled(table, "tent_bn")
    assert (line.aurc, line.augrc) == pytest.approx(tuple(np.mean(values, axis=0)))
    assert line.augrc_low < line.augrc < line.augrc_high and line.e_aurc_low < line.e_aurc < line.e_aurc_high
    assert (line.n_cases, line.n_patients, line.n_seeds, line.conditional) == (16, 8, 2, False)
    assert line.definition == "soft_dice" and line.augrc_random == pytest.approx(line.mean_risk / 2)
    home, away = case.xs("site-a", level="target"), case.xs("new-site", level="target")
    told = table[(table.scope == "target") & (table.target == "new-site") & (table.method == "tent_bn")].iloc[0]
    areas = [ood_auroc(home.loc[s, "confidence"], away.loc[s, "confidence"]) for s in (0, 1)]
    assert told.ood_auroc == pytest.approx(np.mean(areas)) and told.ood_auroc_low <= told.ood_auroc
    assert 0 <= told.fpr95 < 1 and pd.isna(told.augrc)


def test_the_curves_have_the_areas_of_the_table():
    rows = confident(make_rows(patients=8, seeds=(0, 1), methods=METHODS), noise=0.05)
    curves, table = risk_curves(rows), failure_detection(rows)
    assert set(curves.method) == {"erm", "histmatch", "tent_bn"} and set(curves.scenario) == set(
        table[table.scope == "all"].scenario
    )
    own = curves[(curves.method == "tent_bn") & (curves.scenario == "flip-angle")]
    line = pooled(table, "tent_bn", scenario="flip-angle")
    assert own.selective_risk.mean() == pytest.approx(line.aurc, abs=1e-3)  # of the mean curve, cases being untied
    joint = np.r_[0, own.generalised_risk]
    assert np.trapezoid(joint, np.r_[0, own.coverage]) == pytest.approx(line.augrc)
    assert own.coverage.iloc[-1] == 1 and joint[-1] == pytest.approx(line.mean_risk)
    assert risk_curves(make_rows(patients=4, methods=("erm",))).empty


def test_the_curves_are_drawn_for_one_backbone_at_a_time():
    rows = confident(make_rows(patients=6, methods=METHODS), noise=0.1)
    figure = retention_curves(rows, methods=["erm", "tent_bn"])
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in shown] == ["flip-angle", "new-site"]
    assert all(len(axes.lines) == 2 for axes in shown)
    assert retention_curves(make_rows(patients=4, methods=("erm",))) is None
    with pytest.raises(OutputError, match="several backbones"):
        retention_curves(pd.concat([rows, rows.assign(backbone="other")]))


def test_a_target_without_a_source_test_is_not_told_apart():
    rows = confident(make_rows(patients=6, methods=("erm",)), noise=0.1)
    assert failure_detection(rows[rows.target != "site-a"]).empty


def test_a_confidence_that_is_the_score_is_perfect_and_one_of_the_risk_is_worse_than_random():
    rows = confident(make_rows(patients=10, methods=METHODS))
    perfect = pooled(failure_detection(rows), "erm")
    assert perfect.e_aurc == pytest.approx(0, abs=1e-12) and perfect.augrc == pytest.approx(perfect.augrc_optimal)
    rows.loc[rows.metric == "confidence", "value"] *= -1
    inverted = pooled(failure_detection(rows), "erm")
    assert inverted.augrc > inverted.augrc_random > perfect.augrc


def test_scopes_are_the_targets_of_a_family_and_never_controls():
    rows = confident(make_rows(patients=6, methods=METHODS))
    table = failure_detection(rows)
    assert set(table.loc[table.scenario == "control", "scope"]) == {"target"}
    assert set(table.loc[table.scenario == "flip-angle", "scope"]) == {"all", "family", "target"}
    assert set(table.loc[table.scope == "target", "target"]) >= {"same-scanner", "flip:1", "flip:5", "new-site"}
    assert pooled(table, "erm", scenario="flip-angle").n_cases == 6 * 4
    assert set(table.risk.dropna()) == {"1-dsc", "1-nsd"}
    assert pooled(table, "erm", risk="1-nsd").mean_risk != pooled(table, "erm").mean_risk


def test_intervals_have_patients_and_seeds_in_them():
    def made(patients, noise):
        rows = make_rows(patients=patients, seeds=(0, 1, 2), methods=("erm",))
        return confident(rows[rows.scenario == "new-site"], noise=noise)

    few, many = failure_detection(made(6, 0.1)), failure_detection(made(48, 0.1))
    widths = [pooled(t, "erm").augrc_high - pooled(t, "erm").augrc_low for t in (few, many)]
    assert widths[1] < 0.6 * widths[0]
    rows = made(24, 0.02)
    plain = pooled(failure_detection(rows), "erm")
    rows.loc[rows.metric == "dsc", "value"] -= 0.05 * rows["seed"]  # models that differ
    wider = pooled(failure_detection(rows), "erm")
    assert wider.augrc_high - wider.augrc_low > 2 * (plain.augrc_high - plain.augrc_low)


def test_with_a_confidence_that_says_nothing_the_interval_is_half_that_of_the_mean_risk():
    rows = confident(make_rows(patients=40, methods=("erm",)))
    rows = rows[rows.scenario == "new-site"]
    line = pooled(failure_detection(rows.assign(value=rows.value.mask(rows.metric == "confidence", 0.5))), "erm")
    means = rows[rows.metric == "dsc"].groupby("patient")["value"].mean()
    exact = mean_interval(1 - means)
    assert line.augrc == pytest.approx(exact.mean / 2) and line.conditional
    assert line.augrc_high - line.augrc_low == pytest.approx((exact.high - exact.low) / 2, rel=0.15)


def simulated(plain: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """`plain` with risks of crossed patients, seeds and targets (SD 0.08, 0.015, drop 0.15), and noisy confidences."""
    patient, seed = rng.normal(0, 0.08, plain["patient"].nunique()), rng.normal(0, 0.015, plain["seed"].nunique())
    risk = 0.2 + 0.15 * (plain["target"] != "site-a") + patient[plain["patient"].factorize()[0]]
    risk = (risk + seed[plain["seed"].factorize()[0]] + rng.normal(0, 0.05, len(plain))).clip(0, 1)
    sure = plain.assign(metric="confidence", definition="soft_dice", value=1 - risk + rng.normal(0, 0.1, len(plain)))
    return pd.concat([plain.assign(value=1 - risk), sure], ignore_index=True)


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = generator(0, "coverage")

    def rows(patients, seeds):
        made = make_rows(patients=patients, seeds=range(seeds), methods=("erm",))
        return made[(made.scenario == "new-site") & (made.metric == "dsc") & (made.structure == "liver")]

    many, few = rows(300, 8), rows(20, 3)
    truth = np.mean([pooled(failure_detection(simulated(many, rng)), "erm").augrc for _ in range(4)])
    lines = [pooled(failure_detection(simulated(few, rng)), "erm") for _ in range(100)]
    covered = np.mean([line.augrc_low <= truth <= line.augrc_high for line in lines])
    assert 0.85 <= covered <= 0.99  # percentiles of 20 patients and 3 seeds


def test_a_failure_has_the_worst_risk_and_the_least_confidence():
    rows = make_rows(patients=8, methods=METHODS)
    failed = fail(rows, "tent_bn", ["patient-03"])
    before, after = (pooled(failure_detection(confident(r)), "tent_bn") for r in (rows, failed))
    assert after.n_cases == before.n_cases
    assert after.mean_risk > before.mean_risk and after.aurc > before.aurc
    own = rows[(rows.method == "tent_bn") & (rows.scenario == "new-site") & (rows.metric == "dsc")]
    means = own.groupby(["target", "case"])["value"].mean()
    hit = (means.index.get_level_values("target") == "new-site") & (
        means.index.get_level_values("case") == "patient-03"
    )
    risk = np.where(hit, 1.0, 1 - means)
    assert after.augrc == pytest.approx(augrc(np.where(hit, -np.inf, means), risk))


def test_who_gives_labels_alone_or_lacks_cases_or_mixes_definitions_is_left_out():
    rows = confident(make_rows(patients=6, methods=METHODS))
    alone = (rows.metric == "confidence") & (rows.method == "histmatch")
    without = rows.assign(value=rows.value.mask(alone), status=rows.status.mask(alone, str(Status.NOT_APPLICABLE)))
    assert set(failure_detection(without).method) == {"erm", "tent_bn"}  # and the oracle has a model per target
    partly = alone & (rows.structure == "tumour") & (rows.patient == "patient-01")
    without = rows.assign(value=rows.value.mask(partly), status=rows.status.mask(partly, str(Status.NOT_APPLICABLE)))
    assert set(failure_detection(without).method) == {"erm", "tent_bn"}
    assert set(failure_detection(not_applicable(rows, "histmatch", "nothing to adapt")).method) == {"erm", "tent_bn"}
    lacking = rows[~((rows.method == "tent_bn") & (rows.target == "flip:3") & (rows.patient == "patient-00"))]
    table = failure_detection(lacking)
    assert set(table[(table.scenario == "flip-angle") & (table.scope == "all")].method) == {"erm", "histmatch"}
    assert set(table[(table.scenario == "new-site") & (table.scope == "all")].method) == {"erm", "histmatch", "tent_bn"}
    mixed = rows.assign(definition=rows.definition.mask(alone & (rows.target == "flip:3"), "uncertainty"))
    table = failure_detection(mixed)
    assert "histmatch" not in set(table[(table.scenario == "flip-angle") & (table.scope == "all")].method)


def test_a_method_with_a_model_per_target_is_not_pooled():
    rows = confident(make_rows(patients=6, methods=("erm",)), noise=0.1)
    oracle = rows.assign(method="target_oracle", track="reference")
    both = pd.concat([rows, oracle], ignore_index=True)
    pd.testing.assert_frame_equal(failure_detection(both), failure_detection(rows))


def test_structures_that_a_reference_has_not_count_neither_as_risk_nor_as_confidence():
    rows = confident(make_rows(patients=6, methods=("erm",)), noise=0.1)
    absent = (rows.structure == "tumour") & (rows.patient == "patient-02")
    scored = absent & rows.metric.isin(["dsc", "nsd"])
    emptied = rows.assign(value=rows.value.mask(scored), status=rows.status.mask(scored, str(Status.BOTH_EMPTY)))
    expected = failure_detection(rows[~absent])
    pd.testing.assert_frame_equal(failure_detection(emptied), expected)


def test_rows_without_confidence_or_of_streams_give_no_table():
    rows = make_rows(patients=4, methods=("erm",))
    assert failure_detection(rows).empty and calibration(rows).empty
    assert failure_detection(confident(rows).assign(stream="s")).empty
    assert calibration(calibrated(rows).assign(stream="s")).empty
    assert failure_section.section(rows).table.empty and calibration_section.section(rows).table.empty


def test_a_line_per_scenario_and_method_is_shown():
    made = failure_section.section(confident(make_rows(patients=6, methods=METHODS), noise=0.1))
    assert len({len(line) for line in made.body} | {len(made.head)}) == 1
    assert [line[:2] for line in made.body if line[0] == "flip-angle"] == [
        ("flip-angle", "erm"),
        ("flip-angle", "histmatch"),
        ("flip-angle", "tent_bn"),
    ]
    assert " to " in made.body[0][-1] and "[" in made.body[0][3]


VALUES = {
    ("brier", "region"): 0.1,
    ("nll", "region"): 0.4,
    ("ece", "region"): 0.06,
    ("ece", "volume"): 0.01,
    ("ace", "region"): 0.07,
    ("ace", "volume"): 0.02,
}


def calibrated(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with calibration: better by a fifth for tent_bn, worst for failures, twice as bad off the source."""
    of_dsc, made = rows[rows["metric"] == "dsc"], [rows]
    for (metric, definition), value in VALUES.items():
        factor = np.where(of_dsc.method == "tent_bn", 0.8, 1.0) * np.where(of_dsc.target == "site-a", 1.0, 2.0)
        spread = 1 + 0.1 * of_dsc["value"]
        scored = (value * factor * spread).where(of_dsc.status == Status.OK)
        detail = "clipped_share=0.0125" if metric == "nll" else ""
        detail = np.where(of_dsc.status == Status.OK, detail, of_dsc["detail"])
        made.append(of_dsc.assign(metric=metric, definition=definition, value=scored, detail=detail))
    return pd.concat(made, ignore_index=True)


def test_calibration_is_a_mean_per_target_with_differences_to_source_only():
    rows = calibrated(make_rows(patients=8, seeds=(0, 1), methods=METHODS))
    table = calibration(rows)
    erm, tent = (table[(table.method == m) & (table.target == "new-site")].iloc[0] for m in ("erm", "tent_bn"))
    own = rows[(rows.method == "tent_bn") & (rows.target == "new-site") & (rows.scenario == "new-site")]
    for name, key in {"brier": ("brier", "region"), "ece_volume": ("ece", "volume"), "ace": ("ace", "region")}.items():
        mean = own[(own.metric == key[0]) & (own.definition == key[1])]["value"].mean()
        assert tent[name] == pytest.approx(mean)
        assert tent[f"{name}_low"] < tent[name] < tent[f"{name}_high"]
        assert tent[f"{name}_change"] == pytest.approx(tent[name] - erm[name]) and tent[f"{name}_change_high"] < 0
    assert pd.isna(erm.brier_change) and tent.clipped_percent == pytest.approx(1.25)
    assert (tent.n_patients, tent.n_seeds) == (8, 2)


def test_a_failure_is_the_worst_and_a_missed_structure_keeps_its_value():
    rows = make_rows(patients=8, methods=METHODS)
    table = calibration(calibrated(fail(rows, "tent_bn")))
    line = table[(table.method == "tent_bn") & (table.target == "new-site")].iloc[0]
    assert line.brier == 1.0 and line.nll == pytest.approx(16.118, abs=1e-3) and pd.isna(line.clipped_percent)
    whole = calibrated(rows)
    missed = (whole.method == "tent_bn") & (whole.target == "new-site")
    pd.testing.assert_frame_equal(
        calibration(whole.assign(status=whole.status.mask(missed, str(Status.MISSED)))), calibration(whole)
    )


def test_a_method_of_labels_alone_has_no_calibration_even_where_it_failed():
    rows = calibrated(fail(make_rows(patients=6, methods=METHODS), "histmatch", ["patient-01"]))
    alone = (rows.method == "histmatch") & rows.metric.isin(["brier", "nll", "ece", "ace"])
    alone &= rows.status == Status.OK
    rows = rows.assign(value=rows.value.mask(alone), status=rows.status.mask(alone, str(Status.NOT_APPLICABLE)))
    table = calibration(rows)
    assert "histmatch" not in set(table.method) and "tent_bn" in set(table.method)


def test_calibration_shows_the_source_and_the_mean_of_the_targets():
    rows = calibrated(make_rows(patients=6, methods=METHODS))
    made = calibration_section.section(rows)
    (line,) = [line for line in made.body if line[:2] == ("flip-angle", "erm")]
    one, other = (float(cell) for cell in line[3].split(" → "))
    assert other == pytest.approx(2 * one, rel=0.1)
    assert len(line) == len(made.head)
    (control,) = [line for line in made.body if line[:2] == ("control", "erm")]
    assert control[3].endswith("→ –") or control[3].endswith("→ —")
