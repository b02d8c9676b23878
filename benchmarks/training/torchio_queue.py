"""A TorchIO pipeline: SubjectsDataset, Queue of patches around labels, nnU-Net's augmentation list in its transforms.

TorchIO augments whole subjects and cuts several patches from each.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torchio as tio
from torch import Tensor
from torch.nn import functional

from training.pipelines import Batch, PlainLoop
from training.study import FOREGROUND_SHARE, Training

PATCHES_PER_SUBJECT = 8  # at most; else those of two batches
REPEATS = 2000  # of the list of subjects, so that no epoch ends


def augmentation(dimension: int) -> tio.Compose:
    """nnU-Net's list with its probabilities and ranges; what TorchIO has no transform for is a Lambda."""
    angle = 180 if dimension == 2 else 30
    degrees = (0, 0, 0, 0, -angle, angle) if dimension == 2 else angle
    zoom = {"scales": (0.7, 1.4), "isotropic": True, "degrees": 0}
    scale = {"scales": 0, "default_pad_value": "minimum"}
    only = {"types_to_apply": [tio.INTENSITY]}
    return tio.Compose(
        [
            tio.RandomAffine(degrees=degrees, p=0.2, **scale),
            tio.RandomAffine(p=0.2, default_pad_value="minimum", **zoom),
            tio.RandomNoise(std=(0, 0.1**0.5), p=0.1),
            tio.RandomBlur(std=(0.5, 1), p=0.1),
            tio.Lambda(_brightness, p=0.15, **only),
            tio.Lambda(_contrast, p=0.15, **only),
            tio.Lambda(_low_resolution, p=0.125, **only),
            tio.Lambda(_inverted_gamma, p=0.1, **only),
            tio.Lambda(_gamma, p=0.3, **only),
            tio.RandomFlip(axes=tuple(range(dimension)), flip_probability=0.5),
        ]
    )


def _factor() -> float:
    """Half of the draws lie below 1, as nnU-Net's do."""
    return float(torch.empty(()).uniform_(*((0.75, 1.0) if torch.rand(()) < 0.5 else (1.0, 1.25))))


def _brightness(x: Tensor) -> Tensor:
    return x * _factor()


def _contrast(x: Tensor) -> Tensor:
    mean = x.mean()
    return ((x - mean) * _factor() + mean).clamp(x.min(), x.max())


def _low_resolution(x: Tensor) -> Tensor:
    factor = float(torch.empty(()).uniform_(0.5, 1.0))
    flat = x.shape[-1] == 1
    y = x[..., 0] if flat else x
    mode = "bilinear" if flat else "trilinear"
    low = functional.interpolate(y[None], [max(1, round(n * factor)) for n in y.shape[1:]], mode="nearest-exact")
    back = functional.interpolate(low, y.shape[1:], mode=mode)[0]
    return back[..., None] if flat else back


def _gamma(x: Tensor) -> Tensor:
    low, spread = x.min(), (x.max() - x.min()).clamp_min(1e-7)
    mean, std = x.mean(), x.std()
    power = float(torch.empty(()).uniform_(*((0.7, 1.0) if torch.rand(()) < 0.5 else (1.0, 1.5))))
    y = ((x - low) / spread) ** power
    return (y - y.mean()) / y.std().clamp_min(1e-7) * std + mean


def _inverted_gamma(x: Tensor) -> Tensor:
    return -_gamma(-x)


def subjects(training: Training) -> list[tio.Subject]:
    """Cases as subjects; a slice (c, h, w) is an image (c, h, w, 1)."""
    flat = training.setting.dimension == 2
    found = []
    for image, reference in zip(training.normalised, training.raw.references, strict=True):
        x, y = (image[..., None], reference[None, ..., None]) if flat else (image, reference[None])
        found.append(tio.Subject(image=tio.ScalarImage(tensor=x), reference=tio.LabelMap(tensor=y.to(torch.uint8))))
    return found


def torchio(training: Training, workers: int) -> PlainLoop:
    """The pipeline with that many processes that augment subjects."""
    setting = training.setting
    patch = (*setting.patch, 1) if setting.dimension == 2 else setting.patch
    transform = augmentation(setting.dimension) if training.augmentation == "nnunet" else None
    data = tio.SubjectsDataset(subjects(training) * REPEATS, transform=transform)
    foreground = FOREGROUND_SHARE / (training.classes - 1)
    shares = {0: 1 - FOREGROUND_SHARE, **dict.fromkeys(range(1, training.classes), foreground)}
    waiting = 2 * setting.batch  # what an empty queue is filled with
    from_each = min(PATCHES_PER_SUBJECT, waiting)
    queue = tio.Queue(
        data,
        waiting,
        from_each,
        tio.LabelSampler(patch, "reference", shares),
        num_workers=workers,
    )
    loader = tio.SubjectsLoader(queue, batch_size=setting.batch, num_workers=0)
    batches = _Batches(iter(loader), queue, flat=setting.dimension == 2)
    volumes = workers * 2  # torch's loader keeps two items per process
    ahead = (volumes * from_each + waiting) // setting.batch
    return PlainLoop(training, batches, ahead=ahead, close=batches.close)


class _Batches(Iterator[Batch]):
    """Batches of subjects as pairs."""

    def __init__(self, loaded: Iterator, queue: tio.Queue, *, flat: bool):
        self.loaded, self.queue, self.flat = loaded, queue, flat

    def __next__(self) -> Batch:
        batch = next(self.loaded)
        images, references = batch["image"][tio.DATA], batch["reference"][tio.DATA][:, 0].long()
        return (images[..., 0], references[..., 0]) if self.flat else (images, references)

    def close(self) -> None:
        """Lets go of the iterator over subjects, which ends its processes."""
        self.loaded, self.queue = itertools.repeat(None, 0), None
