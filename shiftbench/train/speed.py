"""Compiled forward and backward passes where a training is long enough for them to pay."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from shiftbench.networks import Normalised

Variant = Literal["eager", "compiled", "graphs"]

# Inductor writes and builds the kernels of a U-Net's passes in about a minute and saves at most a third of a step, so
# that three minutes of eager steps pay it back; with less than this left nothing is tried.
WORTH_SECONDS = 300.0
WARM_UP = 10  # steps of a variant that are not timed: compilation, choice of kernels, first allocations
TIMED = 20
# Dropout draws as in eager mode, and graphs replay the launches of a step at once.
OPTIONS: dict[str, dict[str, Any]] = {
    "compiled": {"fallback_random": True},
    "graphs": {"fallback_random": True, "triton.cudagraphs": True},
}


class Speed:
    """Which variant of a network's passes the steps of a training run with.

    `choice="auto"` stays eager on the CPU, where bytes are promised, and measures on a GPU: eager steps first, then,
    if the steps left take longer than `worth_seconds`, compiled ones and compiled ones in CUDA graphs; the fastest
    stays. Every timed step is a step of the training. Results differ from eager ones by rounding. A variant that fails
    is left, its step is taken again in eager mode, and the record says so.

    Attributes:
        record: variant that was chosen, why, and seconds per step of those that were timed.

    Args:
        choice: "auto", or the variant to take without measuring.
        worth_seconds: eager seconds left from which another variant is tried.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        choice: Literal["auto", "eager", "compiled", "graphs"] = "auto",
        *,
        worth_seconds: float = WORTH_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.choice, self.worth_seconds, self.clock = choice, worth_seconds, clock
        self.record: dict[str, Any] = {}
        self.variant: Variant = "eager"
        self._module: nn.Module = nn.Identity()
        self._device = torch.device("cpu")
        self._plan: Iterator[None] = iter(())
        self._unproven = 0  # steps of the variant that may still fail in compilation or capture

    @contextlib.contextmanager
    def of(self, model: nn.Module, device: torch.device, steps: int) -> Iterator[None]:
        """The model's passes run as chosen for the `steps` that follow in the block, and are eager after it."""
        self._module = model.network if isinstance(model, Normalised) else model
        self._device, self.record = device, {"seconds_per_step": {}}
        if self.choice != "auto":
            self._take(self.choice, "asked for")
        elif device.type != "cuda":
            self._take("eager", "the CPU's results are the same to the byte")
        else:
            self._plan = self._trials(steps)
        try:
            yield
        finally:
            self._plan = iter(())
            if self.variant != "eager":
                self._set("eager")

    def run(self, gradients: Callable[[], Tensor]) -> Tensor:
        """The loss of one step, whose forward and backward passes `gradients` runs."""
        next(self._plan, None)
        if self.variant == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        if not self._unproven:
            return gradients()
        self._unproven -= 1
        return self._guarded(gradients)

    def _trials(self, steps: int) -> Iterator[None]:
        """Measures one variant after the other; every `yield` is a step."""
        seconds = self.record["seconds_per_step"]
        seconds["eager"] = yield from self._timed()
        left, reason = steps - WARM_UP - TIMED, "the fastest"
        for variant in ("compiled", "graphs"):
            if left * seconds["eager"] < self.worth_seconds:
                reason = f"{left * seconds['eager']:.0f} s of steps were left, too few for another variant to pay"
                break
            self._set(variant)
            measured = yield from self._timed()
            left -= WARM_UP + TIMED
            if self.variant == variant:
                seconds[variant] = measured
        self._take(min(seconds, key=seconds.__getitem__), reason)

    def _timed(self) -> Generator[None, None, float]:
        for _ in range(WARM_UP):
            yield
        started = self._now()
        for _ in range(TIMED):
            yield
        return (self._now() - started) / TIMED

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self.clock()

    def _take(self, variant: Variant, reason: str) -> None:
        if variant != self.variant:
            self._set(variant)
        self.record |= {"variant": variant, "reason": reason}

    def _set(self, variant: Variant) -> None:
        self.variant, self._unproven = variant, 0 if variant == "eager" else WARM_UP
        if variant == "eager":
            self._module._compiled_call_impl = None  # what Module.compile sets, in place and without another name
        else:
            self._module.compile(dynamic=False, options=OPTIONS[variant])

    def _guarded(self, gradients: Callable[[], Tensor]) -> Tensor:
        """One step of a variant, taken again in eager mode where it fails."""
        buffers = [(b, b.clone()) for b in self._module.buffers()]
        draws = torch.get_rng_state(), *self._device_draws()
        failed = self.variant
        try:
            return gradients()
        except Exception as error:  # whatever a compiler says, the training goes on without it
            self._set("eager")
            self.record.setdefault("failed", {})[failed] = f"{type(error).__name__}: {error}".splitlines()[0]
        for buffer, before in buffers:
            buffer.copy_(before)
        torch.set_rng_state(draws[0])
        if len(draws) > 1:
            torch.cuda.set_rng_state(draws[1], self._device)
        if self.record.get("variant") == failed:
            self.record |= {"variant": "eager", "reason": f"{failed} failed"}
        return gradients()

    def _device_draws(self) -> tuple[Tensor, ...]:
        return (torch.cuda.get_rng_state(self._device),) if self._device.type == "cuda" else ()
