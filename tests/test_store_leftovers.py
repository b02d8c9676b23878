"""What the killed leave is removed, what the living write is not, whatever the clocks say."""

import os
import subprocess
import sys
import time

import pytest

from shiftbench.store import Store, write_json
from shiftbench.store import leftovers as module
from shiftbench.store.owners import Owner, clock, me, owner_of, token
from shiftbench.store.upkeep import gc
from shiftbench.store.verify import verify

WRITER = """
import os, sys, time
from pathlib import Path
from shiftbench.store import Store, write_json
store = Store(Path(sys.argv[1]))
real = {name: getattr(os, name) for name in ("link", "replace")}
def stop(name):
    def wait(*_):
        print(name, flush=True)
        time.sleep(600)
    return wait
what = sys.argv[2]
if what != "working":
    setattr(os, what, stop(what))
with store.workspace() as folder:
    (folder / "a.npy").write_bytes(b"arrays")
    if what == "working":
        stop(what)()
    if what == "replace":
        write_json(store.root / "cards.json", {})
    store.publish("predict", "k1", {"n": 1}, folder)
"""


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.open_for({"a": "1:abc"})
    return made


@pytest.fixture
def writer(store):
    """Starts a process that stands still: with its workspace, before the link of its record, before a replace."""
    started = []

    def start(what):
        command = [sys.executable, "-c", WRITER, str(store.root), what]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert started[-1].stdout.readline().strip() == what
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def left(store):
    """Everything beside records and meta.json, empty folders apart."""
    return sorted(
        p.relative_to(store.root).as_posix()
        for p in store.root.rglob("*")
        if not p.is_dir() and p.name != "meta.json" and "records" not in p.parts
    )


@pytest.mark.parametrize("what", ["working", "link", "replace"])
@pytest.mark.parametrize("clear", [Store.sweep, lambda s: gc(s, grace_seconds=-1)], ids=["sweep", "gc"])
def test_what_a_process_is_writing_is_kept_while_it_lives_and_removed_when_it_is_killed(store, writer, what, clear):
    process = writer(what)
    before = left(store)
    assert before
    clear(store)
    assert left(store) == before and verify(store) == []
    process.kill()
    process.wait()
    clear(store)
    assert left(store) == [] and not (store.root / "tmp").exists()
    store.publish("predict", "k1", {"n": 2})
    assert store.record("predict", "k1") == {"n": 2}


def test_arrays_that_were_in_place_when_the_writer_died_are_removed_with_it(store, writer):
    process = writer("link")
    assert any(path.startswith("artifacts/") for path in left(store))
    process.kill()
    process.wait()
    sizes = {removed.path.parts[0]: removed.bytes for removed in gc(store, dry_run=True)}
    assert sizes["artifacts"] == len(b"arrays") and left(store) != []
    store.sweep()
    assert left(store) == []


def test_a_killed_process_that_nobody_waits_for_is_gone_too(store, writer):
    process = writer("working")
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still in the table of processes
    store.sweep()
    assert left(store) == []


def of_another_machine(store, age):
    path = store.root / "tmp" / token().replace(me().host, "elsewhere-01234567")
    path.mkdir(parents=True)
    (path / "a.npy").write_bytes(b"x")
    for each in (path / "a.npy", path):
        os.utime(each, (clock(store.root) - age,) * 2)
    return path


def test_what_another_machine_left_is_judged_by_its_age(store):
    young, old = of_another_machine(store, 3600), of_another_machine(store, 3 * 24 * 3600)
    store.sweep()
    assert young.exists() and not old.exists()


def test_a_file_that_is_still_written_keeps_an_old_workspace(store):
    path = of_another_machine(store, 3 * 24 * 3600)
    (path / "a.npy").write_bytes(b"y")
    os.utime(path, (0, 0))
    store.sweep()
    assert path.exists()


@pytest.mark.parametrize("jump", [-10 * 365 * 24 * 3600, 10 * 365 * 24 * 3600])
def test_a_clock_that_jumps_removes_nothing_that_lives(store, writer, monkeypatch, jump):
    writer("working")
    young = of_another_machine(store, 3600)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump)
    with store.workspace() as mine:
        for path in (store.root / "tmp").iterdir():
            if path != young:
                os.utime(path, (1, 1))  # dated before anything else: its process lives
        before = left(store)
        store.sweep()
        gc(store)
        assert left(store) == before and mine.exists() and young.exists()


def test_a_number_that_was_given_to_a_new_process_is_not_the_old_process():
    assert me().gone is False
    assert Owner(me().host, me().pid, me().start + 1).gone is (True if sys.platform == "linux" else False)
    assert Owner("elsewhere-01234567", me().pid, me().start).gone is None


def test_a_temporary_name_tells_who_made_it():
    assert owner_of(f".shift_cards.json.{token()}") == me() == owner_of(token())
    assert owner_of(".DS_Store") is None and owner_of("meta.json") is None


def test_sweeping_while_a_workspace_is_made_does_not_hurt(store, monkeypatch):
    made = []
    real = os.mkdir

    def swept_first(path, *rest, **more):
        if "+" in str(path) and not made:
            made.append(path)
            store.sweep()  # takes the empty `tmp/` away between its making and its use
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "mkdir", swept_first)
    with store.workspace() as folder:
        assert folder.is_dir() and made


def test_write_json_leaves_nothing_beside_the_file(store):
    write_json(store.root / "cards.json", {"a": 1})
    assert left(store) == ["cards.json"] and set(module.LARGE) >= {"records", "artifacts", "tmp"}
