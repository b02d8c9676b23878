"""`why`: what a key was made of, what became of the task, and how two tasks differ."""

import shutil

import pytest
from kept import SMALL, finished, planned

from shiftbench.errors import OutputError
from shiftbench.keeping import plans
from shiftbench.keeping.why import why
from shiftbench.store import Store


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """(plan, folder) of a finished run."""
    folder = tmp_path_factory.mktemp("why")
    plan = planned(folder, SMALL)
    plans.save(plan, finished(plan, folder / "out"), {})
    return plan, folder / "out"


def fold(plan, method, target):
    """Predict and score task of a method on a target."""
    (unit,) = (u for u in plan.units if (u.row["method"], u.row["target"]) == (method, target))
    return unit.folds[0][:2]


def test_a_task_says_what_it_was_made_of_its_parents_by_label_its_readers_and_what_would_change_it(ran):
    plan, folder = ran
    predict, score = fold(plan, "erm", "noise:3")
    lines = why(folder, predict[:20])
    text = "\n".join(lines)
    assert lines[0] == f"{predict}: erm on noise:3" and lines[1].startswith("in the store, made by shiftbench ")
    assert "  state    training unet_bn on site-a (seed 0)  train/" in text
    assert "  test     images of noise:3 (test 1)  images/" in text and '  method   ["erm", "1", "dg"' in text
    assert "read by 1 score" in lines and f"  scoring erm on noise:3  {score[:18]}" in text
    for name in plan.tasks[predict].made_of:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 2, name
    assert "  threads  --threads" in lines
    assert "shiftbench/plan/versions.py: raised when" in text


def test_a_task_is_found_by_its_key_alone_and_an_unclear_beginning_lists_what_it_may_be(ran):
    plan, folder = ran
    predict, _ = fold(plan, "erm", "noise:3")
    assert why(folder, predict.split("/")[1][:16]) == why(folder, predict)
    with pytest.raises(OutputError, match=r"tasks begin with 'predict/'; give more of the key: predict/\w{12} \("):
        why(folder, "predict/")
    with pytest.raises(OutputError, match="no task begins with 'zzz'"):
        why(folder, "zzz")
    with pytest.raises(OutputError, match="no plan here"):
        why(folder / "records", "predict")


def test_a_failed_task_says_its_cause_and_attempts_and_others_that_they_are_dropped_or_not_computed(ran, tmp_path):
    plan, folder = ran
    out = tmp_path / "copy"
    shutil.copytree(folder, out)
    store = Store(out)
    broken, score = fold(plan, "pred_bn", "load")
    store.publish_failure("predict", broken.split("/")[1], {"cause": "nor this time", "status": "failed"})
    lines = why(out, broken)
    assert lines[1] == "failed (failed, 2 attempts)" and lines[2] == "  nor this time"
    assert lines[3].endswith(": no such luck")
    assert why(out, score)[1] == "not computed yet"
    predict, _ = fold(plan, "erm", "load")
    store.drop(*predict.split("/"))
    assert why(out, predict)[1].endswith("; its arrays were dropped, the record is kept")


def test_two_tasks_differ_down_to_the_value_that_a_scenario_gives(ran):
    plan, folder = ran
    one, other = (fold(plan, "erm", target)[1] for target in ("noise:3", "noise:5"))
    lines = why(folder, one, other)
    assert lines[2] == "differs in" and lines[1].endswith(": scoring erm on noise:5")
    assert [line.strip().split(":")[0] for line in lines[3:]] == ["prediction", "test.0", "steps.0.value"]
    assert "15.0 -> 6.0   (the `acquisition` of the scenario's [[target]]" in lines[-1]
    assert why(folder, one, one)[-1] == "they are the same task: nothing differs"
    assert why(folder, one, fold(plan, "erm", "load")[0])[-1] == "they are tasks of two kinds, score and predict"


def test_against_another_folder_the_task_of_the_same_name_is_compared(ran, tmp_path):
    plan, folder = ran
    other = planned(tmp_path, SMALL.replace("tolerance_mm = 8.0", "tolerance_mm = 9.0", 1), seeds=(3, 0))
    plans.save(other, Store(tmp_path / "out"), {})
    predict, score = fold(plan, "erm", "load")
    assert why(folder, predict, str(tmp_path / "out"))[-1] == "they are the same task: nothing differs"
    lines = why(folder, score, str(tmp_path / "out"))
    assert lines[3:] == [
        "  structures.0.1: 8.0 -> 9.0   (the scenario's tables [structures.NAME], in their order: names, "
        "tolerances and forms)"
    ]
    elsewhere = planned(tmp_path, SMALL.replace('"load"', '"lesions"').replace("levels = [4]", "levels = [3]"))
    plans.save(elsewhere, Store(tmp_path / "elsewhere"), {})
    with pytest.raises(OutputError, match="no task 'scoring erm on load' here"):
        why(folder, score, str(tmp_path / "elsewhere"))
