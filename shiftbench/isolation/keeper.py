"""Stands between a worker and a guest that has no sandbox, so that what the guest starts ends with it.

Run as a script, with the standard library alone: `python -I -S keeper.py WORKER_PID COMMAND...`. On Linux every orphan
of its tree becomes its child, whatever session or group it went to; when the guest ends, or the worker, all are killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from pathlib import Path

SIGNALLED = 128  # added to a signal's number in an exit code, as shells and bubblewrap do
_PDEATHSIG, _SUBREAPER = 1, 36  # of prctl(2)


def children(pid: int) -> list[int]:
    """Process ids of the children of a process, in order of birth; none where it is gone or the system cannot say."""
    found: list[int] = []
    lists: list[Path] = []
    with contextlib.suppress(OSError):  # it is gone
        lists = list(Path(f"/proc/{pid}/task").glob("*/children"))
    if not lists:
        return _scanned(pid)
    for path in lists:  # one per thread that started some
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return sorted(found)


def descendants(pid: int) -> list[int]:
    """Process ids of the whole tree under a process, parents first, without itself."""
    found, ahead = [], children(pid)
    while ahead:
        found += ahead
        ahead = [grandchild for child in ahead for grandchild in children(child)]
    return found


def end(pid: int, how: int = signal.SIGTERM) -> None:
    """Sends a signal; a process that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, how)


def _scanned(pid: int) -> list[int]:
    """As `children`, on kernels without lists of children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return sorted(found)


class _Ended(Exception):
    """The worker asks for the end, or is gone."""


def _stop(*_: object) -> None:
    raise _Ended


def _keep(guest: int) -> int:
    """Exit code of the guest; on its way, and at a call for the end, nothing of the tree is left."""
    code = SIGNALLED + signal.SIGKILL
    with contextlib.suppress(_Ended):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        while True:
            pid, status = os.wait()
            if pid == guest:
                code = os.waitstatus_to_exitcode(status)
                break
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(ChildProcessError):
        while True:  # the children of a killed process come here, and are killed in the next round
            for pid in reversed(descendants(os.getpid())):
                end(pid, signal.SIGKILL)
            os.wait()
    return code if code >= 0 else SIGNALLED - code


def main() -> None:
    """Entry: WORKER_PID COMMAND..."""
    worker, command = int(sys.argv[1]), sys.argv[2:]
    prctl = ctypes.CDLL(None).prctl
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until there is a guest, and nothing can be left over
    signal.signal(signal.SIGTERM, _stop)
    prctl(_SUBREAPER, 1)
    prctl(_PDEATHSIG, signal.SIGTERM)
    guest = os.fork() if os.getppid() == worker else sys.exit(SIGNALLED + signal.SIGKILL)
    if guest == 0:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        prctl(_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        os.execv(command[0], command)
    for pipe in range(3):  # they are the guest's alone, so that its end is seen on them
        os.close(pipe)
    os._exit(_keep(guest))


if __name__ == "__main__":
    main()
