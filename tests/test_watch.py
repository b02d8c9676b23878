"""Events of a run from a graph and outcomes, the time left, and observers that raise or block."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections import Counter

import pytest
from watched import badly, chain, events_of_a_run, graph, recorder, task, under, well

from shiftbench.watch import watch as watching
from shiftbench.watch.events import Counts, Event
from shiftbench.watch.pace import Pace
from shiftbench.watch.watch import Apart, Watch


def test_a_run_is_told_from_its_start_to_its_end():
    told = events_of_a_run()
    kinds = [e.kind for e in told if e.kind not in ("tick", "warning")]
    first = ["start", "begin", "end", "begin", "retry", "begin", "end", "end"]
    assert kinds == [*first, "begin", "end", "begin", "end", "done"]
    assert told[-1].counts == Counts(total=5, done=3, failed=2) and told[-1].counts.left == 0
    assert told[-1].planned_left == pytest.approx(0.0) and told[-1].seconds_left == pytest.approx(0.0)
    assert told[-1].kinds["predict"] == Counts(total=2, done=1, failed=1)


def test_an_event_keeps_the_counts_of_its_own_moment():
    told = events_of_a_run()
    assert told[0].counts == Counts(total=5) and told[0].kinds["score"] == Counts(total=2)
    lefts = [e.counts.left for e in told]
    assert lefts == sorted(lefts, reverse=True) and lefts[0] == 5


def test_every_attempt_that_ran_begins_once_and_one_that_never_ran_does_not():
    begun = Counter(e.task.id for e in events_of_a_run() if e.kind == "begin")
    assert begun == {"train/t": 1, "predict/p2": 2, "predict/p1": 1, "score/s1": 1}


def test_a_task_begins_when_the_engine_says_it_did_and_else_by_the_seconds_it_took():
    told: list[Event] = []
    tasks = chain()
    made, view = recorder(told.append, tasks)
    view.running = [under(tasks["train/t"], since=1000.0)]
    made.tick()
    made.end(well(tasks["predict/p1"], 50.0))
    begun = {e.task.id: e.at for e in told if e.kind == "begin"}
    assert begun["train/t"] == 1000.0
    assert 50 <= told[-1].at - begun["predict/p1"] < 55


def test_a_warning_is_told_once_and_at_once():
    told = events_of_a_run()
    warned = [i for i, e in enumerate(told) if e.kind == "warning"]
    assert [told[i].words for i in warned] == ["the patch was rounded"]
    assert told[warned[0] + 1].kind == "tick", "it does not wait for a task to end"


def test_what_was_reused_is_not_planned_and_what_another_run_did_counts_as_reused():
    told: list[Event] = []
    tasks = chain()
    made, _ = recorder(told.append, tasks, reused=["train/t"])
    with made:
        assert told[0].counts.reused == 1 and told[0].planned_left == pytest.approx(22.0)
        made.end(well(tasks["predict/p1"], 0.0))
        assert told[-1].counts == Counts(total=5, reused=2)
    assert "predict/p1" not in {e.task.id for e in told if e.kind == "begin"}


def test_a_task_that_was_in_the_store_and_is_made_again_is_counted_once():
    told: list[Event] = []
    tasks = chain()
    made, _ = recorder(told.append, tasks, reused=list(tasks))
    made.end(well(tasks["train/t"], 3.0))
    assert told[-1].counts == Counts(total=5, reused=4, done=1) and told[-1].planned_left == 0


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (OSError("the disk is full."), "the disk is full"),
        (ValueError(), "ValueError"),
    ],
)
def test_a_run_that_stops_says_why(error, words):
    told: list[Event] = []
    made, _ = recorder(told.append, chain())
    with pytest.raises(type(error)), made:
        raise error
    assert told[-1].kind == "stopped" and told[-1].words == words


def test_there_is_no_time_left_before_a_task_has_ended_well():
    tasks = chain()
    pace = Pace(tasks)
    assert pace.seconds_left([under(tasks["train/t"])], 1, time.time()) is None
    pace.end(badly(tasks["predict/p1"]))
    assert pace.seconds_left([], 1, time.time()) is None


def test_each_kind_of_task_has_its_own_pace():
    trains = [task("train", f"t{i}", seconds=100.0) for i in range(2)]
    scores = [task("score", f"s{i}", seconds=1.0) for i in range(10)]
    pace = Pace(graph(*trains, *scores))
    pace.end(well(trains[0], 300.0))  # three times its guess
    for one in scores[:5]:
        pace.end(well(one, 0.1))  # a tenth
    assert pace.seconds_left([], 1, 0.0) == pytest.approx(300.0 + 5 * 0.1)


def test_jobs_share_what_is_left_and_what_is_under_way_is_taken_off():
    tasks = graph(*(task("score", f"s{i}", seconds=10.0) for i in range(9)))
    pace = Pace(tasks)
    pace.end(well(tasks["score/s0"], 20.0))
    assert pace.seconds_left([], 4, 0.0) == pytest.approx(8 * 20.0 / 4)
    running = [under(tasks["score/s1"], since=100.0)]
    assert pace.seconds_left(running, 4, 115.0) == pytest.approx((7 * 20.0 + 5.0) / 4)


def test_the_longest_path_behind_a_task_under_way_is_a_limit_that_jobs_do_not_move():
    tasks = chain()
    pace = Pace({**tasks, **graph(task("score", "done"))})
    pace.end(well(task("score", "done"), 1.0))
    running = [under(tasks["train/t"], since=100.0)]
    assert pace.seconds_left(running, 64, 110.0) == pytest.approx(50.0 + 10.0 + 1.0, rel=0.02)


def test_a_task_that_takes_longer_than_guessed_is_not_about_to_end():
    tasks = graph(*(task("train", f"t{i}", seconds=10.0) for i in range(3)), task("score", "s"))
    pace = Pace(tasks)
    pace.end(well(tasks["score/s"], 1.0))
    running = [under(tasks["train/t0"], since=0.0)]
    assert pace.seconds_left(running, 1, 1000.0) == pytest.approx(0.1 * 1000 + 2 * 1000), "the others may take as long"


def test_one_quick_task_does_not_make_a_training_look_quick():
    tasks = graph(task("train", "t", seconds=1000.0), task("images", "i", seconds=1.0))
    pace = Pace(tasks)
    pace.end(well(tasks["images/i"], 0.01))
    assert pace.seconds_left([], 1, 0.0) > 900


def test_events_of_a_large_graph_cost_little():
    tasks = graph(*(task("train", f"t{i}") for i in range(50)))
    tasks |= graph(*(task("predict", f"p{i}", [f"train/t{i % 50}"]) for i in range(10_000)))
    measured = []
    pace = Pace(tasks)
    paths = pace._paths
    pace._paths = lambda paces: measured.append(1) or paths(paces)
    fresh = []
    for i, one in enumerate(tasks.values()):
        pace.end(well(one, 1.0 + 0.5 * (i % 3)))
        before = pace._after
        pace.seconds_left([], 4, 0.0)
        fresh += [i] if pace._after is not before else []
    assert len(measured) == len(tasks) and len(fresh) < 20, "paths through the whole graph are measured a few times"


class Raises:
    """An observer that raises at everything."""

    name = "the faulty one"

    def __init__(self):
        self.error, self.calls = RuntimeError("no such luck\nsecond line"), 0

    def __call__(self, event):
        self.calls += 1
        raise self.error

    table = close = __call__


def tell_all(watch: Watch) -> None:
    for event in events_of_a_run():
        watch(event)


@pytest.mark.parametrize("apart", [False, True])
def test_an_observer_that_raises_is_named_once_and_left_out(apart):
    faulty, told = Raises(), []
    with Watch([told.append], apart=[faulty]) if apart else Watch([faulty, told.append]) as watch:
        watch(Event("start", Counts(total=1)))
        for post in watch._posts if apart else ():
            if isinstance(post, Apart):
                post._thread.join()
        tell_all(watch)
        watch.table([{}])
    words = [e.words for e in told if "faulty" in e.words]
    assert words == ["the faulty one is left out from here on: RuntimeError: no such luck; the run goes on"]
    assert faulty.calls == 1
    assert [e.kind for e in told if "faulty" not in e.words][1:] == [e.kind for e in events_of_a_run()]


def test_when_nobody_is_left_to_tell_the_warning_goes_to_standard_error(capsys):
    with Watch([Raises()]) as watch:
        tell_all(watch)
    assert capsys.readouterr().err.count("the faulty one is left out") == 1


def test_ctrl_c_in_an_observer_still_stops_the_run():
    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Watch([interrupted])(Event("start", Counts()))


def test_a_library_that_ends_the_process_ends_its_own_thread_alone():
    told = []
    watch = Watch([told.append], apart=[lambda event: sys.exit(3)])
    watch(Event("start", Counts()))
    watch._posts[1]._thread.join()
    watch(Event("tick", Counts()))
    assert [e.kind for e in told] == ["start", "tick", "warning"]
    watch.close()


class Blocks:
    """An observer that never comes back."""

    name = "the sleeper"

    def __init__(self):
        self.asleep, self.wake = threading.Event(), threading.Event()

    def __call__(self, event):
        self.asleep.set()
        self.wake.wait()


def test_an_observer_that_blocks_forever_holds_up_nothing_and_is_left_behind_at_the_end(monkeypatch):
    monkeypatch.setattr(watching, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(watching, "ROOM", 50)
    sleeper, told = Blocks(), []
    watch = Watch([told.append], apart=[sleeper])
    watch(Event("start", Counts()))
    assert sleeper.asleep.wait(10)
    for i in range(200):
        watch(Event("end", Counts(done=i)))
    assert 45 <= len(watch._posts[1]._queue) <= 50, "what waits for it is bounded"
    watch.close()
    sleeper.wake.set()
    words = [e.words for e in told if e.kind == "warning"]
    assert words[0].startswith("the sleeper did not end in time") and re.search(r"not told of 15\d events", words[1])


def test_where_there_is_no_room_ticks_are_left_out_first(monkeypatch):
    monkeypatch.setattr(watching, "ROOM", 10)
    sleeper = Blocks()
    post = Apart(sleeper)
    post.send("event", Event("start", Counts()))
    assert sleeper.asleep.wait(10)
    sent = ("tick", "begin", "tick", "end", "retry", "end", "warning", "tick", "end", "end", "done")
    for i, kind in enumerate(sent):
        post.send("event", Event(kind, Counts(done=i)))
    kinds = [content.kind for _, content in post._queue]
    assert kinds == ["begin", "tick", "end", "retry", "end", "warning", "tick", "end", "end", "done"]
    assert post.lost == 0, "ticks are no loss"
    for i in range(100):
        post.send("event", Event("end", Counts(done=i)))
    kinds = [content.kind for _, content in post._queue]
    assert kinds == ["warning", "done", *["end"] * 8] and post._queue[-1][1].counts.done == 99
    assert post.lost == 1 + 1 + 4 + 92, "a begin, a retry, and the oldest ends"
    sleeper.wake.set()


def test_a_tick_that_waits_is_replaced_by_a_newer_one():
    sleeper = Blocks()
    post = Apart(sleeper)
    post.send("event", Event("start", Counts()))
    assert sleeper.asleep.wait(10)
    for i in range(100):
        post.send("event", Event("tick", Counts(done=i)))
    assert [content.counts.done for _, content in post._queue] == [99] and post.lost == 0
    sleeper.wake.set()


def test_all_events_reach_an_observer_that_is_fast_enough_in_their_order():
    seen = []
    with Watch(apart=[seen.append]) as watch:
        for i in range(500):
            watch(Event("end", Counts(done=i)))
    assert [e.counts.done for e in seen] == list(range(500))


def test_an_observer_is_handed_the_table_and_is_closed():
    class Whole:
        def __init__(self):
            self.got = []

        def __call__(self, event):
            self.got.append(event.kind)

        def table(self, rows):
            self.got.append(rows)

        def close(self):
            self.got.append("closed")

    here, apart = Whole(), Whole()
    with Watch([here], apart=[apart]) as watch:
        watch(Event("done", Counts()))
        watch.table([{"dsc": 1.0}])
    assert here.got == apart.got == ["done", [{"dsc": 1.0}], "closed"]
