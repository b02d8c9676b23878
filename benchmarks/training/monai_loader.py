"""A MONAI pipeline: CacheDataset, RandCropByPosNegLabeld, the augmentation list of nnU-Net, and a loader."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from math import pi

import torch
from monai.data import CacheDataset, DataLoader, ThreadDataLoader, set_track_meta
from monai.transforms import (
    Compose,
    EnsureTyped,
    FgBgToIndicesd,
    RandAdjustContrastd,
    RandAffined,
    RandCropByPosNegLabeld,
    RandFlipd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
    RandSimulateLowResolutiond,
    RandZoomd,
    SpatialPadd,
    Transform,
)
from torch.utils.data import RandomSampler

from training.pipelines import Batch, PlainLoop
from training.study import FOREGROUND_SHARE, Training

BOTH = ("image", "reference")
ENDLESS = 10**7  # samples of an epoch, so that none ends
PREFETCH = 2  # batches per worker


def augmentation(dimension: int, patch: tuple[int, ...]) -> list[Transform]:
    """nnU-Net's list with its probabilities and ranges, one entry per entry of its trainer."""
    angles = pi if dimension == 2 else (pi / 6,) * 3
    linear = "bilinear" if dimension == 2 else "trilinear"
    return [
        RandAffined(
            BOTH,
            prob=0.2,
            rotate_range=angles,
            spatial_size=patch,
            mode=("bilinear", "nearest"),
            padding_mode="border",
            cache_grid=True,
        ),
        RandZoomd(BOTH, prob=0.2, min_zoom=0.7, max_zoom=1.4, mode=(linear, "nearest"), padding_mode="edge"),
        RandGaussianNoised("image", prob=0.1, std=0.1**0.5),
        RandGaussianSmoothd("image", prob=0.1, sigma_x=(0.5, 1), sigma_y=(0.5, 1), sigma_z=(0.5, 1)),
        RandScaleIntensityd("image", prob=0.15, factors=0.25),
        RandScaleIntensityFixedMeand("image", prob=0.15, factors=0.25, fixed_mean=True, preserve_range=True),
        RandSimulateLowResolutiond("image", prob=0.125, zoom_range=(0.5, 1.0), upsample_mode=linear),
        RandAdjustContrastd("image", prob=0.1, gamma=(0.7, 1.5), invert_image=True, retain_stats=True),
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5), retain_stats=True),
        *(RandFlipd(BOTH, prob=0.5, spatial_axis=axis) for axis in range(dimension)),
    ]


def transforms(training: Training, device: torch.device | None) -> Compose:
    """Cached: padding to the patch and the indices of the foreground; random: the crop and the augmentation."""
    patch = training.setting.patch
    cached = [
        SpatialPadd(BOTH, patch, mode="minimum"),
        FgBgToIndicesd("reference"),
        EnsureTyped(BOTH, device=device, track_meta=False),
    ]
    crop = RandCropByPosNegLabeld(
        BOTH,
        label_key="reference",
        spatial_size=patch,
        pos=FOREGROUND_SHARE,
        neg=1 - FOREGROUND_SHARE,
        num_samples=1,
        fg_indices_key="reference_fg_indices",
        bg_indices_key="reference_bg_indices",
    )
    random = augmentation(training.setting.dimension, patch) if training.augmentation == "nnunet" else []
    return Compose([*cached, crop, *random]).set_random_state(training.seed)


def monai(training: Training, workers: int | str) -> PlainLoop:
    """The pipeline with that many loader processes, or with "thread": ThreadDataLoader, on the device of the network.

    Where there is a GPU, the cases of the latter are cached on it and transformed there, as MONAI's guide to fast
    training does.
    """
    set_track_meta(False)
    threaded = workers == "thread"
    cases = [
        {"image": image, "reference": reference[None]}
        for image, reference in zip(training.normalised, training.raw.references, strict=True)
    ]
    device = training.device if threaded else None
    data = CacheDataset(cases, transforms(training, device), progress=False)
    common = {"batch_size": training.setting.batch, "sampler": RandomSampler(data, True, ENDLESS)}
    if threaded:
        loader, ahead = ThreadDataLoader(data, num_workers=0, buffer_size=1, **common), 2
    else:
        count = int(workers)
        more = {"prefetch_factor": PREFETCH, "persistent_workers": True} if count else {}
        pin = training.device.type == "cuda"
        loader, ahead = DataLoader(data, num_workers=count, pin_memory=pin, **more, **common), count * PREFETCH
    batches = _Batches(iter(loader))
    return PlainLoop(training, batches, ahead=ahead, close=batches.close)


class _Batches(Iterator[Batch]):
    """Batches of dictionaries as pairs."""

    def __init__(self, loaded: Iterator):
        self.loaded = loaded

    def __next__(self) -> Batch:
        batch = next(self.loaded)
        return batch["image"], batch["reference"][:, 0].long()

    def close(self) -> None:
        """Lets go of the loader's iterator, which ends its processes; a thread is let run to its next batch."""
        if hasattr(self.loaded, "close"):
            self.loaded.close()
        self.loaded = itertools.repeat(None, 0)
