"""Scenario files: every mistake is one sentence with file, key and remedy."""

import pytest

from scenarios import TINY, write
from shiftbench.errors import SpecError
from shiftbench.spec import load_scenario, load_suite, scenario_files, suite_files


def refused(tmp_path, old, new):
    assert old in TINY
    with pytest.raises(SpecError) as error:
        load_scenario(write(tmp_path, TINY.replace(old, new, 1)))
    text = str(error.value)
    assert "tiny.toml" in text and text.count("\n") == 0
    return text


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("budget =", "budgett =", ["budgett", "did you mean 'budget'?"]),
        ("tolerance_mm = 8.0", "tolerence_mm = 8.0", ["tolerence_mm", "did you mean 'tolerance_mm'?"]),
        ("levels = [3, 5]", "level = [3]", ["level", "did you mean 'levels'?"]),
        ("levels = [3, 5]", "levels = [6]", ["acquisition.0.levels.0", "less than or equal to 5"]),
        ("levels = [3, 5]", "levels = [-1]", ["greater than or equal to 0"]),
        ("levels = [3, 5]", "levels = [3], values = [9.0]", ["either levels (0-5) or values"]),
        ('budget = "smoke"', 'budget = "smok"', ["unknown budget 'smok'", "did you mean 'smoke'?"]),
        ('dimension = "2d"', 'dimension = "4d"', ["dimension"]),
        ('question = "Does the whole path run?"', "", ["the key 'question' is missing"]),
        ('family = "control"', 'family = "controll"', ["family"]),
        ('name = "identity"', 'name = "site-a"', ["'site-a' is used twice"]),
        ("tolerance_mm = 8.0", "tolerance_mm = 8.0\ntolerance_px = 2.0", ["exactly one of tolerance_mm"]),
        ("version = 1", "version = ", ["not valid TOML"]),
    ],
)
def test_a_mistake_names_file_key_and_remedy(tmp_path, old, new, words):
    text = refused(tmp_path, old, new)
    for word in words:
        assert word in text


def test_a_missing_file_and_an_unknown_name_are_refused(tmp_path):
    with pytest.raises(SpecError, match="no such file"):
        load_scenario(tmp_path / "none.toml")
    with pytest.raises(SpecError, match="did you mean 'hippocampus'"):
        load_scenario("hipocampus")
    with pytest.raises(SpecError, match="did you mean 'quick'"):
        load_suite("quik")


def test_levels_expand_to_one_target_each_in_order(tmp_path):
    names = [t.name for t in load_scenario(write(tmp_path)).targets()]
    assert names == ["identity", "noise:3", "noise:5", "hilum-in", "load"]


def test_the_digest_ignores_formatting_and_sees_every_value(tmp_path):
    one = load_scenario(write(tmp_path)).digest()
    reformatted = "# a comment\n" + TINY.replace("version = 1", "version   =   1").replace("8.0", "8.00")
    assert load_scenario(write(tmp_path, reformatted)).digest() == one
    assert load_scenario(write(tmp_path, TINY.replace("levels = [3, 5]", "levels = [3, 4]"))).digest() != one


def test_every_shipped_scenario_and_suite_loads_and_says_why_it_is_there():
    for name in scenario_files():
        scenario = load_scenario(name)
        assert scenario.name == name and scenario.question.endswith("?") and scenario.reason and scenario.citation
    for name in suite_files():
        suite, scenarios = load_suite(name)
        assert suite.name == name and scenarios


def test_quick_holds_every_family():
    _, scenarios = load_suite("quick")
    count = {}
    for target in (t for s in scenarios for t in s.target):
        count[str(target.family)] = count.get(str(target.family), 0) + 1
    assert count["control"] >= 1 and count["acquisition"] >= 3 and count["annotation"] >= 2
    assert count["population"] >= 1 and count["combined"] >= 1


CONTROL = 'family = "control"'
FACTORIAL = "\n[factorial]\n"
SELECT = 'population = [{ operator = "reselect", attribute = "age", levels = [1, 2] }]'


def test_keys_that_came_later_change_no_digest_of_a_scenario_without_them(tmp_path):
    digest = load_scenario(write(tmp_path)).digest()
    assert digest == "ad684b44cac02350352089ca6bea5266d8b467b56608393b998a18b63dc49058"
    assert (
        load_scenario(write(tmp_path, TINY.replace(CONTROL, CONTROL + "\nannotator_noise_mm = 1.0"))).digest() != digest
    )


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (CONTROL, CONTROL + '\ncontrol = "permuted"', ["'permuted_references' or 'renoise'"]),
        (CONTROL, CONTROL + "\nannotator_noise_mm = 0", ["greater than 0"]),
        ('family = "annotation"', 'family = "annotation"\nannotator_noise_mm = 1.0', ["write family = 'control'"]),
        ('family = "annotation"', 'family = "annotation"\ncontrol = "renoise"', ["write family = 'control'"]),
        (CONTROL, CONTROL + '\ncontrol = "renoise"\nprotocol = { margin_mm = 1.0 }', ["takes the source as it is"]),
        ('name = "identity"', 'name = "this+that"', ["'this+that' has a '+'"]),
        ("levels = [4]", "between = [2, 4]", ["add sealed = true"]),
        ("levels = [4]", "between = [4, 2]", ["is no range"]),
        ("levels = [4]", "between = [2, 9]", ["less than or equal to 5"]),
        ("levels = [4]", "levels = [4], between = [2, 4]", ["either levels (0-5) or values"]),
        ("version = 1", "version = 1\nsealed = true", ["no target gives a range"]),
        ("levels = [4]", 'levels = [4], attribute = "age"', ["'attribute' belongs to the operator 'reselect' alone"]),
        ('"lesion_load", levels', '"reselect", levels', ["needs an attribute"]),
        (
            '"lesion_load", levels',
            '"reselect", attribute = "age", values',
            ["levels (0-5), strength, share and shares"],
        ),
        ('"rician_noise", levels', '"reselect", attribute = "age", levels', ["move it to population"]),
    ],
)
def test_a_mistake_in_controls_ranges_and_selections_is_one_sentence(tmp_path, old, new, words):
    text = refused(tmp_path, old, new)
    for word in words:
        assert word in text


def test_a_selection_expands_by_level_and_keeps_its_attribute(tmp_path):
    text = TINY.replace('population = [{ operator = "lesion_load", levels = [4] }]', SELECT)
    targets = load_scenario(write(tmp_path, text)).targets()[-2:]
    assert [t.name for t in targets] == ["load:1", "load:2"]
    assert [(t.selection.attribute, t.selection.levels) for t in targets] == [("age", (1,)), ("age", (2,))]


def test_the_renoise_control_is_an_acquisition_step(tmp_path):
    scenario = load_scenario(write(tmp_path, TINY.replace(CONTROL, CONTROL + '\ncontrol = "renoise"')))
    (step,) = scenario.targets()[0].acquisition
    assert (step.operator, step.values) == ("renoise", (1.0,))
