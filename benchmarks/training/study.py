"""What is trained on what: settings, cases and networks that every pipeline is given alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

from shiftbench.backbones import BACKBONES, Backbone
from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.losses import dice_ce
from shiftbench.materialise import maps_of
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.shifts.acquisition import acquire
from shiftbench.shifts.settings import check_acquisition
from shiftbench.tasks import Task
from shiftbench.train import one_cycle
from shiftbench.types import LabelledSet, Recipe

AUGMENTATIONS = ("none", "nnunet")
FOREGROUND_SHARE = 0.5  # of the patches are centred on a structure
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 1e-4
STRUCTURES = ("liver", "spleen", "kidney")  # of the abdominal phantom
FIELD_MM = (240.0, 340.0, 340.0)  # of the abdominal phantom


@dataclass(frozen=True)
class Setting:
    """Network, patch, batch and cases of one row of the table.

    Attributes:
        shape: of the volumes (d, h, w) of phantoms; a 2-D setting is given their slices.
        volumes: how many patients there are.
        loaders_of: a setting whose patch is the same, so that what was found out about loaders there holds here.
    """

    name: str
    backbone: Backbone
    patch: tuple[int, ...]
    batch: int
    shape: tuple[int, int, int] = (0, 0, 0)
    volumes: int = 0
    loaders_of: str | None = None

    @property
    def dimension(self) -> int:
        """2 or 3."""
        return len(self.patch)


@dataclass(frozen=True)
class Training:
    """One training that every pipeline does in its own way.

    Attributes:
        raw: cases in raw units; `normalised` holds the same after the network's normalisation.
        augmentation: of AUGMENTATIONS.
        steps: length of the schedule of learning rates.
        seed: of the weights and of what is drawn.
    """

    setting: Setting
    raw: LabelledSet
    normalised: tuple[Tensor, ...]
    classes: int
    augmentation: str
    steps: int
    device: torch.device
    seed: int = 0

    @property
    def recipe(self) -> Recipe:
        """The training in ShiftBench's words."""
        return Recipe(
            name="benchmark",
            steps=self.steps,
            fewshot_steps=self.steps,
            batch=self.setting.batch,
            patch=self.setting.patch,
            learning_rate=LEARNING_RATE,
            foreground_share=FOREGROUND_SHARE,
            augmentation=self.augmentation,
        )

    def network(self) -> Normalised:
        """The network; every call gives the same weights."""
        setting = self.setting
        model = build(
            setting.backbone,
            dimension=setting.dimension,
            channels=1,
            task=Task(self.classes),
            normalise=Normalise(),
            patch=setting.patch,
            rng=generator(self.seed, "network"),
        )
        return model.to(self.device)

    def optimiser(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        """AdamW as in ShiftBench's loop, for the others; the fused kernel takes a fifth of the time of the default."""
        return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)

    def learning_rate(self, step: int) -> float:
        """At a step; the last one where a pipeline goes on longer than planned."""
        return LEARNING_RATE * one_cycle(min(step, self.steps - 1), self.steps)

    def loss(self, model: torch.nn.Module, images: Tensor, references: Tensor) -> Tensor:
        """Dice and cross-entropy of a batch, in bf16 on a GPU."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = model(images)
        return dice_ce(logits.float(), references)

    def fixed_batch(self) -> tuple[Tensor, Tensor]:
        """A batch (b, 1, *patch) with its references from the middle of the first cases."""
        images, references = [], []
        for i in range(self.setting.batch):
            case = i % len(self.normalised)
            image, reference = self.normalised[case], self.raw.references[case]
            start = [(n - p) // 2 for n, p in zip(reference.shape, self.setting.patch, strict=True)]
            index = tuple(slice(s, s + p) for s, p in zip(start, self.setting.patch, strict=True))
            images.append(image[(slice(None), *index)])
            references.append(reference[index])
        return torch.stack(images).to(self.device), torch.stack(references).to(self.device)


def settings(device: torch.device) -> dict[str, Setting]:
    """The rows of the table: smaller patches and batches on a CPU, so that a step takes 0.1 to 3 s on two cores."""
    narrow = Backbone(norm="instance", widths=(16, 32, 64, 128, 256), convolutions=2)
    wide = Backbone(norm="instance", widths=(32, 64, 128, 256, 512), convolutions=2)
    gpu = device.type == "cuda"
    patch2, shape2, patch3, shape3 = (256,) * 2, (8, 288, 288), (64,) * 3, (96,) * 3
    if gpu:
        patch3, shape3 = (96,) * 3, (128,) * 3
    rows = (
        Setting("3d-128-small", BACKBONES["unet_in"], (32,) * 3, 4, (64,) * 3, 6),
        Setting("2d-256", narrow, patch2, 16 if gpu else 2, shape2, 4),
        Setting("2d-512", wide, patch2, 16 if gpu else 1, shape2, 4, loaders_of="2d-256"),
        Setting("3d-256", narrow, patch3, 2 if gpu else 1, shape3, 6),
        Setting("3d-512", wide, patch3, 2 if gpu else 1, shape3, 6, loaders_of="3d-256"),
    )
    return {row.name: row for row in rows}


def phantom_training(setting: Setting, augmentation: str, steps: int, device: torch.device) -> Training:
    """A training on the abdominal phantom; the cases of a 2-D setting are the slices of its volumes."""
    spacing = tuple(mm / n for mm, n in zip(FIELD_MM, setting.shape, strict=True))
    phantom = AbdomenPhantom(patients=setting.volumes, shape=setting.shape, spacing_mm=spacing, supersampling=(1, 1, 1))
    images, references = [], []
    for case in phantom.cases():
        anatomy = phantom.anatomy(case.case_id, {})
        image, _ = acquire(anatomy, maps_of, check_acquisition({"modality": "mr"}), [], key=(0, "train", case.case_id))
        reference = np.zeros(anatomy.fine.shape, np.int64)
        for label, structure in enumerate(STRUCTURES, 1):
            members = [phantom.fine_labels.index(name) for name in phantom.members[structure]]
            reference[np.isin(anatomy.fine, members)] = label
        volume = torch.from_numpy(image), torch.from_numpy(reference)
        for x, y in _slices(*volume) if setting.dimension == 2 else (volume,):
            images.append(x)
            references.append(y)
    return _training(setting, images, references, len(STRUCTURES) + 1, augmentation, steps, device)


def _slices(image: Tensor, reference: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The slices (c, h, w) of a volume (c, d, h, w)."""
    for i in range(image.shape[1]):
        yield image[:, i].contiguous(), reference[i].contiguous()


def folder_training(
    setting: Setting, folder: Path, names: Sequence[str], augmentation: str, steps: int, device: torch.device
) -> Training:
    """A training on cases of a folder in the Medical Segmentation Decathlon's layout."""
    cases = [read_case(folder, name) for name in names]
    classes = 1 + max(int(reference.max()) for _, reference in cases)
    return _training(setting, [x for x, _ in cases], [y for _, y in cases], classes, augmentation, steps, device)


def read_case(folder: Path, name: str) -> tuple[Tensor, Tensor]:
    """Image (1, d, h, w) in raw units and reference (d, h, w) of a case of `imagesTr` and `labelsTr`."""
    image = np.asarray(nibabel.load(folder / "imagesTr" / name).dataobj, np.float32)
    reference = np.asarray(nibabel.load(folder / "labelsTr" / name).dataobj, np.int64)
    return torch.from_numpy(image)[None], torch.from_numpy(reference)


def _training(
    setting: Setting,
    images: Sequence[Tensor],
    references: Sequence[Tensor],
    classes: int,
    augmentation: str,
    steps: int,
    device: torch.device,
) -> Training:
    raw = LabelledSet(tuple(images), tuple(references), tuple(str(i) for i in range(len(images))))
    normalise = Normalise()
    normalised = tuple(normalise(image) for image in images)
    return Training(setting, raw, normalised, classes, augmentation, steps, device)
