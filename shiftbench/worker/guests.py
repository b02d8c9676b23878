"""The launchers of guests that this process keeps, so that what takes seconds is done once."""

from __future__ import annotations

import atexit
import functools
import sys
from pathlib import Path

from shiftbench.graph import Settings
from shiftbench.isolation.launcher import Launcher


def launcher_for(settings: Settings, device: str, threads: int, results: Path) -> Launcher:
    """The one launcher of this process for these settings.

    Args:
        settings: of the run.
        device: of the task.
        threads: of a guest.
        results: folder that no guest may see, in case it lies inside the interpreter's own.

    Raises:
        IsolationError: a sandbox was asked for that this machine cannot give.
    """
    seen = {Path(place).resolve() for place in (sys.prefix, sys.base_prefix, "/usr")}
    hidden = results.resolve() if seen & set(results.resolve().parents) else None
    kind = "cuda" if device.startswith("cuda") else "cpu"
    return _launcher(settings.isolate, settings.memory_mb, kind, threads, hidden)


@functools.cache
def _launcher(isolate: str, memory_mb: float | None, device: str, threads: int, hidden: Path | None) -> Launcher:
    hide = [] if hidden is None else [hidden]
    made = Launcher(isolate=isolate, device=device, threads=threads, memory_mb=memory_mb, hide=hide)
    atexit.register(made.close)
    return made
