"""Estimators without labels: the shipped rules, their contract, their rows, and how they are scored."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from synthetic_rows import make_rows

import shiftbench
from scenarios import TINY, write
from shiftbench import blocks
from shiftbench.check import check_method, problem
from shiftbench.check.problem import tiny_cases
from shiftbench.contract import grant, validate_estimates
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.graph import Options
from shiftbench.methods import LoadedMethod, load_methods
from shiftbench.plan import plan
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.results import write_tables_and_figures
from shiftbench.report.sections import estimators as section
from shiftbench.rng import generator
from shiftbench.robustness import headline, summary
from shiftbench.robustness.tables.estimators import ALL, estimators
from shiftbench.runner import prepare
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import Access, Episode, LabelledSet, Status, Track
from shiftbench.worker.looks import method_cards

SHIPPED = load_methods("confidence")
RULES = sorted(SHIPPED)
MODULE = sys.modules[type(SHIPPED["doc"].method).__module__]


@pytest.fixture
def tiny():
    return copy.deepcopy(problem("unet_bn", 2))


def estimated(name: str, tiny, val: LabelledSet, images) -> torch.Tensor:
    access = grant(SHIPPED[name].method, recipe=tiny.recipe, source_val=val)
    return SHIPPED[name].method.estimate(copy.deepcopy(tiny.model), access, images)


def true_scores(tiny, cases: LabelledSet) -> torch.Tensor:
    predict = blocks.predictor(tiny.model)
    pairs = zip(cases.images, cases.references, strict=True)
    return torch.stack([MODULE.true_dice(predict(x).log_probabilities, r) for x, r in pairs])


def calibrated(seed: int, shape=(3, 64, 64)) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of smooth random maps, and labels that are drawn from them."""
    rng = generator(seed, "calibrated")
    logits = torch.from_numpy(2.5 * rng.normal(0, 1, shape))
    log_p = logits.log_softmax(0)
    draw = torch.from_numpy(rng.uniform(0, 1, shape[1:]))
    return log_p, (draw[None] > log_p.exp().cumsum(0)).sum(0).clamp(max=shape[0] - 1)


# The rules.


def test_soft_dice_of_certain_predictions_is_one():
    labels = torch.from_numpy(generator(0).integers(0, 3, (16, 16)))
    log_p = torch.nn.functional.one_hot(labels, 3).movedim(-1, 0).double().clamp_min(1e-300).log()
    assert torch.allclose(MODULE.soft_dice(log_p), torch.ones(2, dtype=torch.float64))


def test_soft_dice_of_calibrated_probabilities_is_the_mean_dice():
    cases = [calibrated(seed) for seed in range(20)]
    soft = torch.stack([MODULE.soft_dice(log_p) for log_p, _ in cases]).mean(0)
    true = torch.stack([MODULE.true_dice(log_p, labels) for log_p, labels in cases]).mean(0)
    assert (soft - true).abs().max() < 0.01 and 0.3 < float(true.mean()) < 0.9


def test_a_temperature_undoes_the_scale_of_the_logits_and_never_fits_worse_than_none():
    log_p, labels = calibrated(0)
    flat, target = log_p.flatten(1), labels.flatten()

    def loss(t: float) -> float:
        return float(-(flat / t).log_softmax(0).gather(0, target[None]).mean())

    t = MODULE.temperature(flat, target)
    assert t == pytest.approx(1.0, abs=0.1) and loss(t) <= loss(1.0)
    assert MODULE.temperature(3 * flat, target) == pytest.approx(3 * t, rel=1e-3)


@pytest.mark.parametrize(("name", "tolerance"), [("doc", 1e-6), ("cs_doc", 1e-6), ("cs_atc", 1e-2)])
def test_on_source_val_the_mean_estimate_is_the_true_mean_dice(tiny, name, tolerance):
    val = tiny_cases("more", (6, 32, 32), 4, gamma=1.0)
    true, expected = true_scores(tiny, val), estimated(name, tiny, val, val.images)
    assert (expected.double().mean(0) - true.mean(0)).abs().max() < tolerance
    assert 0.05 < float(true.mean()) < 0.98  # a problem that says something


def test_the_threshold_of_atc_gives_the_accuracy_on_source_val():
    scores = generator(0, "scores").normal(0, 1, 1000).astype(np.float32)
    for wrong in (0, 1, 137, 999):
        assert (scores < MODULE.accuracy_threshold(scores, wrong)).sum() == wrong
    assert MODULE.accuracy_threshold(scores, 1000) == np.inf


def test_counting_no_voxel_as_wrong_gives_one_and_all_of_them_nothing(tiny):
    log_p = blocks.predictor(tiny.model)(tiny.source.images[0]).log_probabilities.double()
    present = torch.stack([(log_p.argmax(0) == c).any() for c in (1, 2)])
    assert torch.equal(MODULE.counted_dice(log_p, torch.full((2,), -9.0)), present.double())
    assert torch.equal(MODULE.counted_dice(log_p, torch.full((2,), 1.0)), torch.zeros(2).double())


@pytest.mark.parametrize("name", RULES)
def test_a_structure_that_source_val_lacks_is_estimated_by_its_soft_dice(tiny, name):
    val = tiny.source
    without = LabelledSet(val.images, [torch.where(r == 2, 0, r) for r in val.references], val.patients)
    found = estimated(name, tiny, without, tiny.test)
    assert torch.isfinite(found).all()
    if name in ("doc", "cs_doc", "cs_atc"):
        predict = blocks.predictor(tiny.model)
        soft = torch.stack([MODULE.soft_dice(predict(x).log_probabilities) for x in tiny.test])
        assert torch.allclose(found[:, 1].double(), soft[:, 1].double(), atol=1e-6)


def test_an_estimator_without_source_val_is_not_applicable(tiny):
    with pytest.raises(NotApplicable, match="source-val"):
        SHIPPED["doc"].method.estimate(tiny.model, Access(recipe=tiny.recipe), tiny.test)


# The contract.


@dataclass(frozen=True)
class Faulty:
    fault: str = ""
    track: Track = Track.ESTIMATE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()
    memory = []

    def estimate(self, model, access, images):
        values = torch.stack([image.mean() / 1000 for image in images])[:, None].expand(-1, model.task.classes - 1)
        match self.fault:
            case "in place":
                next(model.parameters()).data.add_(1.0)
            case "remembers":
                self.memory.append(1)
                return values + 0.001 * len(self.memory)
            case "order":
                return values + 0.01 * torch.arange(len(images))[:, None]
            case "shape":
                return values[:, :-1]
            case "nan":
                return values * float("nan")
            case "range":
                return values + 1.0
            case "list":
                return values.tolist()
            case "peeks":
                return values * len(access.source)
        return values


def failed_clauses(estimator) -> dict[str, str]:
    Faulty.memory.clear()
    loaded = LoadedMethod("faulty", estimator, Path(SHIPPED["doc"].path), "1", "faulty")
    return {f.check: f.detail for f in check_method(loaded) if f.outcome == "failed"}


def test_the_contract_passes_a_sound_estimator():
    assert not failed_clauses(Faulty())


@pytest.mark.parametrize(
    ("fault", "clause", "words"),
    [
        ("in place", "leaves the source model, the images and the references as they are", "the source model"),
        ("remembers", "the same inputs give the same bits", "second run"),
        ("order", "the order of the images does not matter", "order"),
        ("shape", "estimates every case and structure, validly", "shape (3, 1)"),
        ("nan", "estimates every case and structure, validly", "NaN"),
        ("range", "estimates every case and structure, validly", "is no DSC"),
        ("list", "estimates every case and structure, validly", "returned a list"),
        ("peeks", "estimates every case and structure, validly", "NoneType"),
    ],
)
def test_the_contract_catches(fault, clause, words):
    found = failed_clauses(Faulty(fault))
    assert clause in found and words in found[clause]


def test_the_contract_catches_a_silent_estimate_on_a_backbone_without_the_layers():
    clause = "raises NotApplicable where the backbone lacks what it requires"
    assert clause in failed_clauses(Faulty(requires=("batch_norm",)))


def test_an_estimator_is_given_source_val_and_nothing_else(tiny):
    access = grant(
        *(Faulty(),),
        recipe=tiny.recipe,
        source=tiny.source,
        source_val=tiny.source_val,
        labelled_target=tiny.adapt,
        sidecar={"a": torch.zeros(1)},
    )
    assert access.source_val is tiny.source_val
    assert (access.source, access.target, access.fewshot, access.sidecar) == (None, None, None, {})


def test_an_estimate_that_is_no_dsc_is_the_fault_of_its_case_alone():
    values, faults = validate_estimates(torch.tensor([[0.5, 1.0], [0.5, 1.5], [float("nan"), 0.1]]), 3, 2)
    assert values.shape == (3, 2) and faults[0] is None
    assert "1.5 is no DSC" in str(faults[1]) and "NaN" in str(faults[2])
    with pytest.raises(MethodError, match=r"shape \(3, 1\); give one value per image and structure, \(3, 2\)"):
        validate_estimates(torch.zeros(3, 1), 3, 2)
    with pytest.raises(MethodError, match="int64"):
        validate_estimates(torch.zeros(3, 2, dtype=torch.int64), 3, 2)


SOUND = '''"""Mine."""
from dataclasses import dataclass
import torch
from shiftbench.api import Episode, NotApplicable, Track

@dataclass(frozen=True)
class Method:
    fault: str = ""
    track: Track = Track.ESTIMATE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def estimate(self, model, access, images):
        if self.fault == "raise":
            raise ValueError("no such luck")
        if self.fault == "nothing":
            raise NotApplicable("there is nothing to look at")
        values = torch.full((len(images), model.task.classes - 1), 0.5)
        if self.fault == "one":
            values[1] = 2.0
        return values[:, 1:] if self.fault == "shape" else values

VARIANTS = {f"mine_{fault}": Method(fault=fault) for fault in ("sound", "raise", "nothing", "one", "shape")}
'''


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SOUND.replace("def estimate", "def adapt"), "has no 'estimate'"),
        (SOUND.replace("Episode.OFFLINE", "Episode.ONLINE"), "all images of a target at once"),
        (SOUND.replace("    fault: str", "    base: str = 'tent_bn'\n    fault: str"), "the base 'tent_bn' is not run"),
        (SOUND.replace("def estimate", "def prepare(self):\n        ...\n\n    def estimate"), "has no 'prepare'"),
        (SOUND.replace("def estimate", "def summarise(self):\n        ...\n\n    def estimate"), "has no 'summarise'"),
    ],
)
def test_a_file_that_is_no_estimator_is_refused_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(MethodError) as caught:
        load_methods(str(path))
    assert words in str(caught.value) and caught.value.remedy and "\n" not in str(caught.value)


# A run.

NOT_NEEDED = """[[target]]
name = "identity"
family = "control"

"""
FEW = TINY.replace("levels = [3, 5]", "levels = [5]").replace(NOT_NEEDED, "").partition('[[target]]\nname = "load"')[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(scenario, methods, rows, result folder) of one finished run with estimators that work and some that do not."""
    folder = tmp_path_factory.mktemp("estimators")
    path = write(folder, FEW)
    mine = folder / "mine.py"
    mine.write_text(SOUND)
    methods = ["confidence", str(mine), "pred_bn"]
    rows = shiftbench.run(path, methods, out=folder / "out", device="cpu", jobs=2)
    return path, methods, rows, folder / "out"


def of(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    return rows[rows["method"] == method]


def test_every_estimate_is_there_once_whatever_became_of_the_estimator(ran):
    _, _, rows, _ = ran
    key = ["target", "method", "seed", "case", "structure", "metric", "definition"]
    assert not rows.duplicated(key).any()
    own = rows[rows["track"] == Track.ESTIMATE]
    assert set(own["method"]) == {*RULES, *(f"mine_{f}" for f in ("sound", "raise", "nothing", "one", "shape"))}
    assert set(own["metric"]) == {"dsc_estimate"} and set(own["definition"]) == {"erm"}
    assert set(own.groupby("method").size()) == {3 * 2 * 2}  # targets, test patients, structures
    for rule in RULES:
        mine = of(rows, rule)
        assert set(mine["status"]) == {Status.OK} and mine["value"].between(0, 1).all()


@pytest.mark.parametrize(
    ("fault", "status", "words"),
    [
        ("raise", Status.FAILED, "ValueError: no such luck"),
        ("shape", Status.INVALID_OUTPUT, "give one value per image and structure"),
        ("nothing", Status.NOT_APPLICABLE, "nothing to look at"),
    ],
)
def test_an_estimator_that_fails_has_rows_that_say_so(ran, fault, status, words):
    mine = of(ran[2], f"mine_{fault}")
    assert set(mine["status"]) == {status} and mine["value"].isna().all()
    assert mine["detail"].str.contains(words).all()


def test_an_estimate_that_is_no_dsc_fails_on_its_case_and_leaves_the_others(ran):
    mine = of(ran[2], "mine_one")
    by_case = mine.groupby(["target", "case"])["status"].agg(lambda status: "".join(sorted(set(status))))
    assert sorted(by_case) == sorted([Status.OK, Status.INVALID_OUTPUT] * 3)
    bad = mine[mine["status"] == Status.INVALID_OUTPUT]
    assert bad["value"].isna().all() and bad["detail"].str.contains("mine.py: the estimate 2 is no DSC").all()


def test_an_estimate_does_not_know_a_hidden_protocol(ran):
    _, _, rows, _ = ran
    for rule in RULES:
        mine = of(rows, rule).set_index(["target", "case", "structure"])
        assert mine.loc["hilum-in", "prediction"].tolist() == mine.loc["site-a", "prediction"].tolist()
        assert mine.loc["hilum-in", "value"].tolist() == mine.loc["site-a", "value"].tolist()


def test_estimators_change_no_table_of_methods(ran, tmp_path):
    path, methods, rows, out = ran
    without = rows[rows["track"] != Track.ESTIMATE]
    pd.testing.assert_frame_equal(leaderboard(rows), leaderboard(without))
    pd.testing.assert_frame_equal(summary(rows), summary(without))
    pd.testing.assert_frame_equal(headline(rows), headline(without))
    job = prepare(path, methods, out=out, device="cpu")
    assert write_tables_and_figures(rows, tmp_path, job)
    assert "softdice" not in (tmp_path / "leaderboard.csv").read_text()


def test_a_second_run_tries_failed_estimates_again_and_gives_the_same_rows(ran):
    path, methods, rows, out = ran
    again = shiftbench.run(path, methods, out=out, device="cpu")
    pd.testing.assert_frame_equal(rows.drop(columns=["seconds", "peak_mb"]), again.drop(columns=["seconds", "peak_mb"]))


def test_estimators_leave_the_addresses_of_methods_as_they_are(ran):
    path, methods, _, out = ran
    cards = method_cards(methods, Store(out))
    scenario, options = load_scenario(path), Options(device="cpu")
    alone = plan([scenario], [c for c in cards if c.track is not Track.ESTIMATE], options, "tiny")
    both = plan([scenario], cards, options, "tiny")
    assert set(alone.tasks) < set(both.tasks)


def test_the_rows_of_a_run_become_a_section(ran):
    made = section.section(ran[2])
    assert set(made.table["method"]) == {*RULES, *(f"mine_{f}" for f in ("sound", "raise", "nothing", "one", "shape"))}
    assert made.body and all(len(line) == len(made.head) for line in made.body)
    failing = made.table[(made.table["method"] == "mine_raise") & (made.table["scope"] == "overall")]
    assert (failing["n_failed"] > 0).all()
    nothing = made.table[made.table["method"] == "mine_nothing"]
    assert nothing["mae"].isna().all() and nothing["note"].str.contains("nothing to look at").all()


# How estimates are scored.


def with_estimates(rows: pd.DataFrame, estimate, name: str = "guess") -> pd.DataFrame:
    """`rows` and those of an estimator that expects `estimate(rows of source-only)`."""
    base = rows[(rows["method"] == "erm") & (rows["metric"] == "dsc")]
    fields = {"method": name, "track": str(Track.ESTIMATE), "metric": "dsc_estimate", "definition": "erm"}
    return pd.concat([rows, base.assign(value=np.clip(estimate(base), 0, 1), **fields)], ignore_index=True)


def line(table: pd.DataFrame, **where) -> pd.Series:
    for name, value in where.items():
        table = table[table[name].isna()] if value is None else table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    made = make_rows(patients=10, seeds=(0, 1), methods=["erm"])
    return made[made["scenario"].isin(["noise", "hilum"]) & (made["metric"] == "dsc")]


def test_a_perfect_estimate_has_no_error_and_correlates_fully(rows):
    table = estimators(with_estimates(rows, lambda base: base["value"]))
    at = line(table, scenario="noise", target="snr:3", structure=ALL)
    assert (at["mae"], at["bias"], at["error_of_mean"]) == (0.0, 0.0, 0.0)
    assert at["pearson"] == pytest.approx(1.0) and at["spearman"] == pytest.approx(1.0)
    overall = line(table, scenario="noise", scope="overall", structure=ALL)
    assert overall["target_pearson"] == pytest.approx(1.0) and overall["n_targets"] == 3


def test_error_bias_and_correlations_are_those_of_a_plain_computation(rows):
    rng = generator(0, "guess")
    table = with_estimates(rows, lambda base: base["value"] + 0.03 + rng.normal(0, 0.05, len(base)))
    own = table[(table["scenario"] == "noise") & (table["target"] == "snr:3") & (table["structure"] == "liver")]
    wide = own[own["metric"].isin(["dsc", "dsc_estimate"]) & own["method"].isin(["erm", "guess"])]
    wide = wide.pivot_table(index=["seed", "patient"], columns="method", values="value")
    at = line(estimators(table), scenario="noise", target="snr:3", structure="liver")
    difference = wide["guess"] - wide["erm"]
    assert at["mae"] == pytest.approx(difference.abs().mean()) and at["bias"] == pytest.approx(difference.mean())
    assert at["error_of_mean"] == pytest.approx(abs(difference.mean()))
    one = table[table["seed"] == 0]
    at = line(estimators(one), scenario="noise", target="snr:3", structure="liver")
    assert at["pearson"] == pytest.approx(pearsonr(wide.loc[0, "guess"], wide.loc[0, "erm"])[0])
    assert at["spearman"] == pytest.approx(spearmanr(wide.loc[0, "guess"], wide.loc[0, "erm"])[0])
    assert at["mae_low"] < at["mae"] < at["mae_high"] and at["pearson_low"] < at["pearson"] < at["pearson_high"]


def test_over_all_structures_errors_are_averaged_and_do_not_cancel(rows):
    shift = {"liver": 0.1, "tumour": -0.1}
    table = estimators(with_estimates(rows, lambda base: base["value"] + base["structure"].map(shift)))
    at = line(table, scenario="noise", target="snr:5", structure=ALL)  # far from 0 and 1
    assert at["mae"] == pytest.approx(0.1, abs=1e-9) and at["bias"] == pytest.approx(0.0, abs=1e-9)


def test_targets_are_ranked_by_their_means(rows):
    true = rows[(rows["method"] == "erm") & (rows["metric"] == "dsc")].groupby(["scenario", "target"])["value"].mean()

    def reversed_means(base):
        return [1 - true[scenario, target] for scenario, target in zip(base["scenario"], base["target"], strict=True)]

    table = estimators(with_estimates(rows, reversed_means))
    overall = line(table, scenario="noise", scope="overall", structure=ALL)
    assert overall["target_spearman"] == pytest.approx(-1.0) and overall["target_pearson"] == pytest.approx(-1.0)
    assert overall["target_spearman_high"] < 0


def test_an_estimate_that_never_changes_correlates_with_nothing(rows):
    table = estimators(with_estimates(rows, lambda base: np.full(len(base), 0.7)))
    assert table[["pearson", "spearman", "target_pearson", "target_spearman"]].isna().all(axis=None)
    assert table["mae"].notna().all()


def test_a_failed_estimate_counts_as_wrong_as_it_can_be(rows):
    table = with_estimates(rows, lambda base: base["value"])
    lost = (table["method"] == "guess") & (table["patient"] == "patient-03")
    table.loc[lost, "status"] = str(Status.FAILED)  # whatever value stands beside it
    found = estimators(table)
    at = line(found, scenario="noise", target="snr:3", structure="liver")
    own = rows[(rows["method"] == "erm") & (rows["metric"] == "dsc") & (rows["structure"] == "liver")]
    dsc = own[(own["target"] == "snr:3") & (own["patient"] == "patient-03")]["value"]
    assert at["n_failed"] == 2 and at["mae"] == pytest.approx(np.maximum(dsc, 1 - dsc).mean() / 10)
    assert at["pearson"] < 0.9
    low = line(found, scenario="noise", target="snr:5", structure="tumour")
    assert low["bias"] > 0, "below one half the further end is one"


def test_annotation_shifts_stand_apart(rows):
    table = estimators(with_estimates(rows, lambda base: base["value"]))
    apart = table[table["family"] == "annotation"]
    assert set(apart["scope"]) == {"target", "family"} and apart["note"].str.contains("concept shift").all()
    assert not ((table["scenario"] == "hilum") & (table["scope"] == "overall")).any()
    assert not table[table["family"] != "annotation"]["note"].str.contains("concept").any()


def test_structures_that_the_reference_lacks_and_failures_of_source_only_are_left_out(rows):
    table = with_estimates(rows, lambda base: base["value"])
    lost = (table["metric"] == "dsc") & (table["method"] == "erm") & (table["patient"] == "patient-00")
    for status in (Status.BOTH_EMPTY, Status.FP_ON_NEGATIVE, Status.FAILED):
        table.loc[lost, "status"] = str(status)
        assert line(estimators(table), scenario="noise", target="snr:3", structure=ALL)["n_patients"] == 9


def test_an_estimator_that_is_not_applicable_has_a_line_that_says_why(rows):
    table = with_estimates(rows, lambda base: base["value"])
    nothing = (table["method"] == "guess") & (table["target"] == "snr:3")
    table.loc[nothing, ["status", "value", "detail"]] = [str(Status.NOT_APPLICABLE), None, "no batch norm"]
    found = estimators(table)
    at = line(found, scenario="noise", target="snr:3", structure=ALL)
    assert at["n_targets"] == 0 and pd.isna(at["mae"])
    overall = line(found, scenario="noise", scope="overall", structure=ALL)
    assert overall["n_targets"] == 2 and "not applicable on 1 of 3 targets: no batch norm" in overall["note"]


def test_the_table_does_not_depend_on_the_order_of_rows(rows):
    table = with_estimates(with_estimates(rows, lambda base: base["value"] * 0.9), lambda base: base["value"], "other")
    shuffled = table.sample(frac=1.0, random_state=1)
    keys = ["scenario", "scope", "family", "target", "method", "structure"]
    one, other = (estimators(t).sort_values(keys, ignore_index=True) for t in (table, shuffled))
    pd.testing.assert_frame_equal(one, other)


def test_without_estimators_there_is_no_section(rows):
    assert section.section(rows).table.empty


def test_an_estimate_of_the_wrong_rule_is_refused():
    with pytest.raises(MethodError, match="not a value"):
        load_methods("doc:rule=doctor")
    assert replace(SHIPPED["doc"].method, rule="atc").rule == "atc"
