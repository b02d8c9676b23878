"""Seconds until a process is ready to work."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from shiftbench.engine.scheduler import LANE
from shiftbench.engine.workers import start_worker
from shiftbench.errors import ShiftBenchError
from shiftbench.guest import frames
from shiftbench.isolation.launcher import Launcher
from shiftbench.worker.perform import MODULES
from shiftbench.worker.serve import Post

SAYS_BYTES = 4096  # of the first frame of a guest


def process_seconds() -> float:
    """A Python that does nothing."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    return time.perf_counter() - started


def worker_seconds(folder: Path, lane: str) -> float:
    """A process of the local pool."""
    modules = {kind: module for kind, module in MODULES.items() if LANE.get(kind, "method") == lane}
    started = time.perf_counter()
    worker = start_worker(Post(str(folder), lane, 1, {}, modules, os.getpid()), lane, None, {})
    try:
        worker.connection.recv_bytes()
        return time.perf_counter() - started
    finally:
        worker.end()
        worker.process.wait()


def guest_seconds(isolate: str, after: int = 0) -> float | None:
    """A process for a method's code, after so many others of the same worker; None where there is no such level."""
    try:
        launcher = Launcher(isolate=isolate, device="cpu", threads=1, memory_mb=None, spares=False)
    except ShiftBenchError:
        return None
    seconds = 0.0
    for _ in range(after + 1):
        started = time.perf_counter()
        guest = launcher.start()
        frames.read(guest.reader, header_bytes=SAYS_BYTES, admit=lambda header, shaped: None)
        seconds = time.perf_counter() - started
        guest.close()
    launcher.close()
    return seconds
