"""Panoptic quality per target and structure: means over the right cases, gains on the same patients."""

from __future__ import annotations

import pandas as pd
import pytest
from synthetic_rows import make_rows

from shiftbench.metrics.scorers import METRICS
from shiftbench.report.sections import sections
from shiftbench.robustness.tables.segments import segments
from shiftbench.types import Status

PLAIN = {"pq": 0.6, "sq": 0.8, "rq": 0.75, "instance_precision": 0.9, "instance_recall": 0.7}


def rows_with(values, methods=("erm", "pred_bn"), patients=6):
    """Rows of one target in which the tumour's segments are counted; values(method, patient) may change them."""
    plain = make_rows(patients=patients, methods=methods)
    plain = plain[plain.scenario == "new-site"]
    of_tumour = plain[(plain.structure == "tumour") & (plain.metric == "dsc")]
    made = [plain]
    for metric, value in PLAIN.items():
        own = of_tumour.assign(metric=metric, definition=METRICS[metric].definition, tolerance=None)
        own["value"] = [values(m, p).get(metric, value) for m, p in zip(own.method, own.patient, strict=True)]
        own["status"] = [
            str(values(m, p).get("status", Status.OK)) for m, p in zip(own.method, own.patient, strict=True)
        ]
        made.append(own)
    return pd.concat(made, ignore_index=True)


def line(table, method, target="new-site"):
    (found,) = table[(table.method == method) & (table.target == target)].itertuples()
    return found


def test_only_structures_whose_segments_are_counted_have_a_row():
    table = segments(rows_with(lambda method, patient: {}))
    assert set(table.structure) == {"tumour"} and set(table.method) == {"erm", "pred_bn"}
    assert segments(make_rows(patients=4, methods=("erm",))).empty


def test_means_and_gains_are_over_the_same_patients():
    first = sorted(rows_with(lambda m, p: {}).patient.unique())[0]

    def values(method, patient):
        return {"pq": 0.0 if patient == first else 0.6} if method == "erm" else {"pq": 0.7}

    table = segments(rows_with(values))
    assert line(table, "erm").pq == pytest.approx(0.5)
    assert line(table, "pred_bn").gain == pytest.approx(0.2)
    assert line(table, "pred_bn").gain_low < 0.2 < line(table, "pred_bn").gain_high
    assert pd.isna(line(table, "erm").gain)


def test_a_failure_is_zero_and_parts_without_a_value_enter_no_mean():
    first = sorted(rows_with(lambda m, p: {}).patient.unique())[0]

    def values(method, patient):
        if patient == first:
            return {**dict.fromkeys(PLAIN), "pq": 0.0, "rq": 0.0, "instance_recall": 0.0, "status": Status.MISSED}
        return {}

    table = segments(rows_with(values))
    assert line(table, "erm").pq == pytest.approx(0.5)
    assert line(table, "erm").sq == pytest.approx(0.8)
    assert line(table, "erm").rq == pytest.approx(0.75 * 5 / 6)
    assert line(table, "erm").instance_precision == pytest.approx(0.9)


def test_the_page_has_a_section_of_instances_where_they_are_counted():
    files = [section.file for section in sections(rows_with(lambda method, patient: {}))]
    assert "segments.csv" in files
    assert "segments.csv" not in [section.file for section in sections(make_rows(patients=4, methods=("erm",)))]
