"""Annotation shifts: the same predictions under two protocols, and for whom a drop is no fault."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows
from test_robustness import CONTROL, PATIENTS, SOURCE, frame, line, noise, rows_of

from shiftbench.report.sections import concept as section
from shiftbench.robustness.tables.concept import concept
from shiftbench.stats import paired_difference

HIDDEN = {"family": "annotation"}
OTHER = SOURCE - 0.1 + noise("protocol")


def world():
    """Source-only predicts alike whatever is drawn; five labelled cases change what `few` predicts."""
    return frame(
        rows_of("erm", "site-a", SOURCE, prediction="a", **CONTROL),
        rows_of("erm", "hilum-in", OTHER, prediction="a", **HIDDEN),
        rows_of("few", "site-a", SOURCE - 0.05, prediction="b", k=5, **CONTROL),
        rows_of("few", "hilum-in", SOURCE, prediction="c", k=5, **HIDDEN),
    ).assign(track=lambda rows: rows["method"].map({"erm": "dg", "few": "fewshot"}))


AGREEMENT = pd.DataFrame(
    [["liver", "hilum-in", s, v, v - 0.02, v + 0.02] for s, v in (("liver", 0.7), ("all", 0.83))],
    columns=["scenario", "target", "structure", "agreement", "low", "high"],
)


def test_the_same_predictions_are_scored_under_both_protocols():
    erm = line(concept(world()), method="erm")
    assert erm["same_predictions"] and erm["expected_null"]
    assert erm["dsc"] == pytest.approx(OTHER.mean()) and erm["source_protocol"] == pytest.approx(SOURCE.mean())
    expected = paired_difference(SOURCE, OTHER)
    assert (erm["cost"], erm["cost_low"], erm["cost_high"]) == pytest.approx(
        (expected.mean, expected.low, expected.high)
    )


def test_a_method_with_target_labels_predicts_otherwise_and_is_no_expected_null():
    few = line(concept(world()), method="few")
    assert not few["same_predictions"] and not few["expected_null"] and few["k"] == 5
    assert pd.isna(few["source_protocol"]) and pd.isna(few["cost"]) and few["dsc"] == pytest.approx(SOURCE.mean())
    told = world().assign(prediction="a")
    assert line(concept(told), method="few")["same_predictions"], "the digests decide, not the track"


def test_one_other_prediction_is_enough_to_differ():
    rows = world()
    one = (rows["method"] == "erm") & (rows["target"] == "hilum-in") & (rows["patient"] == "p03")
    erm = line(concept(rows.assign(prediction=rows["prediction"].mask(one, "z"))), method="erm")
    assert not erm["same_predictions"] and pd.isna(erm["source_protocol"]) and erm["expected_null"]


def test_seeds_are_compared_with_themselves():
    two = np.stack([SOURCE, SOURCE - 0.02])
    rows = frame(rows_of("erm", "site-a", two, **CONTROL), rows_of("erm", "hilum-in", two - 0.1, **HIDDEN))
    rows["prediction"] = rows["seed"].map({0: "s0", 1: "s1"})
    erm = line(concept(rows), method="erm")
    assert erm["cost"] == pytest.approx(0.1) and erm["n_seeds"] == 2 and erm["same_predictions"]


def test_the_agreement_of_the_protocols_stands_beside_it():
    erm = line(concept(world(), AGREEMENT), method="erm")
    assert (erm["agreement"], erm["agreement_low"], erm["agreement_high"]) == pytest.approx((0.83, 0.81, 0.85))
    assert erm["below_agreement"] == pytest.approx(0.83 - OTHER.mean())
    assert pd.isna(line(concept(world()), method="erm")["agreement"])
    elsewhere = concept(world(), AGREEMENT.assign(target="other"))
    assert elsewhere["agreement"].isna().all() and elsewhere["below_agreement"].isna().all()


def test_only_annotation_targets_are_asked_and_failures_count():
    rows = pd.concat([world(), frame(rows_of("erm", "dose", SOURCE - 0.3))], ignore_index=True)
    table = concept(rows)
    assert set(table["target"]) == {"hilum-in"}
    assert concept(rows[rows["family"] != "annotation"]).empty
    hit = (rows["method"] == "erm") & (rows["patient"] == "p00") & (rows["target"] == "hilum-in")
    lost = line(concept(rows.assign(status=rows["status"].mask(hit, "failed"))), method="erm")
    assert lost["dsc"] == pytest.approx((OTHER.sum() - OTHER[0]) / len(PATIENTS))


def test_the_order_of_rows_changes_nothing_and_the_page_shows_every_method():
    rows = make_rows(patients=6, methods=("erm", "tent_bn", "fewshot_ft_5", "target_oracle"))
    pd.testing.assert_frame_equal(concept(rows.sample(frac=1, random_state=2)), concept(rows))
    made = section.section(rows, AGREEMENT.assign(scenario="hilum"))
    assert len(made.body) == 4 and all(len(cells) == len(made.head) for cells in made.body)
    marked = {cells[1]: cells[3] for cells in made.body}
    assert marked == {"erm": "yes", "tent_bn": "yes", "fewshot_ft_5": "no", "target_oracle": "no"}
    assert made.file == "concept.csv" and {cells[7] for cells in made.body} == {"0.830"}
