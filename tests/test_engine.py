"""Places on GPUs and words of progress, without a GPU: what the pool starts, and what it says is under way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from shiftbench.engine import local
from shiftbench.engine.local import LocalEngine, _Worker
from shiftbench.graph import Task


class Started:
    """Stands for the process, its standard input and its connection; keeps the environment it was started with."""

    def __init__(self, command=(), env=None, **_):
        self.lane, self.environment, self.stdin, self.sent = (list(command) + [""] * 6)[4], env, self, []
        self.answers: list[bytes] = []

    def write(self, _): ...
    def flush(self): ...
    def kill(self): ...
    def wait(self): ...
    def close(self): ...

    def send_bytes(self, data):
        self.sent.append(json.loads(data))

    def recv_bytes(self):
        return self.answers.pop(0)


@pytest.fixture
def pool(tmp_path, monkeypatch):
    monkeypatch.setattr(local.subprocess, "Popen", Started)

    def make(**choices):
        engine = LocalEngine(tmp_path, threads=1, **choices)
        monkeypatch.setattr(engine.listener, "accept", Started)
        return engine

    return make


def graph(kinds):
    tasks = [Task(kind, str(i), {}, (), f"{kind} {i}", 1.0) for i, kind in enumerate(kinds)]
    return {task.id: task for task in tasks}


def start(engine, tasks):
    engine._start_ready(dict(tasks), dict.fromkeys(tasks, 1.0))
    return engine.workers


def test_a_gpu_is_given_to_as_many_processes_of_methods_as_it_may_hold(pool):
    workers = start(pool(jobs=8, gpus=("3", "5"), jobs_per_device=2), graph(["predict"] * 7))
    assert Counter(w.process.environment["CUDA_VISIBLE_DEVICES"] for w in workers) == {"3": 2, "5": 2}


def test_data_and_scoring_stay_off_the_gpus_and_do_not_wait_for_them(pool):
    workers = start(pool(jobs=4, gpus=("0",)), graph(["predict", "predict", "images", "score"]))
    by_lane = Counter((w.lane, w.process.environment["CUDA_VISIBLE_DEVICES"]) for w in workers)
    assert by_lane == {("method", "0"): 1, ("data", ""): 2}


def test_without_gpus_the_number_of_jobs_is_the_only_limit(pool, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "left alone")
    workers = start(pool(jobs=3), graph(["train"] * 5))
    assert len(workers) == 3
    assert {w.process.environment["CUDA_VISIBLE_DEVICES"] for w in workers} == {"left alone"}


def test_the_seat_of_a_dead_process_is_taken_again(pool):
    engine = pool(jobs=4, gpus=("0", "1"))
    start(engine, graph(["train"] * 2))
    dead = next(w for w in engine.workers if w.gpu == "0")
    engine.workers.remove(dead)
    start(engine, graph(["predict"]))
    assert Counter(w.gpu for w in engine.workers) == {"0": 1, "1": 1}


def test_words_of_progress_stand_behind_the_label_until_the_task_ends(pool, tmp_path, monkeypatch):
    engine = pool(jobs=1)
    (task,) = graph(["train"]).values()
    worker = _Worker(Started(), Started(), "method", ready=True, task=task)
    engine.workers.append(worker)
    monkeypatch.setattr(local, "wait", lambda connections, timeout: list(connections))
    assert engine.running() == [task]
    worker.connection.answers = [json.dumps({"progress": "step 3 of 9"}).encode()]
    assert engine._ended() == []
    (shown,) = engine.running()
    assert shown.label == "train 0: step 3 of 9" and shown.id == task.id
    worker.connection.answers = [json.dumps({"ok": True, "seconds": 1.0}).encode()]
    (outcome,) = engine._ended()
    assert outcome.ok and outcome.task.label == "train 0" and engine.running() == []
    worker.task = task
    engine._send(worker)
    assert engine.running() == [task], "the next task does not begin with the words of the last"


def test_the_package_is_found_by_a_process_whatever_the_folder(pool):
    (worker,) = start(pool(jobs=1), graph(["train"]))
    assert str(Path(local.__file__).parents[2]) in worker.process.environment["PYTHONPATH"]


def test_a_warning_is_kept_once_with_the_first_task_that_said_it(pool, monkeypatch):
    engine = pool(jobs=2)
    for task in graph(["train", "predict"]).values():
        worker = _Worker(Started(), Started(), "method", ready=True, task=task)
        worker.connection.answers = [json.dumps({"warning": "the patch was rounded"}).encode()]
        engine.workers.append(worker)
    monkeypatch.setattr(local, "wait", lambda connections, timeout: list(connections))
    assert engine._ended() == [] and engine.said() == ["train 0: the patch was rounded"]
