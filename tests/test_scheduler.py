"""What is next: order, claims, repeats and orphans, without a process."""

from __future__ import annotations

import sys

import pytest
from tiny_tasks import graph, layered, task

from shiftbench.engine import scheduler as module
from shiftbench.engine.order import topological, urgencies
from shiftbench.engine.scheduler import RETRIES, Scheduler, to_do, unanswered
from shiftbench.errors import OutputError
from shiftbench.store import Store
from shiftbench.types import Status

WELL = {"ok": True, "seconds": 0.5}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "out")


class Held:
    """Claims of which another run holds some."""

    def __init__(self, *others):
        self.others, self.mine = set(others), set()

    def take(self, name):
        self.mine |= {name} - self.others
        return name not in self.others

    def release(self, name):
        self.mine.discard(name)


def drained(scheduler, store=None, answers=None):
    """All outcomes, each task ending as `answers` has it for its label, else well."""
    outcomes = []
    while not scheduler.finished:
        while (one := scheduler.take()) is not None:
            answer = (answers or {}).get(one.label, WELL)
            if store is not None and answer["ok"]:
                store.publish(one.kind, one.key, {"value": 1})
            outcomes.append(scheduler.ended(one, answer))
        outcomes += scheduler.settled()
    return outcomes


def chain(*kinds):
    tasks = []
    for kind in kinds:
        tasks.append(task(kind, kind, tuple(tasks[-1:])))
    return tasks


def test_every_task_comes_after_what_it_needs_and_the_longest_path_first(store):
    tasks = layered(80)
    order = [o.task for o in drained(Scheduler(tasks, store))]
    place = {one.id: i for i, one in enumerate(order)}
    assert len(place) == len(tasks) == len(order)
    assert all(place[need] < place[one.id] for one in order for need in one.needs)
    short, long = task("images", "short"), task("images", "long")
    late = task("train", "late", (long,), seconds=60.0)
    assert [o.task.label for o in drained(Scheduler(graph(short, long, late), store))][:2] == [long.label, late.label]


def test_the_urgency_is_the_longest_path_and_a_need_outside_the_graph_counts_as_met():
    a, b, c = chain("images", "train", "predict")
    assert urgencies(graph(a, b, c)) == {a.id: 3.0, b.id: 2.0, c.id: 1.0}
    assert urgencies(graph(b, c)) == {b.id: 2.0, c.id: 1.0} and topological(graph(c, b)) == [b.id, c.id]


def test_a_task_is_given_to_its_own_lane_alone(store):
    scheduler = Scheduler(graph(task("images", "a"), task("train", "b", seconds=9.0)), store)
    assert scheduler.take("data").kind == "images" and scheduler.take("data") is None
    assert scheduler.take("method").kind == "train" and scheduler.take() is None
    assert len(scheduler.running) == 2 and not scheduler.finished


def test_what_is_in_the_store_is_reused_and_counted(store):
    a, b, c = chain("images", "train", "predict")
    store.publish("images", a.key, {})
    scheduler = Scheduler(graph(a, b, c), store)
    assert scheduler.counts.reused == 1 and scheduler.counts.left == 2 and scheduler.planned_left == 2.0
    assert [o.task for o in drained(scheduler)] == [b, c]
    assert (scheduler.counts.done, scheduler.counts.left, scheduler.planned_left) == (2, 0, 0.0)


def test_a_finished_run_is_resumed_by_one_look_per_kind(store, monkeypatch):
    tasks = layered(400)
    for one in tasks.values():
        path = store.record_path(one.kind, one.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    monkeypatch.setattr(store, "present", None)
    monkeypatch.setattr(store, "done", None)
    assert Scheduler(tasks, store).finished


def test_dropped_arrays_are_computed_again_only_for_a_task_that_needs_them(store):
    a, b, c, d = chain("images", "train", "predict", "score")
    for one in (a, b, c):
        with store.workspace() as folder:
            (folder / "value").write_text("1")
            store.publish(one.kind, one.key, {}, folder)
    store.drop("images", a.key)
    store.drop("predict", c.key)
    assert set(to_do(graph(a, b, c, d), store)) == {c.id, d.id}, "the images are read by nothing that is left"
    store.drop("train", b.key)
    assert set(to_do(graph(a, b, c, d), store)) == {a.id, b.id, c.id, d.id}
    store.publish("score", d.key, {})
    assert to_do(graph(a, b, c, d), store) == {}


def test_what_may_pass_by_itself_is_repeated_once_and_nothing_else_is():
    assert {reason for reason, times in RETRIES.items() if times == 1} == {"signal", "lost", "out_of_memory"}
    assert {reason for reason, times in RETRIES.items() if times == 0} == {"exception", "nan", "timeout", "input"}


@pytest.mark.parametrize("reason", RETRIES)
def test_a_failure_is_repeated_as_its_reason_says_and_recorded_with_every_attempt(store, reason):
    (one,) = chain("train")
    scheduler = Scheduler(graph(one), store)
    outcomes = drained(scheduler, answers={one.label: unanswered("bad luck", reason)})
    assert [o.again for o in outcomes] == [True] * RETRIES[reason] + [False]
    assert {o.reason for o in outcomes} == {reason} and {o.cause for o in outcomes} == {"bad luck"}
    record = store.failure("train", one.key)
    assert (record["cause"], record["status"], record["reason"], record["label"]) == (
        *("bad luck", "failed", reason),
        one.label,
    )
    assert [a["reason"] for a in record["attempts"]] == ([] if reason == "input" else [reason] * len(outcomes))
    assert (scheduler.counts.done, scheduler.counts.failed) == (0, 1) and not store.done("train", one.key)
    again = Scheduler(graph(one), store)
    assert again.take() == one, "the next run attempts it again"
    again.ended(one, unanswered("worse luck", "exception"))
    if reason != "input":
        causes = [a["cause"] for a in store.failure("train", one.key)["attempts"]]
        assert causes == ["bad luck"] * len(outcomes) + ["worse luck"]


def test_what_needs_a_failed_task_fails_with_that_cause_down_the_graph(store):
    a, b, c, d = chain("images", "train", "predict", "score")
    other = task("score", "other")
    scheduler = Scheduler(graph(a, b, c, d, other), store)
    outcomes = drained(scheduler, answers={b.label: unanswered("bad luck", "exception", Status.TIMEOUT)})
    told = {o.task.id: o for o in outcomes}
    assert len(told) == len(outcomes) == 5 and told[other.id].ok and told[b.id].status == "timeout"
    for one in (c, d):
        assert not told[one.id].ok and told[one.id].reason == "input" and told[one.id].status == "failed"
        assert told[one.id].cause == "not run because train failed: bad luck"
        assert store.failure(one.kind, one.key)["cause"] == told[one.id].cause
    assert scheduler.counts.failed == 3 and scheduler.planned_left == 0.0


def test_a_task_with_two_failed_inputs_fails_once(store):
    a, b = task("images", "a"), task("images", "b")
    both = task("train", "both", (a, b))
    bad = unanswered("bad luck", "exception")
    outcomes = drained(Scheduler(graph(a, b, both), store), answers={a.label: bad, b.label: bad})
    assert [o.task for o in outcomes].count(both) == 1


def test_nothing_runs_beside_a_task_that_ran_out_of_memory(store):
    big, small, more = task("train", "big", seconds=9.0), task("train", "small"), task("score", "more")
    scheduler = Scheduler(graph(big, small, more), store)
    assert scheduler.take() == big and scheduler.take("method") == small
    outcome = scheduler.ended(big, unanswered("no memory", "out_of_memory", Status.OUT_OF_MEMORY))
    assert outcome.again and scheduler.alone(big)
    assert scheduler.take("method") is None and scheduler.take() == more
    scheduler.ended(small, WELL)
    assert scheduler.take() is None, "one is still under way"
    scheduler.ended(more, WELL)
    assert scheduler.take() == big and not scheduler.ended(big, unanswered("no memory", "out_of_memory")).again
    assert scheduler.finished


def test_nothing_is_started_while_a_task_runs_alone(store):
    big, small = task("train", "big", seconds=9.0), task("train", "small", seconds=0.5)
    after = task("score", "after", (small,))
    scheduler = Scheduler(graph(big, small, after), store)
    scheduler.ended(scheduler.take(), unanswered("no memory", "out_of_memory"))
    scheduler.ended(scheduler.take(), WELL)
    scheduler.ended(scheduler.take(), WELL)
    assert scheduler.take() == big
    scheduler._ready["data"].append((0.0, "new"))
    assert scheduler.take() is None


def test_a_task_of_another_run_is_set_aside_and_ends_when_its_record_appears(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    a, b = chain("images", "train")
    claims = Held(a.id)
    scheduler = Scheduler(graph(a, b), store, claims)
    assert scheduler.take() is None and list(scheduler.settled()) == [] and scheduler.take() is None
    store.publish("images", a.key, {})
    assert list(scheduler.settled()) == [], "looked at a moment ago"
    now[0] += 2.0
    (found,) = scheduler.settled()
    assert found.ok and found.task == a and found.seconds == 0.0
    assert scheduler.take() == b and claims.mine == {b.id}
    scheduler.ended(b, WELL)
    assert claims.mine == set() and scheduler.finished and scheduler.counts.done == 2


def test_a_claim_that_went_stale_is_taken_over(store, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    (a,) = chain("images")
    claims = Held(a.id)
    scheduler = Scheduler(graph(a), store, claims)
    assert scheduler.take() is None and list(scheduler.settled()) == []
    claims.others.clear()
    now[0] += 2.0
    assert list(scheduler.settled()) == [] and scheduler.take() == a


def test_a_task_that_another_run_published_since_the_start_is_not_computed(store):
    a, b = chain("images", "train")
    claims = Held()
    scheduler = Scheduler(graph(a, b), store, claims)
    store.publish("images", a.key, {})
    assert scheduler.take() is None and claims.mine == set() and not scheduler.running
    (found,) = scheduler.settled()
    assert found.ok and found.task == a and scheduler.take() == b


def test_a_worker_that_dies_after_it_published_has_done_its_task(store):
    (a,) = chain("train")
    scheduler = Scheduler(graph(a), store)
    store.publish("train", scheduler.take().key, {})
    assert scheduler.lost(a, "the node is gone").ok and scheduler.counts.failed == 0


def test_after_a_fatal_answer_nothing_is_started_and_nothing_is_recorded(store):
    a, b = task("images", "a"), task("images", "b")
    scheduler = Scheduler(graph(a, b), store)
    answer = {**unanswered("the disk is full", "exception"), "fatal": True}
    outcome = scheduler.ended(scheduler.take(), answer)
    assert outcome.status == "fatal" and not outcome.ok and scheduler.finished and scheduler.take() is None
    assert store.failure("images", outcome.task.key) is None


def test_a_claim_is_given_back_when_the_failure_cannot_be_written(store, monkeypatch):
    (a,) = chain("images")
    claims = Held()
    scheduler = Scheduler(graph(a), store, claims)

    def full(*_):
        raise OutputError("the disk is full")

    monkeypatch.setattr(store, "publish_failure", full)
    with pytest.raises(OutputError):
        scheduler.ended(scheduler.take(), unanswered("bad luck", "exception"))
    assert claims.mine == set()


def test_what_has_ended_is_forgotten(store):
    tasks = layered(800)
    scheduler = Scheduler(tasks, store, Held())
    drained(scheduler)
    kept = {name: value for name, value in vars(scheduler).items() if isinstance(value, (dict, set)) and value}
    assert {name: value for name, value in kept.items() if name not in ("retries", "_ready")} == {}
    assert not any(scheduler._ready.values())


def test_the_steps_of_the_bookkeeping_grow_with_the_graph_and_not_with_its_square(store):
    def steps(size):
        """Lines of the scheduler that are gone through, each turn of a loop counted, per task."""
        tasks, count = layered(size), 0

        def counted(frame, event, _):
            nonlocal count
            count += event == "line"
            return counted if "engine" in frame.f_code.co_filename else None

        before = sys.gettrace()
        sys.settrace(counted)
        try:
            drained(Scheduler(tasks, store))
        finally:
            sys.settrace(before)
        return count / len(tasks)

    assert steps(2000) < 1.2 * steps(200)
