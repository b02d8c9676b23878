"""Plans on disk: the same plan comes back, whatever is in it, and nothing that is damaged is taken for one."""

import gzip
import json
import os
import tracemalloc

import pytest
from kept import METHODS, card, planned

from scenarios import TINY
from shiftbench import plan as planning
from shiftbench.errors import OutputError
from shiftbench.graph import Options
from shiftbench.keeping import plans
from shiftbench.runner.request import whole_severities
from shiftbench.spec import load_scenario, unsealed
from shiftbench.store import Store
from shiftbench.types import Track

REQUEST = {"scenarios": ["tiny"], "methods": ["erm"], "options": {"seeds": None}}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def same(one, other):
    return (one.tasks, one.units, one.streams, one.cards) == (other.tasks, other.units, other.streams, other.cards)


def path_of(store, digest):
    return store.root / "plans" / f"{digest}.json.gz"


def test_a_plan_that_is_read_equals_the_one_that_was_saved(tmp_path, store):
    plan = planned(tmp_path, methods=(*METHODS, card("lists", Track.TTA, sizes=[1, 2], names={"a": (1.5, None)})))
    again = plans.load(store, plans.save(plan, store, REQUEST))
    assert same(again, plan) and again == plan and again.digest() == plan.digest()
    assert [type(task.needs) for task in again.tasks.values()] == [tuple] * len(plan.tasks)
    assert list(again.tasks) == list(plan.tasks)
    unit = again.units[0]
    assert unit.scenario == plan.units[0].scenario and unit.method == plan.units[0].method
    assert unit.folds[0][2].where() == plan.units[0].folds[0][2].where()


@pytest.mark.parametrize("name", ["abdomen-streams", "abdomen-controls", "abdomen-calibration", "abdomen-sealed"])
def test_streams_controls_probabilities_and_sealed_levels_come_back(store, name):
    scenario = unsealed(load_scenario(name), "a salt of the organiser", whole=whole_severities)
    methods = (card(), card("sure", Track.ESTIMATE), card("few", Track.FEWSHOT, k=500))
    plan = planning.plan([scenario], methods, Options(seeds=(0,)), "s")
    again = plans.load(store, plans.save(plan, store, {}))
    assert same(again, plan)
    if name == "abdomen-sealed":
        assert again.units[0].scenario.sealed
        assert "a salt of the organiser" not in gzip.open(path_of(store, plans.known(store)[0]), "rt").read()


def test_what_tasks_share_is_written_once_and_read_as_one_object(tmp_path, store):
    plan = planned(tmp_path, seeds=(0, 1, 2))
    digest = plans.save(plan, store, REQUEST)
    text = gzip.open(path_of(store, digest), "rt").read()
    assert text.count('"foreground_share":0.5') == 1 and text.count(next(iter(plan.tasks.values())).key) == 1
    assert len(json.loads(text)) > len(plan.tasks)
    again = plans.load(store, digest)
    assert len({id(t.payload["recipe"]) for t in again.tasks.values() if t.kind == "predict"}) == 1


def test_equal_plans_are_equal_bytes_under_one_name_and_the_request_is_that_of_the_first(tmp_path, store):
    other = Store(tmp_path / "other")
    digest = plans.save(planned(tmp_path), store, REQUEST)
    assert plans.save(planned(tmp_path), other, REQUEST) == digest and len(digest) == 16
    assert path_of(store, digest).read_bytes() == path_of(other, digest).read_bytes()
    plans.save(planned(tmp_path), store, {"scenarios": []})
    assert plans.known(store) == [digest] and plans.request_of(store, digest) == REQUEST


def test_the_latest_plan_is_the_one_that_was_run_last(tmp_path, store):
    first, second = planned(tmp_path), planned(tmp_path, seeds=(1,))
    one, two = plans.save(first, store, REQUEST), plans.save(second, store, REQUEST)
    os.utime(path_of(store, one), ns=(1, 1))
    assert plans.known(store) == [two, one] and plans.latest(store) == second
    os.utime(path_of(store, two), ns=(2, 2))
    plans.save(first, store, REQUEST)
    assert plans.known(store) == [one, two] and plans.latest(store) == first
    assert plans.load(store, two[:6]) == second


def test_an_absent_ambiguous_or_damaged_plan_is_one_sentence(tmp_path, store):
    with pytest.raises(OutputError, match="no plan here; give a folder that `shiftbench run` wrote"):
        plans.latest(store)
    digest = plans.save(planned(tmp_path), store, REQUEST)
    plans.save(planned(tmp_path, seeds=(1,)), store, REQUEST)
    with pytest.raises(OutputError, match="no plan 'xyz' here"):
        plans.load(store, "xyz")
    with pytest.raises(OutputError, match="several plans begin with ''"):
        plans.load(store, "")
    whole = path_of(store, digest).read_bytes()
    flipped = whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :]
    for damaged in (whole[:-20], whole[: len(whole) // 2], flipped, b"", gzip.compress(b'[{"format":9}]\n')):
        path_of(store, digest).write_bytes(damaged)
        with pytest.raises(OutputError, match="the plan is damaged; delete this file and run again"):
            plans.load(store, digest)


def test_nothing_half_written_is_left_by_a_plan_that_cannot_be_kept(tmp_path, store, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="the plan cannot be kept: No space left on device"):
        plans.save(planned(tmp_path), store, REQUEST)
    assert plans.known(store) == [] and list((store.root / "plans").iterdir()) == []


def test_writing_a_plan_holds_a_small_part_of_it_in_memory(tmp_path, store):
    many = [card(f"m{i}", Track.TTA, lr=i) for i in range(30)]
    plan = planned(tmp_path, TINY, many, seeds=tuple(range(4)))
    tracemalloc.start()
    plans.save(plan, store, REQUEST)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(plan.tasks) > 1000 and peak < 1000 * len(plan.tasks), "a task takes 1500 bytes, and its text as many"
