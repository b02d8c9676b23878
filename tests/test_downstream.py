"""Tables of features under shift, and of what a classifier behind the segmentation loses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows

from shiftbench.errors import OutputError
from shiftbench.metrics.features import CONTAMINATION, FORMULA, LESION_FEATURES, PREFIX
from shiftbench.report.sections import downstream as downstream_section
from shiftbench.report.sections import radiomics as radiomics_section
from shiftbench.rng import generator
from shiftbench.robustness.tables.downstream import FEWEST_LESIONS, downstream, fitted
from shiftbench.robustness.tables.radiomics import feature_agreement, outlines
from shiftbench.stats import ccc, icc_a1, limits_of_agreement, mean_interval
from shiftbench.types import BETWEEN_PATIENTS, Status

PATIENTS = 12
TARGETS = ("site-a", "new-site")


def base(methods=("erm", "pred_bn"), seeds=(0,)) -> pd.DataFrame:
    """One row per method, domain, patient and seed, of the tumour, to be filled with features."""
    rows = make_rows(patients=PATIENTS, methods=methods, seeds=seeds)
    rows = rows[(rows.scenario == "new-site") & (rows.metric == "dsc") & (rows.structure == "tumour")]
    return rows.assign(tolerance=None, unit="image unit", status=str(Status.OK), detail="")


def number(rows: pd.DataFrame) -> np.ndarray:
    return rows["patient"].str[-2:].astype(int).to_numpy()


def measured(shift=None, **choices) -> pd.DataFrame:
    """Rows of the mean of the tumour: 40 + 3 per patient, measured with an error that `shift` gives per row."""
    plain = base(**choices)
    reference = plain.assign(metric=f"{PREFIX}mean", definition="reference", value=40.0 + 3 * number(plain))
    wrong = np.zeros(len(plain)) if shift is None else np.array([shift(r) for r in plain.itertuples()], float)
    predicted = reference.assign(definition="predicted", value=reference["value"] + wrong)
    said = {"contamination": 0.2, "missed_share": 0.1, "mean_bias": wrong - 0.5, "variance_mixed": 30.0}
    assert set(said) == set(CONTAMINATION)
    formulas = [plain.assign(metric=PREFIX + name, definition=FORMULA, value=value) for name, value in said.items()]
    return pd.concat([reference, predicted, *formulas], ignore_index=True)


def fail(rows: pd.DataFrame, patients, status=Status.MISSED, method="erm", target="new-site") -> pd.DataFrame:
    rows = rows.copy()
    hit = rows["patient"].isin(patients) & (rows["method"] == method) & (rows["target"] == target)
    rows.loc[hit, "status"] = str(status)
    rows.loc[hit & ~rows["definition"].str.startswith("reference"), "value"] = np.nan
    return rows


def line(table, method="erm", target="new-site"):
    (found,) = table[(table.method == method) & (table.target == target)].itertuples()
    return found


def wave(row) -> float:
    """An error of -6 in the new site, a little different in every patient."""
    return 0.0 if row.target == "site-a" else -6.0 + np.sin(int(row.patient[-2:]))


# --- features ---------------------------------------------------------------------------------------------------------


def test_bias_limits_and_agreement_are_those_of_the_patients():
    table = feature_agreement(measured(wave))
    found, truth = line(table), 40.0 + 3 * np.arange(PATIENTS)
    error = -6.0 + np.sin(np.arange(PATIENTS))
    bias = mean_interval(error)
    assert (found.bias, found.bias_low, found.bias_high) == pytest.approx((bias.mean, bias.low, bias.high))
    assert found.reference_sd == pytest.approx(truth.std(ddof=1)) and found.reference_mean == pytest.approx(
        truth.mean()
    )
    assert found.bias_in_sd == pytest.approx(bias.mean / truth.std(ddof=1))
    limits = limits_of_agreement(truth + error, truth)
    assert (found.lower, found.lower_low, found.lower_high) == pytest.approx(limits.lower)
    assert (found.upper, found.upper_low, found.upper_high) == pytest.approx(limits.upper)
    for name, coefficient in (("ccc", ccc), ("icc_a1", icc_a1)):
        one = coefficient(truth + error, truth)
        got = [getattr(found, f"{name}{end}") for end in ("", "_low", "_high")]
        assert got == pytest.approx([one.estimate, one.low, one.high])
    assert (found.n_patients, found.n_seeds, found.conditional, found.n_cases) == (PATIENTS, 1, True, PATIENTS)
    assert line(table, target="site-a").bias == 0.0 and line(table, target="site-a").ccc == 1.0


def test_the_bias_by_contamination_is_set_against_the_observed_one():
    found = line(feature_agreement(measured(wave)))
    assert found.predicted_bias == pytest.approx(found.bias - 0.5) and found.residual == pytest.approx(0.5)
    assert found.correlation == pytest.approx(1.0)
    assert (found.contamination, found.missed_share) == pytest.approx((0.2, 0.1))
    rows = measured(wave)
    of_variance = rows[rows["metric"] == f"{PREFIX}mean"].assign(metric=f"{PREFIX}variance")
    table = feature_agreement(pd.concat([rows, of_variance]))
    found = line(table[table.feature == "variance"])
    assert found.predicted_bias == pytest.approx(
        30.0 - found.reference_mean
    )  # there the formula gives the value itself


def test_undetected_structures_are_counted_beside_an_agreement_without_them():
    lost = [f"patient-{i:02d}" for i in range(3)]
    found = line(feature_agreement(fail(measured(wave), lost)))
    assert found.undetected_percent == pytest.approx(25.0) and found.failed_percent == 0.0
    assert found.n_patients == PATIENTS - 3 and found.n_cases == PATIENTS
    assert found.bias == pytest.approx(np.mean(-6.0 + np.sin(np.arange(3, PATIENTS))))
    whole = line(feature_agreement(measured(wave)))
    assert found.reference_sd == whole.reference_sd  # of all patients, whoever was found
    failed = line(feature_agreement(fail(measured(wave), lost, Status.TIMEOUT)))
    assert failed.failed_percent == pytest.approx(25.0) and failed.undetected_percent == 0.0


def test_a_method_that_finds_nothing_has_a_row_that_says_so():
    everyone = [f"patient-{i:02d}" for i in range(PATIENTS)]
    found = line(feature_agreement(fail(measured(wave), everyone)))
    assert found.undetected_percent == 100.0 and found.n_patients == 0
    assert all(pd.isna(getattr(found, name)) for name in ("bias", "ccc", "icc_a1", "lower", "predicted_bias"))


def test_negative_cases_and_cases_without_meaning_enter_nothing():
    rows = measured(wave)
    some = rows["patient"].isin(["patient-00", "patient-01"])
    negative = rows.assign(value=rows["value"].where(~some), status=rows["status"].where(~some, "fp_on_negative"))
    assert line(feature_agreement(negative)).n_cases == PATIENTS - 2
    nowhere = rows.assign(status=rows["status"].where(rows["method"] != "pred_bn", "not_applicable"))
    assert set(feature_agreement(nowhere).method) == {"erm"}


def test_the_cases_of_a_patient_are_averaged_first_and_an_undetected_one_on_both_sides():
    rows = measured(wave)
    second = rows.assign(case=rows["case"] + "-later", value=rows["value"] + 10)
    second.loc[second["definition"] == "predicted", "value"] += 2  # the later scan is 2 worse
    both = pd.concat([rows, second], ignore_index=True)
    found = line(feature_agreement(both))
    assert found.n_patients == PATIENTS and found.n_cases == 2 * PATIENTS
    assert found.bias == pytest.approx(line(feature_agreement(rows)).bias + 1)
    missed = fail(both, ["patient-03"])
    keep = (missed["patient"] == "patient-03") & (missed["case"] == "patient-03")
    missed[keep] = both[keep]
    errors = -6.0 + np.sin(np.arange(PATIENTS)) + 1
    errors[3] -= 1  # only the first scan of this patient is left, on both sides
    assert line(feature_agreement(missed)).bias == pytest.approx(errors.mean())


def test_with_several_seeds_statistics_are_means_over_seeds():
    def by_seed(row):
        return wave(row) + (5.0 * row.seed if row.target == "new-site" else 0.0)

    found = line(feature_agreement(measured(by_seed, seeds=(0, 1))))
    truth, error = 40.0 + 3 * np.arange(PATIENTS), -6.0 + np.sin(np.arange(PATIENTS))
    each = [ccc(truth + error + shift, truth).estimate for shift in (0.0, 5.0)]
    assert found.ccc == pytest.approx(np.mean(each)) and found.ccc_low < found.ccc < found.ccc_high
    lower = [limits_of_agreement(truth + error + shift, truth).lower[0] for shift in (0.0, 5.0)]
    assert found.lower == pytest.approx(np.mean(lower))
    assert found.n_seeds == 2 and not found.conditional and found.bias == pytest.approx(error.mean() + 2.5)


def test_the_table_does_not_depend_on_the_order_of_rows_and_refuses_rows_twice():
    rows = measured(wave, seeds=(0, 1))
    shuffled = rows.sample(frac=1.0, random_state=1)
    pd.testing.assert_frame_equal(feature_agreement(rows), feature_agreement(shuffled))
    with pytest.raises(OutputError, match="two rows for the same feature"):
        feature_agreement(pd.concat([rows, rows.iloc[:1]]))


def test_the_impossible_control_and_runs_without_features_have_no_row():
    rows = measured(wave)
    chance = rows[rows["target"] == "new-site"].iloc[:1].assign(metric=BETWEEN_PATIENTS, definition="counts")
    assert set(feature_agreement(pd.concat([rows, chance])).target) == {"site-a"}
    for make in (feature_agreement, downstream):
        assert make(make_rows(patients=4, methods=("erm",))).empty
    for section in (radiomics_section.section, downstream_section.section):
        assert section(make_rows(patients=4, methods=("erm",))).table.empty


# --- the classifier ---------------------------------------------------------------------------------------------------

TYPES = ("cyst", "hcc")


def lesions(change=None, patients=PATIENTS, n=4, types=TYPES, methods=("erm",), **choices) -> pd.DataFrame:
    """Rows of lesions: the mean of a cyst is 10, of the other 30; `change(row)` gives status and predicted mean."""
    plain = base(methods=methods, **choices)
    plain = plain[number(plain) < patients]
    made = []
    for i in range(1, n + 1):
        kind = types[i % len(types)]
        noise = generator(0, "lesion", i).normal(0, 2, 100)[number(plain)]
        for feature in LESION_FEATURES:
            value = {"cyst": 10.0}.get(kind, 30.0) + noise if feature == "mean" else 5.0 + 0 * noise
            one = plain.assign(metric=PREFIX + feature, detail=f"type={kind}", value=value)
            reference = one.assign(definition=f"reference:{i}")
            predicted = one.assign(definition=f"predicted:{i}")
            for row in predicted.itertuples() if change else ():
                status, given = change(row, i, kind)
                reference.loc[row.Index, "status"] = predicted.loc[row.Index, "status"] = str(status)
                if given is None or feature == "mean":
                    predicted.loc[row.Index, "value"] = row.value if given == "same" else given
            made += [reference, predicted]
    return pd.concat(made, ignore_index=True)


def test_perfect_outlines_lose_nothing():
    found = line(downstream(lesions()))
    accuracies = ("source_reference", "target_reference", "predicted", "found_reference", "found_predicted")
    assert all(getattr(found, name) == 1.0 for name in accuracies)
    assert found.auroc_found_reference == found.auroc_found_predicted == 1.0
    assert found.loss_domain == found.loss_outline == 0.0
    assert found.types == "cyst 24, hcc 24" and found.n_lesions == 48 and found.n_patients == PATIENTS


def test_outlines_with_background_lose_types_and_the_image_is_not_blamed():
    """Every predicted lesion holds so much background that a cyst looks like a tumour."""

    def change(row, i, kind):
        return Status.OK, 30.0 if row.target == "new-site" else "same"

    found = line(downstream(lesions(change)))
    assert (found.source_reference, found.target_reference, found.predicted) == (1.0, 1.0, 0.5)
    assert found.loss_outline == found.loss_outline_found == 0.5 and found.loss_domain == 0.0
    assert found.auroc_found_predicted == 0.5 and found.auroc_found_reference == 1.0
    assert line(downstream(lesions(change)), target="site-a").loss_outline == 0.0


def test_an_image_that_looks_different_is_blamed_and_not_the_outline():
    rows = lesions()
    moved = (rows["target"] == "new-site") & (rows["metric"] == f"{PREFIX}mean")
    rows.loc[moved, "value"] = rows.loc[moved, "value"] + 40.0
    found = line(downstream(rows))
    assert (found.source_reference, found.target_reference, found.predicted) == (1.0, 0.5, 0.5)
    assert found.loss_domain == 0.5 and found.loss_outline == 0.0


@pytest.mark.parametrize(("status", "column"), [(Status.MISSED, "undetected"), (Status.OUT_OF_MEMORY, "failed")])
def test_an_undetected_lesion_is_wrong_and_reported_apart(status, column):
    def change(row, i, kind):
        lost = row.target == "new-site" and kind == "cyst" and int(row.patient[-2:]) < 6
        return (status, None) if lost else (Status.OK, "same")

    found = line(downstream(lesions(change)))
    assert found.predicted == pytest.approx((0.5 + 1.0) / 2)  # half the cysts, all of the others
    assert getattr(found, f"{column}_percent") == pytest.approx(25.0)
    assert found.found_predicted == found.found_reference == 1.0 and found.loss_outline_found == 0.0
    assert found.loss_outline == pytest.approx(0.25) and found.loss_outline_low < 0.25 < found.loss_outline_high
    assert found.n_lesions == 48


def test_a_method_that_finds_no_lesion_is_always_wrong():
    def change(row, i, kind):
        return (Status.MISSED, None) if row.target == "new-site" else (Status.OK, "same")

    found = line(downstream(lesions(change)))
    assert (found.predicted, found.loss_outline, found.undetected_percent) == (0.0, 1.0, 100.0)
    assert pd.isna(found.found_predicted) and pd.isna(found.loss_outline_found_low)
    assert pd.isna(found.auroc_found_predicted) and found.target_reference == 1.0


def test_a_type_that_is_not_there_enters_no_mean_over_types():
    def change(row, i, kind):
        lost = row.target == "new-site" and kind == "cyst"
        return (Status.MISSED, None) if lost else (Status.OK, "same")

    found = line(downstream(lesions(change)))
    assert found.found_predicted == found.found_reference == 1.0 and found.predicted == 0.5


def test_a_patient_is_classified_by_a_model_that_never_saw_the_patient():
    """Patients whose types are swapped: a model that saw them could learn them from another feature; one that did not
    is wrong."""
    rows = lesions()
    odd = (rows["patient"] == "patient-00") & (rows["metric"] == f"{PREFIX}mean")
    rows.loc[odd, "value"] = 40.0 - rows.loc[odd, "value"]
    marked = (rows["patient"] == "patient-00") & (rows["metric"] == f"{PREFIX}volume_ml")
    rows.loc[marked, "value"] = np.where(rows.loc[marked, "detail"] == "type=cyst", 500.0, -500.0)
    for target in TARGETS:
        assert line(downstream(rows), target=target).predicted == pytest.approx(11 / 12)


def test_a_source_without_two_types_of_enough_lesions_has_no_row():
    assert downstream(lesions(types=("hcc",))).empty
    few = lesions()
    kept = few["patient"].isin([f"patient-{i:02d}" for i in range((FEWEST_LESIONS - 1) // 2)])
    assert downstream(few[(few["detail"] == "type=hcc") | kept]).empty
    one_patient = lesions(n=12)
    kept = one_patient["patient"] == "patient-00"
    assert downstream(one_patient[(one_patient["detail"] == "type=hcc") | kept]).empty


def test_a_rare_third_type_is_left_out_on_both_sides():
    rows = lesions(n=5)
    rare = rows["definition"].str.endswith(":5")
    first = rows["patient"] == "patient-00"
    rows = rows[~rare | first].assign(detail=rows["detail"].where(~rare, "type=rare"))
    found = line(downstream(rows))
    assert found.types == "cyst 24, hcc 24" and found.n_lesions == 48
    assert found.predicted == found.source_reference == 1.0


def test_three_types_are_told_apart_and_a_guess_is_a_third():
    def change(row, i, kind):
        return Status.OK, 30.0 if row.target == "new-site" else "same"

    rows = lesions(change, n=6, types=("cyst", "hcc", "metastasis"))
    of_third = (rows["detail"] == "type=metastasis") & (rows["metric"] == f"{PREFIX}mean")
    rows.loc[of_third & rows["definition"].str.startswith("reference"), "value"] += 30.0
    found = line(downstream(rows))
    assert found.source_reference == found.target_reference == 1.0
    assert found.predicted == pytest.approx(1 / 3)


def test_the_reference_is_the_same_for_all_seeds_and_methods():
    def change(row, i, kind):
        wrong = row.method == "pred_bn" and row.target == "new-site" and row.seed == 1
        return Status.OK, 30.0 if wrong else "same"

    table = downstream(lesions(change, methods=("erm", "pred_bn"), seeds=(0, 1)))
    assert line(table, "pred_bn").predicted == pytest.approx(0.75) and line(table, "erm").predicted == 1.0
    assert line(table, "pred_bn").n_seeds == 2 and not line(table, "pred_bn").conditional
    assert (table["source_reference"] == 1.0).all() and (table["target_reference"] == 1.0).all()


def test_few_shot_draws_are_averaged():
    rows = lesions()
    worse = lesions(lambda row, i, kind: (Status.OK, 30.0)).assign(draw=1)
    found = line(downstream(pd.concat([rows, worse], ignore_index=True)))
    assert found.predicted == pytest.approx(0.75) and found.n_lesions == 48


def test_patients_of_the_target_may_be_others_than_the_source_s():
    rows = lesions()
    there = rows["target"] == "new-site"
    rows.loc[there, ["patient", "case"]] = "other-" + rows.loc[there, ["patient", "case"]]
    found = line(downstream(rows))
    assert found.predicted == 1.0 and found.n_patients == PATIENTS and found.loss_domain == 0.0


def test_the_order_of_rows_changes_nothing():
    def change(row, i, kind):
        lost = int(row.patient[-2:]) % 3 == 0 and kind == "cyst"
        return (Status.MISSED, None) if lost else (Status.OK, "same")

    rows = lesions(change, methods=("erm", "pred_bn"))
    pd.testing.assert_frame_equal(downstream(rows), downstream(rows.sample(frac=1.0, random_state=3)))


def test_a_feature_that_is_undefined_is_the_median_and_loses_no_lesion():
    rows = lesions()
    gone = (rows["metric"] == f"{PREFIX}skewness") & (rows["patient"] == "patient-02")
    rows.loc[gone, "value"] = np.nan
    found = line(downstream(rows))
    assert found.predicted == 1.0 and found.n_lesions == 48
    all_gone = rows.assign(value=rows["value"].where(rows["metric"] != f"{PREFIX}skewness"))
    assert line(downstream(all_gone)).predicted == 1.0


def test_the_classifier_weighs_types_equally():
    rng = generator(0, "weights")
    features = np.concatenate([rng.normal(0, 1, (95, 1)), rng.normal(1.2, 1, (5, 1))])
    guess = fitted(features, np.array(["common"] * 95 + ["rare"] * 5)).predict(features)
    assert 20 < (guess == "rare").sum() < 60


def test_both_sections_show_and_say_what_they_are():
    rows = pd.concat([measured(wave), lesions()], ignore_index=True)
    features, types = radiomics_section.section(rows), downstream_section.section(rows)
    assert features.file == "radiomics.csv" and types.file == "downstream.csv"
    assert len(features.body) == 4 and all(len(cells) == len(features.head) for cells in features.body)
    (shown,) = [cells for cells in features.body if cells[0] == "new-site: new-site" and cells[3] == "erm"]
    assert shown[2] == "mean (image unit)" and shown[5].startswith("−5.97 [−6.43, ") and shown[-1] == "0 %"
    assert all(len(cells) == len(types.head) for cells in types.body)
    assert types.body[0][3] == "cyst 24, hcc 24" and types.body[0][4] == "1.000"
    assert "need not" in features.words and "undetected lesion is wrong" in types.words


def test_lesions_and_whole_structures_are_told_apart():
    rows = pd.concat([measured(wave), lesions()], ignore_index=True)
    assert set(outlines(rows)["feature"]) == {"mean"} and set(outlines(rows, lesions=True)["number"]) == set("1234")
    alone = feature_agreement(measured(wave, methods=("erm",)))
    pd.testing.assert_frame_equal(
        feature_agreement(rows[rows["method"] == "erm"]).reset_index(drop=True), alone, check_like=True
    )
