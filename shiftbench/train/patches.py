"""Batches of patches from labelled cases, balanced over the structures."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import SpecError
from shiftbench.networks import Normalised
from shiftbench.train.augment import augmentation_named, finished
from shiftbench.train.augment_spatial import warp
from shiftbench.train.bank import CaseBank, to_device
from shiftbench.types import LabelledSet, Recipe


class PatchSampler:
    """An endless iterator over batches of normalised patches of labelled cases.

    A batch is (images (b, c * stack, *patch), references (b, *patch) int64), and for tasks with heads their targets
    (b, h, *patch) too. A share of each batch is centred on a structure drawn uniformly from those that occur, the rest
    lies anywhere. A 2-D network is given slices of volumes, a 2.5-D network stacks whose edge slices are repeated.
    Outside a case lies its minimum, and background. Warps read the whole case and not the patch alone.

    A resumed sampler yields the same bytes on the CPU: make it from the same cases and an equal generator, then
    `restore_` what `state` returned.

    Args:
        model: whose normalisation, dimension, stack, stride and task are used.
        cases: raw images and references.
        recipe: batch, patch, share of structure-centred patches and augmentation.
        rng: draws everything.

    Attributes:
        drawn: number of batches so far.
        patch: rounded up to the network's stride.
    """

    def __init__(self, model: Normalised, cases: LabelledSet, recipe: Recipe, rng: np.random.Generator):
        self.recipe, self.rng, self.drawn, self.stack = recipe, rng, 0, model.stack
        self.augmentation = augmentation_named(recipe.augmentation)
        self.patch = rounded_patch(recipe.patch, model)
        self.size = self.patch if model.dimension == 3 else (1, *self.patch)
        self.planar = model.dimension == 2
        self.bank = CaseBank(model, cases, rng)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            batch = self._batch()
            self.drawn += 1
            yield batch

    def state(self) -> dict[str, Any]:
        """What `restore_` needs, as JSON values."""
        return {"generator": self.rng.bit_generator.state, "drawn": self.drawn}

    def restore_(self, state: Mapping[str, Any]) -> None:
        """Goes on as the sampler whose `state` this was."""
        self.rng.bit_generator.state = dict(state["generator"])
        self.drawn = state["drawn"]

    def _batch(self) -> tuple[Tensor, ...]:
        cases, starts = self._places()
        images, moved = self._warped(cases, starts)
        images, moved = finished(images, moved, self.augmentation, rng=self.rng, stack=self.stack)
        return (images, moved[0].long(), *moved[1:])

    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Cases (b,) and first voxels (b, 3) of the patches."""
        b, bank = self.recipe.batch, self.bank
        centred = min(b, math.ceil(self.recipe.foreground_share * b)) if bank.classes.size else 0
        labels = bank.classes[self.rng.integers(0, max(1, bank.classes.size), centred)] if centred else bank.classes
        on, centres = bank.centres_on(labels, self.rng)
        anywhere = self.rng.integers(0, len(bank), b - centred)
        free = np.floor(self.rng.random((b - centred, 3)) * bank.shapes[anywhere]).astype(np.int64)
        cases, centres = np.concatenate([on, anywhere]), np.concatenate([centres, free])
        size = np.asarray(self.size)
        return cases, np.clip(centres - size // 2, 0, np.maximum(0, bank.shapes[cases] - size))

    def _warped(self, cases: np.ndarray, starts: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Images, references and targets of the patches that begin at `starts`, after the warps of those drawn."""
        spatial = self.augmentation.spatial
        warps = spatial.draw(len(cases), self.patch, self.rng) if spatial is not None else None
        if warps is None or not warps.which.size:
            images, moved = self._read(cases, starts, np.zeros(3, np.int64))
            return self._squeezed(images, moved)
        margins = np.zeros(3, np.int64)
        margins[3 - len(warps.size) :] = warps.margins()
        images, moved = self._read(cases[warps.which], starts[warps.which], margins)
        grid = warps.grid(images.shape[-len(warps.size) :], self.bank.device)
        images, moved = self._squeezed(
            warp(images, grid), [warp(moved[0], grid, mode="nearest"), *(warp(m, grid) for m in moved[1:])]
        )
        if len(warps.which) == len(cases):
            return images, moved
        still = np.setdiff1d(np.arange(len(cases)), warps.which)
        order = to_device(np.argsort(np.concatenate([still, warps.which])), self.bank.device)
        plain, plain_moved = self._squeezed(*self._read(cases[still], starts[still], np.zeros(3, np.int64)))
        joined = [torch.cat(pair).index_select(0, order) for pair in zip(plain_moved, moved, strict=True)]
        return torch.cat([plain, images]).index_select(0, order), joined

    def _read(self, cases: np.ndarray, starts: np.ndarray, margins: np.ndarray) -> tuple[Tensor, list[Tensor]]:
        """Windows (n, c, d, h, w) of images, then of references and targets, `margins` larger at either end."""
        bank, size, first = self.bank, np.asarray(self.size) + 2 * margins, starts - margins
        deep = np.array([self.stack - 1, 0, 0])  # the neighbours of a 2.5-D slice
        images = bank.windows(bank.images, cases, first - deep // 2, tuple(size + deep), repeat=self.planar)
        volumes = [bank.references] if bank.targets is None else [bank.references, bank.targets]
        return images, [bank.windows(v, cases, first, tuple(size)) for v in volumes]

    def _squeezed(self, images: Tensor, moved: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Windows (n, c, d, h, w) as the network takes them: the slices of a stack are channels."""
        if self.planar:
            images, moved = images.flatten(1, 2), [m[:, :, 0] for m in moved]
        return images, [moved[0][:, 0], *moved[1:]]


def rounded_patch(patch: tuple[int, ...], model: Normalised) -> tuple[int, ...]:
    """`patch` rounded up to the network's stride, with a warning where that changes it.

    Raises:
        SpecError: the patch has not one entry per axis of the network.
    """
    if len(patch) != model.dimension:
        raise SpecError(f"the patch {tuple(patch)} has {len(patch)} axes, but the network is {model.dimension}-D")
    rounded = tuple(-(-p // model.stride) * model.stride for p in patch)
    if rounded != tuple(patch):
        warnings.warn(
            f"the patch {tuple(patch)} is no multiple of the network's stride {model.stride}: {rounded} is used",
            stacklevel=3,
        )
    return rounded
