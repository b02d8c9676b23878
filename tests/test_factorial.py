"""Factorial cells: every combination of the causes, on the same patients, or one sentence why not."""

import pytest

from scenarios import TINY, write
from shiftbench import plan as planning
from shiftbench.errors import SpecError
from shiftbench.graph import MethodCard, Options
from shiftbench.spec import load_scenario
from shiftbench.types import Family, Track

ERM = MethodCard("erm", "erm", "1", Track.DG, "offline", {}, (), {"path": "erm"})
THREE = '\n[factorial]\ncells = ["noise:5", "hilum-in", "load"]\n'


def scenario(folder, text):
    return load_scenario(write(folder, text))


def test_three_causes_give_all_eight_cells(tmp_path):
    targets = {t.name: t for t in scenario(tmp_path, TINY + THREE).targets()}
    joint = {name: t for name, t in targets.items() if "+" in name}
    assert list(joint) == ["noise:5+hilum-in", "noise:5+load", "hilum-in+load", "noise:5+hilum-in+load"]
    assert {t.family for t in joint.values()} == {Family.COMBINED}
    every = joint["noise:5+hilum-in+load"]
    assert every.acquisition == targets["noise:5"].acquisition and every.population == targets["load"].population
    assert every.protocol == {"hilum": "included"}


def test_a_cell_has_an_oracle_where_all_its_causes_have_one(tmp_path):
    text = TINY.replace("levels = [3, 5] }]", "levels = [3, 5] }]\noracle = false") + THREE
    oracle = {t.name: t.oracle for t in scenario(tmp_path, text).targets()}
    assert not oracle["noise:5+load"] and oracle["hilum-in+load"]


def test_cells_leave_the_keys_of_the_other_targets_and_share_patients_and_draws(tmp_path):
    plain = planning.plan([scenario(tmp_path, TINY)], [ERM], Options(), "s")
    graph = planning.plan([scenario(tmp_path, TINY + THREE)], [ERM], Options(), "s")
    assert set(plain.tasks) < set(graph.tasks)
    tests = {u.row["target"]: u.folds[0][2] for u in graph.units}
    assert {tuple(part.where()) for part in tests.values()} == {tuple(tests["site-a"].where())}
    assert tests["noise:5+hilum-in"].images_keys() == tests["noise:5"].images_keys()
    assert tests["noise:5+hilum-in"].references_keys() == tests["hilum-in"].references_keys()
    predictions = {u.row["target"]: u.folds[0][0] for u in graph.units}
    assert predictions["noise:5+hilum-in+load"] == predictions["noise:5+load"] != predictions["load"]


@pytest.mark.parametrize(
    ("more", "cells", "words"),
    [
        ("", ["noise:5"], ["factorial.cells", "at least 2"]),
        ("", ["noise:5", "hilum-out"], ["unknown factorial cell 'hilum-out'; did you mean 'hilum-in'?"]),
        ("", ["noise", "hilum-in"], ["unknown factorial cell 'noise'"]),
        ("", ["load", "load"], ["'load' is listed twice"]),
        ("", ["noise:5", "identity"], ["'identity' is of the family 'control'"]),
        ("", ["noise:3", "noise:5"], ["'noise:3' and 'noise:5' both set the operator 'rician_noise'"]),
        ("protocol = { hilum = 'included' }", ["more", "hilum-in"], ["both set the protocol key 'hilum'"]),
        ("protocol = { margin_mm = 1.0 }\npopulation = [{ operator = 'habitus', levels = [2] }]", ["more", "load"],
         ["'more' of the family 'annotation' changes protocol and population; change protocol alone"]),
        ("dataset = 'other'\nprotocol = { margin_mm = 1.0 }", ["more", "load"], ["'more' has other patients"]),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, more, cells, words):
    target = f'\n[[target]]\nname = "more"\nfamily = "annotation"\n{more}\n' if more else ""
    with pytest.raises(SpecError) as error:
        scenario(tmp_path, f"{TINY}{target}\n[factorial]\ncells = {cells}\n")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_two_causes_of_one_family_may_be_crossed(tmp_path):
    more = (
        '\n[[target]]\nname = "bias"\nfamily = "acquisition"\nacquisition = [{ operator = "gain", values = [2.0] }]\n'
    )
    text = f'{TINY}{more}\n[factorial]\ncells = ["noise:5", "bias"]\n'
    joint = scenario(tmp_path, text).targets()[-1]
    assert joint.name == "noise:5+bias" and len(joint.acquisition) == 2
