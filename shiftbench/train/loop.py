"""The training loop that every method shares."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class NonFiniteLoss(RuntimeError):
    """A training loss became NaN or infinite."""


@contextlib.contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Torch's own generators seeded from `rng` inside the block and restored after it."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**62)))
        yield


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
