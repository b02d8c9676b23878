"""The result folder: whole or absent, never half; failures are no results."""

import errno
import json
import os

import numpy as np
import pytest

from shiftbench.errors import OutputError
from shiftbench.store import Store, write_json
from shiftbench.worker.perform import Context, attempt


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


def test_a_published_record_comes_back_with_its_arrays(store):
    with store.workspace() as folder:
        np.save(folder / "a.npy", np.arange(3))
        store.publish("images", "k", {"n": 3}, folder)
    assert store.done("images", "k") and store.record("images", "k") == {"n": 3}
    assert np.load(store.artifact("images", "k") / "a.npy").tolist() == [0, 1, 2]


def test_an_artefact_without_a_record_does_not_count(store):
    left = store.root / "artifacts" / "images" / "k" / "k.01234567"
    left.mkdir(parents=True)
    (left / "half.npy").write_bytes(b"half")
    assert not store.done("images", "k") and not store.artifact("images", "k").exists()
    with store.workspace() as folder:
        (folder / "whole.npy").write_bytes(b"whole")
        store.publish("images", "k", {}, folder)
    assert [p.name for p in store.artifact("images", "k").iterdir()] == ["whole.npy"]


def test_a_result_is_never_overwritten(store):
    store.publish("train", "k", {"value": 1})
    store.publish("train", "k", {"value": 2})
    assert store.record("train", "k") == {"value": 1}


def test_a_failure_is_not_a_result_and_goes_when_the_task_succeeds(store):
    store.publish_failure("predict", "k", {"cause": "no"})
    assert not store.done("predict", "k") and store.failure("predict", "k")["cause"] == "no"
    store.publish("predict", "k", {})
    assert store.failure("predict", "k") is None


def test_a_workspace_that_nobody_published_is_removed(store):
    with pytest.raises(RuntimeError), store.workspace() as folder:
        (folder / "x").write_bytes(b"x")
        raise RuntimeError
    assert not folder.exists()


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1} and os.listdir(tmp_path) == ["r.json"]


def test_a_folder_of_another_scenario_version_is_refused_and_kept(store):
    store.open_for({"a": "1:abc"})
    before = (store.root / "meta.json").read_bytes()
    with pytest.raises(
        OutputError, match="scenario 'a' in version 1, this is version 2; give another folder with --out"
    ):
        store.open_for({"a": "2:def"})
    with pytest.raises(OutputError, match="another text of version 1"):
        store.open_for({"a": "1:def"})
    assert (store.root / "meta.json").read_bytes() == before


def test_a_second_scenario_may_join_a_folder(store):
    store.open_for({"a": "1:abc"})
    store.open_for({"b": "1:abc"})
    with pytest.raises(OutputError):
        store.open_for({"a": "3:abc", "b": "1:abc"})


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match="not a ShiftBench result folder"):
        Store(tmp_path).open_for({"a": "1:abc"})
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_a_path_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(OutputError, match="the path is a file"):
        Store(tmp_path / "f").open_for({"a": "1:abc"})


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")])
def test_a_full_or_read_only_disk_is_one_sentence(store, monkeypatch, code, words):
    store.open_for({"a": "1:abc"})

    def refuse(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OutputError, match=words):
        store.publish("train", "k", {})
    assert not store.done("train", "k")


def test_a_damaged_record_names_the_file(store):
    store.publish("train", "k", {"a": 1})
    store.record_path("train", "k").write_text('{"a": ')
    with pytest.raises(OutputError, match=r"k\.json: the record is damaged; run `shiftbench verify DIR --repair`"):
        store.record("train", "k")


def test_a_worker_tells_a_full_disk_from_a_failed_task(store):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrapped(*_):
        raise RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)")

    def broken(*_):
        raise RuntimeError("no such luck")

    for handler in (full, wrapped):
        answer = attempt(handler, Context(store), "k", {})
        assert answer["fatal"] and answer["cause"].startswith("the disk is full; free some space")
    answer = attempt(broken, Context(store), "k", {})
    assert not answer["fatal"] and answer["cause"] == "RuntimeError: no such luck" and "broken" in answer["trace"]
