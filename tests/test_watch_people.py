"""What people and machines are shown of a run: the bar, plain lines, failures with a remedy, and JSON lines."""

from __future__ import annotations

import io
import json
import os
import re

import pytest
from rich.console import Console
from watched import badly, events_of_a_run, task, under

from shiftbench.watch import jsonlines, people
from shiftbench.watch.events import Counts, Event
from shiftbench.watch.failures import REMEDIES, TASKS, Failure, Failures, failure_lines
from shiftbench.watch.jsonlines import JsonLines
from shiftbench.watch.people import Bar, PlainLines, for_people
from shiftbench.watch.watch import Watch
from shiftbench.watch.words import counted, duration, time_left, under_way
from shiftbench.worker.perform import MODULES


def printed(observer, console) -> str:
    for event in events_of_a_run():
        observer(event)
    return console.file.getvalue()


def terminal(**options) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=20, **options)


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=80)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (5400, "1 h 30 min"),
        (7200, "2 h"),
        (187200, "2 d 4 h"),
    ],
)
def test_a_length_of_time_in_words(seconds, words):
    assert duration(seconds) == words


def test_nothing_is_said_of_the_time_left_before_it_is_known():
    assert time_left(None) == "" and time_left(700.0) == "about 12 min left"
    assert counted(Counts(120, 12, 20, 3)) == "35 of 120 tasks, 3 failed, 12 reused"


def test_a_long_list_of_tasks_under_way_is_shortened_with_the_oldest_first():
    running = [under(task("train", f"t{i:02d}"), since=1000.0 - i, words=f"step {i}") for i in range(30)]
    lines = under_way(running, 1060.0, 4)
    assert lines[0] == "train t29: step 29, for 89 s" and lines[-1] == "and 27 more" and len(lines) == 4
    assert len(under_way(running[:4], 1060.0, 4)) == 4


def test_the_console_decides_between_a_bar_and_lines():
    assert isinstance(for_people(terminal()), Bar) and isinstance(for_people(plain()), PlainLines)


def test_the_bar_shows_counts_time_left_and_what_is_under_way(monkeypatch):
    monkeypatch.setattr(people, "DRAW_SECONDS", 0.0)
    console = terminal(color_system=None)
    text = printed(Bar(console), console)
    assert "1 of 5 tasks, about" in text and "4 of 5 tasks, 2 failed" in text
    assert re.search(r"train t: step 3 of 9, for \d+ s \(GPU 0\)", text)
    assert text.count("note: the patch was rounded") == 1
    assert text.count("tried again: predict p2") == 1 and text.count("failed: predict p2: the process was") == 1
    assert "failed: score s2" not in text, "what was only left out is counted, not told of"


def test_the_bar_is_no_higher_than_the_terminal_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setattr(people, "DRAW_SECONDS", 0.0)
    console = Console(file=io.StringIO(), force_terminal=True, width=60, height=6, color_system=None)
    bar = Bar(console)
    running = tuple(under(task("train", f"t{i} " + "x" * 200)) for i in range(50))
    lines = console.render_lines(bar.picture(Event("tick", Counts(total=60), running=running)))
    assert len(lines) <= 4 and all(sum(part.cell_length for part in line) <= 60 for line in lines)
    bar(Event("start", Counts(total=60)))
    assert bar.live.is_started
    bar(Event("stopped", Counts(total=60)))
    assert not bar.live.is_started


def test_a_bar_that_is_closed_without_an_end_gives_the_terminal_back():
    console = terminal()
    with Watch(apart=[Bar(console)]) as watch:
        watch(Event("start", Counts(total=1)))
    text = console.file.getvalue()
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"


def test_plain_lines_have_a_time_and_come_at_the_start_the_end_and_for_trouble():
    console = plain()
    lines = printed(PlainLines(console), console).splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in lines)
    words = [line[21:] for line in lines]
    assert words[0] == "5 tasks to do, 0 reused, 2 at a time"
    assert words[1] == "note: the patch was rounded"
    assert words[2].startswith("tried again: predict p2") and words[3].startswith("failed: predict p2")
    assert words[4].startswith("done after") and words[4].endswith("5 of 5 tasks, 2 failed") and len(words) == 5


def test_plain_lines_between_wait_for_their_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(people.time, "monotonic", lambda: now[0])
    console = plain()
    lines = PlainLines(console)
    for now[0] in range(0, 61):
        lines(
            Event(
                "tick", Counts(total=9, done=1), running=(under(task("train", "t"), words="step 1"),), seconds_left=700
            )
        )
    told = console.file.getvalue().splitlines()
    assert len(told) == 4
    assert re.search(r"1 of 9 tasks, about 12 min left; train t: step 1, for \d+ s$", told[0])


def test_many_failures_that_are_alike_are_soon_only_counted():
    console = plain()
    lines = PlainLines(console)
    for i in range(50):
        lines(Event("end", Counts(), outcome=badly(task("predict", f"p{i}"), cause=f"ValueError: case {i} is empty")))
    told = console.file.getvalue().splitlines()
    assert len(told) == people.AT_ONCE and told[-1].endswith("more like it are only counted")


def test_each_reason_of_a_failure_has_its_remedy():
    reasons = {"exception", "out_of_memory", "signal", "timeout", "nan", "lost", "input"}
    assert set(REMEDIES) == reasons and set(TASKS) >= set(MODULES)
    one = task("predict", "abcd", method={"path": "/here/my_method.py"})
    lines = {reason: failure_lines([Failure.of(badly(one, reason, "it broke."))])[0] for reason in reasons}
    assert lines["exception"] == "predict abcd: it broke; the traceback is in failures/predict/ab/abcd.json"
    assert "my_method.py" in lines["nan"] and "--jobs" in lines["out_of_memory"]
    assert len(set(lines.values())) == len(reasons)


def test_failures_that_are_alike_make_one_line_and_what_was_left_out_comes_last():
    failures = Failures()
    for i in range(20):
        failures.add(badly(task("score", f"s{i}"), "input", "not run because predict failed", seconds=0.0))
    for i in range(12):
        failures.add(badly(task("predict", f"p{i}"), cause=f"ValueError: {i} values at 0x{i:x}f"))
    failures.add(badly(task("train", "t"), "out_of_memory", "memory ran out"))
    first, second, last = failures.lines()
    assert first.startswith("12 predictions alike (predict p0, predict p1, predict p2, ...): ValueError: 0 values")
    assert second.startswith("train t: memory ran out; lower --jobs")
    assert last.startswith("20 tasks were not run, since something before failed (score s0") and len(failures) == 33


def test_another_cause_or_another_kind_of_task_is_another_line():
    outcomes = [badly(task("train", "a")), badly(task("predict", "b")), badly(task("train", "c"), cause="KeyError: x")]
    assert len(failure_lines(map(Failure.of, outcomes))) == 3


def test_a_failure_record_tells_the_same_as_the_outcome():
    outcome = badly(task("images", "abcd"), "lost", "the node is gone")
    record = {"cause": outcome.cause, "status": "failed", "reason": "lost", "label": "images abcd", "trace": ""}
    assert Failure.of_record("images", "abcd", record) == Failure.of(outcome)


def lines_of(events) -> list[dict]:
    out = io.BytesIO()
    observer = JsonLines(out)
    for event in events:
        observer(event)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_every_event_is_one_json_object_on_its_line():
    told = events_of_a_run()
    lines = lines_of(told)
    ticks = [line for line in lines if line["kind"] == "tick"]
    assert [line["kind"] for line in lines if line["kind"] != "tick"] == [e.kind for e in told if e.kind != "tick"]
    assert len(ticks) == 1, "not more often than every ten seconds"
    assert ticks[0]["running"][0] == {
        **{"id": "train/t", "kind": "train", "label": "train t", "words": "step 3 of 9", "where": "GPU 0"},
        "since": ticks[0]["running"][0]["since"],
    }
    failed = next(line for line in lines if line["kind"] == "end" and not line["ok"])
    assert failed["task"] == {"id": "predict/p2", "kind": "predict", "label": "predict p2"}
    assert (failed["reason"], failed["status"], failed["again"]) == ("signal", "failed", False)
    assert failed["cause"] == "the process was killed by SIGSEGV" and failed["seconds"] == 1.0
    assert failed["counts"] == {"total": 5, "reused": 0, "done": 1, "failed": 1, "left": 3}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["at"]) for line in lines)
    assert lines[0]["kinds"]["score"]["total"] == 2 and lines[-1]["counts"]["left"] == 0


def test_ticks_come_again_after_their_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jsonlines.time, "monotonic", lambda: now[0])

    def ticks():
        for now[0] in range(35):
            yield Event("tick", Counts())

    assert len(lines_of(ticks())) == 4


def test_the_fields_of_the_lines_are_those_of_the_documentation(request):
    text = (request.config.rootpath / "docs" / "watching.md").read_text()
    named = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE))
    assert {name for line in lines_of(events_of_a_run()) for name in line} <= named


def test_a_closed_pipe_leaves_the_run_going_with_one_warning(capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with Watch([JsonLines(open(writing, "wb", buffering=0))]) as watch:
        for event in events_of_a_run():
            watch(event)
    assert capsys.readouterr().err.count("the output of JSON lines is left out from here on: BrokenPipeError") == 1


def test_a_pipe_that_nobody_reads_from_holds_up_nothing_and_what_was_read_is_whole(monkeypatch, capsys):
    from shiftbench.watch import watch as watching

    monkeypatch.setattr(watching, "CLOSE_SECONDS", 0.05)
    reading, writing = os.pipe()
    watch = Watch(apart=[JsonLines(open(writing, "wb", buffering=0))])
    for i in range(3000):  # more than a pipe holds
        watch(Event("end", Counts(done=i)))
    watch.close()
    assert "did not end in time" in capsys.readouterr().err
    with open(reading, "rb") as pipe:
        assert [json.loads(pipe.readline())["counts"]["done"] for _ in range(100)] == list(range(100))


def test_lines_go_to_standard_output_as_it_is_at_the_start(capfd):
    observer = JsonLines.on_stdout()
    observer(Event("start", Counts(total=1)))
    assert json.loads(capfd.readouterr().out)["kind"] == "start", "before it is closed"
    observer.close()
