"""Detection, distances and false positives, per structure: infinite distances, failures and empty references."""

import math

import numpy as np
import pandas as pd
import pytest
from test_robustness import N, frame, line, rows_of

from shiftbench.errors import OutputError
from shiftbench.report.sections import detection as section
from shiftbench.robustness.tables.detection import detection
from shiftbench.stats import mean_interval, share_interval

DISTANCE = np.arange(1.0, N + 1)
METRICS = {("nsd", "S"): 0.8, ("nsd", "V"): 0.7, ("hd95_mm", "S"): DISTANCE, ("hd95_mm", "V"): 2 * DISTANCE}
METRICS |= {("assd_mm", "S"): DISTANCE / 4, ("assd_mm", "V"): DISTANCE / 2}


def world(method="erm", seeds=1, **changes):
    """All metrics of one structure, found in every patient."""
    dsc = rows_of(method, "dose", np.full((seeds, N), 0.8), **changes)
    others = [
        row
        for (metric, definition), values in METRICS.items()
        for row in rows_of(
            *(method, "dose", np.broadcast_to(values, (seeds, N))), metric=metric, definition=definition, **changes
        )
    ]
    volume = rows_of(method, "dose", np.zeros((seeds, N)), metric="volume_error_ml", **changes)
    return frame(dsc, others, volume)


def lose(rows, patients, status="missed"):
    """`rows` in which the structure of these patients was not found, as the scorer writes it."""
    hit = rows["patient"].isin([f"p{i:02d}" for i in patients])
    far = rows["metric"].isin(["hd95_mm", "assd_mm"])
    value = rows["value"].mask(hit, 0.0).mask(hit & (far | (rows["metric"] == "volume_error_ml")), np.nan)
    bound = rows["bound"].mask(hit & far, "inf")
    return rows.assign(value=value, bound=bound, status=rows["status"].mask(hit, status))


def only(rows):
    (record,) = detection(rows).to_dict("records")
    return record


def test_where_everything_is_found_distances_are_means_over_patients():
    found = only(world())
    expected = mean_interval(DISTANCE)
    assert (found["detected_percent"], found["failure_percent"], found["n_positive"]) == (100, 0, N)
    assert (found["hd95_mm_S"], found["hd95_mm_S_low"]) == pytest.approx((expected.mean, expected.low))
    assert found["hd95_mm_V"] == pytest.approx(2 * expected.mean)
    assert found["assd_mm_V"] == pytest.approx(expected.mean / 2)
    assert found["hd95_mm_S_median"] == 13 and found["hd95_mm_S_p95"] == 23, "the upper neighbours of 12.5 and 22.85"
    assert (found["nsd_S"], found["nsd_V"]) == pytest.approx((0.8, 0.7))
    assert pd.isna(found["n_negative"]) and math.isnan(found["false_positive_percent"])


@pytest.mark.parametrize("status", ["missed", "failed", "timeout", "prediction_missing"])
def test_what_was_not_found_is_infinitely_far_and_enters_no_mean_of_distances(status):
    rows = lose(world(), (22, 23), status)
    found = only(rows.assign(value=rows["value"].mask(rows["status"] == status)))  # whatever value stands beside it
    assert found["n_missed"] == (2 if status == "missed" else 0) and found["n_failed"] == 2 - found["n_missed"]
    rate = share_interval(N - 2, N)
    limits = (found["detected_percent"], found["detected_percent_low"], found["detected_percent_high"])
    assert limits == pytest.approx((100 * rate.mean, 100 * rate.low, 100 * rate.high))
    assert found["failure_percent"] == pytest.approx(100 * 2 / N)
    assert found["hd95_mm_S"] == pytest.approx(DISTANCE[:-2].mean()), (
        "given detection, losing the far ones looks better"
    )
    assert found["hd95_mm_S_p95"] == math.inf and found["hd95_mm_S_median"] == 13
    assert found["nsd_S"] == pytest.approx(0.8 * (N - 2) / N)


def test_where_nothing_is_found_there_is_no_mean_distance():
    found = only(lose(world(), range(N)))
    assert found["detected_percent"] == 0 and found["failure_percent"] == 100
    assert math.isnan(found["hd95_mm_S"]) and found["hd95_mm_S_median"] == math.inf and found["nsd_S"] == 0


@pytest.mark.parametrize("status", ["missed", "failed"])
def test_deleting_a_prediction_never_improves_what_is_unconditional(status):
    before = only(world())
    for patients in ((0,), (5, 9), range(20)):
        after = only(lose(world(), patients, status))
        for name in ("detected_percent", "nsd_S", "nsd_V"):
            assert after[name] < before[name], name
        for name in ("failure_percent", "hd95_mm_S_median", "hd95_mm_S_p95", "assd_mm_V_median", "assd_mm_V_p95"):
            assert after[name] >= before[name], name


def test_seeds_and_cases_are_averaged_within_a_patient():
    rows = world(seeds=2)
    second = rows["seed"] == 1
    found = only(pd.concat([rows[~second], lose(rows[second], (0,))]))
    assert found["detected_percent"] == pytest.approx(100 * (1 - 0.5 / N)) and found["n_positive"] == 2 * N
    assert found["n_patients"] == N and found["n_seeds"] == 2
    assert found["hd95_mm_S"] == pytest.approx((DISTANCE.sum() + DISTANCE[1:].sum()) / (2 * N - 1))
    again = world()
    again = pd.concat([again, lose(again[again["patient"] == "p00"].assign(case="p00-second"), (0,))])
    twice = only(again)
    assert twice["detected_percent"] == pytest.approx(100 * (1 - 0.5 / N)) and twice["n_positive"] == N + 1


def negatives(rows, drawn, empty, failed=()):
    """The reference is empty in these patients: some are drawn all the same, some are not, some failed."""
    for patients, status in ((drawn, "fp_on_negative"), (empty, "both_empty"), (failed, "failed")):
        hit = rows["patient"].isin([f"p{i:02d}" for i in patients])
        volume = hit & (rows["metric"] == "volume_error_ml") & (status == "fp_on_negative")
        rows = rows.assign(
            value=rows["value"].mask(hit, np.nan).mask(volume, 3.5),
            status=rows["status"].mask(hit, status),
            detail=rows["detail"].mask(hit & (status == "failed"), "reference_empty"),
        )
    return rows


def test_the_negative_table_counts_what_is_drawn_where_there_is_nothing():
    found = only(negatives(world(), drawn=(0, 1), empty=(2, 3, 4), failed=(5,)))
    assert found["n_negative"] == 6 and found["n_positive"] == N - 6
    rate = share_interval(3, 6)
    limits = (found["false_positive_percent"], found["false_positive_percent_low"])
    assert limits == pytest.approx((50, 100 * rate.low)), "a failed prediction counts as drawn"
    assert found["false_positive_volume"] == pytest.approx(3.5) and found["n_false_positive_volume"] == 2
    assert found["detected_percent"] == 100 and found["hd95_mm_S"] == pytest.approx(DISTANCE[6:].mean())
    assert only(negatives(world(), drawn=(), empty=(0,)))["false_positive_percent"] == 0


def test_units_are_those_of_the_rows():
    rows = world()
    rows = rows.assign(unit=rows["unit"].mask(rows["metric"].isin(["hd95_mm", "assd_mm"]), "px"))
    rows = rows.assign(unit=rows["unit"].mask(rows["metric"] == "volume_error_ml", "px2"))
    found = only(negatives(rows, drawn=(0,), empty=()))
    assert (found["distance_unit"], found["volume_unit"]) == ("px", "px2")


def test_a_structure_that_is_in_no_reference_has_the_negative_columns_alone():
    found = only(negatives(world(), drawn=(0, 1), empty=range(2, N)))
    assert found["n_negative"] == N and math.isnan(found["detected_percent"]) and math.isnan(found["hd95_mm_S"])


def test_what_is_not_applicable_or_not_annotated_is_in_no_table():
    rows = world()
    off = rows["patient"] == "p00"
    for status in ("not_applicable", "class_not_annotated"):
        found = only(rows.assign(status=rows["status"].mask(off, status), value=rows["value"].mask(off, np.nan)))
        assert found["n_positive"] == N - 1 and found["hd95_mm_S"] == pytest.approx(DISTANCE[1:].mean())
    nothing = rows.assign(status="not_applicable", value=np.nan)
    assert detection(nothing).empty


def test_rows_of_an_older_run_lack_definitions_and_structures_stand_apart():
    rows = world()
    older = only(rows[(rows["definition"] != "V") & (rows["metric"] != "assd_mm")])
    assert math.isnan(older["hd95_mm_V"]) and math.isnan(older["assd_mm_S"]) and older["hd95_mm_S"] > 0
    both = detection(pd.concat([rows, lose(rows.assign(structure="tumour"), (0,))], ignore_index=True))
    assert both.set_index("structure")["n_missed"].to_dict() == {"liver": 0, "tumour": 1}
    with pytest.raises(OutputError, match="two rows of dsc"):
        detection(pd.concat([rows, rows]))


def test_the_order_of_rows_changes_nothing():
    rows = pd.concat([negatives(lose(world(m), (7, 9)), (0,), (1,)) for m in ("erm", "tent")], ignore_index=True)
    pd.testing.assert_frame_equal(detection(rows.sample(frac=1, random_state=1)), detection(rows))


def test_the_page_has_what_source_only_misses_and_invents():
    rows = pd.concat([lose(world(m), (22, 23)) for m in ("erm", "tent")], ignore_index=True)
    fine = world("erm").assign(structure="spleen")
    made = section.section(pd.concat([rows, fine], ignore_index=True))
    (cells,) = made.body
    assert cells[1] == "liver" and cells[3] == "92 %" and cells[5] == "∞" and len(cells) == len(made.head)
    assert len(made.table) == 3 and made.file == "detection.csv"
    assert line(made.table, method="tent")["n_missed"] == 2
