"""What an observer is told of a training, a few times a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

EVERY_SECONDS = 0.3  # between two reports; on a GPU each one waits for the device


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        step: gradient steps done, from 1.
        steps: gradient steps in all.
        loss: of the last step.
        dsc: mean foreground DSC of the last batch under the weights of that step; None where nobody measures it, or
            no structure occurs.
        seconds_left: at the pace since the training started or went on.
    """

    step: int
    steps: int
    loss: float
    dsc: float | None
    seconds_left: float


class Observed:
    """An observer that is called at most every `every_seconds`, and after the last step.

    Args:
        call: is told; None for nobody.
        every_seconds: the least time between two calls.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        call: Callable[[Progress], None] | None,
        *,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.call, self.every_seconds, self.clock = call, every_seconds, clock
        self.first, self.started, self.last = 0, clock(), -float("inf")

    def begin_(self, step: int) -> None:
        """The training starts, or goes on after `step` steps."""
        self.first, self.started, self.last = step, self.clock(), -float("inf")

    def __call__(
        self, step: int, steps: int, loss: Callable[[], float], watch: Callable[[], float | None] | None
    ) -> None:
        """Step `step` is done; `loss` and `watch` are asked only where the observer is called."""
        if self.call is None:
            return
        now = self.clock()
        if now - self.last < self.every_seconds and step < steps:
            return
        self.last = now
        pace = (now - self.started) / (step - self.first)
        self.call(Progress(step, steps, loss(), None if watch is None else watch(), pace * (steps - step)))
