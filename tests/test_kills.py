"""Whatever is killed, and whenever: every task is published exactly once, with the same result, and nothing is left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from tiny_tasks import MODULES, layered

import shiftbench
from scenarios import write
from shiftbench.engine.local import LocalEngine
from shiftbench.store import Store
from shiftbench.store.envelope import content
from shiftbench.store.upkeep import gc

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no signals that kill"),
]
HERE = Path(__file__).parent
SIZE = 64
LIVES = {"sleeps": 0.02, "guest": 0.05}  # s, of each task and of the process that it starts
VICTIMS = ("driver", "driver", "worker", "worker", "guest")
UNTIMED = ["seconds", "peak_mb"]

DRIVER = f"""
import json, sys
from pathlib import Path
from shiftbench.engine.local import LocalEngine
from tiny_tasks import MODULES, layered
tasks = layered({SIZE}, Path(sys.argv[2]), **{LIVES})
engine = LocalEngine(Path(sys.argv[1]), jobs=4, threads=1, modules=MODULES)
print("started", flush=True)
for outcome in engine.run(tasks):
    print(json.dumps([outcome.task.id, outcome.ok, outcome.again, outcome.reason]), flush=True)
"""


class Run:
    """A driver process on a folder; all that it starts carries a mark in its environment, or is seen below it."""

    def __init__(self, command, **kwargs):
        self.mark = uuid.uuid4().hex
        path = os.pathsep.join([str(HERE.parent), str(HERE)])
        environment = {**os.environ, "PYTHONPATH": path, "SHIFTBENCH_KILL_TEST": self.mark, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, **kwargs)
        self.seen: dict[int, psutil.Process] = {}

    def below(self, depth=None):
        """Processes that the driver has started: its workers (1), or what these have started (2 and more)."""
        workers = _children(psutil.Process(self.process.pid)) if self.process.poll() is None else []
        deeper = [child for worker in workers for child in _children(worker, recursive=True)]
        self.seen |= {one.pid: one for one in (*workers, *deeper)}
        return {1: workers, 2: deeper, None: [*workers, *deeper]}[depth]

    def kill(self, who, rng):
        """Kills one process of that sort, if there is one at this moment; whether it did."""
        self.below()
        if who == "driver":
            self.process.kill()
            self.process.wait()
            return True
        found = self.below({"worker": 1, "guest": 2}[who])
        if not found:
            return False
        try:
            rng.choice(found).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def orphans(self, patience=3.0):
        """Processes of this run that are still alive that long after its driver is gone."""
        ends, alive = time.monotonic() + patience, [*self.seen.values()]
        alive += [one for one in psutil.process_iter() if _mark(one) == self.mark]
        while (alive := [one for one in alive if _alive(one)]) and time.monotonic() < ends:
            time.sleep(0.02)
        return alive


def _alive(process):
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _children(process, recursive=False):
    try:
        return process.children(recursive=recursive)
    except psutil.NoSuchProcess:
        return []


def _mark(process):
    try:
        return process.environ().get("SHIFTBENCH_KILL_TEST")
    except psutil.Error:
        return None


def drive(out, log):
    return Run([sys.executable, "-c", DRIVER, str(out), str(log)], stdout=subprocess.PIPE, text=True)


def contents(store, tasks):
    """What the records say, without what an attempt cost, and the hashes of the arrays."""
    return {name: content(store.envelope(one.kind, one.key)) for name, one in tasks.items()}


def folder(path):
    """A result folder, as a run opens it."""
    store = Store(path)
    store.open_for({"kills": "1:0"})
    return store


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What every record of the graph says when nobody is killed."""
    store = folder(tmp_path_factory.mktemp("undisturbed") / "out")
    tasks = layered(SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE))
        assert all(o.ok for o in LocalEngine(store.root, jobs=4, threads=1, modules=MODULES).run(tasks))
    return contents(store, tasks)


def assert_whole(store, tasks):
    """Every task has one record and one folder of arrays, and after `gc` there is no other file."""
    gc(store, grace_seconds=0.0)
    for kind in {one.kind for one in tasks.values()}:
        keys = sorted(one.key for one in tasks.values() if one.kind == kind)
        records = sorted(p.stem for p in (store.root / "records" / kind).rglob("*") if p.is_file())
        arrays = sorted(p.name.split(".")[0] for p in (store.root / "artifacts" / kind).glob("*/*"))
        assert records == keys == sorted(store.finished(kind)) and arrays == keys
        assert all(store.artifact(kind, key).is_dir() for key in keys)
    left = [p for p in store.root.rglob("*") if p.is_file() and p.relative_to(store.root).parts[0] not in KEPT]
    assert left == [] and not [p for p in store.root.rglob(".*") if p.is_file()]


KEPT = ("records", "artifacts", "meta.json")


@pytest.mark.parametrize("seed", range(5))
def test_ten_kills_at_random_moments_change_no_result(tmp_path, undisturbed, seed):
    rng, kills, number = random.Random(seed), 0, 0
    while kills < 10:
        number += 1
        out, log = tmp_path / f"out{number}", tmp_path / f"log{number}"
        store, tasks = folder(out), layered(SIZE, log, **LIVES)
        while not all(store.done(one.kind, one.key) for one in tasks.values()):
            run = drive(out, log)
            ends = time.monotonic() + 60.0
            while kills < 10 and run.process.poll() is None:
                time.sleep(rng.uniform(0.0, 1.2))
                kills += run.kill(rng.choice(VICTIMS), rng)
            run.process.wait(ends - time.monotonic() + 60.0)
            assert run.orphans() == []
        assert_whole(store, tasks)
        assert contents(store, tasks) == undisturbed
        assert set(log.read_text().splitlines()) == set(tasks)


def test_a_killed_worker_costs_one_more_attempt_at_its_task_and_nothing_else(tmp_path):
    store, log = folder(tmp_path / "out"), tmp_path / "log"
    tasks = layered(SIZE, log, **LIVES)
    run = drive(store.root, log)
    run.process.stdout.readline()
    first = run.process.stdout.readline()
    assert run.kill("worker", random.Random(0))
    told = [json.loads(line) for line in (first, *run.process.stdout)]
    assert run.process.wait(60) == 0
    assert [reason for _, ok, again, reason in told if not ok and again] == ["signal"]
    assert sorted(name for name, ok, *_ in told if ok) == sorted(tasks)
    assert sum(Counter(log.read_text().splitlines()).values()) <= len(tasks) + 1
    assert_whole(store, tasks)


def test_two_runs_on_one_folder_compute_every_task_once(tmp_path, undisturbed):
    store, log = folder(tmp_path / "out"), tmp_path / "log"
    tasks = layered(SIZE, log, **LIVES)
    runs = [drive(store.root, log) for _ in range(2)]
    told = [[json.loads(line) for line in run.process.stdout.readlines()[1:]] for run in runs]
    assert [run.process.wait(60) for run in runs] == [0, 0]
    for of_one in told:
        assert all(ok for _, ok, *_ in of_one) and len({name for name, *_ in of_one}) == len(of_one)
    assert Counter(log.read_text().splitlines()) == dict.fromkeys(tasks, 1)
    assert_whole(store, tasks)
    assert contents(store, tasks) == undisturbed


def test_of_two_runs_one_is_killed_and_the_other_ends_well(tmp_path, undisturbed):
    store, log = folder(tmp_path / "out"), tmp_path / "log"
    tasks = layered(SIZE, log, **LIVES)
    runs = [drive(store.root, log) for _ in range(2)]
    for run in runs:
        run.process.stdout.readline()
    while len(list((store.root / "records").rglob("*.json"))) < SIZE // 4:
        time.sleep(0.01)
    assert runs[0].kill("driver", random.Random(0)) and runs[0].orphans() == []
    told = [json.loads(line) for line in runs[1].process.stdout]
    assert runs[1].process.wait(60) == 0 and all(ok for _, ok, *_ in told)
    counts = Counter(log.read_text().splitlines())
    assert set(counts) == set(tasks) and sum(counts.values()) <= len(tasks) + 4, "at most what the killed run was at"
    assert_whole(store, tasks)
    assert contents(store, tasks) == undisturbed


METHODS = ("pred_bn", "fewshot_ft_k1")


def command(path, out):
    methods = [word for name in METHODS for word in ("--method", name)]
    words = ["run", str(path), "--out", str(out), "--device", "cpu", "--jobs", "4", *methods]
    return Run([sys.executable, "-m", "shiftbench.cli", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_the_command_is_killed_again_and_again_and_its_rows_are_those_of_an_undisturbed_run(tmp_path):
    path = write(tmp_path)
    plain = command(path, tmp_path / "plain")
    assert plain.process.wait(300) == 0, plain.process.stderr.read().decode()
    rng, out = random.Random(1), tmp_path / "out"
    kills = ["driver", "worker", "guest", "driver", "guest", "worker", "driver"]
    code = None
    while code != 0:
        run = command(path, out)
        while kills and run.process.poll() is None:
            time.sleep(rng.uniform(1.0, 8.0))
            begun = (
                out / "records" / "anatomy"
            ).is_dir()  # before, processes look at methods, and their end is an error
            if run.process.poll() is None and (kills[-1] == "driver" or begun) and run.kill(kills[-1], rng):
                kills.pop()
        code = run.process.wait(300)
        assert run.orphans(5.0) == [] and code in (0, 1, -signal.SIGKILL), run.process.stderr.read().decode()
    assert not kills, "the run ended before all were killed"
    one, other = (shiftbench.read_rows(folder).drop(columns=UNTIMED) for folder in (tmp_path / "plain", out))
    pd.testing.assert_frame_equal(one, other)
    store = Store(out)
    gc(store, grace_seconds=0.0)
    assert not [p for p in out.rglob(".*") if p.is_file()] and not (out / "tmp").exists()
    for kind in (p.name for p in (out / "artifacts").iterdir()):
        folders = sorted(p.name for p in (out / "artifacts" / kind).glob("*/*"))
        assert folders == sorted(store.artifact(kind, key).name for key in {name.split(".")[0] for name in folders})
