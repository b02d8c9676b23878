"""nnU-Net v2's own trainer: its data set format, loader, augmentation, loss and `train_step`, round our network."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from shiftbench.rng import generator
from training.study import FOREGROUND_SHARE, Training

DATASET, PLANS, CONFIGURATION = "Dataset001_Benchmark", "nnUNetPlans", "benchmark"
LOCATIONS = 10000  # positions kept per class and case, as nnU-Net's preprocessing does
CACHED = 6  # batches that its augmenter keeps ready, at least


class NnUNet:
    """nnU-Net's trainer, stepped as its `run_training` does.

    What differs from `nnUNetv2_train`: the network, no deep supervision (the network has one output), the share of
    foreground patches, bf16 instead of fp16 on a GPU, and, unless `own_optimiser`, AdamW with the schedule of the other
    pipelines instead of SGD with a polynomial one. Without augmentation it is its `nnUNetTrainerNoDA`.

    Args:
        training: what is trained.
        workers: loader processes; 0 makes batches between the steps.
        own_optimiser: nnU-Net's SGD and schedule.
    """

    def __init__(self, training: Training, workers: int, *, own_optimiser: bool = False):
        self.training, self.own_optimiser = training, own_optimiser
        self.folder = Path(tempfile.mkdtemp(prefix="nnunet_"))
        self.ahead = 0 if workers == 0 else 2 * max(CACHED, workers // 2)
        os.environ["nnUNet_n_proc_DA"] = str(workers)
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            os.environ[name] = str(self.folder / name)
        _write_cases(training, self.folder / "nnUNet_preprocessed" / DATASET)
        with contextlib.redirect_stdout(io.StringIO()):  # its log goes to its file too
            self.trainer = _trainer(training, own_optimiser=own_optimiser)
            self.trainer.initialize()
            with _drawn_from(training):
                loaders = self.trainer.get_dataloaders()
        self.batches, self.held_out = loaders
        _finish(self.held_out)  # only its training is wanted
        self.model = self.trainer.network.train()
        self.taken = 0

    def run(self, steps: int) -> None:
        trainer = self.trainer
        for _ in range(steps):
            if self.own_optimiser:
                trainer.lr_scheduler.step(self.taken)
            else:
                for group in trainer.optimizer.param_groups:
                    group["lr"] = self.training.learning_rate(self.taken)
            trainer.train_step(next(self.batches))
            self.taken += 1

    def close(self) -> None:
        _finish(self.batches)
        shutil.rmtree(self.folder, ignore_errors=True)


def _finish(loader: Any) -> None:
    if hasattr(loader, "_finish"):
        with contextlib.redirect_stdout(io.StringIO()):
            loader._finish()


@contextlib.contextmanager
def _drawn_from(training: Training):
    """Numpy's global generator, which nnU-Net's loader draws from, seeded; its processes inherit it."""
    np.random.seed(int(generator(training.seed, "nnunet").integers(2**31)))
    yield


def _trainer(training: Training, *, own_optimiser: bool) -> Any:
    """An nnUNetTrainer with our network."""
    from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoDA import nnUNetTrainerNoDA

    parent: type = nnUNetTrainer if training.augmentation == "nnunet" else nnUNetTrainerNoDA
    configure: Callable = parent.configure_optimizers

    class Trainer(parent):
        @staticmethod
        def build_network_architecture(
            plans_manager, configuration_manager, num_input_channels, num_output_channels, enable_deep_supervision=True
        ) -> nn.Module:
            return training.network()

        def configure_optimizers(self):
            optimiser, schedule = configure(self)
            if own_optimiser:
                return optimiser, PolyLRScheduler(optimiser, self.initial_lr, training.steps + 1)
            return training.optimiser(self.network), schedule

    trainer = Trainer(_plans(training), CONFIGURATION, "all", _dataset(training), training.device)
    trainer.enable_deep_supervision = False
    trainer.oversample_foreground_percent = FOREGROUND_SHARE
    if training.device.type == "cuda":
        torch.set_autocast_dtype("cuda", torch.bfloat16)
        trainer.grad_scaler = None  # bf16 needs none
    return trainer


def _dataset(training: Training) -> dict[str, Any]:
    labels = {"background": 0, **{f"class_{k}": k for k in range(1, training.classes)}}
    return {"labels": labels, "channel_names": {"0": "MR"}, "numTraining": len(training.raw), "file_ending": ".nii.gz"}


def _plans(training: Training) -> dict[str, Any]:
    """What its planner would have written, as far as training reads it."""
    setting = training.setting
    backbone = setting.backbone
    factors = [backbone.stem_stride] + [2] * (len(backbone.widths) - 1)
    strides = [[factor] * setting.dimension for factor in factors]
    architecture = {
        "network_class_name": "given",
        "arch_kwargs": {"strides": strides},
        "_kw_requires_import": [],
    }
    configuration = {
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "batch_size": setting.batch,
        "patch_size": list(setting.patch),
        "spacing": [1.0] * setting.dimension,
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": True,
        "architecture": architecture,
    }
    return {
        "dataset_name": DATASET,
        "plans_name": PLANS,
        "configurations": {CONFIGURATION: configuration},
        "continue_training": False,
    }


def _write_cases(training: Training, folder: Path) -> None:
    """The normalised cases as nnU-Net's preprocessing stores them; a slice (c, h, w) is a volume of one slice."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    folder = folder / f"{PLANS}_{CONFIGURATION}"
    folder.mkdir(parents=True)
    rng = generator(training.seed, "locations")
    for i, (image, reference) in enumerate(zip(training.normalised, training.raw.references, strict=True)):
        x, y = image.numpy(), reference.numpy()[None].astype(np.int16)
        if training.setting.dimension == 2:
            x, y = x[:, None], y[:, None]
        locations = {}
        for label in range(1, training.classes):
            found = np.argwhere(y == label)
            locations[label] = rng.permutation(found)[:LOCATIONS]
        blocks, chunks = comp_blosc2_params(x.shape, training.setting.patch)
        stored = {"chunks": chunks, "blocks": blocks}
        nnUNetDatasetBlosc2.save_case(x, y, {"class_locations": locations}, str(folder / f"case_{i:03d}"), **stored)
