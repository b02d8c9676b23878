"""The kill test of a file system: a sound disk passes and is left clean, and each promise that is broken is seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest

from shiftbench.errors import OutputError
from shiftbench.keeping import shared_fs as kill_test
from shiftbench.keeping.shared_fs import shared_fs
from shiftbench.keeping.shared_fs_process import KIND, Ground, fault_of, key_of
from shiftbench.store.owners import token

ROOT = Path(__file__).parents[1]


def test_a_sound_disk_passes_and_nothing_is_left_on_it(tmp_path):
    findings = {finding.name: finding for finding in shared_fs(tmp_path / "new", seconds=4.0)}
    assert all(finding.ok for finding in findings.values()), [f for f in findings.values() if not f.ok]
    assert {"exclusive create", "hard links", "clock", "flush", "kill test", "claims"} < set(findings)
    results, *_ = findings["kill test"].text.split()
    assert int(results) > 10 and " 0 processes killed" not in findings["kill test"].text
    assert not (tmp_path / "new").exists()


def test_the_folder_stays_where_it_was_there_before(tmp_path):
    (tmp_path / "mine").touch()
    next(iter(findings := shared_fs(tmp_path, seconds=0.0)))
    findings.close()  # as by Ctrl-C
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_writer_and_a_reader_that_run_at_once_hear_of_each_other(tmp_path):
    code = (
        "import sys; from pathlib import Path; from shiftbench.keeping.shared_fs import shared_fs\n"
        f"print(*[f'{{f.name}}|{{f.ok}}|{{f.text}}' for f in shared_fs(Path({str(tmp_path / 'd')!r}), role=sys.argv[1],"
        " seconds=float(sys.argv[2]))], sep='\\n')"
    )
    (tmp_path / "d").mkdir()
    processes = [
        subprocess.Popen([sys.executable, "-c", code, role, seconds], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for role, seconds in (("writer", "8"), ("reader", "6"))
    ]
    said = [process.communicate()[0] for process in processes]
    assert all("|False|" not in text for text in said), said
    assert "kill test|True" in said[1] and " 0 readings" not in said[1]
    assert not list((tmp_path / "d").iterdir())


def test_an_unknown_role_is_refused(tmp_path):
    with pytest.raises(OutputError, match="unknown role 'watcher'; one of: both, writer, reader"):
        next(iter(shared_fs(tmp_path, role="watcher")))


@pytest.fixture
def ground(tmp_path):
    """A test that has gone well: two results, each won by one writer and read once."""
    made = Ground(tmp_path)
    winner, reader = made.log("writer"), made.log("reader")
    for number in range(2):
        key = key_of(number)
        with made.store.workspace() as folder:
            (folder / "content.bin").write_bytes(b"x" * 9)
            made.store.publish(KIND, key, {"content": sha256(b"x" * 9).hexdigest()}, folder)
        winner({"won": key})
        reader({"read": key})
    return made


def judged(ground, kills=3):
    return {finding.name: finding for finding in kill_test._judged(ground, kills)}


def test_a_test_that_went_well_has_no_fault(ground):
    assert all(finding.ok for finding in judged(ground).values()), judged(ground)


def test_a_result_that_is_gone_after_a_kill_is_seen(ground):
    ground.store.record_path(KIND, key_of(1)).unlink()
    wrong = judged(ground)["kept after a kill"]
    assert not wrong.ok and key_of(1) in wrong.text and "do not write results of several machines" in wrong.text


def test_two_winners_of_one_task_are_seen(ground):
    ground.log("writer")({"won": key_of(0)})
    assert not judged(ground)["published once"].ok


def test_half_a_record_and_half_of_its_arrays_are_seen(ground):
    store = ground.store
    assert fault_of(store, key_of(0)) is None
    (store.artifact(KIND, key_of(0)) / "content.bin").write_bytes(b"x" * 8)
    assert fault_of(ground.store, key_of(0)) == "the arrays are not those of the record"
    path = store.record_path(KIND, key_of(1))
    path.write_bytes(path.read_bytes()[:50])
    assert "damaged" in fault_of(ground.store, key_of(1))
    assert not judged(ground)["whole results"].ok


def test_what_a_reader_or_a_holder_saw_is_a_fault(ground):
    say = ground.log("reader")
    say({"swapped": "it was not there for a moment"})
    say({"twice": "task", "other": "there, process 3"})
    say({"read": key_of(0), "fault": "damaged"})
    wrong = {name for name, finding in judged(ground).items() if not finding.ok}
    assert wrong == {"replaced file", "claims", "whole results"}


def test_a_test_in_which_nothing_happened_does_not_pass(tmp_path):
    assert not judged(Ground(tmp_path), kills=0)["kill test"].ok


def test_the_last_line_of_a_killed_process_says_nothing(ground):
    path = ground.said / f"writer.{token()}.jsonl"
    path.write_bytes(json.dumps({"won": key_of(0)}).encode())
    assert judged(ground)["published once"].ok


def test_links_that_replace_and_exclusive_files_that_are_not_are_seen(tmp_path, monkeypatch):
    ground = Ground(tmp_path)
    monkeypatch.setattr(os, "link", lambda one, other: other.touch())
    monkeypatch.setattr(kill_test, "created", lambda path, text: path.write_text(text) > 0)
    found = {finding.name: finding for finding in kill_test._primitives(ground)}
    assert not found["hard links"].ok and not found["exclusive create"].ok


def test_a_disk_without_hard_links_and_a_wrong_clock_are_told_of(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    now = kill_test.time.time
    monkeypatch.setattr(kill_test.time, "time", lambda: now() + 100)
    found = {finding.name: finding for finding in kill_test._primitives(Ground(tmp_path))}
    assert found["hard links"].ok and "renamed under a lock" in found["hard links"].text
    assert not found["clock"].ok and "-100" in found["clock"].text
