"""A training that is killed at any moment goes on from its checkpoint to the same bytes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from shiftbench.backbones import Backbone
from shiftbench.networks import Normalise, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train import Checkpoint, NonFiniteLoss, fit, fit_supervised
from shiftbench.train.average import STATISTICS_BATCHES
from shiftbench.train.checkpoint import RECORD
from shiftbench.types import LabelledSet, LossTerm, Recipe

STEPS = 12
ROOT = Path(__file__).parents[1]


class Killed(BaseException):
    """As a signal is: nothing on its way up handles it."""


class Batches:
    """Batches drawn from a generator, with a state, as a PatchSampler's."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __iter__(self):
        while True:
            x = torch.from_numpy(self.rng.normal(size=(2, 1, 8, 8)).astype(np.float32))
            yield x, (x[:, 0] > 0).long()

    def state(self):
        return {"generator": self.rng.bit_generator.state}

    def restore_(self, state):
        self.rng.bit_generator.state = state["generator"]


class Stateless:
    """The same batches without a state."""

    def __init__(self, seed):
        self.batches = Batches(seed)

    def __iter__(self):
        return iter(self.batches)


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 2, 1)
        return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def train(folder, average="none", kill_at=None, batches=Batches, identity="a", every_seconds=0.0, **changes):
    """Weights and losses of a training that writes its state after every step, and may be killed within one."""
    model, calls = network(), []

    def step(network, batch):
        calls.append(batch)
        if kill_at is not None and len(calls) > kill_at:
            raise Killed
        return loss(network, batch)

    checkpoint = None if folder is None else Checkpoint(folder, identity=identity, every_seconds=every_seconds)
    arguments = {"steps": STEPS, "rng": generator(0, "c"), "learning_rate": 1e-2, "average": average} | changes
    losses = fit(model, batches(1), step, checkpoint=checkpoint, **arguments)
    return model.state_dict(), losses, len(calls)


def same(one, other):
    return all(torch.equal(one[0][name], other[0][name]) for name in one[0]) and one[1] == other[1]


@pytest.mark.parametrize("batches", [Batches, Stateless])
@pytest.mark.parametrize("average", ["none", "ema", "swa"])
def test_a_killed_training_goes_on_to_the_same_bytes(tmp_path, average, batches):
    undisturbed = train(None, average)
    for kill_at in generator(0, "kills", average).choice(STEPS, 3, replace=False).tolist():
        folder = tmp_path / str(kill_at)
        with pytest.raises(Killed):
            train(folder, average, kill_at=kill_at, batches=batches)
        resumed = train(folder, average, batches=batches)
        assert same(resumed, undisturbed)
        assert resumed[2] == undisturbed[2] - kill_at  # it did not start anew


def test_a_training_killed_many_times_goes_on_to_the_same_bytes(tmp_path):
    undisturbed = train(None, "ema")
    for _ in range(STEPS - 1):
        with pytest.raises(Killed):
            train(tmp_path, "ema", kill_at=1)
    assert same(train(tmp_path, "ema"), undisturbed)


def supervised(folder, every_seconds, on_step=lambda i: None):
    """A training by the source recipe, with dropout, batch norm and augmentation."""
    rng = np.random.default_rng(0)
    references = [torch.from_numpy(rng.integers(0, 3, (24, 24)).astype(np.uint8)) for _ in range(2)]
    images = [
        r[None].float() + torch.from_numpy(rng.normal(0, 0.1, (1, 24, 24)).astype(np.float32)) for r in references
    ]
    backbone = Backbone(widths=(4, 8), convolutions=1, dropout=0.2)
    normalise = Normalise()
    model = build(backbone, dimension=2, channels=1, task=Task(3), normalise=normalise, patch=(16, 16))
    terms = (LossTerm("dice_ce"), LossTerm("focal", 0.0, 1.0))
    recipe = Recipe("t", STEPS, 4, 2, (16, 16), 1e-2, augmentation="light", loss=terms, average="swa")
    checkpoint = None if folder is None else Checkpoint(folder, identity="s", every_seconds=every_seconds)
    model.network.register_forward_hook(lambda *_: on_step(None))
    notes = {}
    losses = fit_supervised(
        *(model, LabelledSet(images, references, ["a", "b"]), recipe),
        rng=generator(3, "s"),
        checkpoint=checkpoint,
        gradient_share_every=2,
        note=notes.__setitem__,
    )
    return model.state_dict(), losses, notes["background_gradient_share"]


# The forward passes of a step; the flushes of tensors, folder, record and folder; the renames of tensors and record.
KILLS = [("step", 7), ("fsync", 9), ("fsync", 10), ("fsync", 11), ("replace", 5), ("replace", 6)]

KILL_ALL = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_checkpoint as t
from shiftbench.train import checkpoint

def dying(function, n):
    calls = []
    def call(*args):
        calls.append(args)
        if len(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call

for where, n in t.KILLS:
    child = os.fork()
    if not child:
        folder = Path({folder!r}) / f"{{where}}-{{n}}"
        if where != "step":
            setattr(checkpoint.os, where, dying(getattr(os, where), n))
        t.supervised(folder, 0.0, *([dying(lambda _: None, n)] if where == "step" else []))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (where, n, status)
"""


def test_a_process_killed_while_it_trains_or_writes_goes_on_to_the_same_bytes(tmp_path):
    code = KILL_ALL.format(tests=str(ROOT / "tests"), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    undisturbed = supervised(None, 0.0)
    for where, n in KILLS:
        folder, calls = tmp_path / f"{where}-{n}", []
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # nothing that is read is damaged
            resumed = supervised(folder, 0.0, calls.append)
        assert same(resumed, undisturbed) and resumed[2] == undisturbed[2], where
        assert len(calls) < STEPS + STATISTICS_BATCHES, "it started anew"
        assert len(list(folder.iterdir())) == 2, "what the kill left behind is still there"


def test_a_record_is_seen_only_when_it_and_its_tensors_are_on_disk(tmp_path, monkeypatch):
    checkpoint, seen, fsync = Checkpoint(tmp_path, identity="a"), [], os.fsync
    checkpoint.write({"x": torch.zeros(2)}, {"done": 1, "training": {}})

    def watched(handle):
        seen.append(json.loads((tmp_path / RECORD).read_text())["done"])
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    checkpoint.write({"x": torch.ones(2)}, {"done": 2, "training": {}})
    assert seen == [1, 1, 1, 2]  # tensors, their folder, the record, its folder
    tensors, record = checkpoint.read({})
    assert record["done"] == 2 and torch.equal(tensors["x"], torch.ones(2))


def test_a_checkpoint_leaves_the_generator_where_an_undisturbed_training_does(tmp_path):
    draws = []
    for kill_at in (None, 5, None):
        rng = generator(0, "c")
        try:
            train(tmp_path if draws else None, kill_at=kill_at, rng=rng)
        except Killed:
            continue
        draws.append(rng.random())
    assert draws[0] == draws[1]


def test_a_state_is_written_only_when_it_is_time(tmp_path):
    now = [0.0]
    checkpoint = Checkpoint(tmp_path / "c", identity="a", every_seconds=10, clock=lambda: now[0])
    written = []
    write, checkpoint.write = checkpoint.write, lambda t, r: (written.append(r["done"]), write(t, r))

    def step(model, batch):
        now[0] += 4
        return loss(model, batch)

    fit(network(), Batches(1), step, steps=10, rng=generator(0, "c"), learning_rate=1e-2, checkpoint=checkpoint)
    assert written == [3, 6, 9]


def left_by_a_kill(folder):
    with pytest.raises(Killed):
        train(folder, kill_at=4)


def damaged_tensors(folder):
    (file,) = folder.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def missing_tensors(folder):
    next(folder.glob("*.safetensors")).unlink()


def cut_record(folder):
    text = (folder / RECORD).read_text()
    (folder / RECORD).write_text(text[: len(text) // 2])


def record_of_another_kind(folder):
    (folder / RECORD).write_text("[1]")


def record_without_entries(folder):
    (folder / RECORD).write_text("{}")


@pytest.mark.parametrize(
    "damage", [damaged_tensors, missing_tensors, cut_record, record_of_another_kind, record_without_entries]
)
def test_a_damaged_checkpoint_is_left_out_and_the_training_says_so(tmp_path, damage):
    left_by_a_kill(tmp_path)
    damage(tmp_path)
    with pytest.warns(UserWarning, match="damaged .*starts anew"):
        again = train(tmp_path)
    assert same(again, train(None)) and again[2] == STEPS


@pytest.mark.parametrize(
    "changes",
    [{"identity": "b"}, {"steps": STEPS + 1}, {"learning_rate": 2e-2}, {"average": "ema"}],
    ids=["identity", "steps", "learning rate", "average"],
)
def test_a_checkpoint_of_another_training_is_left_out_and_the_training_says_so(tmp_path, changes):
    left_by_a_kill(tmp_path)
    with pytest.warns(UserWarning, match="another training"):
        again = train(tmp_path, **changes)
    assert same(again, train(None, **changes)) and again[2] == changes.get("steps", STEPS)


def test_a_checkpoint_of_another_architecture_is_left_out(tmp_path):
    left_by_a_kill(tmp_path)
    other = nn.Sequential(nn.Conv2d(1, 2, 1))
    checkpoint = Checkpoint(tmp_path, identity="a")
    with pytest.warns(UserWarning, match="another training"):
        losses = fit(
            other, Batches(1), loss, steps=STEPS, rng=generator(0, "c"), learning_rate=1e-2, checkpoint=checkpoint
        )
    assert len(losses) == STEPS


def test_a_disk_that_takes_no_checkpoint_does_not_stop_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="could not be written"):
        assert same(train(tmp_path / "file"), train(None))


def test_files_of_others_in_the_folder_are_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    train(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_is_json_and_safetensors_without_pickle(tmp_path):
    left_by_a_kill(tmp_path)
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["done"] == 4 and record["identity"] == "a"
    assert {f.suffix for f in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_a_checkpoint_can_be_removed(tmp_path):
    left_by_a_kill(tmp_path / "c")
    Checkpoint(tmp_path / "c", identity="a").remove()
    assert not (tmp_path / "c").exists()


def test_a_loss_that_is_not_finite_is_never_written(tmp_path):
    def exploding(model, batch):
        return loss(model, batch) * (float("nan") if calls.append(1) or len(calls) > 3 else 1.0)

    calls = []
    checkpoint = Checkpoint(tmp_path, identity="a", every_seconds=0)
    with pytest.raises(NonFiniteLoss):
        fit(
            network(),
            Batches(1),
            exploding,
            steps=STEPS,
            rng=generator(0, "c"),
            learning_rate=1e-2,
            checkpoint=checkpoint,
        )
    assert json.loads((tmp_path / RECORD).read_text())["done"] == 3
