"""Real tasks of a few milliseconds for tests of the Ray engine: a cluster's workers import this module by name."""

import os
import signal
import time
import uuid
from pathlib import Path

from shiftbench.graph import Task
from shiftbench.rng import digest

KINDS = ("anatomy", "images", "train", "predict", "score")
MODULES = dict.fromkeys(KINDS, "tiny_ray_tasks")


def add_up(context, key, task):
    """Adds a number to the arrays of what it reads, and publishes the sum; it may wait, or die, as it is told."""
    if "log" in task:
        (Path(task["log"]) / f"{key}.{os.getpid()}.{uuid.uuid4().hex}").write_text(_seat())
    context.report("adding up")
    _misbehave(task)
    total = task["add"] + sum(_read(context.store, *name.split("/")) for name in task["reads"])
    with context.store.workspace() as folder:
        (folder / "number.txt").write_text(str(total))
        (folder / "padding.bin").write_bytes(b"x" * task.get("bytes", 0))
        context.store.publish(task["kind"], key, {"total": total}, folder)


def _seat():
    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def _misbehave(task):
    if "wait_for" in task:
        while not Path(task["wait_for"]).exists():
            time.sleep(0.05)
    time.sleep(task.get("seconds", 0.0))
    if "raises" in task:
        raise ValueError(task["raises"])
    if "dies_once" in task and not Path(task["dies_once"]).exists():
        Path(task["dies_once"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if "node_dies_once" in task and not Path(task["node_dies_once"]).exists():
        import ray

        Path(task["node_dies_once"]).write_text(ray.get_runtime_context().get_node_id())
        time.sleep(600)


def _read(store, kind, key):
    assert store.record(kind, key)["total"] == int((store.artifact(kind, key) / "number.txt").read_text())
    return store.record(kind, key)["total"]


HANDLERS = dict.fromkeys(KINDS, add_up)


def graph(chains=4, **extra):
    """Tasks of `chains` targets over one shared training, shaped as a real plan; `extra` goes into predict tasks."""
    tasks = {}

    def add(kind, number, needs=(), reads=None, **more):
        payload = {"kind": kind, "add": number, "reads": list(needs if reads is None else reads), **more}
        task = Task(kind, digest(kind, number), payload, tuple(needs), f"{kind} {number}", 1.0)
        return tasks.setdefault(task.id, task)

    log = {"log": extra["log"]} if "log" in extra else {}
    source = add("anatomy", 1, **log)
    train = add("train", 2, [add("images", 3, [source.id], **log).id], **log)
    for i in range(chains):
        anatomy = add("anatomy", 10 + i, **log)
        images = add("images", 20 + i, [anatomy.id], **log)
        predict = add("predict", 30 + i, [train.id, images.id], **extra)
        needs = [predict.id, images.id]
        add("score", 40 + i, needs, [*needs, anatomy.id, train.id], **log)  # reads what only its needs name
    return tasks


def totals(store, tasks):
    """What every task found; a KeyError or an OutputError where one is missing."""
    return {name: store.record(task.kind, task.key)["total"] for name, task in tasks.items()}


def expected(tasks):
    """The totals, by hand."""
    found = {}
    while len(found) < len(tasks):
        for name, task in tasks.items():
            if all(need in found for need in task.payload["reads"]):
                found[name] = task.payload["add"] + sum(found[need] for need in task.payload["reads"])
    return found
