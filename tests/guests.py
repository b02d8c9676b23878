"""Tiny guests for tests of the sandbox: Python code that stands in for what runs beside a method."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shiftbench.isolation.launcher import Launcher
from shiftbench.isolation.process import GuestProcess

LEVELS = {"sandbox": "strict", "process": "off"}
WAIT = "\nimport sys; sys.stdin.read()"
SOON = 20.0  # seconds in which what has to happen does, on a machine that is busy


def launcher(level: str, code: str, **wishes) -> Launcher:
    """One whose guests run this code."""
    wishes = {"device": "cpu", "threads": 1, "memory_mb": None, "spares": False, **wishes}
    return Launcher(isolate=LEVELS[level], command=("-c", code), **wishes)


@contextlib.contextmanager
def guest(level: str, code: str, **wishes) -> Iterator[GuestProcess]:
    """A running guest, ended with the block."""
    starts = launcher(level, code, **wishes)
    process = starts.start()
    try:
        yield process
    finally:
        process.close()
        starts.close()


def answer(level: str, code: str, **wishes):
    """What the code's `tell(value)` said, once; the guest then ends by itself."""
    tell = "import json, sys\ndef tell(value):\n    print(json.dumps(value), flush=True)\n"
    with guest(level, tell + code, **wishes) as process:
        line = process.reader.readline()
        assert line, process.log()
        return json.loads(line)


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it holds, now or soon."""
    end = time.monotonic() + SOON
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


def gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left of one that its parent has not asked about."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True
