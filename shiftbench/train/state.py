"""Everything that a training's next step depends on, into and out of a checkpoint."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shiftbench.rng import digest
from shiftbench.train.average import SWA_RATE, Average, refresh_statistics_
from shiftbench.train.checkpoint import Checkpoint
from shiftbench.train.history import History

WEIGHT_DECAY = 1e-4


def one_cycle(step: int, steps: int, *, warm_up: float = 0.3, start: float = 0.04, end: float = 1e-4) -> float:
    """Factor of the peak learning rate: cosine up over the first `warm_up` share, cosine down after it."""
    rise = max(1.0, warm_up * steps - 1)
    if step <= rise:
        low, position = start, step / rise
        return low + (1 - low) * (1 - math.cos(math.pi * position)) / 2
    position = (step - rise) / max(1.0, steps - 1 - rise)
    return end + (1 - end) * (1 + math.cos(math.pi * min(1.0, position))) / 2


class Training:
    """A training under way: weights, optimiser, average, losses, torch's generators, and the place in the batches.

    `batches` and `step` may have `state()`, which returns JSON values, and `restore_(state)`. Batches that have not
    are drawn again and thrown away where a training goes on.

    Args:
        model: that is trained.
        batches: any iterable.
        step: loss (scalar) of the model on one batch.
        steps: of the training.
        learning_rate: its peak.
        parameters: what to train; None for all of the model's.
        average: "none", "ema" or "swa".
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable,
        step: Callable[[nn.Module, Any], Tensor],
        *,
        steps: int,
        learning_rate: float,
        parameters: Sequence[nn.Parameter] | None,
        average: Literal["none", "ema", "swa"],
    ):
        self.model, self.step, self.steps, self.learning_rate = model, step, steps, learning_rate
        self.trained = list(model.parameters()) if parameters is None else list(parameters)
        self.device = next(model.parameters()).device
        self.optimiser = torch.optim.AdamW(self.trained, lr=learning_rate, weight_decay=WEIGHT_DECAY, fused=True)
        self.average = None if average == "none" else Average(average, self.trained, steps)
        self.history = History(model, step, steps, self.rate, self.device)
        self.parts: dict[str, Any] = {"batches": batches, "step": step}
        weights = [[n, list(t.shape), str(t.dtype)] for n, t in model.state_dict().items()]
        self.plan = {
            "steps": steps,
            "learning_rate": learning_rate,
            "average": average,
            "device": self.device.type,
            "weights": digest(weights, [list(p.shape) for p in self.trained]),
        }

    def rate(self, i: int) -> float:
        """Learning rate of step `i`, counted from 0: one cycle, but constant where a stochastic average runs."""
        averaging = self.average is not None and self.average.kind == "swa" and i >= self.average.first
        return self.learning_rate * (SWA_RATE if averaging else one_cycle(i, self.steps))

    def finish_(self, batches: Iterable) -> list[float]:
        """Leaves the model with the average, if there is one, in evaluation mode; returns the losses.

        Args:
            batches: more of them, from which batch-norm statistics are estimated again where they must.
        """
        losses = self.history.read()
        if self.average is not None:
            self.average.apply_()
            if self.average.kind == "swa":
                refresh_statistics_(self.model, batches, self.step)
        self.model.eval()
        return losses

    def write(self, checkpoint: Checkpoint, done: int) -> None:
        """The state after `done` steps.

        Raises:
            NonFiniteLoss: a loss was NaN or infinite; nothing is written then.
        """
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        for i, parameter in enumerate(self.trained):
            tensors |= {f"optimiser.{i}.{name}": t for name, t in self.optimiser.state[parameter].items()}
        if self.average is not None:
            tensors |= {f"average.{i}": t for i, t in enumerate(self.average.shadow)}
        tensors["losses"] = torch.tensor(self.history.read(), dtype=torch.float64)
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        parts = {name: part.state() for name, part in self.parts.items() if hasattr(part, "state")}
        checkpoint.write(tensors, {"training": self.plan, "done": done, "parts": parts})

    def resume_(self, checkpoint: Checkpoint | None) -> tuple[int, Iterator]:
        """Steps that are done, and the batches from there on."""
        batches: Iterable = self.parts["batches"]
        found = None if checkpoint is None else checkpoint.read(self.plan)
        if found is None:
            return 0, iter(batches)
        tensors, record = found
        for name, state in record["parts"].items():
            self.parts[name].restore_(state)
        stream = iter(batches)
        if "batches" not in record["parts"]:
            next(itertools.islice(stream, record["done"] - 1, None), None)
        self._load_(tensors)
        return record["done"], stream

    @torch.no_grad()
    def _load_(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict({n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for name in (n for n in tensors if n.startswith("optimiser.")):
            _, place, moment = name.split(".", 2)
            moments.setdefault(int(place), {})[moment] = tensors[name]
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        for parameter, state in self.optimiser.state.items():
            for name, moment in state.items():
                if name != "step":  # with the strides of the weights, as an optimiser makes them
                    state[name] = torch.empty_like(parameter).copy_(moment)
        if self.average is not None:
            for i, average in enumerate(self.average.shadow):
                average.copy_(tensors[f"average.{i}"])
        self.history.values = tensors["losses"].tolist()
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)
