"""A pool of processes on this machine: tasks in order of what waits for them, causes of death told apart."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from shiftbench.engine.scheduler import LANE, LANES, Scheduler, lane_of, unanswered
from shiftbench.engine.signals import Stopping
from shiftbench.engine.workers import Worker, start_worker
from shiftbench.graph import Outcome, Settings, Task
from shiftbench.store import Store
from shiftbench.store.claims import Claims
from shiftbench.types import Status
from shiftbench.watch.events import Running
from shiftbench.worker.perform import MODULES
from shiftbench.worker.serve import Post

TICK_SECONDS = 0.25  # between ticks, and between looks at deadlines
GRACE = 0.05  # of the limit, for a worker that ends a method by itself and can say more
AT_ONCE = 100  # outcomes of tasks that nobody computed, before processes are listened to again


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
        modules: by kind of task, the module whose HANDLERS does it.

    Attributes:
        scheduler: of the last run.
        warnings: what tasks have warned of, each sentence with the first task that said it.
    """

    def __init__(
        self,
        root: Path,
        *,
        jobs: int,
        threads: int,
        gpus: Sequence[str] = (),
        jobs_per_device: int = 1,
        settings: Settings | None = None,
        modules: Mapping[str, str] = MODULES,
    ):
        self.root, self.jobs, self.threads = root, jobs, threads
        self.settings, self.modules = settings or Settings(), modules
        self.seats = [gpu for _ in range(jobs_per_device) for gpu in gpus]  # one process of methods each
        self.store = Store(root)
        self.workers: list[Worker] = []
        self.warnings: dict[str, Task | None] = {}
        self.scheduler: Scheduler | None = None
        self._selector = selectors.DefaultSelector()
        self._held = contextlib.ExitStack()  # what a run holds beside its processes

    def run(self, tasks: Mapping[str, Task], *, tick: Callable[[], object] = lambda: None) -> Iterator[Outcome]:
        """Outcomes of all tasks that are not in the store yet, as they end; `tick` is called a few times a second.

        Raises:
            OutputError: the folder can no longer be written; also an outcome may say so, with the status "fatal".
            KeyboardInterrupt: Ctrl-C; every process is gone and nothing is held.
            Terminated: the same for SIGTERM.
        """
        self._held = contextlib.ExitStack()
        try:
            stopping = self._held.enter_context(Stopping())
            claims = Claims(self.store)
            self.scheduler = scheduler = Scheduler(tasks, self.store, claims)
            if not scheduler.finished:  # else nothing is written, and the folder may be read-only
                self._held.enter_context(claims)
            next_tick, settled = time.monotonic(), False
            while not scheduler.finished:
                patience = 0.0 if settled else max(0.0, next_tick - time.monotonic())
                outcomes = list(self._answers(scheduler, patience))
                if time.monotonic() >= next_tick:
                    outcomes += self._late(scheduler)
                    tick()
                    next_tick = time.monotonic() + TICK_SECONDS
                stopping.check()
                self._start_ready(scheduler)  # before the caller sees what ended: no process waits for that
                yield from outcomes
                settled = False
                for outcome in islice(scheduler.settled(), AT_ONCE):
                    settled = True
                    yield outcome
        finally:
            self.close()

    def running(self) -> list[Running]:
        """Tasks under way."""
        return [worker.running() for worker in self.workers if worker.task is not None]

    def said(self) -> list[str]:
        """What tasks have warned of, each sentence once, with the first task that said it."""
        return [f"{task.label}: {words}" if task else words for words, task in self.warnings.items()]

    def close(self) -> None:
        """Ends all processes and gives back what the run holds; may be called again."""
        ending = list(self.workers)
        for worker in ending:
            self._forget(worker)
            worker.end()
        for worker in ending:
            worker.process.wait()
        if ending:
            with contextlib.suppress(OSError):  # a folder that cannot be written has told its story
                self.store.sweep()
        self._held.close()

    def _start_ready(self, scheduler: Scheduler) -> None:
        """Gives tasks to processes, most urgent first, while there is room."""
        busy = {lane: sum(w.lane == lane and w.task is not None for w in self.workers) for lane in LANES}
        while sum(busy.values()) < self.jobs:
            # On the CPU, and for data, `jobs` alone is the limit; a GPU takes so many processes of methods.
            full = bool(self.seats) and busy["method"] >= len(self.seats)
            task = scheduler.take(*("data",) if full else LANES)
            if task is None:
                return
            lane = lane_of(task)
            busy[lane] += 1
            idle = next((w for w in self.workers if w.lane == lane and w.task is None), None)
            (idle or self._spawn(lane)).give(task)

    def _spawn(self, lane: str) -> Worker:
        modules = {kind: module for kind, module in self.modules.items() if LANE.get(kind, "method") == lane}
        post = Post(str(self.root), lane, self.threads, vars(self.settings), modules, os.getpid())
        gpu = self._free_gpu() if lane == "method" else None
        hidden = {"CUDA_VISIBLE_DEVICES": gpu or ""} if self.seats else {}  # data and scoring stay off the GPUs
        worker = start_worker(post, lane, gpu, hidden)
        self.workers.append(worker)
        self._selector.register(worker.connection, selectors.EVENT_READ, worker)
        return worker

    def _free_gpu(self) -> str | None:
        """The seat that no process has taken; None on the CPU."""
        taken = [w.gpu for w in self.workers if w.gpu is not None]
        return next((g for i, g in enumerate(self.seats) if self.seats[:i].count(g) >= taken.count(g)), None)

    def _answers(self, scheduler: Scheduler, seconds: float) -> Iterator[Outcome]:
        """Waits for what processes say, at most so long, and tells which attempts that ends."""
        if not self.workers:
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            worker = key.data
            try:
                answer = json.loads(worker.connection.recv_bytes())
            except (EOFError, OSError):
                self._forget(worker)
                words = worker.last_words()
                if worker.task is not None:
                    yield scheduler.ended(worker.task, words)
                continue
            if (outcome := self._heard(scheduler, worker, answer)) is not None:
                yield outcome

    def _heard(self, scheduler: Scheduler, worker: Worker, answer: dict[str, Any]) -> Outcome | None:
        if "ready" in answer:
            worker.greet()
        elif "progress" in answer:
            worker.words = answer["progress"]
        elif "warning" in answer:
            self.warnings.setdefault(answer["warning"], worker.task)
        else:
            task, worker.task = worker.task, None
            assert task is not None
            return scheduler.ended(task, answer)
        return None

    def _late(self, scheduler: Scheduler) -> Iterator[Outcome]:
        """Ends the processes whose task, or start, has taken too long."""
        for worker in list(self.workers):
            limit = worker.overdue(self.settings.seconds * (1 + GRACE))
            if limit is not None and worker.task is not None:
                self._forget(worker)
                worker.end()
                worker.process.wait()
                words, seconds = f"the task took more than {limit:.0f} s", time.monotonic() - worker.started
                yield scheduler.ended(worker.task, unanswered(words, "timeout", Status.TIMEOUT, seconds))

    def _forget(self, worker: Worker) -> None:
        self._selector.unregister(worker.connection)
        self.workers.remove(worker)
