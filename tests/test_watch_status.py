"""`shiftbench status`: the file that a run keeps, and what is made of it and of the folder from another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from watched import chain, events_of_a_run, recorder, task, under, well

from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.watch import runfile
from shiftbench.watch.events import Counts, Event
from shiftbench.watch.runfile import RunFile
from shiftbench.watch.status import QUIET_SECONDS, status, status_lines, told


@pytest.fixture
def folder(tmp_path):
    store = Store(tmp_path / "out")
    store.open_for({"tiny": "1:abc"})
    return store.root


def run_file(folder, name="one") -> dict:
    return json.loads((folder / "runs" / f"{name}.json").read_text())


def change(folder, name="one", **fields) -> None:
    path = folder / "runs" / f"{name}.json"
    path.write_text(json.dumps({**run_file(folder, name), **fields}))


def begun(folder, name="one") -> RunFile:
    """The file of a run that is at its training."""
    observer = RunFile(folder, name, ["shiftbench", "run", "tiny"])
    made, view = recorder(observer, chain())
    view.running = [under(chain()["train/t"], words="step 3 of 9", where="GPU 0")]
    view.said = ["the patch was rounded"]
    made.__enter__()
    made.tick()
    observer.written = float("-inf")
    made.tick()
    return observer


def test_a_run_leaves_its_command_counts_and_what_is_under_way(folder):
    begun(folder)
    content = run_file(folder)
    assert content["command"] == ["shiftbench", "run", "tiny"] and content["pid"] == os.getpid()
    assert content["counts"] == {"total": 5, "reused": 0, "done": 0, "failed": 0, "left": 5}
    assert content["running"][0]["words"] == "step 3 of 9" and content["state"] == "going on"


def test_the_file_is_written_now_and_then_and_at_the_end(folder, monkeypatch):
    now, written = [0.0], []
    monkeypatch.setattr(runfile.time, "monotonic", lambda: now[0])
    observer = RunFile(folder, "one")
    monkeypatch.setattr(observer, "_write", lambda content: written.append(content["state"]))
    observer(Event("start", Counts()))
    for now[0] in (0.1 * i for i in range(100)):
        observer(Event("tick", Counts()))
    observer(Event("done", Counts()))
    assert written == ["going on"] * 5 + ["ended"]


def test_a_disk_that_cannot_be_written_fails_no_run(folder, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(runfile.os, "replace", full)
        begun(folder)
    assert list((folder / "runs").glob("*.json")) == []
    observer = begun(folder, "two")
    assert observer.path.is_file(), "and is written when there is room again"


def test_what_a_killed_run_left_beside_its_file_is_swept(folder):
    script = (
        "import os, sys; from pathlib import Path\n"
        "from shiftbench.watch import runfile\n"
        "from shiftbench.watch.events import Counts, Event\n"
        "runfile.os.replace = lambda *_: os._exit(9)\n"
        "runfile.RunFile(Path(sys.argv[1]), 'one')(Event('start', Counts()))\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(folder)], check=False).returncode == 9
    left = list((folder / "runs").iterdir())
    assert len(left) == 1 and left[0].name.startswith(".one.json")
    Store(folder).sweep()
    assert list((folder / "runs").iterdir()) == []
    assert status(folder)["runs"] == []


def test_a_run_under_way_is_told_of_with_its_tasks(folder):
    begun(folder)
    first, kinds, running, note, *_ = status_lines(status(folder))
    assert f"process {os.getpid()}: going on since" in first and "0 of 5 tasks" in first
    assert kinds == "  train 0 of 1, predict 0 of 2, score 0 of 2", "in the order of the work"
    assert running.startswith("  train t: step 3 of 9, for ") and running.endswith("(GPU 0)")
    assert note == "  note: the patch was rounded"


def test_a_run_that_ended_and_one_that_was_stopped_say_so(folder):
    observer = RunFile(folder, "ended")
    for event in events_of_a_run():
        observer(event)
    made, _ = recorder(RunFile(folder, "stopped"), chain())
    with pytest.raises(KeyboardInterrupt), made:
        made.end(well(chain()["train/t"]))
        raise KeyboardInterrupt
    content = status(folder)
    assert {run["run"]: run["state"] for run in content["runs"]} == {"ended": "ended", "stopped": "stopped"}
    lines = "\n".join(status_lines(content))
    assert "interrupted; 1 of 5 tasks" in lines and "5 of 5 tasks, 2 failed" in lines
    assert content["runs"][1]["failed"] == {"signal": 1, "input": 1} or content["runs"][0]["failed"]


def test_a_run_whose_process_is_gone_is_gone_though_its_file_is_fresh(folder):
    child = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    begun(folder)
    change(folder, pid=int(child.stdout))
    content = status(folder)
    assert content["runs"][0]["state"] == "gone"
    assert "gone without an end" in status_lines(content)[0]


def test_a_number_that_was_given_to_another_process_is_not_taken_for_the_run(folder):
    begun(folder)
    change(folder, start=run_file(folder)["start"] + 1)
    assert status(folder)["runs"][0]["state"] == ("gone" if sys.platform == "linux" else "going on")


def test_a_run_of_another_machine_is_judged_by_the_age_of_its_file(folder):
    begun(folder)
    change(folder, table="elsewhere-0", pid=1)
    path = folder / "runs" / "one.json"
    assert status(folder)["runs"][0]["state"] == "going on"
    long_ago = time.time() - 2 * QUIET_SECONDS
    os.utime(path, (long_ago, long_ago))
    assert status(folder)["runs"][0]["state"] == "gone"
    path.with_suffix(".beat").touch()
    assert status(folder)["runs"][0]["state"] == "going on", "its heart still beats"


def test_a_quiet_run_of_a_living_process_is_still_going_on_and_says_how_long_it_is_quiet(folder):
    begun(folder)
    long_ago = time.time() - 2 * QUIET_SECONDS
    os.utime(folder / "runs" / "one.json", (long_ago, long_ago))
    assert "no sign for 4 min" in status_lines(status(folder))[0]


def test_the_time_left_shrinks_with_the_age_of_the_file(folder):
    begun(folder)
    change(folder, seconds_left=7200.0)
    earlier = time.time() - 3600
    os.utime(folder / "runs" / "one.json", (earlier, earlier))
    assert "about 1 h left" in status_lines(status(folder))[0] or "about 60 min left" in status_lines(status(folder))[0]


def test_finished_tasks_and_failures_are_counted_from_the_folder_itself(folder):
    store = Store(folder)
    for i in range(3):
        store.publish("score", f"{i}a0", {"rows": []})
    for i in range(8):
        record = {
            "cause": f"ValueError: {i}.",
            "status": "failed",
            "reason": "exception",
            "label": f"task {i}",
            "trace": "",
        }
        store.publish_failure("predict", f"{i}b0", record)
        os.utime(store.failure_path("predict", f"{i}b0"), (i, i))
    store.publish_failure("score", "ff", {"cause": "not run", "status": "failed", "reason": "input", "label": "x"})
    content = status(folder)
    assert content["finished"] == {"score": 3} and content["runs"] == []
    assert content["failures"]["reasons"] == {"exception": 8, "input": 1}
    assert [one["label"] for one in content["failures"]["latest"]] == [f"task {i}" for i in (7, 6, 5, 4, 3)]
    lines = status_lines(content)
    assert lines[0] == "no run has left its name here" and lines[1] == "finished tasks in the folder: 3 score"
    assert lines[2].startswith("failed tasks: 9 (8 exception, 1 input)") and lines[3] == "  task 7: ValueError: 7"


def test_damaged_and_foreign_files_do_not_hide_the_rest(folder):
    begun(folder)
    (folder / "runs" / "two.json").write_text("{half")
    (folder / "runs" / "three.json").write_text('{"format": 99}')
    bad = folder / "failures" / "predict" / "ab"
    bad.mkdir(parents=True)
    (bad / "abcd.json").write_text("\x00")
    content = status(folder)
    assert [run["run"] for run in content["runs"]] == ["one"] and content["failures"]["reasons"] == {"damaged": 1}
    assert status_lines(content)


def test_many_earlier_runs_are_shortened(folder):
    for i in range(9):
        RunFile(folder, f"run{i}")(Event("done", Counts(total=1, done=1)))
    lines = status_lines(status(folder))
    assert sum(line.startswith("run on") for line in lines) == 6 and "and 3 earlier runs" in lines


def test_a_folder_that_is_no_result_folder_is_one_sentence(tmp_path):
    with pytest.raises(OutputError, match="this is no result folder; give a folder"):
        status(tmp_path)


def test_a_status_is_json_and_writes_nothing_that_stays(folder):
    begun(folder)
    before = sorted(folder.rglob("*"))
    (line,) = told(folder, as_json=True)
    content = json.loads(line)
    assert sorted(folder.rglob("*")) == before
    assert set(content) == {"schema", "folder", "runs", "finished", "failures"}
    assert told(folder) == status_lines(status(folder))


def test_a_folder_that_cannot_be_written_can_be_looked_at(folder, monkeypatch):
    def refused(_):
        raise PermissionError

    begun(folder)
    monkeypatch.setattr("shiftbench.watch.status.clock", refused)
    assert status(folder)["runs"][0]["state"] == "going on"


def test_a_status_needs_no_heavy_library():
    script = "import sys, shiftbench.watch.status\nprint({'torch', 'pandas', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert task("train", "t").id == "train/t"
