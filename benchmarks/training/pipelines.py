"""The bare loop, the plain loop over anybody's batches, and ShiftBench's own."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shiftbench.rng import generator
from shiftbench.train import PatchSampler, fit
from shiftbench.train.supervised import Supervised
from training.study import LEARNING_RATE, Training

Batch = tuple[Tensor, Tensor]  # images (b, c, *patch), references (b, *patch)


class Pipeline(Protocol):
    """A training that can be stopped after any step and taken up again.

    Attributes:
        model: the network in training.
        ahead: batches that lie ready when a paused pipeline goes on.
    """

    model: nn.Module
    ahead: int

    def run(self, steps: int) -> None:
        """Takes `steps` gradient steps."""

    def close(self) -> None:
        """Ends its processes and threads."""


class PlainLoop:
    """The loop that everyone writes: move the batch, forward, backward, step.

    Args:
        training: what is trained.
        batches: endless.
        ahead: see Pipeline.
        close: ends whatever makes the batches.
    """

    def __init__(
        self, training: Training, batches: Iterable[Batch], *, ahead: int = 0, close: Callable[[], None] = lambda: None
    ):
        self.training, self.batches, self.ahead, self._close = training, iter(batches), ahead, close
        self.model = training.network().train()
        self.optimiser = training.optimiser(self.model)
        self.taken = 0

    def run(self, steps: int) -> None:
        device = self.training.device
        for images, references in itertools.islice(self.batches, steps):
            for group in self.optimiser.param_groups:
                group["lr"] = self.training.learning_rate(self.taken)
            images, references = images.to(device, non_blocking=True), references.to(device, non_blocking=True)
            loss = self.training.loss(self.model, images, references)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            self.taken += 1

    def close(self) -> None:
        self.batches = iter(())
        self._close()


def bare(training: Training) -> PlainLoop:
    """The limit: forward, backward and step on one fixed batch."""
    return PlainLoop(training, itertools.repeat(training.fixed_batch()))


class Own:
    """ShiftBench: one call of `fit` on a `PatchSampler`, which waits for orders where the loop asks for a batch.

    So drawing a batch is part of the step. Without `orders` the call is made in a thread of its own, so that `run` can
    order steps; with them, `train` makes it where it is called.

    Args:
        training: what is trained.
        orders: `get` gives the number of steps to take, or None for the end.
        answers: `put` is told None when they are taken, or the error.
    """

    ahead = 0

    def __init__(self, training: Training, *, orders: Any = None, answers: Any = None):
        self.training = training
        self.model = training.network()
        cases = training.raw
        self.sampler = PatchSampler(self.model, cases, training.recipe, generator(training.seed, "patches"))
        self._orders = orders or queue.SimpleQueue()
        self._answers = answers or queue.SimpleQueue()
        self._thread = threading.Thread(target=self.train, daemon=True)
        if orders is None:
            self._thread.start()

    def _batches(self) -> Iterator[Batch]:
        batches = iter(self.sampler)
        while (steps := self._orders.get()) is not None:
            yield from itertools.islice(batches, steps)
            self._answers.put(None)  # the loop asks for more: the steps that were ordered are done
        raise _Closed

    def train(self) -> None:
        """Trains as ordered, to the end."""
        training = self.training
        try:
            fit(
                self.model,
                self._batches(),
                Supervised(self.sampler, training.recipe, training.steps),
                steps=training.steps + 1,  # one more than will be ordered, so that it asks again after the last
                rng=generator(training.seed, "fit"),
                learning_rate=LEARNING_RATE,
            )
            self._answers.put(RuntimeError(f"the training is over after {training.steps} steps"))
        except _Closed:
            return
        except BaseException as error:  # handed to whoever waits
            self._answers.put(error)

    def run(self, steps: int) -> None:
        self._orders.put(steps)
        error = self._answers.get()
        if error is not None:
            raise error

    def close(self) -> None:
        self._orders.put(None)
        self._thread.join()


class _Closed(Exception):
    """Ends the loop of a pipeline that is closed."""


def fixed_loss(training: Training, model: nn.Module) -> float:
    """Loss on the fixed batch."""
    images, references = training.fixed_batch()
    with torch.no_grad():
        return float(training.loss(model, images, references))
