"""Corruption errors: ratios of sums against source-only of the same run, and what they leave out."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import fail, make_rows
from test_robustness import CONTROL, PATIENTS, frame, line, noise, rows_of

from shiftbench.report.sections import corruption as section
from shiftbench.rng import generator
from shiftbench.robustness.tables.corruption import corruption

LEVELS = (1, 2, 3, 4, 5)


def curve(method, operator, clean, errors, levels=LEVELS, spread=0.0, **changes):
    """A method on the source and at every level, with these mean errors."""
    shift = {"operator": operator, "level_value": None, "level_unit": None, "scenario": operator, **changes}
    rows = rows_of(method, "site-a", 1 - clean + PATIENTS, scenario=operator, **CONTROL)
    for q, error in zip(levels, errors, strict=True):
        own = noise(method, operator, q, scale=spread) if spread else 0.0
        rows += rows_of(method, f"{operator}:{q}", 1 - error + PATIENTS + own, level=float(q), **shift)
    return rows


BASE_ERRORS, OWN_ERRORS = (0.2, 0.25, 0.3, 0.4, 0.6), (0.15, 0.2, 0.2, 0.3, 0.45)


def test_the_corruption_error_is_a_ratio_of_sums_against_source_only():
    rows = frame(curve("erm", "noise", 0.15, BASE_ERRORS), curve("tent", "noise", 0.14, OWN_ERRORS))
    table = corruption(rows)
    shift = PATIENTS.mean()  # of every score alike
    tent = line(table, method="tent", operator="noise")
    assert tent["ce"] == pytest.approx((sum(OWN_ERRORS) - 5 * shift) / (sum(BASE_ERRORS) - 5 * shift))
    relative = (sum(OWN_ERRORS) - 5 * 0.14) / (sum(BASE_ERRORS) - 5 * 0.15)
    assert tent["relative_ce"] == pytest.approx(relative)
    assert tent["error"] == pytest.approx(np.mean(OWN_ERRORS) - shift)
    assert tent["clean_error"] == pytest.approx(0.14 - shift) and tent["levels"] == "1 2 3 4 5"
    erm = line(table, method="erm", operator="noise")
    assert (erm["ce"], erm["ce_low"], erm["ce_high"], erm["relative_ce"]) == pytest.approx((1, 1, 1, 1))


def test_the_degradation_of_rood_mri_weighs_milder_severities_more():
    table = corruption(frame(curve("erm", "noise", 0.2, BASE_ERRORS)))
    score = 1 - 0.2 + PATIENTS.mean()
    weights = np.array([1, 2 / 3, 4 / 9, 8 / 27, 16 / 81])
    expected = 100 * np.average((np.array(BASE_ERRORS) - 0.2) / score, weights=weights)
    assert line(table, operator="noise")["rood_degradation_percent"] == pytest.approx(expected)
    only_hard = corruption(frame(curve("erm", "noise", 0.2, (0.6,), levels=(5,))))
    assert line(only_hard, operator="noise")["rood_degradation_percent"] == pytest.approx(100 * 0.4 / score)


def test_over_operators_each_operator_weighs_the_same():
    rows = frame(
        curve("erm", "noise", 0.15, BASE_ERRORS),
        curve("erm", "blur", 0.15, (0.3,), levels=(3,)),
        curve("tent", "noise", 0.15, OWN_ERRORS),
        curve("tent", "blur", 0.15, (0.33,), levels=(3,)),
    )
    table = corruption(rows)
    own = table[table["method"] == "tent"].set_index("operator")
    for name in ("ce", "relative_ce", "error", "clean_error", "rood_degradation_percent"):
        assert own[name]["all"] == pytest.approx((own[name]["noise"] + own[name]["blur"]) / 2), name
    assert own["n_operators"].to_dict() == {"all": 2, "noise": 1, "blur": 1}
    harmless = [curve(m, "gamma", 0.15, (0.15,), levels=(3,)) for m in ("erm", "tent")]
    more = line(corruption(pd.concat([rows, frame(*harmless)])), method="tent", operator="all")
    assert (more["n_operators"], more["n_ce"], more["n_relative_ce"]) == (3, 3, 2)
    assert more["relative_ce"] == pytest.approx(own["relative_ce"]["all"]), "where nothing is lost there is no ratio"


def test_nothing_is_divided_by_next_to_no_error_of_source_only():
    def tent(base, own, clean):
        rows = frame(curve("erm", "noise", clean, [base] * 5), curve("tent", "noise", clean, [own] * 5))
        level = rows.groupby(["method", "target"])["value"].transform("mean")
        rows = rows.assign(value=level - PATIENTS.mean())  # without patients: errors are as given
        return line(corruption(rows), method="tent", operator="noise")

    assert pd.isna(tent(0.019, 0.1, 0.0)["ce"]) and tent(0.019, 0.1, 0.0)["error"] == pytest.approx(0.1)
    assert tent(0.021, 0.1, 0.0)["ce"] == pytest.approx(0.1 / 0.021)
    little = tent(0.30, 0.2, 0.285)
    assert little["ce"] == pytest.approx(2 / 3) and pd.isna(little["relative_ce"]), "source-only loses 0.015"
    assert tent(0.31, 0.2, 0.285)["relative_ce"] == pytest.approx((0.2 - 0.285) / (0.31 - 0.285))


def test_the_interval_is_that_of_resampled_patients():
    rows = frame(
        curve("erm", "noise", 0.15, BASE_ERRORS, spread=0.1), curve("tent", "noise", 0.14, OWN_ERRORS, spread=0.1)
    )
    table = {
        m: 1 - own.pivot_table(index="target", columns="patient", values="value").drop("site-a").to_numpy()
        for m, own in rows.groupby("method")
    }
    draw = generator(0, "corruption")
    n = len(PATIENTS)
    picks = [draw.integers(0, n, n) for _ in range(4000)]
    low, high = np.quantile([table["tent"][:, p].sum() / table["erm"][:, p].sum() for p in picks], [0.025, 0.975])
    tent = line(corruption(rows), method="tent", operator="noise")
    assert (tent["ce_low"], tent["ce_high"]) == pytest.approx((low, high), abs=0.01)
    over = line(corruption(rows), method="tent", operator="all")
    assert (over["ce_low"], over["ce_high"]) == pytest.approx((tent["ce_low"], tent["ce_high"]))


def test_a_method_without_an_operator_or_a_level_has_no_mean_over_all():
    every = [curve(m, o, 0.15, BASE_ERRORS) for m in ("erm", "tent") for o in ("noise", "blur")]
    rows = frame(*every)
    lacking = corruption(rows[(rows["method"] != "tent") | (rows["scenario"] != "blur")])
    assert pd.isna(line(lacking, method="tent", operator="all")["ce"])
    assert line(lacking, method="tent", operator="noise")["ce"] == pytest.approx(1)
    shorter = corruption(rows[(rows["method"] != "tent") | (rows["target"] != "blur:5")])
    assert pd.isna(line(shorter, method="tent", operator="blur")["ce"])
    assert pd.isna(line(shorter, method="tent", operator="all")["ce"])
    assert line(shorter, method="erm", operator="all")["ce"] == 1


def test_without_a_source_test_there_is_no_relative_error():
    rows = frame(curve("erm", "noise", 0.15, BASE_ERRORS), curve("target_oracle", "noise", 0.15, OWN_ERRORS))
    rows = rows[(rows["method"] == "erm") | (rows["target"] != "site-a")]
    oracle = line(corruption(rows), method="target_oracle", operator="noise")
    assert oracle["ce"] < 1 and pd.isna(oracle["relative_ce"]) and pd.isna(oracle["rood_degradation_percent"])


def test_only_acquisitions_with_levels_are_corruptions():
    rows = frame(curve("erm", "lesion_load", 0.15, BASE_ERRORS, family="population"))
    assert corruption(rows).empty
    assert corruption(frame(curve("erm", "gain", 0.15, BASE_ERRORS, family="control"))).empty
    assert corruption(frame(curve("erm", "noise", 0.15, BASE_ERRORS)).assign(level=None)).empty


def test_order_does_not_matter_and_a_failed_prediction_never_improves_an_error():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "target_oracle"))
    table = corruption(rows)
    pd.testing.assert_frame_equal(corruption(rows.sample(frac=1, random_state=5)), table)
    worse = corruption(fail(rows, "tent_bn", ["patient-03"]))
    hit = table["method"] == "tent_bn"
    for name in ("ce", "relative_ce", "error", "rood_degradation_percent"):
        assert (worse[name][hit] > table[name][hit]).all(), name
    missed = rows.assign(status=rows["status"].mask((rows["method"] == "erm") & (rows["level"] == 3), "missed"))
    assert (
        (line(corruption(missed), method="tent_bn", operator="all")["ce"])
        < line(table, method="tent_bn", operator="all")["ce"]
    )


def test_the_page_has_a_line_per_method_with_its_mean_over_operators():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "fda", "target_oracle"))
    made = section.section(rows)
    assert [cells[0] for cells in made.body] == ["target_oracle", "tent_bn", "fda", "erm"]
    assert all(len(cells) == len(made.head) for cells in made.body) and made.file == "corruption.csv"
    assert set(made.table["operator"]) == {"all", "flip_angle", "rician_noise"}
