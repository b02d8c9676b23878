"""The host's end of a guest's pipes: frames with a deadline, and the cause where there will be no more of them."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from shiftbench.guest import frames
from shiftbench.isolation.process import Death, GuestProcess
from shiftbench.types import Status

if TYPE_CHECKING:  # cards are asked for by processes without torch
    from torch import Tensor

LOOK_SECONDS = 0.5  # between looks whether a guest that says nothing still lives
END_SECONDS = 5.0  # for a guest whose pipe broke to be gone
PIECE = 2**20


class Gone(Exception):
    """The guest will say no more; `death` tells why."""

    def __init__(self, death: Death):
        super().__init__(death.cause)
        self.death = death


class Wire:
    """Frames to and from one guest, until a deadline.

    Args:
        guest: nobody else reads or writes its pipes.
        seconds: from now on; the guest is killed then.
    """

    def __init__(self, guest: GuestProcess, seconds: float):
        self.guest, self.seconds = guest, seconds
        self.deadline = time.monotonic() + seconds
        self.inlet, self.outlet = guest.reader.fileno(), guest.writer.fileno()
        self.polled = hasattr(select, "poll")
        self.timer: threading.Timer | None = None
        if self.polled:
            os.set_blocking(self.outlet, False)
        else:  # no pipe can be waited for with a time limit there
            self.timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), guest.kill)
            self.timer.daemon = True
            self.timer.start()

    def send(self, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
        """Sends one frame; raises Gone."""
        frames.write(self, header, tensors)

    def receive(self, admit: frames.Admit | None = None) -> frames.Frame:
        """The next frame.

        Raises:
            Gone: there is none.
            FrameError: what came is none, or was refused; nothing more can be read.
        """
        frame = frames.read(self, header_bytes=frames.HEADER_BYTES, admit=admit)
        if frame is None:
            raise self._gone()
        return frame

    def read(self, n: int, /) -> bytes:
        """At most n bytes from the guest."""
        self._wait(self.inlet, select.POLLIN if self.polled else 0)
        try:
            found = os.read(self.inlet, min(n, PIECE))
        except OSError:
            found = b""
        if not found:
            raise self._gone()
        return found

    def write(self, data: bytes, /) -> None:
        """All of `data` to the guest."""
        rest = memoryview(data)
        while rest:
            self._wait(self.outlet, select.POLLOUT if self.polled else 0)
            try:
                rest = rest[os.write(self.outlet, rest[:PIECE]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._gone() from None

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Lets go of the guest."""
        if self.timer is not None:
            self.timer.cancel()

    def _wait(self, pipe: int, event: int) -> None:
        """Returns once the pipe has something to read or room to write, or its other end is closed."""
        if not self.polled:
            return
        poll = select.poll()
        poll.register(pipe, event)
        while True:
            left = self.deadline - time.monotonic()
            if left <= 0:
                self.guest.kill()
                raise Gone(self._late())
            if poll.poll(1000 * min(left, LOOK_SECONDS)):
                return
            death = self.guest.ended()  # something that it started may hold its pipes open
            if death is not None:
                raise Gone(death)

    def _gone(self) -> Gone:
        """Why the pipe broke."""
        end = time.monotonic() + END_SECONDS
        while (death := self.guest.ended()) is None and time.monotonic() < end:
            time.sleep(0.005)
        if death is None:
            self.guest.kill()
            death = Death("the method closed the pipe that its predictions come through", Status.FAILED, "exception")
        return Gone(self._late() if time.monotonic() >= self.deadline else death)

    def _late(self) -> Death:
        return Death(f"the task took more than {self.seconds:.0f} s", Status.TIMEOUT, "timeout")
