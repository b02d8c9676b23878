"""`--json`: what happens in a run, one JSON object per line."""

from __future__ import annotations

import json
import os
import time
from io import RawIOBase
from typing import BinaryIO

from shiftbench.watch.described import described, of_counts, of_running
from shiftbench.watch.events import Event

TICK_SECONDS = 10.0  # between ticks


class JsonLines:
    """Writes every event as a line, ticks at most every TICK_SECONDS; a line is out before the next event is looked at.

    A pipe that is closed raises here, and the run goes on without this observer.

    Args:
        out: a file opened without a buffer: no lock is held and nothing is left to flush if its reader hangs when the
            run ends.
    """

    name = "the output of JSON lines"

    def __init__(self, out: BinaryIO | RawIOBase):
        self.out = out
        self.ticked = float("-inf")

    @classmethod
    def on_stdout(cls) -> JsonLines:
        """On a descriptor of its own, so that what closes or replaces `sys.stdout` does not matter."""
        return cls(open(os.dup(1), "wb", buffering=0))

    def __call__(self, event: Event) -> None:
        content = described(event)
        if event.kind == "tick":
            if time.monotonic() - self.ticked < TICK_SECONDS:
                return
            self.ticked = time.monotonic()
        if event.kind in ("start", "tick", "done", "stopped"):
            content["kinds"] = {kind: of_counts(counts) for kind, counts in event.kinds.items()}
            content["running"] = [of_running(one) for one in event.running]
        line = memoryview(json.dumps(content, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        while line:  # an unbuffered file may take less than it is given
            line = line[self.out.write(line) :]

    def close(self) -> None:
        """Gives the descriptor back."""
        self.out.close()
