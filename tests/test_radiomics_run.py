"""A whole run on a tiny scenario with [radiomics]: rows of features beside those of masks, and the tables of them."""

from __future__ import annotations

import pandas as pd
import pytest

import shiftbench
from scenarios import TINY, write
from shiftbench.errors import SpecError
from shiftbench.metrics.features import CONTAMINATION, FEATURES, PREFIX
from shiftbench.metrics.scorers import METRICS
from shiftbench.report.sections import downstream, radiomics
from shiftbench.spec import Scenario, load_scenario
from shiftbench.spec.scored import Radiomics

HEAD, _, TARGETS = TINY.partition('[[target]]\nname = "noise"')
WITH = (
    HEAD.replace("may_be_absent = true", 'may_be_absent = true\nform = "lesions"').replace(
        "[[source]]\n", '[[source]]\nacquisition = { modality = "ct" }\npopulation = { lesion_load = 4.0 }\n'
    )
    + "[radiomics]\nlesion_min_voxels = 1\n"
)
IMPOSSIBLE = '\n[[target]]\nname = "impossible"\nfamily = "control"\ncontrol = "permuted_references"\n'


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Rows of the same scenario with and without [radiomics]."""
    folder, plain = tmp_path_factory.mktemp("radiomics"), WITH.partition("[radiomics]")[0]
    texts = {"with": WITH, "without": plain.replace('name = "tiny"', 'name = "plain"')}
    return {
        name: shiftbench.run(
            write(folder, text + IMPOSSIBLE, f"{name}.toml"), ["tent_in"], out=folder / "out", device="cpu", jobs=2
        )  # into one folder: the trained model and the predictions are the same
        for name, text in texts.items()
    }


def test_every_feature_has_a_row_per_case_structure_and_outline(runs):
    rows = runs["with"]
    ours = rows[rows["metric"].str.startswith(PREFIX)]
    key = ["target", "method", "seed", "case", "structure", "metric", "definition"]
    assert not rows.duplicated(key).any()
    whole = ours[~ours["definition"].str.contains(":")]
    names = {PREFIX + name for name in (*FEATURES, *CONTAMINATION)}
    assert set(whole["metric"]) == names and not names & set(METRICS)
    per_case = whole.groupby(["target", "method", "case", "structure"]).size()
    assert set(per_case) == {2 * len(FEATURES) + len(CONTAMINATION)}
    assert set(whole["target"]) == {"site-a", "identity", "impossible"}
    assert len(per_case) == 3 * 2 * 2 * 2  # targets, methods, test patients, structures


def test_the_scores_of_the_masks_do_not_change(runs):
    columns = ["target", "method", "case", "structure", "metric", "definition", "value", "status"]
    of_masks = [
        runs[name].loc[~runs[name]["metric"].str.startswith(PREFIX), columns].reset_index(drop=True)
        for name in ("with", "without")
    ]
    pd.testing.assert_frame_equal(*of_masks)
    assert not runs["without"]["metric"].str.startswith(PREFIX).any()


def test_lesions_have_types_but_for_the_references_of_others(runs):
    rows = runs["with"]
    single = rows[rows["definition"].str.startswith("reference:") & (rows["status"] != "not_applicable")]
    assert len(single)
    types = single["detail"].str.extract(r"type=(\w+)", expand=False).groupby(single["target"]).agg(set)
    assert types["site-a"] <= {"hcc", "metastasis"} and types["site-a"]
    assert types["identity"] == types["site-a"] and types["impossible"] == {"tumour"}


def test_a_method_that_has_nothing_to_adapt_has_rows_that_say_so(runs):
    rows = runs["with"]
    mine = rows[(rows["method"] == "tent_in") & rows["metric"].str.startswith(PREFIX)]
    assert len(mine) and set(mine["status"]) == {"not_applicable"} and mine["value"].isna().all()


def test_the_identity_control_measures_what_the_source_measures(runs):
    rows = runs["with"]
    table = radiomics.section(rows).table
    assert set(table["target"]) == {"site-a", "identity"} and set(table["method"]) == {"erm"}
    per_target = [
        table[table["target"] == name].drop(columns=["target", "family"]).reset_index(drop=True)
        for name in ("site-a", "identity")
    ]
    same = ["structure", "feature", "reference_mean", "reference_sd", "bias", "undetected_percent", "contamination"]
    pd.testing.assert_frame_equal(per_target[0][same], per_target[1][same])
    assert downstream.section(rows).table.empty  # two test patients are too few to learn from


def test_the_shipped_scenario_asks_for_features_of_lesions():
    scenario = load_scenario("radiomics-liver")
    assert scenario.radiomics == Radiomics() and scenario.structures["tumour"].form == "lesions"
    assert {str(target.family) for target in scenario.targets()} >= {"acquisition", "annotation"}
    assert scenario.scoring_options()["radiomics"] == {"features": "basic", "channel": 0, "lesion_min_voxels": 8}


@pytest.mark.parametrize("table", [{"features": "all"}, {"channel": -1}, {"lesion_min_voxels": 0}, {"more": 1}])
def test_a_table_that_cannot_be_used_is_refused(tmp_path, table):
    line = "\n".join(f"{key} = {value!r}".replace("'", '"') for key, value in table.items())
    text = WITH.replace("lesion_min_voxels = 1", line)
    with pytest.raises(SpecError, match="radiomics"):
        load_scenario(write(tmp_path, text))
    assert "radiomics" in Scenario.model_fields
