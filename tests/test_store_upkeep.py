"""Damage is found and put aside, never thrown away; what nobody needs is removed, and nothing else."""

import os
import shutil

import numpy as np
import pytest

from shiftbench.errors import OutputError
from shiftbench.store import Store, write_json
from shiftbench.store.owners import clock
from shiftbench.store.upkeep import gc
from shiftbench.store.verify import verify


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.open_for({"a": "1:abc"})
    for key in ("k1", "k2"):
        put(made, key)
    made.publish("score", "k1", {"rows": []})
    return made


def put(store, key, value=1):
    with store.workspace() as folder:
        np.save(folder / "a.npy", np.full(50, value))
        np.save(folder / "b.npy", np.full(50, value))
        store.publish("predict", key, {"n": value}, folder)


def array(store, key="k1", name="a.npy"):
    return store.artifact("predict", key) / name


def flip(path, at=-5):
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(bytes(raw))


def files(store):
    """Contents by path of everything but meta.json."""
    found = {p.relative_to(store.root).as_posix(): p for p in store.root.rglob("*") if p.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "meta.json"}


DAMAGES = {
    "a flipped bit of a record": lambda s: flip(s.record_path("predict", "k1"), 30),
    "a truncated record": lambda s: os.truncate(s.record_path("predict", "k1"), 50),
    "an empty record": lambda s: os.truncate(s.record_path("predict", "k1"), 0),
    "a record of another task": lambda s: shutil.copy(s.record_path("predict", "k2"), s.record_path("predict", "k1")),
    "a flipped bit of an array": lambda s: flip(array(s)),
    "a truncated array": lambda s: os.truncate(array(s), 100),
    "a missing array": lambda s: array(s, name="b.npy").unlink(),
    "missing arrays": lambda s: shutil.rmtree(s.artifact("predict", "k1")),
    "another array": lambda s: (s.artifact("predict", "k1") / "c.npy").write_bytes(b"c"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_every_damage_is_found_and_repaired_by_computing_again(store, name):
    assert verify(store) == [] == verify(store, repair=True)
    DAMAGES[name](store)
    damaged = files(store)
    found = [damage for damage in verify(store) if damage.lost]
    assert [damage.task for damage in found] == ["predict/k1"] and files(store) == damaged
    repaired = [damage for damage in verify(store, repair=True) if damage.lost]
    assert [(d.path, d.problem) for d in repaired] == [(d.path, d.problem) for d in found]
    assert sorted(files(store).values()) == sorted(damaged.values())  # moved, and nothing lost
    assert repaired[0].moved.parts[:2] == ("quarantine", "predict")
    assert verify(store) == [] and not store.done("predict", "k1") and store.done("predict", "k2")
    put(store, "k1", value=3)
    assert store.record("predict", "k1") == {"n": 3} and verify(store) == []


def test_a_task_that_is_damaged_twice_is_put_aside_twice(store):
    for _ in range(2):
        flip(array(store))
        verify(store, repair=True)
        put(store, "k1")
    assert len(list((store.root / "quarantine" / "predict").iterdir())) == 2
    assert gc(store) == [] and (store.root / "quarantine").exists()
    assert [removed.path.name for removed in gc(store, quarantine=True)] == ["quarantine"]
    assert not (store.root / "quarantine").exists() and verify(store) == []


def test_a_stray_copy_of_a_record_does_not_take_the_arrays_of_the_real_one_away(store):
    stray = store.root / "records" / "predict" / "zz" / "k1.json"
    stray.parent.mkdir()
    shutil.copy(store.record_path("predict", "k1"), stray)
    (damage,) = verify(store, repair=True)
    assert damage.problem == "the record lies in another record's place" and not stray.exists()
    assert verify(store) == [] and array(store).is_file()


def test_a_failure_that_cannot_be_read_is_put_aside(store):
    store.publish_failure("predict", "k9", {"cause": "no"})
    os.truncate(store.failure_path("predict", "k9"), 5)
    assert [(d.task, d.lost) for d in verify(store, repair=True)] == [("predict/k9", False)]
    assert store.failure("predict", "k9") is None and verify(store) == []


def test_dropped_arrays_are_no_damage(store):
    store.drop("predict", "k1")
    assert verify(store) == [] and gc(store) == [] and store.dropped("predict", "k1")


def orphan(store, age):
    path = store.root / "artifacts" / "predict" / "k7" / "k7.0123abcd"
    path.mkdir(parents=True)
    (path / "a.npy").write_bytes(b"x" * 10)
    return path


def test_arrays_that_no_record_names_are_reported_and_removed_when_they_are_old(store):
    path = orphan(store, 0)
    (damage,) = verify(store, repair=True)
    assert not damage.lost and store.root / damage.path == path and "no record names" in damage.problem
    assert gc(store) == [] and path.exists()
    assert [(r.path, r.bytes) for r in gc(store, dry_run=True, grace_seconds=-1)] == [(damage.path, 10)]
    assert path.exists()
    gc(store, grace_seconds=-1)
    assert not path.exists() and array(store).is_file()


def test_the_arrays_of_a_damaged_record_are_no_orphans(store):
    os.truncate(store.record_path("predict", "k1"), 50)
    before = files(store)
    assert gc(store, grace_seconds=-1) == [] and files(store) == before


def test_what_is_kept_of_attempts_goes_with_the_result(store, monkeypatch):
    store.publish_failure("train", "k5", {"cause": "no"})
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_forget_attempts", lambda *_: None)  # the process was killed just there
        for key in ("k3", "k4"):
            store.publish_failure("predict", key, {"cause": "no"})
            store.unfinished("predict", key).mkdir(parents=True)
            (store.unfinished("predict", key) / "state").write_bytes(b"123")
        store.publish("predict", "k3", {})
    removed = {r.path.as_posix(): r.bytes for r in gc(store)}
    assert set(removed) == {"failures/predict/k3/k3.json", "unfinished/predict/k3"}
    assert removed["unfinished/predict/k3"] == 3
    assert store.failure("predict", "k4") and store.unfinished("predict", "k4").exists()
    assert store.failure("train", "k5") and gc(store) == []


def test_results_of_no_plan_go_only_when_the_plans_are_given(store):
    assert gc(store) == []
    keep = {"predict/k1", "score/k1"}
    removed = gc(store, keep=keep, dry_run=True)
    assert [r.path.as_posix() for r in removed][0] == "records/predict/k2/k2.json" and len(removed) == 2
    gc(store, keep=keep)
    assert store.done("predict", "k1") and not store.done("predict", "k2") and store.done("score", "k1")
    assert verify(store) == [] and len(list((store.root / "artifacts").glob("*/*/*"))) == 1


@pytest.mark.parametrize("command", [verify, gc])
def test_a_folder_that_is_none_of_ours_is_left_alone(tmp_path, command):
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="not a ShiftBench result folder"):
        command(Store(tmp_path))
    write_json(tmp_path / "meta.json", {"format": 1, "scenarios": {}})
    with pytest.raises(OutputError, match="result folder of format 1"):
        command(Store(tmp_path))
    assert (tmp_path / "tmp" / "thesis.tex").exists()


def test_the_clock_of_the_file_system_is_that_of_its_files(tmp_path):
    assert abs(clock(tmp_path) - tmp_path.stat().st_mtime) < 60 and list(tmp_path.iterdir()) == []
