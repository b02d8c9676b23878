"""A training task that was killed goes on from its checkpoint, and its result is that of an undisturbed one."""

from __future__ import annotations

import functools

import pytest
import torch
from safetensors.torch import load_file

from scenarios import TINY, write
from shiftbench.engine.order import topological
from shiftbench.runner import prepare
from shiftbench.train import Checkpoint
from shiftbench.worker import data, training
from shiftbench.worker.perform import Context


class Killed(BaseException):
    """What nothing catches."""


def job(tmp_path, name):
    text = TINY + '\n[training]\nsteps = 12\naverage = "swa"\naugmentation = "nnunet"\nloss = ["dice", "focal"]\n'
    return prepare(write(tmp_path, text), ["erm"], out=tmp_path / name, device="cpu")


def trained(job, words=lambda text: None):
    """Runs what the training needs, and the training; returns its task."""
    tasks = job.graph.tasks
    (train,) = [task for task in tasks.values() if task.kind == "train"]
    for name in topological(tasks):
        task = tasks[name]
        if task.kind in ("anatomy", "images", "references") and not job.store.done(task.kind, task.key):
            data.HANDLERS[task.kind](Context(job.store), task.key, task.payload)
    training.train(Context(job.store, report=words), train.key, train.payload)
    return train


def weights(job, task):
    return load_file(job.store.artifact("train", task.key) / "weights.safetensors")


@pytest.mark.parametrize("step", [5, 11])
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(tmp_path, monkeypatch, step):
    undisturbed = job(tmp_path, "whole")
    task = trained(undisturbed)
    monkeypatch.setattr(training, "Checkpoint", functools.partial(Checkpoint, every_seconds=0.0))
    killed, plain, taken = job(tmp_path, "killed"), torch.optim.AdamW.step, []

    def fatal(self, *args):
        taken.append(1)
        if len(taken) == step:
            raise Killed
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", fatal)
    with pytest.raises(Killed):
        trained(killed)
    kept = killed.store.unfinished("train", task.key)
    assert any(kept.iterdir()) and not killed.store.done("train", task.key)
    taken.clear()
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *args: (taken.append(1), plain(self, *args))[1])
    assert trained(killed).key == task.key
    assert len(taken) == 12 - (step - 1), "it went on where it was"
    mine, other = weights(killed, task), weights(undisturbed, task)
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)
    assert killed.store.record("train", task.key)["losses"] == undisturbed.store.record("train", task.key)["losses"]
    assert not kept.exists(), "nothing is left of the checkpoint"


def test_a_training_says_in_words_how_far_it_is_and_keeps_what_it_noticed(tmp_path):
    said = []
    whole = job(tmp_path, "whole")
    task = trained(whole, said.append)
    assert said and all("of 12, loss" in words and "left" in words for words in said)
    notes = whole.store.record("train", task.key)["notes"]
    assert notes["speed"]["variant"] == "eager"
