"""Severity curves in numbers: area, retention, and the tolerated value of the parameter with its interval."""

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import fail, make_rows
from test_robustness import CONTROL, PATIENTS, SOURCE, frame, line, noise, rows_of

from shiftbench.report.sections import severity as section
from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.tables.severity import first_crossing, severity
from shiftbench.stats import mean_interval

SLICES = {1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0, 5: 7.0}
SNR = {1: 40.0, 2: 25.0, 3: 15.0, 4: 10.0, 5: 6.0}
DOSE = {1: 75.0, 2: 50.0, 3: 25.0, 4: 10.0, 5: 5.0}


def world(loss, operator="slice_thickness", values=SLICES, *, clean=SOURCE, method="erm", spread=0.0, **changes):
    """Source-only that loses `loss(level)` at every level of an operator; `spread` between patients in that loss."""
    extra = spread * noise("loss", scale=1.0)
    levels = [
        rows_of(
            *(method, f"t:{q}", clean - loss(q) * (1 + extra)),
            **{"operator": operator, "level": float(q), "level_value": x, "level_unit": "u", **changes},
        )
        for q, x in values.items()
    ]
    return frame(rows_of(method, "site-a", clean, **CONTROL), *levels)


def only(rows):
    (record,) = severity(rows).to_dict("records")
    return record


def test_the_area_is_the_trapezoid_over_severity_and_retention_its_share_of_the_clean_score():
    loss = {0: 0.0, 1: 0.02, 2: 0.1, 3: 0.15, 4: 0.3, 5: 0.5}
    found = only(world(loss.get))
    expected = np.trapezoid([SOURCE.mean() - loss[q] for q in range(6)], np.arange(6) / 5)
    assert found["ausc"] == pytest.approx(expected) and found["clean"] == pytest.approx(SOURCE.mean())
    assert found["retention_percent"] == pytest.approx(100 * expected / SOURCE.mean())
    area = SOURCE - (SOURCE.mean() - expected)
    assert (found["ausc_low"], found["ausc_high"]) == pytest.approx((mean_interval(area).low, mean_interval(area).high))
    assert only(world(lambda q: 0.0))["retention_percent"] == pytest.approx(100)


def test_levels_that_were_not_run_are_bridged_and_without_level_five_there_is_no_area():
    loss = {0: 0.0, 2: 0.1, 5: 0.4}
    some = only(world(loss.get, values={q: SLICES[q] for q in (2, 5)}))
    assert some["levels"] == "2 5"
    assert some["ausc"] == pytest.approx(
        np.trapezoid([SOURCE.mean() - v for v in loss.values()], np.array(list(loss)) / 5)
    )
    short = only(world(lambda q: 0.1 * q, values={q: SLICES[q] for q in (1, 2, 3)}))
    assert math.isnan(short["ausc"]) and math.isnan(short["retention_percent"])
    assert short["tolerance"] == pytest.approx(1.5), "the tolerance needs no level 5"


def test_the_tolerance_is_the_value_at_which_a_twentieth_is_lost():
    found = only(world(lambda q: 0.02 * q))
    assert found["tolerance_status"] == "reached" and found["unit"] == "u"
    assert found["tolerance"] == pytest.approx(3.5), "0.04 is lost at 3 mm and 0.06 at 4 mm"
    assert found["severity_lost"] == pytest.approx(2.5)
    assert only(world(lambda q: 0.05 * q))["tolerance"] == pytest.approx(2.0), "exactly at a level"
    assert only(world(lambda q: 0.01 * q))["tolerance"] == pytest.approx(7.0), "exactly at the last one"


@pytest.mark.parametrize(
    ("operator", "values", "expected"),
    [
        ("ct_dose", DOSE, 37.5),  # falls from 100 % as severity grows
        ("rician_noise", SNR, 20.0),
        ("slice_thickness", SLICES, 3.5),
        ("gamma_bright", {1: 0.9, 2: 0.8, 3: 0.6, 4: 0.5, 5: 0.4}, 0.7),
    ],
)
def test_a_parameter_may_rise_or_fall_with_severity(operator, values, expected):
    found = only(world(lambda q: 0.02 * q, operator, values, spread=0.3))
    assert found["tolerance"] == pytest.approx(expected, rel=0.2)
    to_identity = 1 if operator == "slice_thickness" else -1
    assert to_identity * found["tolerance_earliest"] < to_identity * found["tolerance"]
    assert to_identity * found["tolerance"] < to_identity * found["tolerance_latest"]
    exact = only(world(lambda q: 0.02 * q, operator, values))
    assert exact["tolerance"] == pytest.approx(expected)


def test_next_to_an_infinite_identity_the_reciprocal_is_linear():
    found = only(world(lambda q: 0.1 * q, "rician_noise", SNR))
    assert found["tolerance"] == pytest.approx(80.0), "half of the loss at SNR 40 is that of half the noise"
    assert found["severity_lost"] == pytest.approx(0.5)


def test_a_tolerance_that_is_not_reached_says_so_with_what_is_known_of_its_limits():
    safe = only(world(lambda q: 0.001 * q, spread=0.1))
    assert safe["tolerance_status"] == "not reached" and math.isnan(safe["tolerance"])
    assert safe["tolerance_interval"] == "beyond" and safe["hardest"] == 7.0
    assert section.tolerance_cell(pd.Series(safe)) == "not reached up to 7 u"
    late = only(world(lambda q: 0.013 * q, spread=0.8))
    assert late["tolerance_status"] == "reached" and late["tolerance_interval"] == "one-sided"
    assert late["tolerance_earliest"] < late["tolerance"] < 7.0 and math.isnan(late["tolerance_latest"])
    assert section.tolerance_cell(pd.Series(late)).endswith(", not reached]")
    near = only(world(lambda q: 0.0098 * q, spread=0.8))
    assert near["tolerance_status"] == "not reached" and near["tolerance_interval"] == "one-sided"
    assert section.tolerance_cell(pd.Series(near)).startswith("not reached up to 7 u (95 %: from ")


@pytest.mark.slow
def test_the_interval_of_the_tolerance_covers_the_truth_as_often_as_it_says():
    draw = generator(0, "coverage")
    truth, hits, n = 3.5, 0, 40
    for _ in range(n):
        patients = draw.normal(0, 0.05, 24)
        slope = draw.normal(1, 0.5, 24)
        rows = frame(
            rows_of("erm", "site-a", 0.8 + patients, **CONTROL),
            *(
                rows_of(
                    *("erm", f"t:{q}", 0.8 + patients - 0.02 * q * slope),
                    **{"operator": "slice_thickness", "level": float(q), "level_value": x, "level_unit": "mm"},
                )
                for q, x in SLICES.items()
            ),
        )
        found = only(rows)
        latest = found["tolerance_latest"]
        hits += found["tolerance_earliest"] <= truth and (math.isnan(latest) or truth <= latest)
    assert 0.86 * n <= hits <= n


def test_the_first_crossing_counts_where_a_curve_is_not_monotone():
    found = only(world({1: 0.1, 2: 0.0, 3: 0.0, 4: 0.2, 5: 0.3}.get))
    assert found["tolerance"] == pytest.approx(1.5)
    means = np.array([[0.9, 0.95, 0.9, 0.8], [0.9, 0.9, 0.9, 0.9], [0.9, 0.85, 0.9, 0.9]])
    crossed = first_crossing(means, np.array([0.0, 1.0, 2.0, 4.0]), reciprocal=False)
    assert crossed.tolist() == pytest.approx([3.0, math.inf, 1.0])
    assert CONSTANTS.tolerated_loss == 0.05


@pytest.mark.parametrize("operator", ["field_strength", "lesion_load", "of-somebody-else"])
def test_levels_that_are_categories_have_neither_area_nor_tolerance(operator):
    found = only(world(lambda q: 0.1 * q, operator))
    assert found["tolerance_status"] == "no parameter" and math.isnan(found["tolerance"])
    assert math.isnan(found["ausc"]) and math.isnan(found["severity_lost"]) and found["clean"] > 0


def test_selected_patients_and_real_sites_are_no_severities():
    assert severity(world(lambda q: 0.1 * q, "reselect", family="population")).empty
    assert severity(world(lambda q: 0.1 * q, family="real")).empty


def test_values_without_a_level_count_for_the_tolerance_alone():
    rows = world(lambda q: 0.02 * q)
    rows = rows.assign(level=np.nan)
    found = only(rows)
    assert found["tolerance"] == pytest.approx(3.5) and found["levels"] == ""
    assert math.isnan(found["ausc"]) and math.isnan(found["severity_lost"])


def test_two_targets_at_one_setting_are_one_point():
    rows = world(lambda q: 0.02 * q)
    twin = rows[rows["target"] == "t:3"].assign(target="zz-twin")
    pd.testing.assert_frame_equal(severity(pd.concat([rows, twin], ignore_index=True)), severity(rows))


def test_a_method_without_a_source_test_has_no_level_zero():
    rows = world(lambda q: 0.1 * q)
    found = only(rows[rows["target"] != "site-a"])
    assert found["tolerance_status"] == "no level 0" and math.isnan(found["clean"])


def test_patients_that_a_level_cannot_reach_leave_the_curve():
    rows = world(lambda q: 0.02 * q)
    gone = (rows["target"] == "t:5") & (rows["patient"] == "p00")
    found = only(rows[~gone])
    assert found["n_patients"] == 23 and found["clean"] == pytest.approx(SOURCE[1:].mean())


def test_one_patient_has_a_tolerance_without_limits_and_few_seeds_are_marked():
    alone = only(world(lambda q: 0.02 * q, clean=SOURCE[:1], spread=0.0).query("patient == 'p00'"))
    assert alone["tolerance"] == pytest.approx(3.5) and alone["tolerance_interval"] == "none"
    assert math.isnan(alone["tolerance_earliest"]) and alone["seed_limited"]
    five = only(world(lambda q: 0.02 * q, clean=np.stack([PATIENTS + 0.8 + 0.01 * s for s in range(5)])))
    assert not five["seed_limited"] and five["n_seeds"] == 5


def test_order_does_not_matter_and_failures_do_harm():
    rows = make_rows(patients=8, methods=("erm", "tent_bn", "target_oracle"), levels=(1, 2, 3, 4, 5))
    table = severity(rows)
    shuffled = rows.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(severity(shuffled), table)
    worse = severity(fail(rows, "tent_bn", ["patient-02"]))
    where = {"method": "tent_bn", "operator": "flip_angle"}
    assert line(worse, **where)["ausc"] < line(table, **where)["ausc"]
    assert line(worse, **where)["tolerance"] > line(table, **where)["tolerance"], "of a flip angle more is milder"


def test_the_page_has_source_only_and_one_other_method_per_operator():
    rows = make_rows(patients=8, methods=("erm", "tent_bn", "adabn", "target_oracle"), levels=(1, 3, 5))
    made = section.section(rows)
    assert [cells[1:3] for cells in made.body] == [
        ("flip_angle", "erm"),
        ("flip_angle", "adabn"),
        ("rician_noise", "erm"),
        ("rician_noise", "adabn"),
    ]
    assert all(len(cells) == len(made.head) for cells in made.body) and made.file == "severity.csv"
