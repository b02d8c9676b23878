"""A guest as its worker sees it: two pipes, a log, and an end that leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from shiftbench.isolation.forkserver import Forked
from shiftbench.isolation.keeper import SIGNALLED, children, descendants, end
from shiftbench.isolation.limits import watch
from shiftbench.types import Status

LOG_BYTES = 16 * 1024
KILL_SECONDS = 5.0  # for a killed tree to be gone
BARE, KEPT, SANDBOXED = 0, 1, 2  # as it is, under a keeper, under bubblewrap and the first process of its namespace
_PIECE = 4096


@dataclass(frozen=True)
class Death:
    """How a guest ended: the cause as one sentence, the status of its rows, the reason as `graph.Outcome` has it."""

    cause: str
    status: Status
    reason: str


class GuestProcess:
    """A running guest.

    Attributes:
        writer: its standard input; flush after a frame.
        reader: its standard output.
        tree: tells the ids of its processes as they are now.

    Args:
        process: what was started, with pipes for all three streams.
        layers: processes between it and the guest's own: `SANDBOXED`, `KEPT` or `BARE`.
        memory_mb: that the guest and all that it starts may hold together; None for no limit.
        folder: its working folder, removed at the end; None where that is inside a sandbox.
        tree: the ids of its processes; by default those under `process`.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes] | Forked,
        *,
        layers: int,
        memory_mb: float | None = None,
        folder: Path | None = None,
        tree: Callable[[], list[int]] | None = None,
    ):
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.process, self.layers, self.folder = process, layers, folder
        self.writer: IO[bytes] = process.stdin
        self.reader: IO[bytes] = process.stdout
        self._exceeded: Death | None = None
        self._over = threading.Event()
        self._said = bytearray()
        self._drain = threading.Thread(target=self._drained, args=(process.stderr,), daemon=True)
        self._drain.start()
        self.tree = tree or self._tree
        limits = (self.tree, memory_mb, self._over, self._exceed)
        threading.Thread(target=watch, args=limits, daemon=True).start()

    @property
    def pid(self) -> int | None:
        """Of the guest's own process, as this system sees it; None where it is gone or cannot be found."""
        pid = self.process.pid
        for _ in range(self.layers):
            below = children(pid)
            if not below:
                return None
            pid = below[0]  # the first born; orphans come later
        return pid if self.process.poll() is None else None

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def ended(self) -> Death | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        if self._exceeded is not None:
            return self._exceeded
        number = -code if code < 0 else code - SIGNALLED
        if number in {int(known) for known in signal.Signals}:
            return _signalled(signal.Signals(number))
        return Death(f"the process ended with exit code {code}{self._last_words()}", Status.FAILED, "exception")

    def log(self) -> str:
        """The last kilobytes of what it said on standard error."""
        if not self.alive():
            self._drain.join(timeout=1.0)
        return bytes(self._said[-LOG_BYTES:]).decode(errors="replace")

    def kill(self) -> None:
        """Ends it and all that it started, at once."""
        self._over.set()
        if self.process.poll() is not None:
            return
        if self.layers == SANDBOXED:
            self._end_namespace()
        elif self.layers == KEPT:
            end(self.process.pid, signal.SIGTERM)
            self._wait(KILL_SECONDS)
        if self.process.poll() is None:
            for pid in reversed(descendants(self.process.pid)):
                end(pid, signal.SIGKILL)
            self._end_group()
            self.process.kill()
            self.process.wait()

    def close(self) -> None:
        """Kills it if it still runs, and lets go of pipes and folder."""
        self.kill()
        self.process.wait()
        for pipe in (self.writer, self.reader):
            with contextlib.suppress(OSError):
                pipe.close()
        self._drain.join(timeout=1.0)
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _tree(self) -> list[int]:
        return [self.process.pid, *descendants(self.process.pid)]

    def _end_namespace(self) -> None:
        """Kills the first process of the PID namespace, which takes all others with it; it may only just be born."""
        end_at = time.monotonic() + KILL_SECONDS
        while self.process.poll() is None and time.monotonic() < end_at:
            for pid in children(self.process.pid):
                end(pid, signal.SIGKILL)
            self._wait(0.05)

    def _wait(self, seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def _end_group(self) -> None:
        """Kills the group that the process leads, where no keeper does it."""
        if self.layers == BARE and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _exceed(self, cause: str, reason: str) -> None:
        status = Status.OUT_OF_MEMORY if reason == "out_of_memory" else Status.FAILED
        self._exceeded = Death(cause, status, reason)
        self.kill()

    def _drained(self, pipe: IO[bytes]) -> None:
        """Reads until nobody holds the other end: a guest that says much neither waits nor fills memory or disk."""
        with contextlib.suppress(OSError, ValueError), pipe:
            while piece := os.read(pipe.fileno(), _PIECE):
                self._said += piece
                del self._said[:-LOG_BYTES]

    def _last_words(self) -> str:
        lines = self.log().strip().splitlines()
        return f" ({lines[-1][:300]})" if lines else ""


def _signalled(which: signal.Signals) -> Death:
    words = f"the process was killed by {which.name}"
    if sys.platform != "win32" and which is signal.SIGKILL:
        words += ", which is what the system does when memory runs out; lower --jobs or the batch"
        return Death(words, Status.OUT_OF_MEMORY, "signal")
    return Death(words, Status.FAILED, "signal")
