"""Records: sealed, published once by however many processes, damage seen; what is dropped and what is kept."""

import errno
import hashlib
import json
import os
import pickle
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from shiftbench.errors import DataError, OutputError
from shiftbench.store import FORMAT, Store, files
from shiftbench.store import store as module
from shiftbench.store.owners import token
from shiftbench.train import Checkpoint


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.open_for({"a": "1:abc"})
    return made


def put(store, key="k1", kind="predict", body=None, value=1):
    with store.workspace() as folder:
        (folder / "sub").mkdir()
        np.save(folder / "sub" / "a.npy", np.full(50, value))
        store.publish(kind, key, body if body is not None else {"n": value}, folder)


def artefacts(store):
    return sorted(p.name for p in (store.root / "artifacts").glob("*/*/*"))


def test_an_envelope_tells_who_made_it_and_the_hashes_of_its_arrays(store):
    put(store)
    envelope = store.envelope("predict", "k1")
    raw = (store.artifact("predict", "k1") / "sub" / "a.npy").read_bytes()
    assert envelope["files"] == {"sub/a.npy": [hashlib.sha256(raw).hexdigest(), len(raw)]}
    assert (envelope["format"], envelope["kind"], envelope["key"], envelope["body"]) == (
        FORMAT,
        "predict",
        "k1",
        {"n": 1},
    )
    assert set(envelope["by"]) == {"host", "pid", "shiftbench", "at"} and envelope["by"]["pid"] == os.getpid()
    assert store.artifact("predict", "k1").name == envelope["artifact"]
    rest = {name: value for name, value in envelope.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    assert envelope["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_every_flipped_byte_of_a_record_is_seen_by_a_fresh_store(store):
    store.publish("train", "k1", {"text": "value", "x": 1.5})
    path = store.record_path("train", "k1")
    raw = path.read_bytes()
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        with pytest.raises(OutputError, match=r"damaged; run `shiftbench verify DIR --repair`|is that of"):
            Store(store.root).record("train", "k1")
    path.write_bytes(raw)
    assert Store(store.root).record("train", "k1") == {"text": "value", "x": 1.5}


@pytest.mark.parametrize("length", [0, 1, 40, -1])
def test_a_truncated_record_is_damaged_whatever_is_left_of_it(store, length):
    store.publish("train", "k1", {"a": 1})
    path = store.record_path("train", "k1")
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(OutputError, match="the record is damaged"):
        store.envelope("train", "k1")


def test_the_record_of_another_task_is_refused(store):
    store.publish("train", "k1", {"a": 1})
    store.record_path("train", "k2").parent.mkdir()
    store.record_path("train", "k2").write_bytes(store.record_path("train", "k1").read_bytes())
    with pytest.raises(OutputError, match="the record is that of train/k1"):
        store.record("train", "k2")


def test_what_is_no_json_value_is_refused_and_nothing_is_left(store):
    with pytest.raises(ValueError):
        put(store, body={"loss": float("nan")})
    assert not store.done("predict", "k1") and artefacts(store) == [] and list((store.root / "tmp").iterdir()) == []


def test_finished_lists_a_kind_and_done_says_it_of_one_task(store):
    keys = {f"{i:02x}{i}" for i in range(40)}
    for key in keys:
        store.publish("score", key, {})
    store.publish("card", "other", {})
    (store.record_path("score", "000").parent / ".hidden.json").write_text("{}")
    assert store.finished("score") == keys and store.finished("nothing") == set()
    assert store.done("score", "000") and not store.done("score", "other")


def test_arrays_that_are_dropped_leave_the_record_and_come_back_only_if_they_are_the_same(store):
    put(store)
    store.publish("predict", "bare", {})
    store.drop("predict", "k1")
    store.drop("predict", "bare")
    assert store.done("predict", "k1") and store.dropped("predict", "k1") and not store.present("predict", "k1")
    assert store.present("predict", "bare") and not store.dropped("predict", "bare")
    assert not store.artifact("predict", "k1").exists() and store.record("predict", "k1") == {"n": 1}
    with pytest.raises(DataError, match=r"predict/k1 were dropped, and computing them again gave others"):
        put(store, value=2)
    put(store, body={"n": 1, "seconds": 9})
    assert store.present("predict", "k1") and np.load(store.artifact("predict", "k1") / "sub" / "a.npy")[0] == 1
    assert store.record("predict", "k1") == {"n": 1}


def test_an_attempt_that_failed_in_part_keeps_its_arrays_until_the_next(store):
    assert not store.artifact("predict", "k1").exists()
    for value in (b"first", b"second"):
        with store.workspace() as folder:
            (folder / "case.npz").write_bytes(value)
            store.publish_partial("predict", "k1", folder)
        store.publish_failure("predict", "k1", {"cause": f"no {value!r}", "reason": "exception"})
    assert not store.done("predict", "k1") and (store.artifact("predict", "k1") / "case.npz").read_bytes() == b"second"
    failure = store.failure("predict", "k1")
    assert [attempt["cause"] for attempt in failure["attempts"]] == ["no b'first'", "no b'second'"]
    assert set(failure["attempts"][0]) == {"at", "host", "cause", "reason"}
    put(store)
    assert list((store.root / "failures").rglob("k1.*")) == [] and store.failure("predict", "k1") is None
    assert list((store.root / "tmp").iterdir()) == []


def test_a_failure_after_the_result_is_no_failure(store):
    put(store)
    store.publish_failure("predict", "k1", {"cause": "late"})
    with store.workspace() as folder:
        store.publish_partial("predict", "k1", folder)
    assert store.failure("predict", "k1") is None and np.load(store.artifact("predict", "k1") / "sub" / "a.npy")[0] == 1


def test_a_checkpoint_goes_when_the_result_is_there(store):
    kept = store.unfinished("train", "k1")
    kept.mkdir(parents=True)
    (kept / "state").write_bytes(b"x")
    store.publish("train", "k1", {})
    assert not kept.exists()


def test_a_link_in_a_workspace_is_refused(store):
    with pytest.raises(OutputError, match="this is a link"), store.workspace() as folder:
        (folder / "a").symlink_to("/etc/hostname")
        store.publish("predict", "k1", {}, folder)
    assert not store.done("predict", "k1")


def test_the_second_of_two_publications_takes_its_own_arrays_away(store, monkeypatch):
    late = Store(store.root)
    monkeypatch.setattr(late, "done", lambda kind, key: False)  # it looked before the first one was there
    put(store, value=1)
    put(late, value=2)
    assert artefacts(store) == [store.artifact("predict", "k1").name] and store.record("predict", "k1") == {"n": 1}


def test_without_hard_links_a_record_is_still_published_once_and_whole(store, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    put(store, value=1)
    late = Store(store.root)
    monkeypatch.setattr(late, "done", lambda kind, key: False)
    put(late, value=2)
    assert store.record("predict", "k1") == {"n": 1} and len(artefacts(store)) == 1
    assert [p.name for p in store.record_path("predict", "k1").parent.iterdir()] == ["k1.json"]


def test_memory_of_records_that_were_read_is_bounded(store, monkeypatch):
    monkeypatch.setattr(module, "CACHED_BYTES", 5000)
    for i in range(20):
        store.publish("score", f"k{i}", {"text": "x" * 1000})
        assert len(store.record("score", f"k{i}")["text"]) == 1000
    assert 0 < len(store._read) <= 4 and store._bytes <= 5000
    assert pickle.loads(pickle.dumps(store)).root == store.root


PUBLISH = """
import sys, time
from pathlib import Path
import numpy as np
from shiftbench.store import Store, files
root, me, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = Store(root)
(root / f"ready{me}").touch()
while not (root / "go").exists():
    time.sleep(0.001)
for i in range(count):
    until = root / "turn" / str(i)
    while not until.exists():  # both begin with the same key at the same moment
        pass
    with store.workspace() as folder:
        np.save(folder / "a.npy", np.full(2000, me))
        np.save(folder / "b.npy", np.full(2000, me))
        store.publish("predict", f"k{i}", {"me": me}, folder)
    (root / "turn" / f"{i}.{me}").touch()
"""


def test_two_processes_that_publish_the_same_tasks_at_the_same_moment_leave_one_whole_result_each(tmp_path):
    count, root = 40, tmp_path
    (root / "turn").mkdir()
    command = [sys.executable, "-c", PUBLISH, str(root)]
    both = [subprocess.Popen([*command, str(me), str(count)]) for me in (1, 2)]
    while not all((root / f"ready{me}").exists() for me in (1, 2)):
        assert all(process.poll() is None for process in both)
    (root / "go").touch()
    for i in range(count):
        (root / "turn" / str(i)).touch()
        while not all((root / "turn" / f"{i}.{me}").exists() for me in (1, 2)):
            assert all(process.poll() in (None, 0) for process in both)
    assert [process.wait() for process in both] == [0, 0]
    store = Store(root)
    winners = []
    for i in range(count):
        winners.append(store.record("predict", f"k{i}")["me"])
        for name in ("a", "b"):
            assert (np.load(store.artifact("predict", f"k{i}") / f"{name}.npy") == winners[-1]).all()
    assert len(artefacts(store)) == count and list((root / "tmp").iterdir()) == []
    assert len(list((root / "records").rglob("*"))) == 1 + len({f"k{i}"[:2] for i in range(count)}) + count


OPEN = """
import sys
import threading
import warnings
from pathlib import Path
from shiftbench.store import Store, files
while not (Path(sys.argv[1]) / "go").exists():
    pass
for i in range(30):
    Store(Path(sys.argv[1]) / f"out{i}").open_for({sys.argv[2]: "1:abc"})
"""


def test_runs_that_open_a_new_folder_at_once_are_all_in_its_meta(tmp_path):
    both = [subprocess.Popen([sys.executable, "-c", OPEN, str(tmp_path), name]) for name in ("a", "b")]
    (tmp_path / "go").touch()
    assert [process.wait() for process in both] == [0, 0]
    for i in range(30):
        assert sorted(p.name for p in (tmp_path / f"out{i}").iterdir()) == ["meta.json"]
        assert set(json.loads((tmp_path / f"out{i}" / "meta.json").read_text())["scenarios"]) == {"a", "b"}


def test_a_folder_of_the_first_format_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "meta.json").write_text('{"format":1,"scenarios":{}}')
    words = "result folder of format 1, this version writes format 2; give another folder with --out."
    with pytest.raises(OutputError) as raised:
        Store(tmp_path).open_for({"a": "1:abc"})
    assert str(raised.value) == f"{tmp_path}: {words}"


def test_a_lock_whose_maker_is_gone_holds_nobody_up(store, dead, monkeypatch):
    monkeypatch.setattr(files, "LOCK_SECONDS", 1e9)
    monkeypatch.setattr(files.time, "sleep", lambda _: pytest.fail("it waits for a process that is gone"))
    (store.root / ".meta.lock").write_text(dead)
    store.open_for({"b": "1:abc"})
    assert not (store.root / ".meta.lock").exists()


def test_a_run_that_waits_to_open_a_new_folder_does_not_make_it_somebody_elses(tmp_path):
    (tmp_path / f".clock.{token()}").touch()
    Store(tmp_path).open_for({"a": "1:abc"})
    assert (tmp_path / "meta.json").is_file()


def test_a_lock_that_was_broken_and_made_again_meanwhile_is_put_back(store, dead, monkeypatch):
    lock, real, renamed = store.root / ".meta.lock", os.rename, []
    lock.write_text(dead)

    def rename(old, new):
        if not renamed:
            lock.write_text("of a faster process")
        renamed.append(new)
        real(old, new)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", rename)
        assert not files._broken(lock)
    assert lock.read_text() == "of a faster process" and len(renamed) == 2


def test_a_lock_that_nobody_owns_is_broken_by_its_age(store):
    lock = store.root / ".meta.lock"
    lock.touch()  # its maker was killed before it could write its name
    os.utime(lock, (1, 1))
    store.open_for({"b": "1:abc"})
    assert sorted(p.name for p in store.root.iterdir()) == ["meta.json"]


def test_arrays_do_not_stay_behind_when_the_record_cannot_be_written(store, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched, pytest.raises(OutputError, match="the disk is full"):
        patched.setattr(os, "link", full)
        put(store)
    assert artefacts(store) == [] and not store.done("predict", "k1")


def test_arrays_stay_where_the_link_was_made_and_the_answer_was_lost(store, monkeypatch):
    real = os.link

    def lost(*names):
        real(*names)
        raise OSError(errno.EIO, "no answer")

    with monkeypatch.context() as patched, pytest.raises(OSError):
        patched.setattr(os, "link", lost)
        put(store)
    assert store.done("predict", "k1") and np.load(store.artifact("predict", "k1") / "sub" / "a.npy")[0] == 1


def test_two_writers_of_one_checkpoint_never_mix_their_states(store):
    folder = store.unfinished("train", "k1")

    def write(who):
        kept = Checkpoint(folder, identity="k1")
        for step in range(20):
            kept.write({"w": torch.full((100,), float(who))}, {"training": {}, "who": who, "step": step})

    threads = [threading.Thread(target=write, args=(who,)) for who in (1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a state could not be kept, which costs no more than that
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = Checkpoint(folder, identity="k1").read({})
    assert found is None or (found[0]["w"] == found[1]["who"]).all()
    Checkpoint(folder, identity="k1").write({"w": torch.ones(1)}, {"training": {}})
    assert Checkpoint(folder, identity="k1").read({}) is not None


@pytest.fixture
def dead():
    """A token of a process of this machine that was killed."""
    code = "from shiftbench.store.owners import token; print(token(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        name = process.stdout.readline().strip()
        process.kill()
    return name
