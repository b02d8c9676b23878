"""A pool of processes on this machine: tasks in order of what waits for them, causes of death told apart."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from multiprocessing.connection import Connection, Listener, wait
from pathlib import Path
from typing import Any

from shiftbench.graph import Outcome, Settings, Task
from shiftbench.store import Store
from shiftbench.types import Status

LANE = {
    "anatomy": "data",
    "images": "data",
    "references": "data",
    "score": "data",
    "card": "data",
}  # every other kind: "method"
START_SECONDS = 120.0  # for a process to import its libraries and report


@dataclass
class _Worker:
    process: subprocess.Popen
    connection: Connection
    lane: str
    ready: bool = False
    task: Task | None = None
    gpu: str | None = None
    progress: str = ""
    started: float = field(default_factory=time.monotonic)


class LocalEngine:
    """Runs a task graph on `jobs` processes at a time.

    Processes stay alive between tasks, one kind for data and scoring, one for training and methods, so that no process
    that scores ever imports a method.

    Args:
        root: the store's folder.
        jobs: tasks at a time.
        threads: of every process.
        gpus: the GPUs that methods compute on, as CUDA_VISIBLE_DEVICES names them; none for the CPU. A process keeps
            to one of them.
        jobs_per_device: processes of methods per GPU; small networks leave room for several.
        settings: how tasks are run.
    """

    def __init__(
        self,
        root: Path,
        *,
        jobs: int,
        threads: int,
        gpus: Sequence[str] = (),
        jobs_per_device: int = 1,
        settings: Settings = Settings(),
    ):
        self.root, self.jobs, self.threads, self.settings = root, jobs, threads, settings
        self.seats = [gpu for _ in range(jobs_per_device) for gpu in gpus]  # one process of methods each
        self.store = Store(root)
        self.secret = secrets.token_bytes(16)
        self.listener = Listener(None, authkey=self.secret)
        self.workers: list[_Worker] = []
        self.warnings: dict[str, Task | None] = {}  # what tasks have warned of, each with the first that did

    def run(self, tasks: Mapping[str, Task], *, tick: Callable[[], object] = lambda: None) -> Iterator[Outcome]:
        """Outcomes of all tasks that are not in the store yet, as they end; `tick` is called a few times a second.

        Raises:
            OutputError: through the caller, when an outcome says that the folder can no longer be written.
        """
        waiting = {t.id: t for t in tasks.values() if not self.store.done(t.kind, t.key)}
        urgency = urgencies(tasks)
        failed: dict[str, str] = {}
        try:
            while waiting or any(w.task for w in self.workers):
                yield from self._drop_orphans(waiting, failed)
                self._start_ready(waiting, urgency)
                tick()
                for outcome in self._ended():
                    if not outcome.ok:
                        failed[outcome.task.id] = outcome.cause
                    yield outcome
        finally:
            self.close()

    def running(self) -> list[Task]:
        """Tasks under way; the label of one that has said how far it is ends with that."""
        busy = [(w.task, w.progress) for w in self.workers if w.task is not None]
        return [replace(task, label=f"{task.label}: {words}") if words else task for task, words in busy]

    def said(self) -> list[str]:
        """What tasks have warned of, each sentence once, with the first task that said it."""
        return [f"{task.label}: {words}" if task else words for words, task in self.warnings.items()]

    def close(self) -> None:
        """Ends all processes."""
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.connection.close()
            worker.process.kill()
        for worker in self.workers:
            worker.process.wait()
        self.workers = []

    def _drop_orphans(self, waiting: dict[str, Task], failed: dict[str, str]) -> Iterator[Outcome]:
        """Tasks whose input failed fail with that cause, down the graph; scoring tells failed predictions itself."""
        while dropped := [t for t in waiting.values() if any(need in failed for need in t.needs)]:
            for task in dropped:
                need = next(n for n in task.needs if n in failed)
                cause = f"not run because {need.split('/')[0]} failed: {failed[need]}"
                failed[task.id] = cause
                del waiting[task.id]
                yield self._failure(
                    task, {"cause": cause, "status": str(Status.FAILED), "trace": "", "record": {}}, 0.0
                )

    def _start_ready(self, waiting: dict[str, Task], urgency: Mapping[str, float]) -> None:
        free = self.jobs - len(self.running())
        pending = set(waiting) | {t.id for t in self.running()}
        ready = [t for t in waiting.values() if not any(need in pending for need in t.needs)]
        for task in sorted(ready, key=lambda t: (-urgency[t.id], t.id)):
            lane = LANE.get(task.kind, "method")
            if free <= 0:
                break
            if not self._has_seat(lane):
                continue
            free -= 1
            worker = self._idle(lane)
            worker.task, worker.started = task, time.monotonic()
            del waiting[task.id]
            if worker.ready:
                self._send(worker)

    def _has_seat(self, lane: str) -> bool:
        """Whether a GPU can take another process of methods; on the CPU, and for data, `jobs` alone is the limit."""
        busy = sum(w.lane == lane and w.task is not None for w in self.workers)
        return lane != "method" or not self.seats or busy < len(self.seats)

    def _idle(self, lane: str) -> _Worker:
        for worker in self.workers:
            if worker.lane == lane and worker.task is None:
                return worker
        return self._spawn(lane)

    def _spawn(self, lane: str) -> _Worker:
        address = self.listener.address
        command = [
            sys.executable,
            "-m",
            "shiftbench.worker.serve",
            str(address),
            lane,
            str(self.root),
            str(self.threads),
            json.dumps(asdict(self.settings)),
        ]
        environment = {**os.environ, **{name: str(self.threads) for name in THREAD_VARIABLES}}
        gpu = self._free_gpu() if lane == "method" else None
        if self.seats:  # data and scoring stay off the GPUs
            environment["CUDA_VISIBLE_DEVICES"] = gpu or ""
        environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")])
        process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment)
        assert process.stdin is not None
        process.stdin.write(self.secret.hex().encode() + b"\n")
        process.stdin.flush()
        worker = _Worker(process, self.listener.accept(), lane, gpu=gpu)
        self.workers.append(worker)
        return worker

    def _free_gpu(self) -> str | None:
        """The seat that no process has taken; None on the CPU."""
        taken = [w.gpu for w in self.workers if w.gpu is not None]
        return next((g for i, g in enumerate(self.seats) if self.seats[:i].count(g) >= taken.count(g)), None)

    def _send(self, worker: _Worker) -> None:
        assert worker.task is not None
        message = [worker.task.kind, worker.task.key, worker.task.payload]
        worker.started, worker.progress = time.monotonic(), ""
        with contextlib.suppress(OSError):  # a dead worker is found by its sentinel
            worker.connection.send_bytes(json.dumps(message).encode())

    def _ended(self) -> list[Outcome]:
        """Waits a moment for answers, deaths and time-outs."""
        outcomes = []
        busy = [w for w in self.workers if w.task is not None]
        answering = set(map(id, wait([w.connection for w in busy], timeout=0.25)))
        for worker in [w for w in busy if id(w.connection) in answering]:
            try:
                answer = json.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                outcomes.append(self._died(worker))
                continue
            if "ready" in answer:
                worker.ready = True
                self._send(worker)
                continue
            if "progress" in answer:
                worker.progress = answer["progress"]
                continue
            if "warning" in answer:
                self.warnings.setdefault(answer["warning"], worker.task)
                continue
            outcomes.append(self._answered(worker, answer))
        outcomes += [self._too_long(w) for w in list(self.workers) if w.task is not None and self._overdue(w)]
        return outcomes

    def _overdue(self, worker: _Worker) -> bool:
        limit = self.settings.seconds if worker.ready else START_SECONDS
        return time.monotonic() - worker.started > limit

    def _answered(self, worker: _Worker, answer: dict[str, Any]) -> Outcome:
        task, worker.task = worker.task, None
        assert task is not None
        if answer["ok"]:
            return Outcome(task, True, answer["seconds"])
        if answer["fatal"]:
            return Outcome(task, False, answer["seconds"], answer["cause"], "fatal")
        return self._failure(task, answer, answer["seconds"])

    def _died(self, worker: _Worker) -> Outcome:
        code = worker.process.wait()
        words = f"the process ended with exit code {code}"
        status = Status.FAILED
        if code < 0:
            name = signal.Signals(-code).name
            words = f"the process was killed by {name}"
            if name == "SIGKILL":
                words += ", which is what the system does when memory runs out; lower --jobs or the batch"
                status = Status.OUT_OF_MEMORY
        return self._buried(worker, words, status)

    def _too_long(self, worker: _Worker) -> Outcome:
        limit = self.settings.seconds if worker.ready else START_SECONDS
        worker.process.kill()
        worker.process.wait()
        return self._buried(worker, f"the task took more than {limit:.0f} s", Status.TIMEOUT)

    def _buried(self, worker: _Worker, cause: str, status: Status) -> Outcome:
        self.workers.remove(worker)
        worker.connection.close()
        assert worker.task is not None
        answer = {"cause": cause, "status": str(status), "trace": "", "record": {}}
        return self._failure(worker.task, answer, time.monotonic() - worker.started)

    def _failure(self, task: Task, answer: dict[str, Any], seconds: float) -> Outcome:
        record = {k: answer[k] for k in ("cause", "status", "trace")} | {"label": task.label, **answer["record"]}
        self.store.publish_failure(task.kind, task.key, record)
        return Outcome(task, False, seconds, answer["cause"], answer["status"])


THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


def urgencies(tasks: Mapping[str, Task]) -> dict[str, float]:
    """Per task, the seconds on the longest path from its start to the end of the graph."""
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for task in tasks.values():
        for need in task.needs:
            followers[need].append(task.id)
    memo: dict[str, float] = {}
    for name in reversed(topological(tasks)):
        memo[name] = tasks[name].seconds + max((memo[f] for f in followers[name]), default=0.0)
    return memo


def topological(tasks: Mapping[str, Task]) -> list[str]:
    """Task ids, each after what it needs."""
    order: list[str] = []
    missing = {name: len(set(task.needs)) for name, task in tasks.items()}
    followers: dict[str, list[str]] = {name: [] for name in tasks}
    for task in tasks.values():
        for need in set(task.needs):
            followers[need].append(task.id)
    ready = [name for name, count in missing.items() if count == 0]
    while ready:
        name = ready.pop()
        order.append(name)
        for follower in followers[name]:
            missing[follower] -= 1
            if missing[follower] == 0:
                ready.append(follower)
    return order
