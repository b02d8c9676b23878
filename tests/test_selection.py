"""Choosing a configuration without labels: the criterion, its rows in a run, and the gap to the oracle."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_rows import make_rows

import shiftbench
from scenarios import TINY, write
from shiftbench.blocks import predictor
from shiftbench.check import problem
from shiftbench.graph import MethodCard, Options
from shiftbench.plan import plan
from shiftbench.plan.configurations import configurations
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.sections import selection as section
from shiftbench.rng import generator
from shiftbench.robustness.tables.selection import ONLINE, UNSCORED, selection
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import Prediction, Status, Track
from shiftbench.worker.looks import method_cards
from shiftbench.worker.method import predict
from shiftbench.worker.perform import Context
from shiftbench.worker.selection import SourceProportions, consistency, selection_facts, source_proportions

# The criterion.


def sure_of(labels: torch.Tensor, p: float = 0.98, k: int = 3) -> Prediction:
    """A prediction that gives every label the probability `p`."""
    one_hot = torch.nn.functional.one_hot(labels.long(), k).movedim(-1, 0).double()
    return Prediction(log_probabilities=(one_hot * p + (1 - one_hot) * (1 - p) / (k - 1)).log().float())


def stripes() -> torch.Tensor:
    """A label map (8, 12) with every class as often, which is not its own mirror image."""
    return (torch.arange(12) // 4).expand(8, 12)


def home(labels: torch.Tensor, k: int = 3, p: float = 0.98) -> SourceProportions:
    shares = sure_of(labels, p).log_probabilities.double().exp().flatten(1).mean(1)
    return SourceProportions(shares, torch.ones(k, dtype=torch.bool))


def test_a_prediction_like_those_at_home_that_mirrors_with_its_image_scores_by_its_entropy_alone():
    labels = stripes()
    for p in (0.6, 0.98):
        prediction = sure_of(labels, p)
        facts = selection_facts(home(labels, p=p), prediction, Prediction(labels=labels.flip(-1)))
        entropy = -(p * math.log(p) + (1 - p) * math.log((1 - p) / 2)) / math.log(3)
        assert facts["entropy"] == pytest.approx(entropy, abs=1e-5)
        assert (facts["consistency"], facts["vanished"]) == (1.0, [False, False])
        assert facts["divergence"] == pytest.approx(0.0, abs=1e-6)
        assert facts["score"] == pytest.approx(1 - entropy, abs=1e-5)


def test_entropy_is_balanced_over_foreground_and_background():
    labels = torch.zeros(10, 10, dtype=torch.long)
    labels[0, :5] = 1  # five unsure voxels among 95 sure ones
    scores = torch.where(labels[None] == 1, torch.tensor([-1.2, -1.0, -1.1])[:, None, None], torch.tensor(0.0))
    scores[0][labels == 0] = 30.0
    facts = selection_facts(home(labels), Prediction(log_probabilities=scores.log_softmax(0)), sure_of(labels))
    assert facts["entropy"] == pytest.approx(0.5, abs=0.01)


def test_the_divergence_is_that_of_the_predicted_class_proportions():
    labels = stripes()
    shares = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    source = SourceProportions(shares, torch.ones(3, dtype=torch.bool))
    own = home(labels).proportions
    expected = float((own * (own / shares).log()).sum())
    facts = selection_facts(source, sure_of(labels), Prediction(labels=labels.flip(-1)))
    assert facts["divergence"] == pytest.approx(expected, abs=1e-6) and expected > 0.1


def test_collapse_is_told_and_does_not_look_good():
    labels, nothing = stripes(), torch.zeros(8, 12, dtype=torch.long)
    good = selection_facts(home(labels), sure_of(labels, 0.9), sure_of(labels.flip(-1), 0.9))
    bad = selection_facts(home(labels), sure_of(nothing, 0.9999), sure_of(nothing, 0.9999))
    assert bad["vanished"] == [True, True] and bad["consistency"] == 0.0
    assert bad["entropy"] < good["entropy"] and bad["score"] < good["score"]


def test_a_structure_that_the_source_never_shows_cannot_vanish():
    labels = torch.zeros(4, 4, dtype=torch.long)
    labels[1, 1] = 2
    source = SourceProportions(torch.tensor([0.9, 0.0, 0.1]).double(), torch.tensor([True, False, True]))
    assert selection_facts(source, sure_of(labels), sure_of(labels))["vanished"] == [False, False]


def test_consistency_is_the_mean_dice_of_the_structures_that_either_has():
    one, two = torch.tensor([[1, 1, 0, 2]]), torch.tensor([[1, 0, 0, 0]])
    assert consistency(one, two, 4) == pytest.approx((2 / 3 + 0) / 2)
    assert consistency(one * 0, two * 0, 4) == 0.0


def test_labels_alone_are_taken_as_certain():
    labels = stripes()
    facts = selection_facts(home(labels), Prediction(labels=labels), Prediction(labels=labels.flip(-1)))
    assert facts["entropy"] == pytest.approx(0.0, abs=1e-6) and math.isfinite(facts["score"])


def test_the_source_is_described_by_what_the_model_predicts_there():
    tiny = copy.deepcopy(problem("unet_bn", 2))
    images, predict = tiny.source.images, predictor(tiny.model)
    found = source_proportions(tiny.model, images)
    expected = torch.stack([predict(x).log_probabilities.double().exp().flatten(1).mean(1) for x in images]).mean(0)
    assert torch.allclose(found.proportions, expected) and float(found.proportions.sum()) == pytest.approx(1.0)
    assert found.occurs.tolist() == [
        any(bool((predict(x).log_probabilities.argmax(0) == c).any()) for x in images) for c in range(3)
    ]
    head = [p for n, p in tiny.model.named_parameters() if n.endswith("head.0.bias")][0]
    head.data[1] -= 100.0
    assert source_proportions(tiny.model, images).occurs.tolist()[1] is False


# The rows of a run.

NOT_NEEDED = """[[target]]
name = "identity"
family = "control"

"""
FEW = TINY.replace(NOT_NEEDED, "").replace("levels = [3, 5]", "levels = [5]").partition('[[target]]\nname = "load"')[0]
METHODS = ["pred_bn", "pred_bn:alpha=0.5", "tent_bn", "tent_bn:lr=1e-3"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(scenario, rows, result folder) of one finished run."""
    folder = tmp_path_factory.mktemp("selection")
    path = write(folder, FEW)
    rows = shiftbench.run(path, METHODS, out=folder / "out", device="cpu", jobs=2)
    return path, rows, folder / "out"


def test_only_configurations_that_could_be_chosen_have_scores(ran):
    _, rows, _ = ran
    scored = rows[rows["metric"] == "selection_score"]
    assert set(scored["method"]) == {"pred_bn", "pred_bn:alpha=0.5"} and set(scored["structure"]) == {"all"}
    assert len(scored) == 2 * 3 * 2 and set(scored["status"]) == {Status.OK}  # methods, targets, test patients
    assert np.isfinite(scored["value"]).all() and scored["detail"].str.contains("consistency").all()
    vanished = rows[rows["metric"] == "vanished"]
    assert len(vanished) == 2 * len(scored) and set(vanished["value"]) <= {0.0, 1.0}


def test_scores_change_no_prediction_and_no_address_of_other_methods(ran):
    path, _, out = ran
    scenario, options = load_scenario(path), Options(device="cpu")
    cards = method_cards(METHODS, Store(out))
    alone = predict_tasks(plan([scenario], [c for c in cards if c.name != "pred_bn:alpha=0.5"], options, "tiny"))
    both = predict_tasks(plan([scenario], cards, options, "tiny"))
    chosen = {i for i, task in both.items() if "select" in task.payload}
    assert {both[i].payload["method"]["variant"] for i in chosen} == {"pred_bn"}
    assert {i for i in alone if alone[i].payload["method"]["variant"] != "pred_bn"} == set(both) - chosen
    assert not any("select" in task.payload for task in alone.values())
    store, same = Store(out), {both[i].label: both[i] for i in chosen}
    for task in alone.values():
        if task.payload["method"]["variant"] == "pred_bn":
            predict(Context(store), task.key, task.payload)
            assert labels_of(store, task) == labels_of(store, same[task.label])


def labels_of(store: Store, task) -> dict[str, bytes]:
    """Labels by case, as they were stored."""
    return {p.stem: np.load(p)["labels"].tobytes() for p in store.artifact("predict", task.key).glob("*.npz")}


def predict_tasks(graph) -> dict:
    return {task.id: task for task in graph.tasks.values() if task.kind == "predict"}


def test_leaderboards_do_not_see_the_scores(ran):
    _, rows, _ = ran
    without = rows[~rows["metric"].isin(["selection_score", "vanished"])]
    pd.testing.assert_frame_equal(leaderboard(rows), leaderboard(without))


def test_the_rows_of_a_run_become_a_section(ran):
    made = section.section(ran[1])
    targets = made.table[made.table["scope"] == "target"]
    assert set(targets["target"]) == {"noise", "hilum-in"} and set(targets["status"]) == {"ok"}
    assert set(targets["entry"]) == {"pred_bn"} and (targets["default"] == "pred_bn").all()
    online = made.table[made.table["entry"] == "tent_bn"]
    assert online["status"].tolist() == [ONLINE] and online["candidates"].tolist() == ["tent_bn, tent_bn:lr=0.001"]
    assert made.body and all(len(line) == len(made.head) for line in made.body)


def card(name: str, file: str, track: Track = Track.TTA, episode: str = "episodic", k: int | None = None) -> MethodCard:
    return MethodCard(name, file, "1", track, episode, {} if k is None else {"k": k}, (), {})


def test_configurations_are_one_entry_with_other_overrides():
    cards = [
        card("a", "a"),
        card("a:x=1", "a"),
        card("b", "a"),
        card("b_other", "a"),
        card("c", "c", episode="online"),
        card("c:x=1", "c", episode="online"),
        card("d", "d"),
        card("d_offline", "d", track=Track.SFDA),
        card("f1", "f", track=Track.FEWSHOT, k=1),
        card("f1:k=2", "f", track=Track.FEWSHOT, k=2),
        card("f5", "f", track=Track.FEWSHOT, k=5),
        card("f5:lr=1", "f", track=Track.FEWSHOT, k=5),
        card("e1", "e", track=Track.ESTIMATE),
        card("e2", "e", track=Track.ESTIMATE),
    ]
    assert configurations(cards) == {"a", "a:x=1", "f5", "f5:lr=1"}


# The gap.

NAMES = ("mine", "mine:lr=0.1", "mine:lr=1.0")
PLACE = ["scenario", "target", "seed", "case"]


def searched(gains: dict[str, float], looks: dict[str, float], *, patients: int = 10, seeds=(0, 1)) -> pd.DataFrame:
    """Rows of source-only and of three configurations that are better by `gains`, and look as good as `looks`."""
    rows = make_rows(patients=patients, seeds=seeds, methods=["erm", "pred_bn"])
    rows = rows[(rows["metric"] == "dsc") & rows["scenario"].isin(["noise", "hilum"])]
    base, parts = rows[rows["method"] == "pred_bn"], [rows[rows["method"] == "erm"]]
    for name in NAMES:
        noise = generator(0, name).normal(0, 0.01, len(base))
        own = base.assign(method=name, value=np.clip(base["value"] - 0.1 + gains[name] + noise, 0, 1))
        score = own.drop_duplicates(PLACE).assign(
            structure="all", metric="selection_score", definition="entropy+kl+flip", value=looks[name]
        )
        here = own.assign(metric="vanished", definition="predicted", value=0.0)
        parts += [own, score, here]
    return pd.concat(parts, ignore_index=True).assign(episode="offline")


GAINS = dict(zip(NAMES, (0.0, 0.08, 0.04), strict=True))


def at(table: pd.DataFrame, target: str | None = "snr:3", scope: str = "target") -> pd.Series:
    own = table[(table["scope"] == scope) & (table["scenario"] == "noise")]
    own = own if target is None else own[own["target"] == target]
    assert len(own) == 1
    return own.iloc[0]


def mean_dsc(rows: pd.DataFrame, name: str, target: str = "snr:3") -> float:
    own = rows[(rows["method"] == name) & (rows["target"] == target) & (rows["metric"] == "dsc")]
    return float(own["value"].mean())


def test_a_score_that_ranks_as_the_dsc_does_leaves_no_gap():
    rows = searched(GAINS, GAINS)
    found = at(selection(rows))
    assert (found["chosen"], found["oracle"], found["default"]) == ("mine:lr=0.1", "mine:lr=0.1", "mine")
    assert (found["gap"], found["gap_low"], found["gap_high"]) == (0.0, 0.0, 0.0)
    assert found["gain"] == pytest.approx(found["default_gap"]) and found["status"] == "ok"
    assert found["default_gap"] == pytest.approx(mean_dsc(rows, "mine:lr=0.1") - mean_dsc(rows, "mine"))


def test_the_gap_is_what_the_choice_without_labels_loses():
    rows = searched(GAINS, dict(zip(NAMES, (0.1, 0.2, 0.3), strict=True)))
    found = at(selection(rows))
    assert found["chosen"] == "mine:lr=1.0" and found["oracle"] == "mine:lr=0.1"
    assert found["gap"] == pytest.approx(mean_dsc(rows, "mine:lr=0.1") - mean_dsc(rows, "mine:lr=1.0"))
    assert found["gap_low"] < found["gap"] < found["gap_high"] and found["gap_low"] > 0
    assert found["gap"] + found["gain"] == pytest.approx(found["default_gap"])
    assert (found["n_patients"], found["n_seeds"]) == (10, 2)


def test_the_pooled_gap_is_the_mean_over_targets():
    table = selection(searched(GAINS, dict(zip(NAMES, (0.1, 0.2, 0.3), strict=True))))
    targets = table[(table["scope"] == "target") & (table["scenario"] == "noise")]
    for scope in ("family", "overall"):
        found = at(table, None, scope)
        assert found["gap"] == pytest.approx(targets["gap"].mean()) and found["n_targets"] == len(targets) == 3


def test_a_configuration_that_collapsed_is_not_chosen():
    rows = searched(GAINS, dict(zip(NAMES, (0.1, 0.2, 0.9), strict=True)))
    gone = (rows["metric"] == "vanished") & (rows["method"] == "mine:lr=1.0") & (rows["structure"] == "tumour")
    rows.loc[gone & (rows["case"] != "patient-00"), "value"] = 1.0
    assert at(selection(rows))["chosen"] == "mine:lr=1.0", "it is still there in one case"
    rows.loc[gone, "value"] = 1.0
    found = at(selection(rows))
    assert found["chosen"] == "mine:lr=0.1" and found["rejected"] == "mine:lr=1.0: tumour vanished"


def test_a_configuration_that_failed_on_a_case_is_not_chosen():
    rows = searched(GAINS, dict(zip(NAMES, (0.1, 0.2, 0.9), strict=True)))
    lost = (rows["method"] == "mine:lr=1.0") & (rows["case"] == "patient-03") & (rows["target"] == "snr:3")
    rows.loc[lost, ["status", "value"]] = [str(Status.FAILED), None]
    found = at(selection(rows))
    assert found["chosen"] == "mine:lr=0.1" and "a case has no score" in found["rejected"]
    assert at(selection(rows), "snr:5")["chosen"] == "mine:lr=1.0"


def test_where_all_are_rejected_the_default_stays():
    rows = searched(GAINS, GAINS)
    rows.loc[rows["metric"] == "vanished", "value"] = 1.0
    found = at(selection(rows))
    assert found["chosen"] == found["default"] == "mine" and found["gap"] == pytest.approx(found["default_gap"])


def test_a_case_that_could_not_be_acquired_rejects_nobody():
    rows = searched(GAINS, GAINS)
    out = (rows["case"] == "patient-03") & (rows["target"] == "snr:3")
    rows.loc[out, ["status", "value"]] = [str(Status.NOT_APPLICABLE), None]
    found = at(selection(rows))
    assert found["chosen"] == "mine:lr=0.1" and found["n_patients"] == 9 and found["rejected"] == ""


def test_every_seed_chooses_for_itself():
    rows = searched(GAINS, GAINS, seeds=(0, 1, 2))
    scores = (rows["metric"] == "selection_score") & (rows["seed"] == 1)
    rows.loc[scores & (rows["method"] == "mine"), "value"] = 5.0
    best = (rows["metric"] == "dsc") & (rows["seed"] == 2) & (rows["method"] == "mine")
    rows.loc[best, "value"] = np.clip(rows.loc[best, "value"] + 0.12, 0, 1)
    found = at(selection(rows))
    assert found["chosen"] == found["oracle"] == "mine:lr=0.1 (2), mine (1)"
    own = rows[(rows["metric"] == "dsc") & (rows["target"] == "snr:3")]
    means = own.groupby(["seed", "method"])["value"].mean()
    lost = means[1]["mine:lr=0.1"] - means[1]["mine"], means[2]["mine"] - means[2]["mine:lr=0.1"]
    assert min(lost) > 0.02 and found["gap"] == pytest.approx(sum(lost) / 3)


def test_the_oracle_is_too_good_where_there_is_nothing_to_choose_and_not_where_one_is_far_better():
    alike = at(selection(searched(dict.fromkeys(NAMES, 0.0), GAINS)))
    apart = at(selection(searched(dict(zip(NAMES, (0.0, 0.3, 0.0), strict=True)), GAINS)))
    assert alike["oracle_optimism"] > 0.001 and alike["gap"] >= 0
    assert apart["oracle_optimism"] == pytest.approx(0.0, abs=1e-9)


def test_online_methods_have_no_selection_and_the_table_says_so():
    rows = searched(GAINS, GAINS)
    rows = rows[~rows["metric"].isin(["selection_score", "vanished"])]
    online = rows.assign(episode=rows["episode"].where(rows["method"] == "erm", "online"))
    table = selection(online)
    assert set(table["status"]) == {ONLINE} and table["gap"].isna().all() and set(table["entry"]) == {"mine"}
    assert set(selection(rows)["status"]) == {UNSCORED}, "offline rows without scores"


def test_one_configuration_is_no_choice_and_controls_and_oracles_have_no_lines():
    rows = searched(GAINS, GAINS)
    assert selection(rows[rows["method"].isin(["erm", "mine"])]).empty
    assert "control" not in set(selection(rows)["family"])
    assert selection(rows.assign(track=str(Track.REFERENCE))).empty
    assert section.section(make_rows(patients=3)).table.empty


def test_annotation_shifts_are_not_in_the_overall_gap():
    table = selection(searched(GAINS, GAINS))
    assert "annotation" in set(table["family"])
    assert not ((table["scenario"] == "hilum") & (table["scope"] == "overall")).any()
