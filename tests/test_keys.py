"""Every key: what it is made of, what changes it, and what does not."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest
from kept import card, planned

from scenarios import TINY, write
from shiftbench import domains
from shiftbench import plan as planning
from shiftbench.data.phantoms.abdomen import AbdomenPhantom
from shiftbench.graph import MethodCard, Options, address
from shiftbench.keeping.origins import ORIGINS
from shiftbench.methods import load_methods, shipped_methods
from shiftbench.metrics.scorers import METRICS
from shiftbench.plan import tasks as tasks_module
from shiftbench.rng import digest
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.spec import load_scenario, scenario_files
from shiftbench.types import Track

METHODS = (
    card(),
    card("tta", Track.TTA),
    card("uda", Track.UDA),
    card("few", Track.FEWSHOT, k=1),
    card("oracle", Track.REFERENCE),
    dataclasses.replace(card("own", Track.SFDA), prepares=("prepare",)),
)
DATA = {"anatomy", "images", "references"}
LEARNT = {"train", "prepare", "predict", "score"}
ALL = DATA | LEARNT | {"card"}

# The same scenario in another hand: comments, order of keys and tables, spaces, inline tables, 8 for 8.0.
RESHAPED = """
# in another hand
budget   =   'smoke'
dimension = "2d"
seeds = [ 0, ]
citation = "none"
reason = "A test."
question = "Does the whole path run?"
version=1
dataset = "phantom/abdomen"
name = "tiny"
structures = { liver = { tolerance_mm = 8 }, tumour = { may_be_absent = true, tolerance_mm = 8 } }
source = [ { protocol = { hilum = "excluded" }, name = "site-a" } ]
target = [
  { family = "control", name = "identity" },
  { acquisition = [ { levels = [3.0, 5.0], operator = "rician_noise" } ], family = "acquisition", name = "noise" },
  { protocol = { hilum = "included" }, family = "annotation", name = "hilum-in" },
  { population = [ { levels = [4], operator = "lesion_load" } ], name = "load", family = "population" },
]
[phantom]
supersampling = [1, 1, 1]
spacing_mm = [12, 8, 8]
shape = [4, 48, 48]
patients = 10
"""


def ids(plan):
    return set(plan.tasks)


def kinds_changed(before, after):
    """Kinds of which some task of the one plan is not in the other."""
    return {task_id.split("/")[0] for task_id in ids(before) ^ ids(after)}


def test_a_scenario_in_another_hand_has_the_same_keys(tmp_path):
    assert ids(planned(tmp_path, TINY)) == ids(planned(tmp_path, RESHAPED))


def test_a_number_written_with_a_point_is_the_same_number(tmp_path):
    texts = (TINY.replace('hilum = "included"', f'hilum = "included", margin_mm = {n}') for n in ("4", "4.0", "4.5"))
    whole, with_point, other = (ids(planned(tmp_path, text)) for text in texts)
    assert whole == with_point and whole != other


def test_the_order_of_methods_scenarios_and_data_folders_changes_no_key(tmp_path):
    one = load_scenario(write(tmp_path))
    two = load_scenario(write(tmp_path, TINY.replace('name = "tiny"', 'name = "other"').replace("[3, 5]", "[2, 5]")))
    folders = {"retina": tmp_path, "hippocampus": tmp_path / "b"}
    turned = dict(reversed(folders.items()))
    there = Options(folders=folders, roots=(tmp_path, tmp_path / "c"))
    back = Options(folders=turned, roots=(tmp_path / "c", tmp_path))
    plan = planning.plan([one, two], METHODS, there, "s")
    again = planning.plan([two, one], METHODS[::-1], back, "s")
    assert ids(plan) == ids(again) and plan.digest() == again.digest()


def test_scenarios_that_are_planned_one_by_one_have_the_keys_of_a_whole_plan(tmp_path):
    scenarios = [load_scenario(write(tmp_path, TINY.replace("[3, 5]", levels))) for levels in ("[3, 5]", "[4]")]
    whole = planning.plan(scenarios, METHODS, Options(), "s")
    single = list(planning.plan_each(iter(scenarios), METHODS, Options(), "s"))
    assert set().union(*map(ids, single)) == ids(whole) and sum(map(len, map(ids, single))) > len(ids(whole))


def version_of(path):
    return next(iter(load_methods(str(path)).values())).version


@pytest.mark.parametrize("change", [("\n\n", "\n\n\n# nothing\n"), ("VERSION = ", "VERSION =    ")])
def test_a_shipped_file_counts_by_its_version_and_any_other_by_its_content(tmp_path, monkeypatch, change):
    root = tmp_path / "root"
    (root / "baselines").mkdir(parents=True)
    original = shipped_methods()["fda"]
    reshaped = original.read_text().replace(*change, 1)
    foreign, shipped = tmp_path / "fda.py", root / "baselines" / "fda.py"
    shutil.copy(original, foreign)
    before = version_of(foreign)
    foreign.write_text(reshaped)
    assert before.startswith("sha256:") and version_of(foreign).startswith("sha256:") and version_of(foreign) != before
    declared = version_of(original)
    monkeypatch.setattr("shiftbench.methods.content_root", lambda: root)
    shipped.write_text(reshaped)
    assert reshaped != original.read_text() and version_of(shipped) == declared == str(int(declared))


def raised(table, name):
    """A patch that raises the version of a row."""
    return lambda patch: patch.setitem(table, name, dataclasses.replace(table[name], version=99))


def text(old, new):
    assert old in TINY
    return TINY.replace(old, new, 1)


NOTHING = lambda patch: None  # noqa: E731

# What changes: (scenario, options, patch, methods), and the kinds of keys that it reaches and no other.
CHANGES = {
    "seed": (TINY, {"seeds": (1,)}, NOTHING, METHODS, LEARNT),
    "device": (TINY, {"device": "cuda"}, NOTHING, METHODS, LEARNT),
    "threads": (TINY, {"threads": 2}, NOTHING, METHODS, LEARNT),
    "backbone": (TINY, {"backbones": ("unet_in",)}, NOTHING, METHODS, LEARNT),
    "width": (
        text("[phantom]", 'backbones = ["mine"]\n[backbone.mine]\nlike = "unet_bn"\nwidths = [8, 16]\n[phantom]'),
        {},
        NOTHING,
        METHODS,
        LEARNT,
    ),
    "loss": (text("[phantom]", '[training]\nloss = "focal"\n[phantom]'), {}, NOTHING, METHODS, LEARNT),
    "level": (text("[3, 5]", "[3, 4]"), {}, NOTHING, METHODS, {"images", "predict", "score", "card"}),
    "tolerance": (text("tolerance_mm = 8.0", "tolerance_mm = 9.0"), {}, NOTHING, METHODS, {"score"}),
    "form": (text("tolerance_mm = 8.0", 'tolerance_mm = 8.0\nform = "lesions"'), {}, NOTHING, METHODS, {"score"}),
    "domain seed": (text("[phantom]", "domain_seed = 1\n[phantom]"), {}, NOTHING, METHODS, ALL),
    "protocol": (
        text('"included"', '"included", margin_mm = 9.0'),
        {},
        NOTHING,
        METHODS[:3],
        {"references", "score", "card"},
    ),
    "protocol, with labels": (
        text('"included"', '"included", margin_mm = 9.0'),
        {},
        NOTHING,
        METHODS,
        {"references", "predict", "score", "card"},
    ),
    "population": (text("levels = [4]", "levels = [3]"), {}, NOTHING, METHODS, ALL - {"train", "prepare"}),
    "operator version": (TINY, {}, raised(OPERATORS, "rician_noise"), METHODS, {"images", "predict", "score", "card"}),
    "rule version": (TINY, {}, raised(PROTOCOLS, "hilum"), METHODS, ALL - {"anatomy", "images"}),
    "population version": (TINY, {}, raised(POPULATIONS, "lesion_load"), METHODS, ALL - {"train", "prepare"}),
    "metric version": (TINY, {}, raised(METRICS, "dsc"), METHODS, {"score"}),
    "phantom version": (TINY, {}, lambda patch: patch.setattr(AbdomenPhantom, "version", 99), METHODS, ALL),
    "images version": (
        TINY,
        {},
        lambda patch: patch.setattr(domains, "IMAGES_VERSION", 99),
        METHODS,
        ALL - {"anatomy", "references"},
    ),
    "training version": (TINY, {}, lambda patch: patch.setattr(tasks_module, "TRAIN_VERSION", 99), METHODS, LEARNT),
    "method version": (
        TINY,
        {},
        NOTHING,
        (*METHODS[:1], card("tta", Track.TTA, "2"), *METHODS[2:]),
        {"predict", "score"},
    ),
    "override": (TINY, {}, NOTHING, (*METHODS[:1], card("tta", Track.TTA, lr=0.5), *METHODS[2:]), {"predict", "score"}),
    "k": (TINY, {}, NOTHING, (*METHODS[:3], card("few", Track.FEWSHOT, k=2), *METHODS[4:]), {"predict", "score"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_reaches_exactly_the_keys_that_it_must(tmp_path, monkeypatch, name):
    scenario, options, patch, methods, expected = CHANGES[name]
    before = planned(tmp_path, TINY, METHODS if len(methods) == len(METHODS) else methods)
    patch(monkeypatch)
    assert kinds_changed(before, planned(tmp_path, scenario, methods, **options)) == expected


def test_a_protocol_changes_no_prediction_of_a_method_without_target_labels(tmp_path):
    changed = planned(tmp_path, text('"included"', '"included", margin_mm = 9.0'), METHODS)
    before = planned(tmp_path, TINY, METHODS)
    new = [changed.tasks[task_id] for task_id in ids(changed) - ids(before) if task_id.startswith("predict")]
    assert {task.payload["identity"][0] for task in new} == {"few", "oracle"}


def test_a_method_of_another_version_leaves_the_predictions_of_the_others(tmp_path):
    before = planned(tmp_path, TINY, METHODS)
    after = planned(tmp_path, TINY, (card(version="2"), *METHODS[1:]))
    new = [after.tasks[task_id] for task_id in ids(after) - ids(before) if task_id.startswith("predict")]
    assert {task.payload["identity"][0] for task in new} == {"erm"}


def test_a_key_is_the_hash_of_what_the_task_says_it_is_made_of(tmp_path):
    plan = planned(tmp_path, TINY, METHODS)
    assert all(task.key == address(task.kind, task.made_of) for task in plan.tasks.values())
    task = next(iter(plan.tasks.values()))
    for name in task.made_of:
        assert address(task.kind, {**task.made_of, name: "another"}) != task.key, name
    nested = address("x", {"a": ("b",)})
    others = ("b", ("c",), digest(("b",)), {"b": None})
    assert all(address("x", {"a": other}) != nested for other in others)


def test_what_a_task_is_made_of_names_its_parents_and_nothing_without_an_origin(tmp_path):
    plan = planned(tmp_path, TINY, METHODS)
    for task in plan.tasks.values():
        values = [part for value in task.made_of.values() for part in (value if isinstance(value, tuple) else (value,))]
        parents = {part for part in values if isinstance(part, str) and part in plan.tasks}
        assert parents <= set(task.needs), task.label
        assert bool(parents) == (task.kind != "anatomy"), task.label


def test_every_part_of_every_key_of_the_shipped_phantom_scenarios_has_an_origin():
    methods = (*METHODS, card("tta:lr=2", Track.TTA, lr=2), card("many", Track.FEWSHOT, k=500))
    methods += (dataclasses.replace(card("online", Track.TTA), episode="online"), card("sure", Track.ESTIMATE))
    found = {kind: set() for kind in ORIGINS}
    names = ("streams", "controls", "calibration", "instances", "faults")
    for name in (*(f"abdomen-{what}" for what in names), "contour-habits"):
        scenario = load_scenario(scenario_files()[name])
        for task in planning.plan([scenario], methods, Options(seeds=(0,)), "s").tasks.values():
            found[task.kind] |= set(task.made_of)
    unsaid = {kind: names - set(ORIGINS[kind]) for kind, names in found.items()}
    assert not any(unsaid.values()), unsaid
    idle = {kind: set(ORIGINS[kind]) - found[kind] for kind in found}
    assert {kind: names for kind, names in idle.items() if names} == {}


def test_constants_that_origins_name_are_there():
    for parts in ORIGINS.values():
        for words in parts.values():
            named = re.search(r"the constant (\w+) of (\S+):", words)
            if named:
                source = (Path(domains.__file__).parents[1] / named[2]).read_text()
                assert re.search(rf"^{named[1]} = \d+", source, re.M), words


def test_what_tasks_share_is_held_once(tmp_path):
    plan = planned(tmp_path, TINY, METHODS)
    predictions = [task for task in plan.tasks.values() if task.kind == "predict"]
    assert len({id(task.payload["recipe"]) for task in predictions}) == 1
    own = [t for t in predictions if t.label.endswith("on noise:3") and t.payload["identity"][0] in ("erm", "tta")]
    assert len(own) == 2 and own[0].payload["test"] is own[1].payload["test"] and own[0].needs is own[1].needs


def test_the_identity_of_a_method_holds_no_list():
    assert MethodCard("a", "a", "1", Track.DG, "offline", {"lr": [1, 2]}, (), {}).identity[4] == {"lr": (1, 2)}
