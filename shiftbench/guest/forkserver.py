"""A clean interpreter from which guests are forked: what takes seconds is imported once, and no guest sees another.

Run in the sandbox as `python -m shiftbench.guest.forkserver FD -m MODULE` (or `-c CODE`), FD being a socket of whole
messages and the rest what Python is to run in every guest. The server never runs a method's code and computes nothing,
so that there is no thread that a fork could tear. It hides its memory from its children (PR_SET_DUMPABLE), takes their
orphans (PR_SET_CHILD_SUBREAPER), and when a guest ends it kills whatever that left and empties the folders that it
could write to, before the next one is born.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import json
import os
import platform
import runpy
import select
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

GUEST, DESK = "shiftbench.guest", "shiftbench.guest.desk"
MESSAGE_BYTES = 65536
STREAMS = 3  # standard input, output and error of a guest come as file descriptors
_PDEATHSIG, _DUMPABLE, _SUBREAPER = 1, 4, 36  # of prctl(2)
_IPC_RMID, _KEYCTL_CLEAR = 0, 7
_KEYCTL = {"x86_64": 250, "aarch64": 219}  # number of the system call
_RINGS = (-3, -4, -5)  # keyrings of the session, of the user and of the user's session


def serve(control: socket.socket, run: Callable[[], object]) -> None:
    """Forks a guest for every {"folder", "clean"} until the other side is gone.

    Says {"ready": true} once, {"born": true} by each guest itself (so that the kernel tells the other side its process
    id), and {"ended": wait status} when all that the guest left is gone. While a guest runs {"kill": true} ends it.

    Args:
        control: of type SOCK_SEQPACKET.
        run: what a guest does, with its own standard streams.
    """
    prctl = ctypes.CDLL(None).prctl
    prctl(_DUMPABLE, 0)
    prctl(_SUBREAPER, 1)
    control.send(b'{"ready": true}')
    while True:
        message, streams, *_ = socket.recv_fds(control, MESSAGE_BYTES, STREAMS)
        if not message:
            return
        if len(streams) < STREAMS:  # a kill that came after its guest's end
            continue
        asked = json.loads(message)
        pid = os.fork()
        if pid == 0:
            _become_guest(control, streams, asked, run)
        for stream in streams:
            os.close(stream)
        status = _attended(control, pid)
        _end_all()
        clean = _emptied(asked["clean"])
        if asked["clean"]:  # in a sandbox, where all of this is the guests' alone
            _forget_shared()
        control.send(json.dumps({"ended": status}).encode())
        if not clean:  # the next guest gets another server, in another sandbox
            return


def _become_guest(control: socket.socket, streams: Sequence[int], asked: Any, run: Callable[[], object]) -> NoReturn:
    code = 1
    try:
        prctl = ctypes.CDLL(None).prctl
        prctl(_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        import resource  # not there on Windows, which only reads this module's names

        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))  # POSIX queues would outlive it
        control.send(b'{"born": true}')
        control.close()
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
        os.closerange(STREAMS, max(streams) + 1)
        prctl(_DUMPABLE, 1)  # its own files in /proc are its own again
        os.chdir(asked["folder"])
        os.environ["HOME"] = os.environ["TMPDIR"] = asked["folder"]
        run()
        code = 0
    except SystemExit as end:  # as Python itself ends
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for written in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                written.flush()
        os._exit(code)


def _attended(control: socket.socket, pid: int) -> int:
    """Wait status of a guest that ended by itself, or because the other side asked for it or is gone."""
    watched = os.pidfd_open(pid)
    try:
        while True:
            ready, _, _ = select.select([control.fileno(), watched], [], [])
            if control.fileno() in ready:
                os.kill(pid, signal.SIGKILL)
                if not control.recv(MESSAGE_BYTES):
                    _end_all()
                    sys.exit(0)
            if watched in ready:
                return os.waitpid(pid, 0)[1]
    finally:
        os.close(watched)


def _end_all() -> None:
    """Kills every process that is left; the children of a killed one come here, and are killed in the next round."""
    with contextlib.suppress(ChildProcessError):
        while True:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            os.wait()


def _children() -> list[int]:
    found: list[int] = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def _emptied(folders: Sequence[str]) -> bool:
    """Removes all that folders hold but what is mounted in them, and says whether that is so now.

    An interpreter may lie in /tmp; a guest may have made a folder that cannot be entered.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = {Path(os.fsdecode(codecs.escape_decode(line.split()[4])[0])) for line in lines}
    above = {parent for place in mounted for parent in place.parents}
    try:
        return not any([_left_in(Path(folder), mounted, above) for folder in folders])
    except OSError:
        return False


def _left_in(folder: Path, mounted: set[Path], above: set[Path]) -> bool:
    """Empties a folder; whether something of it stayed."""
    left = False
    for path in list(folder.iterdir()):
        if path in mounted:  # read-only
            continue
        if path in above:
            left |= _left_in(path, mounted, above)
        elif path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            left |= path.exists()
        else:
            path.unlink(missing_ok=True)
    return left


def _forget_shared() -> None:
    """Removes what outlives processes in this namespace: System V memory, semaphores and queues, and kernel keys."""
    libc = ctypes.CDLL(None)
    removals = {"shm": (libc.shmctl, ()), "sem": (libc.semctl, (0,)), "msg": (libc.msgctl, ())}
    for name, (remove, further) in removals.items():
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/sysvipc/{name}").read_text().splitlines()[1:]:
                remove(int(line.split()[1]), *further, _IPC_RMID, None)
    if platform.machine() in _KEYCTL:
        for ring in _RINGS:
            libc.syscall(_KEYCTL[platform.machine()], _KEYCTL_CLEAR, ring)


def main() -> None:
    """Entry: FD, the socket that orders come from, and -m MODULE or -c CODE."""
    number, how, what = sys.argv[1:]
    control = socket.socket(fileno=int(number))
    os.set_inheritable(control.fileno(), False)
    sys.argv[1:] = []
    if how == "-c":
        serve(control, lambda: exec(compile(what, "<string>", "exec"), {"__name__": "__main__"}))
        return
    if what == GUEST:
        import_module(DESK)  # the seconds that guests are spared
    serve(control, lambda: runpy.run_module(what, run_name="__main__"))


if __name__ == "__main__":
    main()
