"""What a guest may use of the machine: memory and processes, held from outside and by the system."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

MIB = 2**20
PROCESSES = 512  # of one guest; far above any loader's, far below what a fork bomb needs
FILES_MB = 1024  # of a guest's working folder in a sandbox, and of any one file that it writes without
POLL_SECONDS = 0.1
_LIMITED = 'ulimit -c 0; ulimit -f "$1"; [ "$0" = unlimited ] || ulimit -d "$0"; shift; exec "$@"'  # in KiB and blocks


def physical_mb() -> float | None:
    """MiB of memory that processes here share: the machine's, or less where a control group says so; None: unknown."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / MIB
    with contextlib.suppress(OSError, ValueError):
        groups = [line.partition("::")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
        own = next(group for group in groups if group)
        return min(whole, int(Path(f"/sys/fs/cgroup{own}/memory.max").read_text()) / MIB)
    return whole


def limited(command: list[str], memory_mb: float | None) -> list[str]:
    """The command, started so that it and all that it starts ask the system for no more than they may.

    Args:
        command: program and arguments.
        memory_mb: of private writable memory per process (RLIMIT_DATA); None where addresses are not memory (CUDA).
    """
    if os.name != "posix":
        return command
    import resource  # not there on Windows

    kib = "unlimited" if memory_mb is None else str(int(memory_mb * 1024))
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if memory_mb is not None and 0 <= hard < memory_mb * MIB:
        kib = str(hard // 1024)
    return ["/bin/sh", "-c", _LIMITED, kib, str(FILES_MB * MIB // 512), *command]


def resident_mb(pids: list[int]) -> float:
    """MiB of memory that processes hold together; pages that they share count for each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return total * os.sysconf("SC_PAGE_SIZE") / MIB


def watch(
    tree: Callable[[], list[int]],
    memory_mb: float | None,
    ended: threading.Event,
    exceed: Callable[[str, str], None],
) -> None:
    """Calls `exceed(cause, reason)` once when a tree of processes holds more than it may; a thread's work.

    Args:
        tree: the ids of its processes as they are now.
        memory_mb: of all of them together; None for no limit.
        ended: set when there is nothing left to watch.
        exceed: told the cause as one sentence, and the reason as `graph.Outcome` has it.
    """
    if sys.platform != "linux":
        return
    while not ended.wait(POLL_SECONDS):
        now = tree()
        if len(now) > PROCESSES:
            exceed(f"the method's process started {len(now)} others, more than the {PROCESSES} allowed", "exception")
            return
        used = resident_mb(now)
        if memory_mb is not None and used > memory_mb:
            words = f"the method's process used {used:.0f} MiB of memory, more than its limit of {memory_mb:.0f} MiB"
            exceed(f"{words}; raise the limit or lower the batch", "out_of_memory")
            return
