"""Real runs that are watched: the local engine on tiny tasks, another process that asks, and a tiny scenario."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console
from tiny_tasks import MODULES, graph, task

import shiftbench
from scenarios import write
from shiftbench.engine.local import LocalEngine
from shiftbench.engine.scheduler import to_do
from shiftbench.store import Store
from shiftbench.watch import watch as watching
from shiftbench.watch.events import Counts
from shiftbench.watch.jsonlines import JsonLines
from shiftbench.watch.people import PlainLines
from shiftbench.watch.recorder import Recorder
from shiftbench.watch.runfile import RunFile
from shiftbench.watch.status import status, status_lines
from shiftbench.watch.watch import Watch

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def tiny_tasks_are_found(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path / "out")
    store.open_for({"tiny": "1:abc"})
    return store.root


def watched(root, tasks, *observers, apart=()) -> Recorder:
    """A run as `shiftbench.runner` makes it."""
    engine = LocalEngine(root, jobs=2, threads=1, modules=MODULES)
    reused = set(tasks) - set(to_do(tasks, Store(root)))
    with (
        Watch(observers, apart=apart) as watch,
        Recorder(watch, tasks, reused, running=engine.running, said=engine.said, jobs=2) as recorder,
    ):
        for outcome in engine.run(tasks, tick=recorder.tick):
            recorder.end(outcome)
    return recorder


def several() -> dict:
    """Tasks of one sort of process, so that few are started."""
    images = [task("images", f"chunk {i}") for i in range(4)]
    return graph(*images, *(task("score", f"fold {i}", (one,)) for i, one in enumerate(images)))


def mixed() -> dict:
    """Good tasks, one that raises with two that need it, one that memory runs out for once, and one that speaks."""
    broken = task("images", "broken", does="raise", times=9)
    left_out = task("score", "left out", (broken,))
    speaks = task("images", "speaks", says="slowly", sleeps=0.6)
    return graph(broken, left_out, task("score", "left out too", (left_out,)), speaks, task("score", "good", (speaks,)))


def test_a_run_with_failures_is_told_alike_to_all_who_watch_and_in_the_end(folder, tmp_path):
    out, console = tmp_path / "lines", Console(file=io.StringIO(), force_terminal=False, width=200)
    events = []
    apart = [PlainLines(console), JsonLines(out.open("wb", buffering=0))]
    recorder = watched(folder, mixed(), events.append, RunFile(folder, "one"), apart=apart)
    assert recorder.counts == Counts(total=5, done=2, failed=3) == events[-1].counts
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    kinds = Counter(line["kind"] for line in lines)
    assert kinds["begin"] == 3 and kinds["end"] == 5 and kinds["start"] == kinds["done"] == 1
    assert any(one.words == "slowly" for event in events for one in event.running)
    reasons = {line["task"]["label"]: line["reason"] for line in lines if line["kind"] == "end" and not line["ok"]}
    assert reasons == {"images broken": "exception", "score left out": "input", "score left out too": "input"}
    text = console.file.getvalue()
    assert text.count("failed: images broken: ValueError: no such luck") == 1 and "failed: score" not in text
    (run,) = status(folder)["runs"]
    assert run["state"] == "ended" and run["counts"]["failed"] == 3 and run["failed"] == {"exception": 1, "input": 2}

    first, last = recorder.failures.lines()
    assert first.startswith("images broken: ValueError: no such luck; the traceback is in failures/images/")
    record = json.loads((folder / first.rpartition(" ")[2]).read_text())
    assert "no such luck" in record["trace"]
    assert last.startswith("2 tasks were not run, since something before failed")
    told = status_lines(status(folder))
    assert "failed tasks: 3 (2 input, 1 exception); the next run tries them again" in told
    assert told[-1] == "  images broken: ValueError: no such luck"


def test_watchers_that_raise_and_block_change_nothing_and_the_next_run_tells_only_of_what_is_left(folder, monkeypatch):
    def raises(event):
        raise RuntimeError("no such luck")

    def sleeps(event):
        time.sleep(3600)

    monkeypatch.setattr(watching, "CLOSE_SECONDS", 0.1)
    tasks = several()
    disturbed = watched(folder, tasks, raises, apart=[sleeps, raises])
    assert disturbed.counts == Counts(total=len(tasks), done=len(tasks))
    values = [Store(folder).record(one.kind, one.key)["value"] for one in tasks.values()]
    assert values == [1 + len(one.needs) for one in tasks.values()]
    events = []
    again = watched(folder, {**tasks, **graph(task("score", "new"))}, events.append)
    assert again.counts == Counts(total=len(tasks) + 1, reused=len(tasks), done=1)
    assert [e.task.label for e in events if e.kind == "begin"] == ["score new"]


DRIVER = """
import sys
from pathlib import Path
from test_watch_run import RunFile, graph, task, watched

if __name__ == "__main__":
    root = Path(sys.argv[1])
    quick = task("images", "quick")
    slow = task("images", "slow", (quick,), says="half way", sleeps=600)
    watched(root, graph(quick, slow), RunFile(root))
"""


@pytest.mark.skipif(os.name != "posix", reason="kills a process group")
def test_another_process_sees_a_run_under_way_and_then_that_it_is_gone(folder, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(textwrap.dedent(DRIVER))
    run = subprocess.Popen([sys.executable, str(script), str(folder)], start_new_session=True)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            content = status(folder)
            if any(one["words"] == "half way" for going in content["runs"] for one in going["running"]):
                break
            time.sleep(0.1)
        lines = status_lines(content)
        assert f"process {run.pid}: going on since" in lines[0] and "1 of 2 tasks" in lines[0]
        assert lines[1] == "  images 1 of 2" and lines[2].startswith("  images slow: half way, for ")
        assert "finished tasks in the folder: 1 images" in lines and lines[-1] == "no failures"
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    content = status(folder)
    assert content["runs"][0]["state"] == "gone"
    assert "the same command goes on from there; 1 of 2 tasks" in status_lines(content)[0]


@pytest.mark.slow
def test_a_tiny_scenario_is_watched_through_the_observer_of_a_run(tmp_path):
    events = []
    shiftbench.run(write(tmp_path), ["erm"], out=tmp_path / "out", device="cpu", jobs=2, observer=events.append)
    assert events[0].kind == "start" and events[-1].kind == "done"
    last = events[-1].counts
    assert last.total == last.done > 10 and last.failed == 0
    assert {"train", "predict", "score"} <= set(events[-1].kinds)
    assert any("step" in one.words for event in events for one in event.running), "a training says how far it is"
    known = [event.seconds_left for event in events if event.counts.done]
    assert all(seconds is not None and seconds >= 0 for seconds in known)
    begun = Counter(event.task.id for event in events if event.kind == "begin")
    assert len(begun) == last.total and set(begun.values()) == {1}
