"""Why a training stopped, in one sentence each."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from shiftbench.errors import ShiftBenchError, SpecError
from shiftbench.networks.memory import activation_memory, total_bytes

ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+) ?(bytes|[KMG]i?B)")  # torch's words on CUDA and on the CPU
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 2**10, "MB": 2**20, "GB": 2**30}
CPU_ALLOCATOR = "DefaultCPUAllocator"  # names itself in the RuntimeError of an allocation that failed
LOWER = "lower the batch, the patch or the widths of the network"
ONE_VALUE = "Expected more than 1"  # batch norm ("value per channel") and instance norm ("spatial element")


class NonFiniteLoss(ShiftBenchError):
    """A training loss became NaN or infinite."""


class OutOfMemory(ShiftBenchError, MemoryError):
    """A training needed more memory than there is."""


def tensors_in(batch: Any) -> list[Tensor]:
    """The tensors of a batch, which is a tensor or a sequence of them."""
    if isinstance(batch, Tensor):
        return [batch]
    return [t for t in batch if isinstance(t, Tensor)] if isinstance(batch, (tuple, list)) else []


def non_finite_loss(
    loss: float,
    step: int,
    steps: int,
    rate: float,
    model: nn.Module,
    run: Callable[[nn.Module, Any], Tensor],
    batch: Any,
) -> NonFiniteLoss:
    """The error for a loss, with its cause as far as it can be found.

    Args:
        loss: NaN or infinite.
        step: from 1.
        steps: of the training.
        rate: learning rate of that step.
        model: with the weights that the loss belongs to.
        run: loss of the model on one batch; called again to find the first layer that fails.
        batch: that the loss belongs to.
    """
    cause, remedy = _cause(model, run, batch)
    return NonFiniteLoss(
        f"the loss was {loss} at step {step} of {steps} (learning rate {rate:.3g}): {cause}", remedy=remedy
    )


def late_non_finite_loss(loss: float, step: int, steps: int, rate: float, *, finite_batch: bool) -> NonFiniteLoss:
    """The error for a loss that was found after later steps had overwritten the weights it belongs to."""
    if finite_batch:
        cause, remedy = "its batch was finite, so weights or outputs overflowed", "lower the learning rate"
    else:
        cause, remedy = "its batch held NaN or infinite values", "look for them in the training cases"
    return NonFiniteLoss(
        f"the loss was {loss} at step {step} of {steps} (learning rate {rate:.3g}): {cause}", remedy=remedy
    )


def _cause(model: nn.Module, run: Callable[[nn.Module, Any], Tensor], batch: Any) -> tuple[str, str]:
    for i, tensor in enumerate(tensors_in(batch)):
        if not tensor.isfinite().all():
            part = "the images" if i == 0 else f"part {i + 1}"
            return f"{part} of its batch held NaN or infinite values", "look for them in the training cases"
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f"the weights {name} had become NaN or infinite", "lower the learning rate"
    layer = _first_non_finite_layer(model, run, batch)
    if layer is not None:
        return f"the output of layer {layer} overflowed", "lower the learning rate"
    return "the network's outputs were finite, the loss of them was not", "look at the options of the loss"


@torch.no_grad()
def _first_non_finite_layer(model: nn.Module, run: Callable[[nn.Module, Any], Tensor], batch: Any) -> str | None:
    found: list[str] = []

    def look(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, Tensor) and not output.isfinite().all():
                found.append(name)

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(look(name)) for name, module in leaves]
    try:
        run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


@contextlib.contextmanager
def explained(model: nn.Module, batch: Any) -> Iterator[None]:
    """Turns what torch says when memory runs out, or a norm layer sees one value, into one sentence with a remedy.

    Raises:
        OutOfMemory: on a GPU or on the CPU.
        SpecError: a norm layer was given a single value per channel.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_memory(error):
            raise
        raise _out_of_memory(str(error), model, batch) from error
    except ValueError as error:
        if not str(error).startswith(ONE_VALUE):
            raise
        raise SpecError(
            f"a norm layer is left with one value per channel where batches are {_shape(batch)}",
            remedy="raise the batch or the patch, or take a backbone with fewer levels",
        ) from error


def _shape(batch: Any) -> tuple[int, ...]:
    tensors = tensors_in(batch)
    return tuple(tensors[0].shape) if tensors else ()


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


def _out_of_memory(message: str, model: nn.Module, batch: Any) -> OutOfMemory:
    words = []
    asked = ASKED.search(message)
    if asked:
        words.append(f"another {_bytes(float(asked[1]) * UNITS[asked[2]])} were asked for")
    needed = _activations(model, _shape(batch))
    if needed:
        words.append(f"the network's activations alone take about {_bytes(needed)}")
    where = f"memory ran out in training on batches {_shape(batch)}"
    return OutOfMemory(": ".join([where, *([", ".join(words)] if words else [])]), remedy=LOWER)


def _activations(model: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Bytes that a step keeps for its backward pass, by the network run without data; None where it cannot."""
    try:
        return total_bytes(activation_memory(model, shape))
    except Exception:  # a network that needs data to run, or a copy of it that does not fit: memory is what ran out
        return None


def _bytes(size: float) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"
