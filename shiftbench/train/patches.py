"""Batches of patches from labelled cases, balanced over the structures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.networks import Normalised
from shiftbench.train.augment import augment
from shiftbench.types import LabelledSet, Recipe

POINTS_PER_CLASS = 500  # candidate patch centres kept per case and structure


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
        self.patch = tuple(-(-p // model.stride) * model.stride for p in recipe.patch)
        self.images, self.references = [], []
        for image, reference in zip(cases.images, cases.references, strict=True):
            x, y = _pad_to_patch(model.normalise(image), reference, self.patch)
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
        if reference.ndim > len(self.patch):  # a slice of a volume for a 2-D network
            image, reference, centre = image[:, centre[0]], reference[centre[0]], centre[1:]
        start = [
            int(np.clip(c - p // 2, 0, n - p)) for c, p, n in zip(centre, self.patch, reference.shape, strict=True)
        ]
        index = tuple(slice(s, s + p) for s, p in zip(start, self.patch, strict=True))
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
