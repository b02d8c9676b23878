"""The training loop that every method shares."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from shiftbench.train.checkpoint import Checkpoint
from shiftbench.train.failures import explained
from shiftbench.train.progress import Observed, Progress
from shiftbench.train.speed import Speed
from shiftbench.train.state import Training


@contextlib.contextmanager
def seeded(rng: np.random.Generator) -> Iterator[None]:
    """Torch's own generators seeded from `rng` inside the block and restored after it."""
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int(rng.integers(2**62)))
        yield


def precision(device: torch.device) -> contextlib.AbstractContextManager:
    """bfloat16 autocast on GPUs that compute in it, float32 elsewhere.

    The switches of torch.backends stay as they are: TF32 exists on no GPU without bfloat16, so it decides nothing
    here, and cudnn.benchmark is off, because the workspaces it tries crowd out other trainings on the same GPU.
    """
    return torch.autocast("cuda", torch.bfloat16) if _has_bfloat16(device) else contextlib.nullcontext()


@functools.cache
def _has_bfloat16(device: torch.device) -> bool:
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def fit(
    model: nn.Module,
    batches: Iterable,
    step: Callable[[nn.Module, Any], Tensor],
    *,
    steps: int,
    rng: np.random.Generator,
    learning_rate: float,
    parameters: Sequence[nn.Parameter] | None = None,
    average: Literal["none", "ema", "swa"] = "none",
    checkpoint: Checkpoint | None = None,
    observe: Callable[[Progress], None] | Observed | None = None,
    watch: Callable[[], float | None] | None = None,
    speed: Speed | None = None,
) -> list[float]:
    """Trains `model` in place for `steps` gradient steps with AdamW and a one-cycle schedule.

    On the CPU the same arguments give the same bytes, also where a killed training goes on from its checkpoint.

    Args:
        model: left in evaluation mode.
        batches: any iterable that lasts long enough; tensors that lie elsewhere are moved to the model's device.
        step: loss (scalar) of the model on one batch.
        parameters: what to train (default: all of the model's).
        rng: seeds dropout.
        average: what the model is left with: the last weights, or an average of them (`shiftbench.train.Average`).
        checkpoint: written every so often, and read before the first step.
        observe: told how far the training is, a few times a second.
        watch: DSC of the last batch, for `observe`.
        speed: how the passes are run (default: measured on a GPU, eager on the CPU).

    Returns:
        The loss of every step.

    Raises:
        NonFiniteLoss: a loss was NaN or infinite.
        OutOfMemory: with what to lower.
        SpecError: a norm layer was left with a single value per channel.
    """
    training = Training(
        model, batches, step, steps=steps, learning_rate=learning_rate, parameters=parameters, average=average
    )
    speed = Speed() if speed is None else speed
    observed = observe if isinstance(observe, Observed) else Observed(observe)
    model.train()
    with seeded(rng), torch.enable_grad():
        done, stream = training.resume_(checkpoint)
        with speed.of(model, training.device, steps - done):
            observed.begin_(done)
            for i, batch in zip(range(done, steps), stream, strict=False):
                _advance_(training, i, _moved(batch, training.device), speed)
                observed(i + 1, steps, training.history.last, watch)
                if checkpoint is not None and checkpoint.due():
                    training.write(checkpoint, i + 1)
        with precision(training.device):
            return training.finish_(_moved(batch, training.device) for batch in itertools.chain(stream, batches))


def _advance_(training: Training, i: int, batch: Any, speed: Speed) -> None:
    """One gradient step; on a GPU nothing in it waits for the device."""
    for group in training.optimiser.param_groups:
        group["lr"] = training.rate(i)

    def gradients() -> Tensor:
        with precision(training.device):
            loss = training.step(training.model, batch)
        training.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        return loss.detach()

    with explained(training.model, batch):
        training.history.add(speed.run(gradients), batch)
        training.optimiser.step()
    if training.average is not None:
        training.average.update_(i)


def _moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors on `device`; copies from pinned memory run beside the computation."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, (tuple, list)):
        parts = [_moved(part, device) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
