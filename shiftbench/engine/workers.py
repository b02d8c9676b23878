"""Processes of the local pool: how one is started, spoken to and ended."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from shiftbench.engine.scheduler import unanswered
from shiftbench.graph import Task
from shiftbench.types import Status
from shiftbench.watch.events import Running
from shiftbench.worker.perform import Answer
from shiftbench.worker.serve import Post

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)
START_SECONDS = 120.0  # for a process to import its libraries and report
OOM_KILLS = re.compile(rb"^oom_kill (\d+)$", re.MULTILINE)
EXIT_SECONDS = 1.0  # between the end of a process's connection and its own


@dataclass
class Worker:
    """A process of the pool and the task that it was given.

    Attributes:
        ready: it has imported its libraries and waits for tasks.
        words: how far the task is.
        since: when the task was given (seconds of `time.time`, which may jump).
        started: the same on the clock that deadlines go by.
    """

    process: subprocess.Popen
    connection: Connection
    lane: str
    gpu: str | None = None
    ready: bool = False
    task: Task | None = None
    words: str = ""
    since: float = field(default_factory=time.time)
    started: float = field(default_factory=time.monotonic)
    memory_kills: int = 0

    def give(self, task: Task) -> None:
        """Hands over a task, now or when the process is ready."""
        self.task, self.memory_kills = task, memory_kills()
        self._begin()
        if self.ready:
            self._send()

    def greet(self) -> None:
        """Called when the process has said that it is ready."""
        self.ready = True
        if self.task is not None:
            self._begin()
            self._send()

    def overdue(self, limit: float) -> float | None:
        """The limit that the process has broken, s; None while there is time."""
        most = limit if self.ready else START_SECONDS
        return most if self.task is not None and time.monotonic() - self.started > most else None

    def running(self) -> Running:
        """What those who watch the run are told."""
        assert self.task is not None
        where = f"GPU {self.gpu}" if self.gpu is not None else f"process {self.process.pid}"
        return Running(self.task, self.since, self.words, where)

    def end(self) -> None:
        """Ends the process and what it has started."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        with contextlib.suppress(OSError):
            self.connection.close()

    def last_words(self) -> Answer:
        """The answer for the task of a process that is gone: how it ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # else it hangs without a connection, and is killed
            self.process.wait(EXIT_SECONDS)
        self.end()
        code, seconds = self.process.wait(), time.monotonic() - self.started
        if code >= 0:
            return unanswered(f"the process ended with exit code {code}", "lost", seconds=seconds)
        name = signal.Signals(-code).name
        if name != "SIGKILL":
            return unanswered(f"the process was killed by {name}", "signal", seconds=seconds)
        words = f"the process was killed by {name}, which is what the system does when memory runs out"
        reason = "out_of_memory" if memory_kills() > self.memory_kills else "signal"
        return unanswered(f"{words}; lower --jobs or the batch", reason, Status.OUT_OF_MEMORY, seconds)

    def _begin(self) -> None:
        self.since, self.started, self.words = time.time(), time.monotonic(), ""

    def _send(self) -> None:
        assert self.task is not None
        message = json.dumps([self.task.kind, self.task.key, self.task.payload])
        with contextlib.suppress(OSError):  # the end of a dead process's connection is seen by whoever reads it
            self.connection.send_bytes(message.encode())


def start_worker(post: Post, lane: str, gpu: str | None, environment: Mapping[str, str]) -> Worker:
    """A process that imports its libraries and then waits for tasks.

    Args:
        gpu: that it computes on, as CUDA_VISIBLE_DEVICES names it; for the record.
        environment: variables on top of this process's.
    """
    ours, theirs = socket.socketpair()
    everything = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(post.threads)), **environment}
    everything["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), everything.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "shiftbench.worker.start", json.dumps(asdict(post))]
    with theirs:
        if sys.platform == "win32":
            process = subprocess.Popen(command, stdin=subprocess.PIPE, env=everything)
            assert process.stdin is not None
            process.stdin.write(theirs.share(process.pid).hex().encode() + b"\n")
            process.stdin.flush()
        else:  # a group of its own: Ctrl-C in the terminal reaches the parent alone, which decides what ends
            handle = theirs.fileno()
            process = subprocess.Popen(
                [*command, str(handle)],
                stdin=subprocess.DEVNULL,
                env=everything,
                pass_fds=[handle],
                process_group=0,
            )
    return Worker(process, Connection(ours.detach()), lane, gpu)


def memory_kills() -> int:
    """How many processes the system has killed for want of memory since it started; 0 where it does not say."""
    with contextlib.suppress(OSError):
        found = OOM_KILLS.search(Path("/proc/vmstat").read_bytes())
        return int(found[1]) if found else 0
    return 0
