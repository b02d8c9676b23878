"""The losses of a training, each checked to be finite."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from shiftbench.train.failures import late_non_finite_loss, non_finite_loss, tensors_in

CHECK_EVERY = 50  # steps on a GPU, where looking at a loss waits for the device


class History:
    """Loss of every step: read at once on the CPU, kept on a GPU and read every CHECK_EVERY steps.

    Args:
        model: that is trained.
        step: loss of the model on one batch.
        steps: of the training.
        rate: learning rate of a step, counted from 0.
        device: where the losses are.
    """

    def __init__(
        self,
        model: nn.Module,
        step: Callable[[nn.Module, Any], Tensor],
        steps: int,
        rate: Callable[[int], float],
        device: torch.device,
    ):
        self.model, self.step, self.steps, self.rate = model, step, steps, rate
        self.deferred = device.type != "cpu"
        self.values: list[float] = []
        self._pending: list[Tensor] = []  # (2,) of loss and sum of the batch

    def add(self, loss: Tensor, batch: Any) -> None:
        """Takes in the loss of the next step; called before its gradients move the weights.

        Raises:
            NonFiniteLoss: a loss was NaN or infinite.
        """
        if self.deferred:
            floats = [t.sum().float() for t in tensors_in(batch) if t.is_floating_point()]
            total = torch.stack(floats).sum() if floats else torch.zeros_like(loss)
            self._pending.append(torch.stack([loss.float(), total]))
            if len(self._pending) == CHECK_EVERY:
                self.read()
            return
        value = float(loss)
        if not math.isfinite(value):
            i = len(self.values)
            raise non_finite_loss(value, i + 1, self.steps, self.rate(i), self.model, self.step, batch)
        self.values.append(value)

    def read(self) -> list[float]:
        """Losses of all steps so far.

        Raises:
            NonFiniteLoss: a loss was NaN or infinite.
        """
        pending, self._pending = self._pending, []
        for value, total in torch.stack(pending).tolist() if pending else ():
            if not math.isfinite(value):
                i = len(self.values)
                finite = math.isfinite(total)
                raise late_non_finite_loss(value, i + 1, self.steps, self.rate(i), finite_batch=finite)
            self.values.append(value)
        return self.values

    def last(self) -> float:
        """Loss of the last step."""
        return self.read()[-1]
