"""Starting guests: at which level, with what environment, and so that nobody waits for their imports twice."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path

from shiftbench.errors import IsolationError
from shiftbench.isolation import bubblewrap, keeper
from shiftbench.isolation.forkserver import COMMAND as FORKSERVER
from shiftbench.isolation.forkserver import ForkServer
from shiftbench.isolation.limits import limited, physical_mb
from shiftbench.isolation.process import BARE, KEPT, SANDBOXED, GuestProcess
from shiftbench.isolation.stage import Stage, staged

COMMAND = ("-m", "shiftbench.guest")
FORKS = sys.platform == "linux" and hasattr(os, "pidfd_open")
ISOLATE = ("auto", "strict", "off")
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
# What of the worker's environment a guest is told, where it is set: it changes numbers, or the start of Python.
PASSED = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUBLAS_WORKSPACE_CONFIG",
    "NVIDIA_TF32_OVERRIDE",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ATEN_CPU_CAPABILITY",
    "DNNL_MAX_CPU_ISA",
    "ONEDNN_MAX_CPU_ISA",
    "SYSTEMROOT",
)


class Level(StrEnum):
    """How a guest is kept apart: in a sandbox, or as a process of its own without one."""

    SANDBOX = "sandbox"
    PROCESS = "process"


def level(isolate: str) -> Level:
    """What a run with `isolate` gets on this machine: "auto" the most there is, "strict" a sandbox, "off" a process.

    Raises:
        IsolationError: "strict" where no sandbox works, or a word that is none of the three.
    """
    if isolate not in ISOLATE:
        raise IsolationError(f"unknown isolation '{isolate}'", remedy=f"give one of {', '.join(ISOLATE)}")
    if isolate == "off":
        return Level.PROCESS
    found = bubblewrap.bubblewrap()
    if not isinstance(found, str):
        return Level.SANDBOX
    if isolate == "strict":
        raise IsolationError(f"a sandbox was asked for and {found}", remedy=remedy(found))
    return Level.PROCESS


def remedy(fault: str) -> str:
    """What to do where `bubblewrap.bubblewrap` found this fault."""
    if "Linux" in fault:
        return "run on Linux, or give --isolate auto"
    if "installed" in fault or "old" in fault:
        return "install bubblewrap (`apt install bubblewrap` or `dnf install bubblewrap`), or give --isolate auto"
    return "ask for unprivileged user namespaces to be allowed, or give --isolate auto"


class Launcher:
    """Starts guests, each a fresh process.

    On Linux a guest is forked from a server that has its imports done, in the same sandbox or under the same keeper;
    elsewhere the next one is started ahead.

    Args:
        isolate: "auto", "strict" or "off".
        device: "cpu" or "cuda".
        threads: of a guest.
        memory_mb: that a guest and all it starts may hold, MiB; None for what the machine has.
        files: that a guest may read besides, and finds where `seen` says.
        hide: places that no guest may see, such as the result folder, wherever they lie.
        command: of Python: what runs in the guest.
        stage: the package that it imports; None for this process's.
        spares: whether to start the next guest ahead, where guests are not forked.

    Raises:
        IsolationError: as `level`.
    """

    def __init__(
        self,
        *,
        isolate: str,
        device: str,
        threads: int,
        memory_mb: float | None,
        files: Sequence[Path] = (),
        hide: Sequence[Path] = (),
        command: Sequence[str] = COMMAND,
        stage: Stage | None = None,
        spares: bool = True,
    ):
        self.level = level(isolate)
        self.device, self.threads, self.hide, self.spares = device, threads, tuple(hide), spares
        self.memory_mb = physical_mb() if memory_mb is None else memory_mb
        self.stage = staged() if stage is None else stage
        self.command = [sys.executable, *command]
        self._places = {Path(path).resolve(): f"/given/{i}/{Path(path).name}" for i, path in enumerate(files)}
        self._spare: GuestProcess | None = None
        self._servers: list[ForkServer] = []
        self._lock = threading.Lock()

    def start(self) -> GuestProcess:
        """A guest that nobody has spoken to yet."""
        with self._lock:
            if FORKS:
                return self._forked()
            guest, self._spare = self._spare, None
            if guest is not None and not guest.alive():
                guest.close()
                guest = None
            guest = guest or self._started()
            self._spare = self._started() if self.spares else None
        return guest

    def seen(self, path: Path) -> str:
        """Where a guest finds one of `files`."""
        path = Path(path).resolve()
        return self._places[path] if self.level is Level.SANDBOX else str(path)

    def close(self) -> None:
        """Ends what was started ahead and, with their servers, forked guests; others are their holder's."""
        with self._lock:
            guest, self._spare = self._spare, None
            servers, self._servers = self._servers, []
        for server in servers:
            server.close()
        if guest is not None:
            guest.close()

    def _forked(self) -> GuestProcess:
        for gone in [one for one in self._servers if not one.alive()]:
            self._servers.remove(gone)
            gone.close()
        server = next((one for one in self._servers if one.idle()), None)  # a server has one guest at a time
        if server is None:
            server = _thread().submit(self._served).result()
            self._servers.append(server)
        folder = None if self.level is Level.SANDBOX else self.stage.working_folder()
        forked = server.fork(bubblewrap.HOME if folder is None else str(folder))
        return GuestProcess(forked, layers=BARE, memory_mb=self.memory_mb, folder=folder, tree=server.guests)

    def _served(self) -> ForkServer:
        sandboxed = self.level is Level.SANDBOX
        inner = [sys.executable, *FORKSERVER, *self.command[1:]]
        command, _ = self._sandboxed(inner) if sandboxed else self._kept(inner)
        home, clean = (bubblewrap.HOME, bubblewrap.WRITABLE) if sandboxed else (str(self.stage.folder), ())
        return ForkServer(self._limited(command), self._environment(home), clean, cwd=self.stage.folder)

    def _limited(self, command: list[str]) -> list[str]:
        return limited(command, None if self.device == "cuda" else self.memory_mb)

    def _started(self) -> GuestProcess:
        return _thread().submit(self._spawned).result()

    def _spawned(self) -> GuestProcess:
        sandboxed = self.level is Level.SANDBOX
        folder = None if sandboxed else self.stage.working_folder()
        command, layers = self._sandboxed(self.command) if sandboxed else self._kept(self.command)
        home = bubblewrap.HOME if folder is None else str(folder)
        process = subprocess.Popen(
            self._limited(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self._environment(home),
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for the driver
        )
        return GuestProcess(process, layers=layers, memory_mb=self.memory_mb, folder=folder)

    def _sandboxed(self, inner: list[str]) -> tuple[list[str], int]:
        found = bubblewrap.bubblewrap()
        assert not isinstance(found, str)  # or the level were another
        cuda = self.device == "cuda"
        command = found.command(self.stage, inner, cuda=cuda, files=self._places, hide=self.hide)
        return command, SANDBOXED

    def _kept(self, inner: list[str]) -> tuple[list[str], int]:
        if sys.platform != "linux":
            return inner, BARE
        return [sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), *inner], KEPT

    def _environment(self, home: str) -> Mapping[str, str]:
        """All that a guest is told through its environment."""
        package = bubblewrap.PACKAGE if self.level is Level.SANDBOX else str(self.stage.package)
        passed = {name: os.environ[name] for name in PASSED if name in os.environ}
        return {
            **passed,
            **({} if self.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}),
            **{name: str(self.threads) for name in THREAD_VARIABLES},
            "PATH": "/usr/bin:/bin" if os.name == "posix" else os.environ.get("PATH", ""),
            "HOME": home,
            "TMPDIR": home,
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([package, *map(str, bubblewrap.further_sites())]),
            "PYTHONHASHSEED": "0",  # sets in a method's code have the same order in every run
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """The one thread that starts guests, alive as long as this process.

    On Linux a guest ends with the *thread* that started it, so that may not be one that only lives for a task.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="guests")
