"""Claims: one run per task, free again when it ends or dies, whatever the clocks say."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest

from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.store import claims as module
from shiftbench.store.claims import Claims, living
from shiftbench.store.owners import clock, me
from shiftbench.store.upkeep import gc

HOLD = """
import sys, time
from pathlib import Path
from shiftbench.store import Store
from shiftbench.store.claims import Claims
with Claims(Store(Path(sys.argv[1])), beat_seconds=0.05) as claims:
    assert claims.take("train/k1") and claims.take("train/k2")
    print(claims.run, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "out")
    made.open_for({"a": "1:abc"})
    return made


@pytest.fixture
def other(store):
    """(process, id of its run) that holds train/k1 and train/k2."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(store.root)], stdout=-1, text=True) as process:
        yield process, process.stdout.readline().strip()
        process.kill()


def claimed(store):
    return sorted(p.name for p in (store.root / "claims").rglob("*") if p.is_file())


def test_a_task_is_taken_by_one_run_and_free_when_that_releases_it(store):
    with Claims(store) as one, Claims(store) as two:
        assert one.take("train/k1") and one.take("train/k1") and not two.take("train/k1")
        assert two.holder("train/k1") == one.run and two.holder("train/k2") is None
        two.release("train/k1")  # not its own
        assert not two.take("train/k1")
        one.release("train/k1")
        assert two.take("train/k1") and two.holder("train/k1") == two.run


def test_a_run_that_ends_releases_everything(store):
    with Claims(store) as claims:
        assert claims.take("train/k1") and claims.take("score/k2") and len(living(store.root, clock(store.root))) == 1
    assert claimed(store) == [] and list((store.root / "runs").iterdir()) == []


def test_a_claim_of_a_living_run_is_not_taken_over_and_one_of_a_killed_run_is(store, other):
    process, run = other
    with Claims(store, beat_seconds=0.05, stale_seconds=1.0) as claims:
        assert not claims.take("train/k1") and claims.holder("train/k1") == run
        process.kill()
        process.wait()
        assert claims.take("train/k1") and claims.holder("train/k1") == claims.run
    assert claimed(store) == ["k2"]
    assert {removed.path.name for removed in gc(store)} == {"k2", f"{run}.beat"}
    assert claimed(store) == []


def test_of_many_runs_that_find_a_stale_claim_at_once_one_gets_it(store, other):
    process, _ = other
    process.kill()
    process.wait()
    for task in ("train/k1", "train/k2"):
        runs = [Claims(store) for _ in range(8)]
        barrier, won = threading.Barrier(8), []

        def race(claims, task=task, barrier=barrier, won=won):
            barrier.wait()
            if claims.take(task):
                won.append(claims.run)

        threads = [threading.Thread(target=race, args=(claims,)) for claims in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1 and runs[0].holder(task) == won[0]
        for claims in runs:
            claims.close()
    assert claimed(store) == []


def elsewhere(store, task, age):
    """A claim of a run of another machine, whose heart beat last so many seconds ago."""
    run = f"elsewhere-01234567+{me().pid}+{me().start}+{'0' * 16}"
    path, beat = store.root / "claims" / task, store.root / "runs" / f"{run}.beat"
    for file in (path, beat):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(run)
        os.utime(file, (clock(store.root) - age,) * 2)
    return path, beat


def test_a_run_of_another_machine_holds_its_claim_as_long_as_its_heart_beats(store):
    elsewhere(store, "train/k1", 30)
    with Claims(store, beat_seconds=0.02) as claims:
        for _ in range(5):
            assert not claims.take("train/k1")
            time.sleep(0.02)


def test_a_heart_that_stands_still_is_watched_before_it_is_believed(store, monkeypatch):
    seconds = [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: seconds[0]))
    _, beat = elsewhere(store, "train/k1", 3600)
    with Claims(store) as claims:
        assert not claims.take("train/k1")  # the clock may have jumped by an hour
        seconds[0] += 5
        assert not claims.take("train/k1")
        seconds[0] += 6
        os.utime(beat, (clock(store.root) - 3000,) * 2)  # it beats, and is dated by a clock that jumped
        assert not claims.take("train/k1")
        seconds[0] += 11
        assert claims.take("train/k1")


def test_a_run_that_was_overtaken_while_it_waited_for_the_lock_does_not_get_the_claim(store, other, monkeypatch):
    process, _ = other
    process.kill()
    process.wait()
    path = store.root / "claims" / "train" / "k1"

    @contextlib.contextmanager
    def locked(lock):
        path.write_text("a run that was faster")
        yield

    monkeypatch.setattr(module, "locked", locked)
    with Claims(store) as claims:
        assert not claims.take("train/k1") and claims.holder("train/k1") == "a run that was faster"


def test_the_heart_beats_by_the_clock_of_the_file_system(store, monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with Claims(store, beat_seconds=0.02) as claims:
        claims.take("train/k1")
        os.utime(claims.beat, (1, 1))
        deadline = time.monotonic() + 30
        while claims.beat.stat().st_mtime == 1:
            assert time.monotonic() < deadline
        assert claims.run in living(store.root, clock(store.root))


def test_a_claim_that_was_taken_over_is_not_released_by_the_run_that_lost_it(store):
    with Claims(store) as one:
        assert one.take("train/k1")
        (store.root / "claims" / "train" / "k1").write_text("another run")
        one.release("train/k1")
        assert one.holder("train/k1") == "another run"


def test_threads_of_one_run_share_its_claims(store):
    with Claims(store) as claims, Claims(store) as rival:
        taken = {0: [], 1: []}

        def work(who, which):
            for i in range(200):
                if which.take(f"score/k{i}"):
                    taken[who].append(i)

        threads = [threading.Thread(target=work, args=(w, c)) for w, c in ((0, claims), (0, claims), (1, rival))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(taken[0]) | set(taken[1]) == set(range(200)) and not set(taken[0]) & set(taken[1])


def test_with_a_run_going_on_gc_keeps_its_claims_and_what_its_plan_may_need(store, other):
    gc(store)
    assert claimed(store) == ["k1", "k2"]
    with pytest.raises(OutputError, match="a run is going on"):
        gc(store, keep=set())
