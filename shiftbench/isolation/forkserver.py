"""The worker's side of a fork server: guests in milliseconds, each with streams of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from shiftbench.errors import IsolationError
from shiftbench.guest.forkserver import MESSAGE_BYTES
from shiftbench.isolation.keeper import descendants, end

SOCKET = "{socket}"  # in a command: the number of the server's end
COMMAND = ("-m", "shiftbench.guest.forkserver", SOCKET)
START_SECONDS = 120.0  # for the server's imports
END_SECONDS = 5.0  # for what a killed guest leaves to be gone
PIPE_BYTES = 2**20  # of a case's tensors at a time, instead of 64 KiB: fewer turns between two processes
CLOSE_SECONDS = 1.0  # for a server that nobody speaks to any more
_CREDENTIALS = struct.Struct("3i")  # process id, as this side sees it, user and group


class ForkServer:
    """A server under way; see `shiftbench.guest.forkserver`.

    Args:
        command: that starts it; `SOCKET` in it becomes the number of the server's end.
        environment: all that it and its guests have.
        clean: folders, as the guests see them, that are emptied after each guest.
        cwd: of the server; Python looks there for modules.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        clean: Sequence[str] = (),
        cwd: Path | None = None,
    ):
        self.clean = list(clean)
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            self.process = subprocess.Popen(
                [str(theirs.fileno()) if part == SOCKET else part for part in command],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for the driver
            )
        self.own: set[int] = set()  # processes that are there without a guest
        self._ready = False
        self._last: Forked | None = None

    def alive(self) -> bool:
        """Whether it can be asked for guests."""
        return self.process.poll() is None

    def idle(self) -> bool:
        """Whether there is no guest under way."""
        return self._last is None or self._last.poll() is not None

    def guests(self) -> list[int]:
        """Process ids of the guest and of all that it started."""
        return [pid for pid in descendants(self.process.pid) if pid not in self.own]

    def fork(self, folder: str) -> Forked:
        """A guest that nobody has spoken to yet, in `folder` (as it sees it); an earlier one ends, for there is one.

        Raises:
            IsolationError: the server did not start.
        """
        if not self._ready:
            self._expect("ready", START_SECONDS)
            self._ready, self.own = True, set(descendants(self.process.pid))
        import fcntl  # not there on Windows, where there is no fork server

        if self._last is not None:
            self._last.kill()
        pipes = [os.pipe() for _ in range(3)]
        for inlet, _ in pipes[:2]:
            with contextlib.suppress(OSError):  # a plain user may have used up what is allowed
                fcntl.fcntl(inlet, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        (stdin, writer), (reader, stdout), (log, stderr) = pipes
        order = json.dumps({"folder": folder, "clean": self.clean}).encode()
        try:
            socket.send_fds(self.control, [order], [stdin, stdout, stderr])
            pid = self._expect("born", START_SECONDS)
        except BaseException:
            for ours in (writer, reader, log):
                os.close(ours)
            raise
        finally:
            for theirs in (stdin, stdout, stderr):
                os.close(theirs)
        self._last = Forked(self, pid, writer, reader, log)
        return self._last

    def close(self) -> None:
        """Ends the server and all that it started, also where it was stopped."""
        self.control.close()
        tree = descendants(self.process.pid)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(CLOSE_SECONDS)
        if self.process.poll() is None:
            for pid in reversed(tree):
                end(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def heard(self, seconds: float) -> tuple[dict[str, Any], int] | None:
        """The next message and the process id of its sender; ({}, 0) where the server is gone, None in silence."""
        if not select.select([self.control], [], [], max(0.0, seconds))[0]:
            return None
        try:
            message, further, _, _ = self.control.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(_CREDENTIALS.size))
        except OSError:
            return {}, 0
        sender = next((data for _, kind, data in further if kind == socket.SCM_CREDENTIALS), None)
        pid = _CREDENTIALS.unpack(sender[: _CREDENTIALS.size])[0] if sender else 0
        return (json.loads(message), pid) if message else ({}, 0)

    def kill_guest(self) -> None:
        """Asks for the end of the guest under way."""
        with contextlib.suppress(OSError):
            self.control.send(b'{"kill": true}')

    def _expect(self, what: str, seconds: float) -> int:
        heard = self.heard(seconds)
        if heard is not None and what in heard[0]:
            return heard[1]
        self.process.kill()
        assert self.process.stderr is not None
        lines = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        words = f": {lines[-1]}" if lines else ""
        raise IsolationError(f"the process of a method could not be started{words}", remedy="see `shiftbench doctor`")


class Forked:
    """A forked guest with the face of `subprocess.Popen`: its end is known when all that it started is gone too."""

    def __init__(self, server: ForkServer, pid: int, writer: int, reader: int, log: int):
        self.server, self.pid = server, pid
        self.stdin: IO[bytes] = os.fdopen(writer, "wb")
        self.stdout: IO[bytes] = os.fdopen(reader, "rb")
        self.stderr: IO[bytes] = os.fdopen(log, "rb")
        self.returncode: int | None = None
        self._hearing = threading.Lock()

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._listened(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """As `poll`, at its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while self._listened(1.0 if until is None else until - time.monotonic()) is None:
            if until is not None and time.monotonic() >= until:
                raise subprocess.TimeoutExpired(["guest"], timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """Ends it and all that it started; where the server does not answer, with the server."""
        if self.poll() is not None:
            return
        self.server.kill_guest()
        try:
            self.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.server.close()
            self.returncode = -signal.SIGKILL

    def _listened(self, seconds: float) -> int | None:
        with self._hearing:
            while self.returncode is None:
                heard = self.server.heard(seconds)
                if heard is None:
                    break
                if not heard[0]:
                    self.returncode = -signal.SIGKILL
                elif "ended" in heard[0]:
                    self.returncode = os.waitstatus_to_exitcode(heard[0]["ended"])
            return self.returncode
