"""Lesions and tubes as a table: means over the right cases, failures 0, gain to source-only."""

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows

from shiftbench.report.sections import forms as section
from shiftbench.robustness.tables.forms import forms
from shiftbench.types import Status

SCORES = {"erm": 0.4, "tent_bn": 0.6}


def lesion_rows(values: dict[tuple[str, str], dict[str, float | None]], patients: int = 6) -> pd.DataFrame:
    """Rows of a tumour: per metric and definition, a value for each method."""
    base = make_rows(patients=patients, methods=tuple(SCORES))
    base = base[(base["metric"] == "dsc") & (base["structure"] == "tumour") & (base["scenario"] == "new-site")]
    parts = [base]
    for (metric, definition), by_method in values.items():
        own = base.assign(metric=metric, definition=definition)
        parts.append(own.assign(value=own["method"].map(by_method).astype(float)))
    return pd.concat(parts, ignore_index=True)


def line(table: pd.DataFrame, method: str) -> pd.Series:
    own = table[(table["method"] == method) & (table["target"] == "new-site")]
    assert len(own) == 1
    return own.iloc[0]


def test_scores_and_gains_are_means_over_patients():
    rows = lesion_rows({("lesion_f1", "iou>0.1"): SCORES, ("lesion_f1", "iou>0.5"): {"erm": 0.1, "tent_bn": 0.2}})
    table = forms(rows)
    assert line(table, "tent_bn")["score"] == pytest.approx(0.6) and line(table, "tent_bn")["gain"] == pytest.approx(
        0.2
    )
    assert line(table, "tent_bn")["lesion_f1_0.5"] == pytest.approx(0.2) and pd.isna(line(table, "erm")["gain"])
    assert set(table["metric"]) == {"lesion_f1"} and set(table["structure"]) == {"tumour"}


def test_a_failed_case_counts_as_zero_and_a_missing_size_as_nothing():
    rows = lesion_rows({("lesion_f1", "iou>0.1"): SCORES, ("lesion_recall_small", "iou>0.1"): {"erm": 1.0}})
    first = rows["patient"] == "patient-00"
    failed = first & (rows["method"] == "tent_bn") & (rows["target"] == "new-site")
    rows.loc[failed, ["status", "value"]] = [str(Status.FAILED), np.nan]
    rows.loc[first & (rows["metric"] == "lesion_recall_small"), "value"] = np.nan
    table = forms(rows)
    assert line(table, "tent_bn")["score"] == pytest.approx(0.6 * 5 / 6)
    assert line(table, "erm")["lesion_recall_small"] == pytest.approx(1.0)
    assert pd.isna(line(table, "tent_bn")["lesion_recall_small"])


def test_false_positives_are_counted_on_cases_without_a_lesion_too():
    counts = {"erm": 1.0, "tent_bn": 1.0}
    rows = lesion_rows({("lesion_f1", "iou>0.1"): SCORES, ("lesion_false_positives", "iou>0.1"): counts})
    negative = rows["patient"].isin(["patient-00", "patient-01"])
    rows.loc[negative, "status"] = str(Status.FP_ON_NEGATIVE)
    rows.loc[negative & (rows["metric"] == "lesion_f1"), "value"] = 0.0
    rows.loc[negative & (rows["metric"] == "lesion_false_positives"), "value"] = 4.0
    table = forms(rows)
    assert line(table, "erm")["lesion_false_positives_0.1"] == pytest.approx((2 * 4 + 4 * 1) / 6)
    assert line(table, "erm")["score"] == pytest.approx(0.4) and line(table, "erm")["n_patients"] == 4


def test_failing_a_case_never_lowers_the_false_positives():
    counts = {"erm": 5.0, "tent_bn": 1.0}
    rows = lesion_rows({("lesion_f1", "iou>0.1"): SCORES, ("lesion_false_positives", "iou>0.1"): counts})
    failed = (rows["patient"] == "patient-00") & (rows["method"] == "erm") & (rows["target"] == "new-site")
    rows.loc[failed, ["status", "value"]] = [str(Status.FAILED), np.nan]
    table = forms(rows)
    assert pd.isna(line(table, "erm")["lesion_false_positives_0.1"]) and line(table, "erm")["n_failed"] == 1
    assert line(table, "tent_bn")["lesion_false_positives_0.1"] == 1.0 and line(table, "tent_bn")["n_failed"] == 0


def test_tubes_have_a_line_and_no_value_of_lesions():
    table = forms(lesion_rows({("cldice", "skeleton"): SCORES}))
    assert set(table["metric"]) == {"cldice"} and line(table, "erm")["score"] == pytest.approx(0.4)
    assert table["lesion_f1_0.5"].isna().all() and table["cc_dice"].isna().all()


def test_the_section_has_a_cell_for_every_column_and_none_for_organs():
    shown = section.section(lesion_rows({("lesion_f1", "iou>0.1"): SCORES}))
    assert shown.body and {len(cells) for cells in shown.body} == {len(shown.head)}
    assert section.section(make_rows(patients=3)).table.empty
