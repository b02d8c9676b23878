"""Keys: what fixes a number is in them, and nothing else."""

import dataclasses
from types import SimpleNamespace

import pytest

from scenarios import TINY, write
from shiftbench import parts
from shiftbench import plan as planning
from shiftbench.domains import LOADERS
from shiftbench.errors import SpecError
from shiftbench.graph import MethodCard, Options
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, LabelPolicy
from shiftbench.spec import Step, load_scenario
from shiftbench.types import CaseInfo, Track


def card(name="erm", track=Track.DG, version="1", **parameters):
    return MethodCard(name, name, version, track, "offline", parameters, (), {"path": name})


ERM = card()


def ids(scenario, methods=(ERM,), options=None):
    return set(planning.plan([scenario], list(methods), options or Options(), "suite").tasks)


def changed(tmp_path, old, new):
    assert old in TINY
    return load_scenario(write(tmp_path, TINY.replace(old, new, 1)))


@pytest.fixture
def tiny(tmp_path):
    return load_scenario(write(tmp_path))


def kinds(tasks):
    return {
        kind: {t for t in tasks if t.startswith(kind)}
        for kind in ("anatomy", "images", "references", "train", "predict", "score")
    }


def test_formatting_names_and_order_of_methods_change_no_key(tiny, tmp_path):
    two = [card(), card("pred_bn", Track.TTA)]
    once = ids(tiny, two)
    assert ids(tiny, two[::-1]) == once
    assert ids(changed(tmp_path, "version = 1", "version    = 1  # the first"), two) == once
    assert ids(changed(tmp_path, 'question = "Does', 'question = "Really, does'), two) == once


def test_a_new_target_leaves_the_keys_of_the_others(tiny, tmp_path):
    assert ids(tiny) < ids(changed(tmp_path, "levels = [3, 5]", "levels = [3, 4, 5]"))


def test_a_protocol_changes_references_and_scores_alone(tiny, tmp_path):
    before = kinds(ids(tiny))
    after = kinds(ids(changed(tmp_path, 'protocol = { hilum = "included" }', "protocol = { margin_mm = 9.0 }")))
    for kind in ("anatomy", "images", "train", "predict"):
        assert before[kind] == after[kind], kind
    assert before["references"] != after["references"] and before["score"] != after["score"]


def test_the_source_protocol_reaches_the_training(tiny, tmp_path):
    other = changed(tmp_path, 'protocol = { hilum = "excluded" }', 'protocol = { hilum = "included" }')
    assert kinds(ids(tiny))["train"] != kinds(ids(other))["train"]
    assert kinds(ids(tiny))["images"] == kinds(ids(other))["images"]


def test_a_tolerance_changes_scores_alone(tiny, tmp_path):
    before, after = kinds(ids(tiny)), kinds(ids(changed(tmp_path, "tolerance_mm = 8.0", "tolerance_mm = 9.0")))
    assert before.pop("score") != after.pop("score")
    assert before == after


def test_an_operator_version_reaches_only_the_images_it_makes_and_what_follows(tiny, monkeypatch):
    before = kinds(ids(tiny))
    raised = dataclasses.replace(OPERATORS["rician_noise"], version=99)
    monkeypatch.setitem(OPERATORS, "rician_noise", raised)
    after = kinds(ids(tiny))
    assert before["anatomy"] == after["anatomy"] and before["train"] == after["train"]
    assert len(before["images"] - after["images"]) == 4  # adapt and test at two levels


@pytest.mark.parametrize(
    "other",
    [card(version="2"), card(lr=0.1), card("erm2"), card(track=Track.TTA)],
    ids=["version", "parameter", "file", "track"],
)
def test_a_methods_identity_reaches_its_predictions_alone(tiny, other):
    before, after = kinds(ids(tiny)), kinds(ids(tiny, [other]))
    assert not before["predict"] & after["predict"] and before["train"] == after["train"]


def test_threads_device_and_seed_are_part_of_what_was_trained(tiny):
    base = kinds(ids(tiny))["train"]
    for options in (Options(threads=2), Options(device="cuda"), Options(seeds=(1,)), Options(backbones=("unet_in",))):
        assert not base & kinds(ids(tiny, options=options))["train"]


def test_a_track_is_granted_what_is_its_own(tiny):
    def needs(track, **parameters):
        tasks = planning.plan([tiny], [card("m", track, **parameters)], Options(), "s").tasks.values()
        task = next(t for t in tasks if t.kind == "predict" and "on noise:3" in t.label)
        return {k for k in ("adapt", "source_train", "source_val", "fewshot") if k in task.payload}

    assert needs(Track.DG) == needs(Track.TTA) == needs(Track.HARMONISE) == set()
    assert needs(Track.SFDA) == {"adapt"}
    assert needs(Track.UDA) == {"adapt", "source_train", "source_val"}
    assert needs(Track.FEWSHOT, k=1) == {"fewshot", "source_train"}
    assert needs(Track.REFERENCE) == {"fewshot"}


def test_no_method_task_is_handed_a_reference_of_a_test_case(tiny):
    methods = [
        card("m", track, k=1) for track in (Track.DG, Track.TTA, Track.SFDA, Track.UDA, Track.FEWSHOT, Track.REFERENCE)
    ]
    graph = planning.plan([tiny], methods, Options(), "s")
    for unit in graph.units:
        for predict_id, _, test in unit.folds:
            task = graph.tasks[predict_id]
            assert not set(task.needs) & {f"references/{k}" for k in test.references_keys()}, task.label


def test_reference_methods_skip_controls_and_targets_without_an_oracle(tiny, tmp_path):
    graph = planning.plan([tiny], [card("target_oracle", Track.REFERENCE)], Options(), "s")
    assert {u.row["target"] for u in graph.units} == {"noise:3", "noise:5", "hilum-in", "load"}
    fewer = changed(tmp_path, "levels = [3, 5] }]", "levels = [3, 5] }]\noracle = false")
    graph = planning.plan([fewer], [card("target_oracle", Track.REFERENCE)], Options(), "s")
    assert {u.row["target"] for u in graph.units} == {"hilum-in", "load"}


REAL = '\n[[target]]\nname = "elsewhere"\nfamily = "real"\ndataset = "phantom/other"\n'


@pytest.mark.parametrize("also", ["", REAL], ids=["simulated", "with a real target"])
def test_no_patient_that_the_source_was_trained_on_is_scored_on_a_simulated_target(tmp_path, monkeypatch, also):
    monkeypatch.setitem(LOADERS, "phantom/other", LOADERS["phantom/abdomen"])
    scenario = load_scenario(write(tmp_path, TINY + also))
    graph = planning.plan([scenario], [ERM], Options(), "s")
    train = next(t for t in graph.tasks.values() if t.kind == "train")
    seen = {case for *_, cases in train.payload["train"] for case in cases}
    scored = {c for u in graph.units if u.row["family"] != "real" for *_, test in u.folds for c in test.where()}
    assert seen and scored and not seen & scored
    folds = [u.folds for u in graph.units if u.row["family"] == "real"]
    assert all(len(f) == 2 for f in folds) and len(folds) == (1 if also else 0)


def test_a_real_target_needs_a_data_set_of_its_own(tmp_path):
    scenario = load_scenario(write(tmp_path, TINY + '\n[[target]]\nname = "elsewhere"\nfamily = "real"\n'))
    with pytest.raises(SpecError, match="the real target 'elsewhere' is the source's own data set"):
        planning.plan([scenario], [ERM], Options(), "s")


MOVED = '\n[[target]]\nname = "moved"\nfamily = "acquisition"\nacquisition = [{ operator = "gain", values = [2.0] }]\n'


def references_of(scenario, target):
    graph = planning.plan([scenario], [ERM], Options(), "s")
    (unit,) = (u for u in graph.units if u.row["target"] == target)
    test = unit.folds[0][2]
    return test.references_keys(), [graph.tasks[f"references/{k}"].payload for k in test.references_keys()]


def test_an_operator_that_moves_the_anatomy_moves_the_references_with_it(tmp_path, monkeypatch):
    scenario = load_scenario(write(tmp_path, TINY + MOVED))
    still, payloads = references_of(scenario, "moved")
    assert still == references_of(scenario, "site-a")[0] and "steps" not in payloads[0]
    moving = dataclasses.replace(OPERATORS["gain"], policy=LabelPolicy.CO_WARP)
    monkeypatch.setitem(OPERATORS, "gain", moving)
    moved, payloads = references_of(scenario, "moved")
    assert moved != still and payloads[0]["steps"] == ({"operator": "gain", "value": 2.0, "occurrence": 0},)
    assert payloads[0]["domain_seed"] == 0 and references_of(scenario, "noise:3")[0] == still
    monkeypatch.setitem(OPERATORS, "gain", dataclasses.replace(moving, version=99))
    assert references_of(scenario, "moved")[0] != moved
    other = scenario.model_copy(update={"domain_seed": 1})
    assert references_of(other, "moved")[1][0]["domain_seed"] == 1


def test_the_noise_of_annotators_changes_references_alone(tmp_path):
    scenario = changed(tmp_path, 'family = "control"', 'family = "control"\nannotator_noise_mm = 2.0')
    graph = planning.plan([scenario], [ERM], Options(), "s")
    folds = {u.row["target"]: u.folds[0] for u in graph.units}
    assert folds["identity"][0] == folds["site-a"][0] and folds["identity"][1] != folds["site-a"][1]
    keys, payloads = references_of(scenario, "identity")
    assert payloads[0]["annotator_noise_mm"] == 2.0 and keys != references_of(scenario, "site-a")[0]


def test_a_reselected_population_draws_half_of_the_cases_by_the_rule(tmp_path, monkeypatch):
    seen = []

    def selected(cases, rule, rng):
        seen.append((rule, float(rng.random())))
        return SimpleNamespace(cases=tuple(case.case_id for case in cases)[: rule.cases])

    monkeypatch.setattr(parts, "reselect", selected)
    old = 'population = [{ operator = "lesion_load", levels = [4] }]'
    step = 'population = [{ operator = "reselect", attribute = "age", levels = [2, 3.5] }]'
    graph = planning.plan([changed(tmp_path, old, step)], [ERM], Options(), "s")
    units = {u.row["target"]: u for u in graph.units}
    own, source = units["load:2"].folds[0][2], units["site-a"].folds[0][2]
    (case,) = own.where()
    assert case in source.where() and len(source.where()) == 2
    assert [(rule.attribute, rule.tilt, rule.cases) for rule, _ in seen[1::2]] == [("age", 0.5, 1), ("age", 1.25, 1)]
    assert seen[1][1] == seen[3][1] != seen[0][1]  # levels share their draws, adapt and test do not
    row = units["load:2"].row
    assert (row["operator"], row["level"], row["level_unit"], row["family"]) == ("reselect", 2, "SD", "population")
    by_share = step.replace("levels = [2, 3.5]", "shares = { f = 0.9, m = 0.1 }")
    planning.plan([changed(tmp_path, old, by_share)], [ERM], Options(), "s")
    assert seen[-1][0].shares == {"f": 0.9, "m": 0.1} and seen[-1][0].tilt is None


def test_a_favoured_category_goes_from_its_own_share_to_being_alone():
    infos = [CaseInfo(f"c{i}", f"p{i}", site="ab"[i % 4 == 0]) for i in range(40)]  # a quarter from b
    for strength, share in ((0.0, 0.25), (0.4, 0.55), (1.0, 1.0)):
        rule = parts.selection_rule(
            Step(operator="reselect", attribute="site", favour="b", strength=(strength,)), infos
        )
        assert rule.shares == pytest.approx({"a": 1 - share, "b": share}) and rule.cases == (10 if share == 1 else 20)
    by_level = parts.selection_rule(Step(operator="reselect", attribute="site", favour="b", levels=(2,)), infos)
    assert by_level.shares == pytest.approx({"a": 0.45, "b": 0.55})
    drawn = parts.reselect(infos, by_level, generator(0, "test")).cases
    assert len(set(drawn)) == 20
    with pytest.raises(SpecError, match="no case has site = 'c'"):
        parts.selection_rule(Step(operator="reselect", attribute="site", favour="c", levels=(2,)), infos)


def test_every_target_has_a_shift_card_that_depends_on_data_alone(tiny, tmp_path):
    graph = planning.plan([tiny], [ERM], Options(), "s")
    assert set(graph.cards) == {("tiny", name) for name in ("identity", "noise:3", "noise:5", "hilum-in", "load")}
    many = planning.plan([tiny], [ERM, card("pred_bn", Track.TTA)], Options(seeds=(0, 1)), "s")
    assert many.cards == graph.cards
    other = changed(tmp_path, 'protocol = { hilum = "included" }', "protocol = { margin_mm = 9.0 }")
    after = planning.plan([other], [ERM], Options(), "s").cards
    assert {name for (_, name), task in graph.cards.items() if after["tiny", name] != task} == {"hilum-in"}
    task = graph.tasks[graph.cards["tiny", "hilum-in"]]
    redrawn, own = (task.payload[name][0] for name in ("redrawn", "target"))
    assert redrawn[:2] == own[:2] and redrawn[2] != own[2] and redrawn[2] == task.payload["source"][0][2]
