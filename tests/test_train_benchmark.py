"""The benchmark of training: every pipeline trains the same task, and the figures are right."""

import argparse
import sys
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from shiftbench.backbones import Backbone
from shiftbench.train import NonFiniteLoss

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
study = import_module("training.study")
pipelines = import_module("training.pipelines")
speed = import_module("training.speed")
equal_time = import_module("training.equal_time")
table = import_module("training.table")
train = import_module("train")
monai = import_module("training.monai_loader").monai
torchio = import_module("training.torchio_queue").torchio
nnunet = import_module("training.nnunet_trainer").NnUNet

DATA = Path(__file__).parents[2] / "shared/data/msd_hippocampus"
CPU = torch.device("cpu")
TINY = Backbone(norm="instance", widths=(4, 8), convolutions=1)
SETTINGS = {
    3: study.Setting("tiny-3d", TINY, (16, 16, 16), 2, (32, 32, 32), 3),
    2: study.Setting("tiny-2d", TINY, (24, 24), 2, (2, 48, 48), 3),
}
MAKERS = {
    "bare": pipelines.bare,
    "shiftbench": pipelines.Own,
    "monai": lambda training: monai(training, 0),
    "monai thread": lambda training: monai(training, "thread"),
    "torchio": lambda training: torchio(training, 0),
}
KINDS = [(d, a) for d in SETTINGS for a in study.AUGMENTATIONS]


@pytest.fixture(scope="module")
def trainings():
    """(dimension, augmentation) -> a training on noise in which bright blocks are the structures."""
    rng = np.random.default_rng(0)
    made = {}
    for dimension, setting in SETTINGS.items():
        shape = setting.shape[-dimension:]
        images, references = [], []
        for _ in range(setting.volumes):
            reference = np.zeros(shape, np.int64)
            middle = tuple(n // 2 for n in shape)
            reference[tuple(slice(m - 5, m) for m in middle)] = 1
            reference[tuple(slice(m, m + 5) for m in middle)] = 2
            images.append(torch.from_numpy((100 * reference + rng.normal(0, 5, shape)).astype(np.float32))[None])
            references.append(torch.from_numpy(reference))
        for augmentation in study.AUGMENTATIONS:
            made[dimension, augmentation] = study._training(setting, images, references, 3, augmentation, 40, CPU)
    return made


def trained(training, maker, steps):
    """Loss on the fixed batch before and after."""
    pipeline = maker(training)
    try:
        before = pipelines.fixed_loss(training, training.network())
        pipeline.run(steps - 1)
        pipeline.run(1)
        return before, pipelines.fixed_loss(training, pipeline.model)
    finally:
        pipeline.close()


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_pipeline_learns_the_task_that_all_share(trainings, name, kind):
    before, after = trained(trainings[kind], MAKERS[name], 30)
    assert after < 0.9 * before


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nnunetv2") is None, reason="nnU-Net is not installed")
@pytest.mark.parametrize("workers, own_optimiser", [(0, False), (0, True), (1, False)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_trainer_of_nnunet_learns_the_task_that_all_share(trainings, kind, workers, own_optimiser):
    before, after = trained(trainings[kind], lambda t: nnunet(t, workers, own_optimiser=own_optimiser), 30)
    assert after < 0.9 * before


@pytest.mark.slow
@pytest.mark.parametrize("maker", [monai, torchio])
def test_processes_of_a_loader_end_with_their_pipeline(trainings, maker):
    before = len(torch.multiprocessing.active_children())
    pipeline = maker(trainings[3, "nnunet"], 2)
    pipeline.run(3)
    assert len(torch.multiprocessing.active_children()) == before + 2
    pipeline.close()
    for child in torch.multiprocessing.active_children():
        child.join(10)
    assert len(torch.multiprocessing.active_children()) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("maker", [monai, torchio])
def test_batches_of_other_libraries_have_the_shape_of_ours(trainings, kind, maker):
    training = trainings[kind]
    pipeline = maker(training, 0)
    batch, patch = training.setting.batch, training.setting.patch
    centred = 0
    for _ in range(10):
        images, references = next(pipeline.batches)
        assert images.shape == (batch, 1, *patch) and references.shape == (batch, *patch)
        assert images.dtype == torch.float32 and references.dtype == torch.int64
        assert torch.isfinite(images).all() and set(references.unique().tolist()) <= {0, 1, 2}
        centred += int((references[:, *(p // 2 for p in patch)] > 0).sum())
    assert training.augmentation != "none" or centred >= 6  # of 20; without oversampling one or two
    pipeline.close()


def test_a_paused_training_takes_exactly_the_steps_that_are_ordered(trainings):
    training = replace(trainings[3, "none"], steps=7)
    own, plain = pipelines.Own(training), pipelines.bare(training)
    for steps in (1, 4, 2):
        own.run(steps)
        plain.run(steps)
    assert own.sampler.drawn == plain.taken == 7
    with pytest.raises(Exception, match="over"):
        own.run(1)
    own.close()


def test_an_error_in_the_thread_of_a_training_reaches_whoever_waits(trainings):
    own = pipelines.Own(trainings[3, "none"])
    with torch.no_grad():
        next(own.model.parameters()).fill_(float("nan"))
    with pytest.raises(NonFiniteLoss):
        own.run(1)
    own.close()


def test_all_networks_start_from_the_same_weights(trainings):
    training = trainings[2, "none"]
    first, second = training.network().state_dict(), training.network().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_the_phantom_gives_every_row_cases_that_hold_its_structures():
    for name in ("3d-128-small", "2d-256"):
        setting = study.settings(CPU)[name]
        setting = replace(setting, shape=(8, 48, 48), volumes=1, patch=setting.patch)
        training = study.phantom_training(setting, "none", 1, CPU)
        assert {1, 2, 3} <= {k for y in training.raw.references for k in y.unique().tolist()}
        assert training.raw.references[0].ndim == setting.dimension


def test_a_run_measures_every_loader_once_and_the_fastest_in_each_round(trainings):
    loaders = {"0 processes": MAKERS["monai"], "thread": MAKERS["monai thread"]}
    makers = {name: {"-": MAKERS[name]} for name in ("bare", "shiftbench")} | {"monai": loaders}
    turns = speed.measure(trainings[3, "nnunet"], makers, rounds=2, steps=2)
    by_round = [[(t.pipeline, t.loader) for t in turns if t.round == i] for i in range(3)]
    assert len(by_round[0]) == 4 and len(by_round[1]) == 3 and by_round[1] == by_round[2]
    first = {t.loader: t.seconds for t in turns if t.pipeline == "monai" and t.round == 0}
    assert ("monai", min(first, key=first.get)) in by_round[1]
    assert all(t.loss < t.loss_before for t in turns if t.round)
    text = table.speed_table(turns)
    assert "tiny-3d" in text and "MONAI" in text and "nnU-Net" not in text
    assert "tiny-3d" in table.loss_table(turns) and "tiny-3d" in table.aims(turns, "cpu")


def test_a_loader_that_is_known_to_be_fastest_is_the_only_one(trainings):
    makers = {"monai": import_module("training.catalogue").families("cpu")["monai"]}
    turns = speed.measure(trainings[3, "none"], makers, rounds=1, steps=2, loaders={"monai": "0 processes"})
    assert [(t.loader, t.round) for t in turns] == [("0 processes", 1)]


def test_sections_with_the_same_loaders_learn_from_one_another():
    rows = study.settings(CPU)
    turns = [
        turn("monai", 0, 1.0, setting="3d-256", augmentation="nnunet", loader="thread"),
        turn("monai", 1, 1.0, setting="3d-256", augmentation="nnunet", loader="1 process"),
    ]
    assert train.loaders_found(turns, rows["3d-512"], "nnunet") == {"monai": "1 process"}
    assert train.loaders_found(turns, rows["3d-512"], "none") is None
    assert train.loaders_found(turns, rows["3d-256"], "nnunet") is None
    assert all(row.loaders_of is None or rows[row.loaders_of].patch == row.patch for row in rows.values())


def test_sections_are_chosen_by_name_and_those_that_are_done_are_left_out():
    rows = study.settings(CPU)
    options = argparse.Namespace(only=["3d-256", "2d-256:none"], missing=False)
    chosen = [("2d-256", "none"), ("3d-256", "none"), ("3d-256", "nnunet")]
    assert train.wanted(options, rows, chosen[:1]) == chosen
    assert train.wanted(argparse.Namespace(only=options.only, missing=True), rows, chosen[:1]) == chosen[1:]
    assert train.wanted(argparse.Namespace(only=["dsc"], missing=False), rows, []) == []
    with pytest.raises(SystemExit, match="3d-999"):
        train.wanted(argparse.Namespace(only=["3d-999"], missing=False), rows, [])


def turn(pipeline, number, seconds, **changes):
    base = speed.Turn("net", "none", pipeline, "-", number, 10, seconds, 3.0, 100.0, 2.0, 1.0)
    return replace(base, **changes)


def test_ratios_are_taken_within_a_round_and_leave_out_the_first():
    bare = [turn("bare", 0, 0.1), turn("bare", 1, 1.0), turn("bare", 2, 2.0), turn("bare", 3, 4.0)]
    own = [turn("shiftbench", 0, 9.0), turn("shiftbench", 1, 2.0), turn("shiftbench", 2, 2.5), turn("shiftbench", 3, 5)]
    assert speed.median_ratio(own, bare) == pytest.approx(0.8)  # of 0.5, 0.8, 0.8
    assert speed.median_rate(bare) == pytest.approx(5.0)
    assert "80%" in table.speed_table([*bare, *own]) and "12%" in table.speed_table([*bare, *own])
    assert "missed by net (0.80)" in table.aims([*bare, *own], "cpu")


def test_operations_of_a_step_are_those_of_its_convolutions(trainings):
    training = trainings[3, "none"]
    first = 27 * 1 * 4  # multiply-adds per voxel of the finest level: its first convolution,
    forward = first + 27 * 4 * 8 / 8 + 8 * 4 + 27 * 8 * 4 + 4 * 3  # the coarse level, up, decoder and head
    total = 2 * 2 * 16**3 * (3 * forward - first)  # backward twice as many, but no gradient of the image
    assert speed.gflop_per_step(training) == pytest.approx(total / 1e9)


def test_rows_are_read_as_they_were_written(tmp_path):
    turns = [turn("bare", 0, 0.125), turn("monai", 1, 3.5, loader="thread", loss=float("inf"))]
    table.write(tmp_path / "rows.csv", turns, speed.Turn)
    assert table.read(tmp_path / "rows.csv", speed.Turn) == turns
    assert table.read(tmp_path / "none.csv", speed.Turn) == []


class Counting:
    """A pipeline whose every step adds one to a weight."""

    ahead = 0

    def __init__(self):
        self.model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.model.weight)

    def run(self, steps):
        with torch.no_grad():
            self.model.weight += steps


def test_weights_are_kept_along_the_time_and_at_its_end():
    kept = equal_time._train(Counting(), 50, 1e9, 1e9)
    assert [(step, float(weights["weight"])) for _, step, weights in kept] == [(50, 50.0)]
    times = iter(range(10**6))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_time.time, "perf_counter", lambda: next(times))
        kept = equal_time._train(Counting(), 10**6, 1.0, 12.0)
    assert [(at, step, float(weights["weight"])) for at, step, weights in kept] == [
        (at, at, float(at)) for at in (2, 4, 6, 8, 10, 12)
    ]


def test_dsc_is_that_of_each_structure():
    reference = torch.tensor([[0, 1, 1, 2]])
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]]), 4).movedim(-1, 0).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equal_time, "forward", lambda model, image: logits)
        model = torch.nn.Linear(1, 1)
        assert equal_time._dsc(model, torch.zeros(1, 1, 4), reference, 4) == pytest.approx([2 / 3, 2 / 3, 1.0])


@pytest.mark.skipif(not DATA.exists(), reason="the data are not here")
def test_no_patient_is_both_trained_on_and_held_out():
    trained_on, held_out = equal_time.split(DATA)
    assert len(trained_on) == equal_time.TRAINED_ON and len(held_out) == equal_time.HELD_OUT
    assert not set(trained_on) & set(held_out)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="the data are not here")
def test_dsc_after_equal_time_comes_with_its_table_and_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(equal_time, "TRAINED_ON", 4)
    monkeypatch.setattr(equal_time, "HELD_OUT", 2)
    loaders = {"shiftbench": ["-"], "monai": ["0 processes"]}
    found = equal_time.scores(DATA, loaders, seconds=6.0, device=CPU)
    assert {score.pipeline for score in found} == {"shiftbench", "monai"}
    assert all(0 <= score.dsc <= 1 and score.structure in (1, 2) for score in found)
    assert "shiftbench" in table.score_table(found)
    table.score_figure(found, tmp_path / "dsc.png")
    assert (tmp_path / "dsc.png").stat().st_size > 10_000


@pytest.mark.parametrize("family", ["shiftbench", "torchio"])
def test_a_pipeline_in_a_process_of_its_own_takes_the_same_steps_as_here(trainings, family):
    training = replace(trainings[3, "none"], steps=6)
    loader = "-" if family == "shiftbench" else "0 processes"
    here = import_module("training.catalogue").families("cpu")[family][loader](training)
    there = import_module("training.remote").Remote(family, loader, training)
    for steps in (2, 3):
        here.run(steps)
        there.run(steps)
    weights = here.model.state_dict(), there.model.state_dict()
    here.close()
    there.close()
    assert family == "torchio" or all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
    assert all(torch.isfinite(w).all() for w in weights[1].values())
    assert any(not torch.equal(w, training.network().state_dict()[n]) for n, w in weights[1].items())


def test_an_error_in_a_pipelines_process_reaches_whoever_waits(trainings):
    there = import_module("training.remote").Remote("shiftbench", "-", replace(trainings[3, "none"], steps=2))
    there.run(2)
    with pytest.raises(Exception, match="over"):
        there.run(1)
    there.close()
