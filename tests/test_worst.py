"""The bad end: worst targets with their selection bias, worst patients, failures."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import fail, make_rows
from test_robustness import CONTROL, frame, line, noise, rows_of

from shiftbench.report.sections import worst as section
from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.tables.worst import worst
from shiftbench.stats import share_interval, weighted_bootstrap, weighted_tail_mean

LADDER = np.arange(20) / 20  # 0, 0.05, ..., 0.95


def test_cvar_is_the_mean_of_the_lowest_tenth_of_the_patients():
    found = line(worst(frame(rows_of("erm", "dose", LADDER))), scope="target")
    assert found["cvar"] == pytest.approx((0.0 + 0.05) / 2) and found["p5"] == 0.0
    odd = line(worst(frame(rows_of("erm", "dose", np.append(LADDER, [0.9] * 5)))), scope="target")
    assert odd["cvar"] == pytest.approx((0.0 + 0.05 + 0.5 * 0.1) / 2.5), "25 patients: the third enters by half"
    assert odd["p5"] == 0.05
    two = np.stack([LADDER, LADDER[::-1] + 0.02])
    assert line(worst(frame(rows_of("erm", "dose", two))), scope="target")["cvar"] == pytest.approx(0.035)


def test_the_interval_of_cvar_is_that_of_resampled_patients():
    scores = np.clip(0.7 + noise("cvar", scale=0.15, shape=(1, 200)), 0, 1)
    found = line(worst(frame(rows_of("erm", "dose", scores))), scope="target")
    resampled = weighted_bootstrap(
        *(1, [200], lambda w: weighted_tail_mean(scores, w, CONSTANTS.tail)), rng=generator(0, "tail"), resamples=4000
    )
    assert found["cvar"] == pytest.approx(float(resampled.estimate))
    width = float(resampled.high - resampled.low)
    assert found["cvar_high"] - found["cvar_low"] == pytest.approx(width, rel=0.15)
    assert (found["cvar_low"], found["cvar_high"]) == pytest.approx((resampled.low, resampled.high), abs=0.02)


def test_failures_are_counted_on_a_patients_mean_over_structures_with_wilsons_interval():
    liver, tumour = np.full(24, 0.9), np.full(24, 0.9)
    tumour[:6] = 0.0  # a mean of 0.45
    tumour[6:9] = 0.2  # a mean of 0.55
    rows = frame(rows_of("erm", "dose", liver), rows_of("erm", "dose", tumour, structure="tumour"))
    found = line(worst(rows), scope="target")
    expected = share_interval(6, 24)
    limits = (found["failure_percent"], found["failure_percent_low"], found["failure_percent_high"])
    assert limits == pytest.approx((25.0, 100 * expected.low, 100 * expected.high))


def targets(means, *, n=24, family="acquisition", same_patients=True, scale=0.0, method="erm"):
    groups = [rows_of(method, "site-a", np.full(n, 0.9), **CONTROL)]
    for i, mean in enumerate(means):
        own = noise("target", i, scale=scale, shape=(n,))
        prefix = "p" if same_patients else f"t{i}-"
        groups.append(rows_of(method, f"t{i}", mean + own, family=family, prefix=prefix))
    return frame(*groups)


def test_the_worst_target_is_named_with_limits_that_seek_it_anew():
    rows = targets((0.8, 0.5, 0.7), scale=0.1)
    found = line(worst(rows), scope="acquisition")
    assert found["worst_target"] == "t1" and found["n_targets"] == 3
    assert found["worst"] == pytest.approx(rows[rows["target"] == "t1"]["value"].mean())
    assert found["worst_low"] < found["worst"] < found["worst_high"]
    assert found["chosen_again_percent"] == pytest.approx(100, abs=1)
    assert abs(found["selection_bias"]) < 0.002, "nobody doubts which is the worst"


def test_the_lowest_of_equal_targets_is_biased_by_chance_alone():
    """Ten equal targets of ten patients with SD 0.1 each: the lowest mean lies 0.049 below the truth."""
    draw = generator(0, "equal")
    lows, biases = [], []
    for _ in range(20):
        groups = [rows_of("erm", f"t{i}", draw.normal(0.7, 0.1, 10), prefix=f"t{i}-") for i in range(10)]
        found = line(worst(frame(*groups)), scope="acquisition")
        lows.append(found["worst"] - 0.7)
        biases.append(found["selection_bias"])
        assert found["chosen_again_percent"] < 90
    assert np.mean(lows) == pytest.approx(-0.049, abs=0.01)
    assert -0.049 < np.mean(biases) < -0.008, "resampled, the means already differ, so the bias is smaller"


def test_targets_on_the_same_patients_are_resampled_together():
    shared = 0.7 + noise("shared", scale=0.2, shape=(24,))
    rows = frame(*(rows_of("erm", f"t{i}", shared - 0.001 * i) for i in range(3)))
    found = line(worst(rows), scope="acquisition")
    assert found["worst_target"] == "t2" and found["chosen_again_percent"] == 100
    assert found["selection_bias"] == pytest.approx(0, abs=0.003)


def test_families_weigh_the_same_overall_and_controls_and_faults_never_enter():
    rows = frame(
        rows_of("erm", "a1", LADDER),
        rows_of("erm", "a2", LADDER),
        rows_of("erm", "b", 0 * LADDER + 0.6, family="population"),
        rows_of("erm", "hidden", 0 * LADDER, family="annotation"),
        rows_of("erm", "wrong", 0 * LADDER, family="fault"),
        rows_of("erm", "same", 0 * LADDER, family="control"),
    )
    table = worst(rows)
    overall = line(table, scope="overall")
    assert overall["n_targets"] == 3 and overall["failure_percent"] == pytest.approx(50 * 10 / 20)
    assert overall["cvar"] == pytest.approx((0.0 + 0.05 + 0.1 + 0.15) / 4), "a fifth of the ladder, half of the weight"
    assert set(table["scope"]) == {"target", "acquisition", "population", "annotation", "overall"}
    assert len(table[table["scope"] == "target"]) == 6
    seeing = worst(rows.assign(track="fewshot"))
    assert line(seeing, scope="overall")["n_targets"] == 4 and line(seeing, scope="overall")["worst"] == 0


def test_one_target_has_no_selection_and_one_seed_is_marked():
    found = line(worst(targets((0.5,), scale=0.1)), scope="overall")
    assert pd.isna(found["worst_low"]) and pd.isna(found["selection_bias"]) and found["worst"] > 0
    assert found["conditional"] and found["seed_limited"]


def test_order_and_other_methods_do_not_matter_and_failures_do_harm():
    rows = make_rows(patients=20, seeds=(0, 1), methods=("erm", "tent_bn", "adabn"), levels=(1, 5))
    unable = (rows["method"] == "erm") & (rows["patient"] == "patient-05")  # a method with fewer patients
    rows = rows.assign(status=rows["status"].mask(unable, "not_applicable"), value=rows["value"].mask(unable))
    table = worst(rows)
    pd.testing.assert_frame_equal(worst(rows.sample(frac=1, random_state=7)), table)
    alone = worst(rows[rows["method"] == "tent_bn"])
    own = table[table["method"] == "tent_bn"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, own)
    worse = worst(fail(rows, "tent_bn", ["patient-03"]))
    overall = {"method": "tent_bn", "scope": "overall"}
    for name in ("worst", "worst_low", "cvar", "p5"):
        assert line(worse, **overall)[name] < line(table, **overall)[name], name
    assert line(worse, **overall)["failure_percent"] > line(table, **overall)["failure_percent"]


def test_the_page_has_the_overall_scope_and_the_file_every_target():
    rows = make_rows(patients=20, methods=("erm", "tent_bn", "target_oracle"), levels=(1, 5))
    made = section.section(rows)
    assert len(made.body) == 3 and all(len(cells) == len(made.head) for cells in made.body)
    assert made.body[0][0] == "target_oracle" and made.file == "worst.csv"
    assert {"target", "overall", "acquisition"} < set(made.table["scope"])
