"""Training: a bank of cases on the device, class-balanced patches, light augmentation, a loop that fits on a screen."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shiftbench.losses import dice_ce
from shiftbench.networks import Normalised
from shiftbench.types import LabelledSet, Recipe

POINTS_PER_CLASS = 500  # candidate patch centres kept per case and structure
ROTATION_DEG, SCALE, SHIFT = 10.0, 0.1, 0.05  # light augmentation: half-ranges, shift in parts of the patch
CONTRAST, BRIGHTNESS = 0.1, 0.1  # in standard deviations of the normalised image


class NonFiniteLoss(RuntimeError):
    """A training loss became NaN or infinite."""


@contextlib.contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Torch's own generators seeded from `rng` inside the block and restored after it."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**62)))
        yield


class PatchSampler:
    """An endless iterator over batches (images (b, c, *patch), references (b, *patch)) of normalised, labelled cases.

    A share of each batch is centred on a structure drawn uniformly from those that occur, the rest lies anywhere.
    A 2-D network is given slices of volumes. Cases smaller than the patch are padded with their minimum.

    Args:
        model: whose normalisation, dimension and patch are used.
        cases: raw images and references.
        recipe: batch, patch, share of structure-centred patches and augmentation.
        rng: draws everything.
    """

    def __init__(self, model: Normalised, cases: LabelledSet, recipe: Recipe, rng: np.random.Generator):
        if not len(cases):
            raise ValueError("no labelled case to train on")
        self.recipe, self.rng = recipe, rng
        self.images, self.references = [], []
        for image, reference in zip(cases.images, cases.references, strict=True):
            x, y = _pad_to_patch(model.normalise(image), reference, recipe.patch)
            self.images.append(x)
            self.references.append(y)
        self.points = _points_by_class(self.references, rng)
        self.classes = sorted({k for case in self.points for k in case})

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            images, references = zip(*(self._patch(i) for i in range(self.recipe.batch)), strict=True)
            batch = torch.stack(images), torch.stack(references)
            yield augment(*batch, rng=self.rng) if self.recipe.augmentation == "light" else batch

    def _patch(self, position: int) -> tuple[Tensor, Tensor]:
        centred = position < self.recipe.foreground_share * self.recipe.batch and self.classes
        if centred:
            label = self.classes[self.rng.integers(len(self.classes))]
            holders = [i for i, case in enumerate(self.points) if label in case]
            case = holders[self.rng.integers(len(holders))]
            points = self.points[case][label]
            centre = points[self.rng.integers(len(points))]
        else:
            case = int(self.rng.integers(len(self.images)))
            centre = self.rng.integers(0, self.references[case].shape)
        image, reference = self.images[case], self.references[case]
        if reference.ndim > len(self.recipe.patch):  # a slice of a volume for a 2-D network
            image, reference, centre = image[:, centre[0]], reference[centre[0]], centre[1:]
        start = [
            int(np.clip(c - p // 2, 0, n - p))
            for c, p, n in zip(centre, self.recipe.patch, reference.shape, strict=True)
        ]
        index = tuple(slice(s, s + p) for s, p in zip(start, self.recipe.patch, strict=True))
        return image[(slice(None), *index)], reference[index]


def _pad_to_patch(image: Tensor, reference: Tensor, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Case grown at the far ends to at least `patch` on the patch's axes (the last ones)."""
    missing = [max(0, p - n) for p, n in zip(patch, image.shape[-len(patch) :], strict=True)]
    if not any(missing):
        return image, reference
    pad = [amount for m in reversed(missing) for amount in (0, m)]
    return functional.pad(image, pad, value=float(image.min())), functional.pad(reference, pad, value=0)


def _points_by_class(references: Sequence[Tensor], rng: np.random.Generator) -> list[dict[int, np.ndarray]]:
    """Per case: label -> (n, axes) positions of that label, at most POINTS_PER_CLASS."""
    found = []
    for reference in references:
        labels = reference.cpu().numpy()
        case = {}
        for label in np.unique(labels[labels > 0]):
            positions = np.argwhere(labels == label)
            if len(positions) > POINTS_PER_CLASS:
                positions = positions[rng.choice(len(positions), POINTS_PER_CLASS, replace=False)]
            case[int(label)] = positions
        found.append(case)
    return found


def augment(images: Tensor, references: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Light augmentation of a batch: in-plane rotation, scaling, shift, contrast and brightness; one draw per sample.

    Args:
        images: (b, c, *s), normalised. references: (b, *s).
        rng: draws every parameter.

    Returns:
        The batch, warped together (linear for images, nearest for references).
    """
    b, ndim = images.shape[0], images.ndim - 2
    angle = np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG, b))
    scale = rng.uniform(1 - SCALE, 1 + SCALE, b)
    h, w = images.shape[-2:]
    theta = np.zeros((b, ndim, ndim + 1), np.float32)  # affine_grid's axis order is x, y(, z)
    theta[:, 0, 0], theta[:, 0, 1] = np.cos(angle) * scale, -np.sin(angle) * scale * h / w
    theta[:, 1, 0], theta[:, 1, 1] = np.sin(angle) * scale * w / h, np.cos(angle) * scale
    if ndim == 3:
        theta[:, 2, 2] = scale
    theta[:, :, -1] = rng.uniform(-2 * SHIFT, 2 * SHIFT, (b, ndim))
    grid = functional.affine_grid(torch.from_numpy(theta).to(images.device), list(images.shape), align_corners=False)
    warped = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    labels = functional.grid_sample(
        references[:, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[:, 0]
    shape = (b,) + (1,) * (images.ndim - 1)
    contrast = torch.from_numpy(rng.uniform(1 - CONTRAST, 1 + CONTRAST, shape).astype(np.float32)).to(images.device)
    brightness = torch.from_numpy(rng.uniform(-BRIGHTNESS, BRIGHTNESS, shape).astype(np.float32)).to(images.device)
    return warped * contrast + brightness, labels.to(references.dtype)


def one_cycle(step: int, steps: int, *, warm_up: float = 0.3, start: float = 0.04, end: float = 1e-4) -> float:
    """Factor of the peak learning rate: cosine up over the first `warm_up` share, cosine down after it."""
    rise = max(1.0, warm_up * steps - 1)
    if step <= rise:
        low, position = start, step / rise
        return low + (1 - low) * (1 - math.cos(math.pi * position)) / 2
    position = (step - rise) / max(1.0, steps - 1 - rise)
    return end + (1 - end) * (1 + math.cos(math.pi * min(1.0, position))) / 2


def fit(
    model: nn.Module,
    batches: Iterable,
    step: Callable[[nn.Module, Any], Tensor],
    *,
    steps: int,
    rng: np.random.Generator,
    learning_rate: float,
    parameters: Sequence[nn.Parameter] | None = None,
) -> list[float]:
    """Trains `model` in place for `steps` gradient steps with AdamW and a one-cycle schedule.

    Args:
        model: left in evaluation mode.
        batches: any iterable that lasts long enough.
        step: loss (scalar) of the model on one batch.
        parameters: what to train (default: all of the model's).
        rng: seeds dropout.

    Returns:
        The loss of every step.

    Raises:
        NonFiniteLoss: a loss was NaN or infinite.
    """
    trained = list(model.parameters()) if parameters is None else list(parameters)
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-4)
    losses: list[float] = []
    model.train()
    with seeded(rng), torch.enable_grad():
        for i, batch in zip(range(steps), batches, strict=False):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * one_cycle(i, steps)
            loss = step(model, batch)
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise NonFiniteLoss(f"the loss was {losses[-1]} at step {i + 1} of {steps}; lower the learning rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
    model.eval()
    return losses


def fit_supervised(
    model: Normalised,
    cases: LabelledSet,
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    steps: int | None = None,
    learning_rate: float | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
) -> list[float]:
    """The source recipe: Dice and cross-entropy on class-balanced patches of labelled cases; returns the losses."""
    sampler = PatchSampler(model, cases, recipe, rng)

    def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, references = batch
        return dice_ce(network(images), references, recipe.class_weights)

    return fit(
        model,
        sampler,
        loss,
        steps=recipe.steps if steps is None else steps,
        rng=rng,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        parameters=parameters,
    )
