"""Ctrl-C and SIGTERM while an engine runs."""

from __future__ import annotations

import contextlib
import signal
import threading
from types import FrameType
from typing import Any

from shiftbench.engine import Terminated


class Stopping:
    """Notices Ctrl-C and SIGTERM, for `check` to raise between two steps instead of in the middle of one.

    A second signal raises at once. Outside the main thread, where Python lets nobody listen, it notices nothing.
    """

    def __init__(self) -> None:
        self._asked: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._noticed)
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ValueError):  # closed from another thread: it cannot be given back from there
            for number, handler in self._before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)
            self._before = {}

    def check(self) -> None:
        """Raises what was asked for since.

        Raises:
            KeyboardInterrupt: Ctrl-C.
            Terminated: SIGTERM.
        """
        if self._asked is not None:
            raise _error(self._asked)

    def _noticed(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None:
            raise _error(number)
        self._asked = number


def _error(number: int) -> KeyboardInterrupt:
    return Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
