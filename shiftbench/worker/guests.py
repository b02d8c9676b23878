"""The launchers of guests that this process keeps, so that the next guest is started ahead of its task."""

from __future__ import annotations

import atexit
import functools

from shiftbench.graph import Settings
from shiftbench.isolation.launcher import Launcher


def launcher_for(settings: Settings, device: str, threads: int) -> Launcher:
    """The one launcher of this process for these settings.

    Raises:
        IsolationError: a sandbox was asked for that this machine cannot give.
    """
    return _launcher(settings.isolate, settings.memory_mb, "cuda" if device.startswith("cuda") else "cpu", threads)


@functools.cache
def _launcher(isolate: str, memory_mb: float | None, device: str, threads: int) -> Launcher:
    made = Launcher(isolate=isolate, device=device, threads=threads, memory_mb=memory_mb)
    atexit.register(made.close)
    return made
