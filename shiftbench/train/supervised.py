"""The source recipe: supervised training on labelled cases."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from shiftbench.instances import head_loss
from shiftbench.losses import Objective, background_gradient_share
from shiftbench.networks import Normalised
from shiftbench.tasks import Task
from shiftbench.train.bank import IGNORE
from shiftbench.train.checkpoint import Checkpoint
from shiftbench.train.loop import fit
from shiftbench.train.patches import PatchSampler
from shiftbench.train.progress import Observed, Progress
from shiftbench.train.speed import Speed
from shiftbench.types import LabelledSet, Recipe


def fit_supervised(
    model: Normalised,
    cases: LabelledSet,
    recipe: Recipe,
    *,
    rng: np.random.Generator,
    steps: int | None = None,
    learning_rate: float | None = None,
    parameters: Sequence[nn.Parameter] | None = None,
    checkpoint: Checkpoint | None = None,
    observe: Callable[[Progress], None] | Observed | None = None,
    speed: Speed | None = None,
    gradient_share_every: int | None = None,
    note: Callable[[str, Any], None] | None = None,
) -> list[float]:
    """Trains on class-balanced patches of labelled cases with the recipe's loss; returns the loss of every step.

    One case is enough, and a batch may be larger than the number of cases: patches are drawn with replacement.

    Args:
        model: left in evaluation mode, with the recipe's average of the weights.
        cases: raw images and references; voxels labelled IGNORE train nothing.
        recipe: loss, batches and budget.
        rng: draws the batches and seeds dropout.
        steps: gradient steps (default: the recipe's).
        learning_rate: its peak (default: the recipe's).
        parameters: what to train (default: all of the model's).
        checkpoint: see `fit`, as for `observe` and `speed`.
        gradient_share_every: steps between two looks at the share of the gradient that background voxels hold.
        note: told what there is to keep about the training, as name and JSON value: "background_gradient_share"
            (pairs of step, from 1, and share), "speed" (`Speed.record`) and "absent" (labels without a voxel).

    Raises:
        DataError: there is no case, or the references hold a label that the network has no output for.
        NonFiniteLoss, OutOfMemory, SpecError: see `fit`.
    """
    note = note if note is not None else _nowhere
    sampler = PatchSampler(model, cases, recipe, rng)
    _warn_of_absent(model.task, sampler, note)
    steps = recipe.steps if steps is None else steps
    step = Supervised(sampler, recipe, steps, gradient_share_every=gradient_share_every)
    speed = Speed() if speed is None else speed
    losses = fit(
        model,
        sampler,
        step,
        steps=steps,
        rng=rng,
        learning_rate=recipe.learning_rate if learning_rate is None else learning_rate,
        parameters=parameters,
        average=recipe.average,
        checkpoint=checkpoint,
        observe=observe,
        watch=step.dsc,
        speed=speed,
    )
    note("speed", speed.record)
    if gradient_share_every is not None:
        note("background_gradient_share", step.shares)
    return losses


def _warn_of_absent(task: Task, sampler: PatchSampler, note: Callable[[str, Any], None]) -> None:
    absent = sorted(set(range(1, task.classes)) - set(sampler.bank.classes.tolist()))
    if absent:
        warnings.warn(f"no training case has a voxel of label {', '.join(map(str, absent))}", stacklevel=3)
        note("absent", absent)


class Supervised:
    """The loss of one batch: the recipe's, at every level of deep supervision, plus that of the task's heads.

    Levels from the finest to the coarsest weigh 1, 1/2, 1/4, ... of their sum (Isensee et al., nnU-Net, Nature
    Methods 18, 2021); the heads are trained at the finest level.

    Args:
        sampler: of the batches; counts them for the schedules.
        recipe: names the loss.
        steps: of the training.
        gradient_share_every: steps between two entries of `shares`; None for none.

    Attributes:
        shares: (step from 1, share of the gradient that background voxels hold).
    """

    def __init__(self, sampler: PatchSampler, recipe: Recipe, steps: int, *, gradient_share_every: int | None = None):
        self.objective = Objective(recipe.loss, recipe.class_weights)
        self.sampler, self.steps = sampler, steps
        self.ignores = bool((sampler.bank.references.flat == IGNORE).any())  # asked once: masks cost time
        self.gradient_share_every = gradient_share_every
        self.shares: list[tuple[int, float | None]] = []
        self._seen: tuple[Tensor, Tensor] | None = None

    def __call__(self, model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
        """Loss of a batch (images, references), with the targets of the heads where the task has any."""
        self._seen = None  # the logits of the step before go before those of this one come
        images, references, *targets = batch
        outputs = model.outputs(images)  # type: ignore[operator]
        progress = min(1.0, (self.sampler.drawn - 1) / max(1, self.steps - 1))
        levels = [outputs.classes, *(level[:, : outputs.classes.shape[1]] for level in outputs.deep)]
        weights = [2.0**-i for i in range(len(levels))]
        parts = [
            w / sum(weights) * self._level_loss(level, references, progress)
            for w, level in zip(weights, levels, strict=True)
        ]
        loss = parts[0] if len(parts) == 1 else torch.stack(parts).sum()
        if targets:
            ignored = self._ignored(references)
            loss = loss + head_loss(outputs.heads, targets[0], references, model.task, ignore=ignored)  # type: ignore[arg-type]
        self._seen = outputs.classes.detach(), references
        if torch.is_grad_enabled() and self.gradient_share_every and not self._step() % self.gradient_share_every:
            self.shares.append((self._step() + 1, self._background_share(*self._seen, progress)))
        return loss

    def _step(self) -> int:
        """The step under way, from 0."""
        return self.sampler.drawn - 1

    def _level_loss(self, logits: Tensor, references: Tensor, progress: float) -> Tensor:
        """The recipe's loss on the grid of one level; references are read at its nearest voxels."""
        if logits.shape[2:] != references.shape[1:]:
            coarse = functional.interpolate(references[:, None].float(), size=logits.shape[2:], mode="nearest")
            references = coarse[:, 0].to(references.dtype)
        return self.objective(logits, references, ignore=self._ignored(references), progress=progress)

    def _ignored(self, references: Tensor) -> Tensor | None:
        return references == IGNORE if self.ignores else None

    def _background_share(self, logits: Tensor, references: Tensor, progress: float) -> float | None:
        def loss(leaf: Tensor, _: Tensor) -> Tensor:
            return self._level_loss(leaf, references, progress)

        return background_gradient_share(loss, logits, references, ignore=self._ignored(references))

    def dsc(self) -> float | None:
        """Mean DSC of the last batch over the structures that occur in it or were predicted; None without any."""
        if self._seen is None:
            return None
        logits, references = self._seen
        predicted = logits.argmax(1)
        if self.ignores:
            predicted = predicted.masked_fill(references == IGNORE, IGNORE)
        sums = []
        for label in range(1, logits.shape[1]):
            p, r = predicted == label, references == label
            sums += [(p & r).sum(), p.sum() + r.sum()]
        counts = torch.stack(sums).tolist()
        scores = [2 * both / either for both, either in zip(counts[::2], counts[1::2], strict=True) if either]
        return sum(scores) / len(scores) if scores else None

    def state(self) -> dict[str, Any]:
        """What `restore_` needs, as JSON values."""
        return {"shares": self.shares}

    def restore_(self, state: dict[str, Any]) -> None:
        """Goes on as the object whose `state` this was."""
        self.shares = [(step, share) for step, share in state["shares"]]


def _nowhere(name: str, value: Any) -> None:
    """Where notes go that nobody wants."""
