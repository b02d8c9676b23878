"""The local pool on tiny real tasks: places on GPUs, words, ends of every kind, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from tiny_tasks import MODULES, graph, layered, task

from shiftbench.engine import ENGINES, Engine, Terminated, engine_class, local, workers
from shiftbench.engine.local import LocalEngine
from shiftbench.engine.scheduler import Scheduler
from shiftbench.errors import SpecError
from shiftbench.graph import Settings, Task
from shiftbench.store import Store
from shiftbench.worker.perform import Context, perform

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def tiny_tasks_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def engine(tmp_path):
    """Makes engines on one folder, which are closed at the end."""
    made = []

    def make(**choices):
        made.append(LocalEngine(tmp_path / "out", **{"jobs": 2, "threads": 1, "modules": MODULES, **choices}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ended(engine, *tasks):
    """Outcomes by label, the last of each."""
    return {o.task.label: o for o in engine.run(graph(*tasks))}


class Started:
    """Stands for a process and its connection; keeps the environment that it was started with."""

    pid = 2**22 + 1  # above the greatest number of a process

    def __init__(self, _=(), env=None, **__):
        self.environment, self.stdin = env, self

    def write(self, _): ...
    def flush(self): ...
    def kill(self): ...
    def wait(self, *_): ...


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """Starts what is ready of a graph, without a process."""
    monkeypatch.setattr(workers.subprocess, "Popen", Started)
    made = []

    def start(kinds, engine=None, **choices):
        if engine is None:
            engine = LocalEngine(tmp_path, threads=1, **choices)
            made.append(engine)
        tasks = [Task(kind, f"{len(kinds)}{i}", {}, (), f"{kind} {i}", 1.0) for i, kind in enumerate(kinds)]
        engine._start_ready(Scheduler({t.id: t for t in tasks}, engine.store))
        return engine

    yield start
    for engine in made:
        engine.close()


def seats(engine):
    return Counter((w.lane, w.process.environment.get("CUDA_VISIBLE_DEVICES")) for w in engine.workers)


def test_a_gpu_is_given_to_as_many_processes_of_methods_as_it_may_hold(pool):
    engine = pool(["predict"] * 7, jobs=8, gpus=("3", "5"), jobs_per_device=2)
    assert seats(engine) == {("method", "3"): 2, ("method", "5"): 2}
    assert Counter(r.where for r in engine.running()) == {"GPU 3": 2, "GPU 5": 2}


def test_data_and_scoring_stay_off_the_gpus_and_do_not_wait_for_them(pool):
    engine = pool(["predict", "predict", "images", "score"], jobs=4, gpus=("0",))
    assert seats(engine) == {("method", "0"): 1, ("data", ""): 2}


def test_without_gpus_the_number_of_jobs_is_the_only_limit(pool, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "left alone")
    assert seats(pool(["train"] * 5, jobs=3)) == {("method", "left alone"): 3}


def test_the_seat_of_a_dead_process_is_taken_again(pool):
    engine = pool(["train"] * 2, jobs=4, gpus=("0", "1"))
    engine._forget(next(w for w in engine.workers if w.gpu == "0"))
    pool(["predict"], engine)
    assert Counter(w.gpu for w in engine.workers) == {"0": 1, "1": 1}


def test_a_process_gets_its_threads_and_finds_the_package_whatever_the_folder(pool):
    (worker,) = pool(["train"], jobs=1).workers
    assert str(HERE.parent) in worker.process.environment["PYTHONPATH"]
    assert {worker.process.environment[name] for name in workers.THREAD_VARIABLES} == {"1"}


def test_every_task_is_done_once_after_what_it_needs(engine, tmp_path):
    tasks = layered(64, tmp_path / "log")
    outcomes = list(engine(jobs=3).run(tasks))
    assert all(o.ok for o in outcomes) and len(outcomes) == len(tasks)
    lines = (tmp_path / "log").read_text().splitlines()
    assert sorted(lines) == sorted(tasks)
    store = Store(tmp_path / "out")
    known: dict[str, int] = {}
    for name in lines:  # in the order of the work, so that a need that came later is a KeyError
        known[name] = 1 + sum(known[need] for need in tasks[name].needs)
        assert store.record(*name.split("/"))["value"] == known[name]


def test_a_second_run_starts_no_process(engine, monkeypatch):
    tasks = layered(16)
    assert len(list(engine().run(tasks))) == len(tasks)
    monkeypatch.setattr(local, "start_worker", None)
    again = engine()
    assert list(again.run(tasks)) == [] and again.scheduler.counts.reused == len(tasks)


def test_processes_stay_alive_between_tasks_and_each_does_one_lane(engine, monkeypatch):
    started = []

    def counted(post, lane, *rest):
        started.append((lane, set(post.modules)))
        return workers.start_worker(post, lane, *rest)

    monkeypatch.setattr(local, "start_worker", counted)
    list(engine(jobs=2).run(layered(48)))
    assert len(started) <= 4
    assert {(lane, *sorted(kinds)) for lane, kinds in started} == {
        *(("data", "images", "score"), ("method", "predict", "train"))
    }


def test_words_and_warnings_of_a_task_arrive_with_where_it_runs(engine):
    one = task("train", "slow", says="step 3 of 9", sleeps=0.8)
    two = task("train", "slower", (one,), says="step 3 of 9", sleeps=0.4)
    pool, seen = engine(), []
    before = time.time()
    outcomes = list(pool.run(graph(one, two), tick=lambda: seen.extend(pool.running())))
    assert [o.ok for o in outcomes] == [True, True] and pool.running() == []
    told = [r for r in seen if r.words == "step 3 of 9"]
    assert {r.task.id for r in told} == {one.id, two.id}
    assert all(r.where.startswith("process ") and before <= r.since <= time.time() for r in told)
    first = next(r for r in seen if r.task == two)
    assert first.words in ("", "step 3 of 9") and len({r.since for r in told}) == 2


def test_a_warning_of_ours_is_said_once_with_the_first_task_that_said_it(engine, monkeypatch, tmp_path):
    folder = tmp_path / "baselines"  # whose warnings are for the user
    folder.mkdir()
    (folder / "tiny_tasks.py").write_text((HERE / "tiny_tasks.py").read_text())
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
    one = task("train", "one", says="the patch")
    pool = engine()
    assert all(o.ok for o in ended(pool, one, task("predict", "two", (one,), says="the patch")).values())
    assert pool.said() == ["train one: the patch is worth a warning"]


def test_failures_of_every_kind_are_told_apart_and_the_rest_goes_on(engine, tmp_path):
    log = str(tmp_path / "log")
    kinds = {"raise": "exception", "nan": "nan", "memory": "out_of_memory", "exit": "lost", "SIGSEGV": "signal"}
    bad = [task("train", deed, does=deed, times=9, log=log) for deed in kinds]
    after = [task("predict", one.label, (one,)) for one in bad]
    good = task("score", "good")
    told = ended(engine(), *bad, *after, good)
    assert {one.payload["does"]: told[one.label].reason for one in bad} == kinds
    assert told[good.label].ok and {told[one.label].reason for one in after} == {"input"}
    assert "ValueError: no such luck" in told["train raise"].cause
    assert "SIGSEGV" in told["train SIGSEGV"].cause and "exit code 3" in told["train exit"].cause
    assert told["train memory"].status == "out_of_memory"
    tries = Counter((tmp_path / "log").read_text().splitlines())
    assert {one.payload["does"]: tries[one.id] for one in bad} == {
        **{"raise": 1, "nan": 1, "memory": 2},
        **{"exit": 2, "SIGSEGV": 2},
    }
    store = Store(tmp_path / "out")
    for one in bad:
        failure = store.failure(one.kind, one.key)
        assert failure["reason"] == kinds[one.payload["does"]] and len(failure["attempts"]) == tries[one.id]
    assert "no such luck" in store.failure("train", bad[0].key)["trace"]


@pytest.mark.parametrize("deed", ["SIGKILL", "SIGTERM", "exit", "memory"])
def test_a_lost_process_and_a_lack_of_memory_are_tried_again(engine, tmp_path, deed):
    one = task("train", "once", does=deed, log=str(tmp_path / "log"))
    outcomes = list(engine().run(graph(one)))
    assert [(o.ok, o.again) for o in outcomes] == [(False, True), (True, False)]
    store = Store(tmp_path / "out")
    assert store.done("train", one.key) and store.failure("train", one.key) is None


def test_the_system_s_count_of_kills_for_memory_tells_them_from_others(engine, tmp_path, monkeypatch):
    counts = iter([4, 5, 5, 5])
    monkeypatch.setattr(workers, "memory_kills", lambda: next(counts))
    one = task("train", "killed", does="SIGKILL", times=9, log=str(tmp_path / "log"))
    outcomes = list(engine().run(graph(one)))
    assert [o.reason for o in outcomes] == ["out_of_memory", "signal"]
    assert all("SIGKILL" in o.cause and "lower --jobs" in o.cause for o in outcomes)


def test_a_task_over_its_time_is_ended_and_not_repeated(engine, tmp_path):
    one = task("train", "endless", does="hang", log=str(tmp_path / "log"))
    two = task("train", "quick", sleeps=0.1)
    told = ended(engine(settings=Settings(seconds=2.0)), one, two)
    assert told[two.label].ok and told[one.label].status == "timeout" == told[one.label].reason
    assert "more than 2 s" in told[one.label].cause


def test_a_clock_that_jumps_ends_nothing(engine, monkeypatch):
    pool, plain, jumps = engine(settings=Settings(seconds=30.0)), time.time, []

    def jumping():
        jumps.append(1)
        return plain() + 86400.0 * len(jumps)

    monkeypatch.setattr(time, "time", jumping)
    tasks = graph(task("train", "slow", sleeps=0.7))
    assert [o.ok for o in pool.run(tasks, tick=pool.running)] == [True] and jumps


def test_ticks_come_a_few_times_a_second_however_many_tasks_end(engine):
    ticks = []
    began = time.monotonic()
    list(engine().run(layered(80, arrays=False), tick=lambda: ticks.append(1)))
    assert 1 <= len(ticks) <= 2 + (time.monotonic() - began) / local.TICK_SECONDS


def test_a_process_that_dies_between_tasks_is_replaced(engine):
    pool = engine(jobs=1)
    one = task("train", "one")
    outcomes = []
    for outcome in pool.run(graph(one, task("train", "two", (one,)), task("train", "three", (one,)))):
        if not outcomes:
            pool.workers[0].process.kill()
        outcomes.append(outcome)
    assert [o.ok for o in outcomes if not o.again] == [True] * 3


def test_a_process_that_cannot_start_is_a_cause(engine, monkeypatch):
    monkeypatch.setattr(workers.sys, "executable", "/bin/false")
    (outcome, *_, last) = engine(jobs=1).run(graph(task("train", "one")))
    assert outcome.again and not last.ok and "exit code 1" in last.cause


def test_an_unknown_kind_of_task_is_a_cause(tmp_path):
    answer = perform(Context(Store(tmp_path)), "dance", "0", {})
    assert not answer["ok"] and "no task 'dance'" in answer["cause"] and not answer["fatal"]


def test_a_folder_that_cannot_be_used_ends_the_run(engine, tmp_path):
    outcomes = list(engine(jobs=1).run(graph(task("train", "one", seconds=9.0, does="full"), task("train", "two"))))
    assert outcomes[0].status == "fatal" and len(outcomes) == 1


def test_processes_and_claims_are_gone_when_the_caller_stops_listening(engine, tmp_path):
    pool = engine()
    one = task("train", "one")
    running = pool.run(graph(one, *(task("train", f"slow {i}", (one,), sleeps=60.0) for i in range(3))))
    assert next(running).ok
    pids = [w.process.pid for w in pool.workers]
    running.close()
    assert pids and not any(psutil.pid_exists(pid) for pid in pids) and pool.workers == []
    assert leftovers(tmp_path / "out") == []


def leftovers(root: Path) -> list[str]:
    """Files of claims and of workspaces."""
    return [str(p) for name in ("tmp", "claims") for p in (root / name).rglob("*") if p.is_file()]


DRIVER = """
import sys
from pathlib import Path
from shiftbench.engine import Terminated
from shiftbench.engine.local import LocalEngine
from tiny_tasks import MODULES, graph, task
one = task("images", "one")
slow = [task("train", f"slow {i}", (one,), sleeps=60.0) for i in range(2)]
engine = LocalEngine(Path(sys.argv[1]), jobs=2, threads=1, modules=MODULES)
try:
    for outcome in engine.run(graph(one, *slow), tick=lambda: print(len(engine.running()), flush=True)):
        pass
except Terminated as stop:
    sys.exit(stop.exit_code)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_end_all_processes_without_a_traceback(tmp_path, how, code):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(DRIVER), str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ["PYTHONPATH"]])},
    )
    while process.stdout.readline().strip() != "2":
        assert process.poll() is None
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.send_signal(how)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code and said == ""
    assert psutil.wait_procs(children, timeout=1.0)[1] == [] and leftovers(tmp_path / "out") == []


def test_an_engine_runs_outside_the_main_thread_too(engine):
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.extend(engine().run(graph(task("score", "one")))))
    thread.start()
    thread.join(60)
    assert [o.ok for o in outcomes] == [True]


def test_signals_are_as_they_were_after_a_run(engine):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    list(engine().run(graph(task("score", "one"))))
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_engines_are_known_by_name(tmp_path):
    made: Engine = engine_class("local")(tmp_path, jobs=1, threads=1)
    assert isinstance(made, LocalEngine) and set(ENGINES) == {"local", "ray"}
    assert issubclass(Terminated, KeyboardInterrupt)
    with pytest.raises(SpecError, match="unknown engine 'loca'; did you mean 'local'"):
        engine_class("loca")
