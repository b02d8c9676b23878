"""Who left a temporary file, whether that process still lives, and what time a file system has."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

TOKEN = re.compile(r"(?P<host>[A-Za-z0-9-]+)\+(?P<pid>\d+)\+(?P<start>\d+)\+[0-9a-f]{16}")


@dataclass(frozen=True)
class Owner:
    """A process: the machine (boot and process table) it runs on, its number there, and when it started.

    Attributes:
        host: name of the machine, and a digest of what tells apart two process tables: the boot and the namespace
            (containers may share a name, and number their processes anew).
        start: clock ticks from the boot to the process's start, so that a number given anew is seen; 0 where the
            system does not say.
    """

    host: str
    pid: int
    start: int

    @property
    def gone(self) -> bool | None:
        """Whether the process has ended; None where this process cannot know (another machine, another boot)."""
        if self.host != me().host or os.name != "posix":
            return None
        seen = _seen(self.pid)
        if seen is not None:
            state, start = seen
            return state in "ZXx" or start != self.start
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False  # another user's, of which /proc may say nothing
        return False


def me() -> Owner:
    """This process."""
    return _owner(os.getpid())  # by number, because a fork is another process


@functools.lru_cache(maxsize=1)
def _owner(pid: int) -> Owner:
    table = ""
    with contextlib.suppress(OSError):
        table = Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    name = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"
    seen = _seen(pid)
    return Owner(f"{name}-{sha256(table.encode()).hexdigest()[:8]}", pid, seen[1] if seen else 0)


def _seen(pid: int) -> tuple[str, int] | None:
    """State and start of a process as Linux tells them; None where it does not."""
    if sys.platform != "linux":
        return None
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name before it may hold spaces and brackets
    return fields[0], int(fields[19])


def token() -> str:
    """A new name that tells who made it."""
    owner = me()
    return f"{owner.host}+{owner.pid}+{owner.start}+{uuid.uuid4().hex[:16]}"


def owner_of(name: str) -> Owner | None:
    """Who made a name that holds a token; None where it holds none."""
    found = TOKEN.search(name)
    return Owner(found["host"], int(found["pid"]), int(found["start"])) if found else None


def clock(folder: Path) -> float:
    """Seconds of the file system's own clock: what a file that is written now is dated.

    Dates of files are compared with this and not with the machine's clock, which may be another's or have jumped.
    """
    probe = folder / f".clock.{token()}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def touched(path: Path) -> float:
    """When a file, or the youngest of what lies in a folder, was last written; 0 for what is not there any more."""
    newest = 0.0
    for each in (path, *_inside(path)):
        with contextlib.suppress(OSError):
            newest = max(newest, each.lstat().st_mtime)
    return newest


def _inside(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        yield from path.rglob("*")
