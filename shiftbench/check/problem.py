"""A tiny synthetic problem of adaptation: a source model after a few steps, and cases of two organs."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train import fit_supervised
from shiftbench.types import LabelledSet, Recipe

CLASSES = 3
SHAPES = {2: (6, 32, 32), 3: (16, 32, 32)}  # a volume as slices for a 2-D network, and whole
STEPS = 12
SEMANTIC = Task(CLASSES)
COUNTED = Task(CLASSES, "panoptic", (2,), ("boundary", "distance"))  # the smaller organ is a thing


@dataclass(frozen=True)
class Problem:
    """A source model and the cases of a source and a target domain."""

    model: Normalised
    recipe: Recipe
    source: LabelledSet
    source_val: LabelledSet
    adapt: LabelledSet
    test: tuple[Tensor, ...]


@functools.cache
def problem(backbone: str, dimension: int, *, stack: int = 1, task: Task = SEMANTIC) -> Problem:
    """A source model after a few steps, and cases of two organs whose contrast differs between source and target.

    Args:
        backbone: of the source model.
        dimension: of its network.
        stack: neighbouring slices as channels (2.5-D).
        task: of CLASSES classes; where it counts instances, the cases have them.
    """
    shape = SHAPES[dimension]
    source, source_val = (tiny_cases(name, shape, n, gamma=1.0) for name, n in (("source", 3), ("source_val", 1)))
    recipe = Recipe("check", STEPS, 3, 4 if dimension == 2 else 2, shape[-dimension:], 1e-2, stack=stack)
    rng = generator(0, "check", backbone, dimension)
    model = build(
        backbone,
        dimension=dimension,
        channels=1,
        task=task,
        normalise=Normalise(),
        patch=recipe.patch,
        stack=stack,
        rng=rng,
    )
    fit_supervised(model, source, recipe, rng=rng)
    adapt, test = tiny_cases("adapt", shape, 2, gamma=2.0), tiny_cases("test", shape, 3, gamma=2.0)
    return Problem(model, recipe, source, source_val, adapt, tuple(test.images))


def tiny_cases(name: str, shape: tuple[int, ...], n: int, *, gamma: float) -> LabelledSet:
    """Bodies with two organs: raw intensities of about 100 under a gamma curve, with noise."""
    rng = generator(0, "check", name, shape)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, s) for s in shape), indexing="ij"))
    images, references = [], []
    for _ in range(n):
        centres = rng.uniform(-0.1, 0.1, (3, 3)) + [[0, 0, 0], [0, -0.3, 0.3], [0, 0.3, -0.3]]
        radii = rng.uniform(0.9, 1.1, 3) * [0.85, 0.35, 0.2]
        inside = [
            ((grid[1:] - c[1:, None, None, None]) ** 2).sum(0) < r**2 for c, r in zip(centres, radii, strict=True)
        ]
        reference = np.where(inside[1], 1, 0) + np.where(inside[2] & ~inside[1], 2, 0)
        tissue = np.select([~inside[0], reference == 1, reference == 2], [0.02, 0.8, 0.3], 0.5)
        noisy = np.abs(tissue**gamma + rng.normal(0, 0.03, shape))
        images.append(torch.from_numpy((100 * noisy[None]).astype(np.float32)))
        references.append(torch.from_numpy(reference.astype(np.uint8)))
    instances = [(reference == 2).to(torch.int32) for reference in references]
    return LabelledSet(images, references, [f"{name}-{i}" for i in range(n)], instances)
