"""A run of a scenario with [calibration]: rows for every case, and what a method that gives less leaves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import shiftbench
from scenarios import TINY, write
from shiftbench.graph import MethodCard, Options
from shiftbench.metrics.calibration import around, brier, ece
from shiftbench.metrics.scorers import CALIBRATION_SCORERS, ScoredStructure
from shiftbench.plan import plan
from shiftbench.report.sections.calibration import section as calibration_section
from shiftbench.report.sections.failure_detection import section as failure_section
from shiftbench.scoring.calibration import absent_calibration_rows, calibration_rows, probabilities_of
from shiftbench.scoring.case import ScoredCase
from shiftbench.scoring.confidence import absent_confidence_rows, confidence_rows
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import FAILURES, Status, Track

ASKED = "\n[calibration]\nregion = 16.0\nbins = 10\n"
SHORT = TINY.split('[[target]]\nname = "hilum-in"')[0] + '[[target]]\nname = "load"\nfamily = "population"\n'
SHORT += 'population = [{ operator = "lesion_load", levels = [4] }]\n'
PAIRS = {(metric, d) for metric, scorer in CALIBRATION_SCORERS.items() for d in scorer.definitions}
ERM = MethodCard("erm", "erm", "1", Track.DG, "offline", {}, (), {"path": "erm"})
METHODS = '''
"""Methods that give less than log-probabilities, or more, or nothing."""
from dataclasses import dataclass
import torch
from shiftbench.api import Access, Episode, Prediction, Track, predictor

@dataclass(frozen=True)
class Method:
    track: Track = Track.TTA
    episode: Episode = Episode.ONLINE
    requires: tuple[str, ...] = ()
    gives: str = "labels"

    def adapt(self, model, access, *, rng):
        predict, seen = predictor(model), []

        def given(image):
            seen.append(1)
            scores = predict(image).log_probabilities
            if self.gives == "one" and len(seen) == 2:
                raise RuntimeError("the second case")
            if self.gives == "one":
                return Prediction(log_probabilities=scores)
            if self.gives == "uncertainty":
                return Prediction(labels=scores.argmax(0), uncertainty=torch.full(image.shape[1:], 0.25))
            return Prediction(labels=scores.argmax(0))

        return given

VARIANTS = {f"gives_{what}": Method(gives=what) for what in ("labels", "one", "uncertainty")}
'''


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(rows, result folder) of one finished run."""
    folder = tmp_path_factory.mktemp("calibration")
    methods = folder / "gives.py"
    methods.write_text(METHODS)
    path = write(folder, SHORT + ASKED)
    return shiftbench.run(path, ["pred_bn", str(methods)], out=folder / "out", device="cpu", jobs=2), folder / "out"


def of(rows: pd.DataFrame, method: str, *metrics: str) -> pd.DataFrame:
    return rows[(rows["method"] == method) & rows["metric"].isin(metrics or CALIBRATION_SCORERS)]


def test_every_case_and_structure_has_every_row_once_whatever_the_method_gave(ran):
    rows, _ = ran
    key = ["target", "case", "structure"]
    everything = set(map(tuple, rows[key].drop_duplicates().to_numpy()))
    assert len(everything) == 5 * 2 * 2  # targets and the source, test patients, structures
    assert set(rows["method"]) == {"erm", "pred_bn", "gives_labels", "gives_one", "gives_uncertainty"}
    for _, own in rows.groupby("method"):
        found = own[own["metric"].isin(CALIBRATION_SCORERS)].groupby(key)
        assert {name: set(zip(g.metric, g.definition, strict=True)) for name, g in found} == dict.fromkeys(
            everything, PAIRS
        )
        assert not own[own["metric"] == "confidence"].duplicated(key).any()
        assert set(map(tuple, own.loc[own["metric"] == "confidence", key].to_numpy())) == everything


def test_the_values_are_those_of_the_stored_probabilities(ran):
    rows, out = ran
    own = of(rows, "erm")
    one = own[(own.target == "site-a") & (own.structure == "liver") & (own.status == Status.OK)]
    case = min(one.case)
    first = one[one.case == case].set_index(["metric", "definition"])
    path = Store(out).artifact("predict", first["prediction"].iloc[0]) / f"{case}.npz"
    with np.load(path) as arrays:
        stored, labels = arrays["log_probabilities"], arrays["labels"]
    assert stored.dtype == np.float16 and stored.shape == (3, *labels.shape)
    p = probabilities_of(stored)
    # A pixel whose classes are nearly as likely may change sides in half precision.
    assert (p.argmax(0) == labels).mean() > 0.999
    candidates = []
    for path in (out / "artifacts/references").rglob(f"{case}.npy"):
        reference = np.load(path) == 1
        region = around(reference, (12.0, 8.0, 8.0), 16.0)
        candidates.append((brier(p[1], reference, region), ece(p[1], reference, bins=10)))
    found = (first.loc[("brier", "region"), "value"], first.loc[("ece", "volume"), "value"])
    assert any(found == pytest.approx(each, rel=1e-9) for each in candidates)


def test_a_missed_structure_keeps_its_value_and_statuses_are_those_of_the_masks(ran):
    rows, _ = ran
    own = of(rows, "erm")
    missed = own[own["status"] == Status.MISSED]
    assert len(missed) and missed["value"].notna().all()
    worst = missed["metric"].map({metric: scorer.worst for metric, scorer in CALIBRATION_SCORERS.items()})
    assert (missed["value"] < worst).all()
    dsc = of(rows, "erm", "dsc").set_index(["target", "case", "structure"])["status"]
    keyed = own.set_index(["target", "case", "structure"])["status"]
    assert (keyed == dsc.loc[keyed.index].to_numpy()).all()


def test_a_failure_has_the_worst_values_and_no_confidence(ran):
    rows, _ = ran
    failed = of(rows, "gives_one")
    failed = failed[failed["status"].isin(FAILURES)]
    assert failed.groupby("target")["case"].nunique().eq(1).all() and len(set(failed["target"])) == 5
    empty = failed["detail"].str.contains("reference_empty")
    worst = failed["metric"].map({metric: scorer.worst for metric, scorer in CALIBRATION_SCORERS.items()})
    assert (failed["value"][~empty] == worst[~empty]).all() and (~empty).any()
    assert failed["value"][empty].isna().all() and failed["detail"].str.contains("the second case").all()
    sure = of(rows, "gives_one", "confidence")
    assert sure["value"].isna().eq(sure["status"].isin(FAILURES)).all() and sure["value"].notna().any()


def test_a_method_of_labels_alone_says_so(ran):
    rows, _ = ran
    own = of(rows, "gives_labels", "confidence", *CALIBRATION_SCORERS)
    assert set(own["status"]) == {"not_applicable"} and own["value"].isna().all()
    assert set(own["detail"]) == {"it gives labels alone"}
    assert (of(rows, "gives_labels", "dsc")["status"] != Status.NOT_APPLICABLE).all()


def test_the_definition_of_a_confidence_says_what_it_was_made_of(ran):
    rows, _ = ran
    assert set(of(rows, "erm", "confidence")["definition"]) == {"soft_dice"}
    own = of(rows, "gives_uncertainty", "confidence")
    assert set(own["definition"]) == {"uncertainty"} and own["value"].tolist() == pytest.approx([0.75] * len(own))
    assert set(of(rows, "gives_uncertainty")["status"]) == {"not_applicable"}


def test_the_tables_hold_the_methods_that_have_something_to_say(ran):
    rows, _ = ran
    made = calibration_section(rows)
    assert set(made.table["method"]) == {"erm", "pred_bn", "gives_one"}
    assert len(made.body) == 3 and made.table["brier"].notna().all()
    assert made.table["clipped_percent"].between(0, 100).all()
    table = failure_section(rows).table
    assert set(table["method"]) == {"erm", "pred_bn", "gives_one", "gives_uncertainty"}
    plain = table[(table["method"] == "gives_uncertainty") & (table["risk"] == "1-dsc")]
    assert plain["augrc"].to_numpy() == pytest.approx(plain["augrc_random"].to_numpy())  # always as sure


def test_only_predictions_change_where_calibration_is_asked_for(tmp_path):
    def keys(text, kind):
        scenario = load_scenario(str(write(tmp_path, text)))
        graph = plan([scenario], [ERM], Options(), "tiny")
        return {task.key for task in graph.tasks.values() if task.kind == kind}

    for kind in ("anatomy", "images", "references", "train"):
        assert keys(SHORT, kind) == keys(SHORT + ASKED, kind)
    for kind in ("predict", "score"):
        assert not keys(SHORT, kind) & keys(SHORT + ASKED, kind)
    for text, asked in ((SHORT, None), (SHORT + ASKED, ("log_probabilities",))):
        graph = plan([load_scenario(str(write(tmp_path, text)))], [ERM], Options(), "tiny")
        kept = [task.payload.get("keep") for task in graph.tasks.values() if task.kind == "predict"]
        assert kept and all(keep == asked for keep in kept)
    other_bins = ASKED.replace("10", "12")
    assert keys(SHORT + ASKED, "predict") == keys(SHORT + other_bins, "predict")  # nothing is predicted again
    assert not keys(SHORT + ASKED, "score") & keys(SHORT + other_bins, "score")


def seen(status=Status.OK, options=None, **arrays) -> ScoredCase:
    """A case of two structures on a 2 x 6 grid, the second of which its reference has not."""
    reference = np.array([[0, 1, 1, 0, 0, 0]] * 2, np.uint8)
    entry = {"status": str(status), "detail": "" if status is Status.OK else "why"}
    structures = (ScoredStructure("liver", 1.0), ScoredStructure("tumour", 1.0))
    asked = {"calibration": {"region": 1.0, "bins": 5}} if options is None else options
    info = {"patient": "p", "spacing": None}
    case = ScoredCase(None, "c", entry, "c", None, info, ("", "", ""), ("c", ""), structures, None, asked)  # type: ignore[arg-type]
    case.__dict__.update(reference=reference, prediction=arrays)
    return case


def flat(shape=(2, 6), classes=3) -> np.ndarray:
    return np.full((classes, *shape), np.log(1 / classes), np.float16)


@pytest.mark.parametrize(("drawn", "status"), [(0, Status.BOTH_EMPTY), (2, Status.FP_ON_NEGATIVE)])
def test_a_structure_that_the_reference_has_not_has_no_value(drawn, status):
    labels = np.full((2, 6), drawn, np.uint8)
    rows = pd.DataFrame(calibration_rows(seen(labels=labels, log_probabilities=flat())))
    absent, present = rows[rows.structure == "tumour"], rows[rows.structure == "liver"]
    assert set(absent["status"]) == {str(status)} and absent["value"].isna().all() and len(absent) == len(PAIRS)
    assert set(present["status"]) == {"missed"}
    values = present.set_index(["metric", "definition"])["value"]
    assert values["brier", "region"] == pytest.approx(4 / 8 * 4 / 9 + 4 / 8 * 1 / 9, abs=1e-3)  # columns 0 to 3
    assert values["ece", "volume"] == pytest.approx(0, abs=1e-3) and values["ece", "region"] == pytest.approx(
        1 / 6, abs=1e-3
    )
    assert set(present.loc[present.metric == "nll", "detail"]) == {"clipped_share=0"}
    assert set(present.loc[present.metric == "nll", "unit"]) == {"nat"}


def test_a_failure_without_a_reference_is_marked_and_another_grid_is_one():
    for case, status in (
        (seen(Status.TIMEOUT), "timeout"),
        (seen(labels=np.zeros((2, 7), np.uint8), log_probabilities=flat((2, 7))), "invalid_geometry"),
    ):
        rows = pd.DataFrame(calibration_rows(case))
        assert set(rows["status"]) == {status} and len(rows) == 2 * len(PAIRS)
        absent = rows[rows.structure == "tumour"]
        assert absent["value"].isna().all() and absent["detail"].str.startswith("reference_empty").all()
        assert rows[rows.structure == "liver"]["value"].notna().all()


def test_without_calibration_there_are_no_such_rows_and_confidence_is_still_there():
    case = seen(options={}, labels=np.zeros((2, 6), np.uint8), log_probabilities=flat())
    assert calibration_rows(case) == absent_calibration_rows(case, "why") == []
    case.entry["confidence"] = {"definition": "soft_dice", "values": [0.5, 0.0]}
    assert [row["value"] for row in confidence_rows(case)] == [0.5, 0.0]
    assert {row["status"] for row in absent_confidence_rows(case, "no reason")} == {"not_applicable"}
    assert {row["detail"] for row in absent_calibration_rows(seen(), "no reason")} == {"no reason"}
