"""Averages of the weights over the steps of a training: EMA and SWA."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

DECAY = 0.999  # of the exponential moving average
SWA_SHARE = 0.25  # of the steps, at the end, that a stochastic average runs over
SWA_RATE = 0.1  # of the peak learning rate, constant in that part
STATISTICS_BATCHES = 50  # from which batch-norm statistics are estimated again


class Average:
    """A running average of some parameters, in their place at the end of a training.

    "ema" is an exponential moving average over all steps whose decay warms up as (1 + n) / (10 + n); it lags behind
    so little that the running statistics of batch-norm layers are taken as they are. "swa" is the mean over the last
    quarter of the steps, at a constant learning rate (Izmailov, Podoprikhin, Garipov, Vetrov, Wilson, Averaging
    weights leads to wider optima and better generalization, UAI 2018); it lies off the path of the training, so batch
    norm needs `refresh_statistics_` afterwards.

    Args:
        kind: "ema" or "swa".
        parameters: to average; the training goes on with them.
        steps: of the training.
    """

    def __init__(self, kind: Literal["ema", "swa"], parameters: Sequence[nn.Parameter], steps: int):
        self.kind, self.parameters = kind, list(parameters)
        self.first = swa_start(steps) if kind == "swa" else 0
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update_(self, step: int) -> None:
        """Takes in the parameters after step `step`, counted from 0."""
        n = step - self.first  # parameters taken in before these
        if n < 0:
            return
        share = 1 / (n + 1) if self.kind == "swa" else 1 - min(DECAY, (1 + n) / (10 + n))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], share)

    @torch.no_grad()
    def apply_(self) -> None:
        """Writes the average into the parameters."""
        for parameter, average in zip(self.parameters, self.shadow, strict=True):
            parameter.copy_(average)


def swa_start(steps: int) -> int:
    """First step, counted from 0, whose weights enter a stochastic average: at least the last one does."""
    return max(0, min(steps - 1, round(steps * (1 - SWA_SHARE))))


@torch.no_grad()
def refresh_statistics_(
    model: nn.Module, batches: Iterable, step: Callable[[nn.Module, Any], Tensor], *, limit: int = STATISTICS_BATCHES
) -> int:
    """Running statistics of every batch-norm layer estimated again: the mean over batches of the batch statistics.

    Args:
        model: left in evaluation mode; a network without batch norm is not run.
        batches: at most `limit` are drawn.
        step: runs the model on one batch; it must leave the modes of batch-norm layers alone.

    Returns:
        The number of batches that were used.

    Raises:
        ValueError: there was no batch.
    """
    model.eval()
    layers = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    if not layers:
        return 0
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a cumulative mean
        layer.train()
    used = 0
    for _, batch in zip(range(limit), batches, strict=False):
        step(model, batch)
        used += 1
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    model.eval()
    if not used:
        raise ValueError("no batch is left to estimate batch-norm statistics from")
    return used
