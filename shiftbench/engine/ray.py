"""A Ray cluster as engine: the same graph, one Ray task per attempt, and what is lost is told from what failed."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shiftbench.engine.carrier import Carrier, carried_method, stays_here
from shiftbench.engine.cluster import Cluster
from shiftbench.engine.ray_worker import Board, ClusterObjects, work
from shiftbench.engine.scheduler import RETRIES, Scheduler, lane_of, to_do, unanswered
from shiftbench.engine.signals import Stopping
from shiftbench.errors import OutputError, ShiftBenchError
from shiftbench.graph import Outcome, Settings, Task
from shiftbench.store import Store
from shiftbench.store.claims import Claims
from shiftbench.store.owners import token
from shiftbench.types import Status
from shiftbench.watch.events import Running
from shiftbench.worker.perform import MODULES, Answer

WAIT_SECONDS = 0.25  # for the next answer, and between two readings of the board
GRACE_SECONDS = 5.0  # beyond the limit of a task, for a worker that ends it by itself and says more
LOST_RETRIES = {"lost": 3, "signal": 1}  # nodes of a cluster go more often than processes of one machine
QUEUED = 1.25  # tasks handed to Ray per seat that it has: one that ends leaves no seat empty


@dataclass
class _Flight:
    """An attempt that was handed to Ray."""

    task: Task
    answer: Any  # ray.ObjectRef of the answer, and of the packed result
    blob: Any
    sent: float = field(default_factory=time.monotonic)
    began: float | None = None  # time.time() of this machine
    where: str = ""
    words: str = ""
    too_long: bool = False


class RayEngine:
    """Runs a task graph on a Ray cluster.

    Ray places the tasks and keeps worker processes alive between them; the scheduler here decides what is tried again,
    so that every attempt is in the record of a failure. A method's code runs in a guest process of its own, as on one
    machine, and never in a process that scores.

    Args:
        root: the store's folder.
        address: "host:port" of a cluster, "auto" or None for the one of this machine or RAY_ADDRESS, "local" to start
            one on this machine for this run.
        threads: processor cores of every task.
        settings: how tasks are run; `memory_mb` is asked of Ray for every task of a method.
        gpus: whether methods compute on GPUs.
        jobs_per_device: tasks of methods at a time on one GPU.
        carrier: "shared" where all nodes see the result folder, "objects" where results are carried through Ray's
            object store, "auto" to look.
        modules: kind of task to the module that does it.

    Raises:
        ShiftBenchError: Ray is not installed, or no cluster answers.
    """

    def __init__(
        self,
        root: Path,
        *,
        address: str | None = None,
        threads: int = 1,
        settings: Settings | None = None,
        gpus: bool | Sequence[str] = False,
        jobs_per_device: int = 1,
        carrier: str = "auto",
        modules: Mapping[str, str] = MODULES,
    ):
        self.root, self.threads, self.settings = Path(root).absolute(), threads, settings or Settings()
        self.gpu_share = 1.0 / jobs_per_device if gpus else 0.0
        self.store, self.modules, self.wish = Store(self.root), dict(modules), carrier
        self.cluster = Cluster(address)
        self.ray = self.cluster.ray
        self.run_id = uuid.uuid4().hex[:12]
        self.flights: dict[str, _Flight] = {}
        self.warnings: dict[str, Task | None] = {}  # what tasks have warned of, each with the first that did
        self.scheduler: Scheduler | None = None
        self.carrier: Carrier | None = None
        self.nonce: Path | None = None
        self.board: Any = None
        self.board_line: Any = None  # a reading of the board that is under way
        self._next_tick = 0.0

    def run(self, tasks: Mapping[str, Task], *, tick: Callable[[], object] = lambda: None) -> Iterator[Outcome]:
        """Outcomes of all tasks that are not in the store yet, as they end; `tick` is called a few times a second.

        Raises:
            ShiftBenchError: a node has another version of the package, or no node has what a task asks for.
            OutputError: the folder can no longer be written; also an outcome may say so, with the status "fatal".
            KeyboardInterrupt: Ctrl-C; what was under way is ended and nothing is held.
            Terminated: the same for SIGTERM.
        """
        try:
            with Stopping() as stopping, Claims(self.store) as claims:
                self.scheduler = scheduler = Scheduler(tasks, self.store, claims, {**RETRIES, **LOST_RETRIES})
                if not scheduler.finished:
                    self._open(tasks)
                while not scheduler.finished:
                    for outcome in (*scheduler.settled(), *self._ended(scheduler), *self._start(scheduler)):
                        if self.carrier is not None and not outcome.again:
                            self.carrier.end(outcome.task)
                        yield outcome
                    self._tick(tick)
                    stopping.check()
        finally:
            self.close()

    def running(self) -> list[Running]:
        """Tasks under way, with the node and process that each runs in."""
        flights = [f for f in self.flights.values() if f.began is not None]
        return [Running(f.task, f.began or 0.0, f.words, f.where) for f in flights]

    def said(self) -> list[str]:
        """What tasks have warned of, each sentence once, with the first task that said it."""
        return [f"{task.label}: {words}" if task else words for words, task in self.warnings.items()]

    def close(self) -> None:
        """Ends what is under way, removes what was carried to the nodes, and leaves the cluster."""
        with contextlib.suppress(self.ray.exceptions.RayError, ConnectionError):
            for flight in self.flights.values():
                self.ray.cancel(flight.answer, force=True)
            if self.board is not None:
                self.ray.kill(self.board)
            if self.carrier is not None:
                self.cluster.tidy(self.run_id)
        if self.nonce is not None:
            self.nonce.unlink(missing_ok=True)
        self.flights, self.board, self.carrier, self.nonce = {}, None, None, None
        self.cluster.leave()

    def _open(self, tasks: Mapping[str, Task]) -> None:
        """Looks at the nodes, settles how results travel, and puts up the board."""
        open_tasks = to_do(tasks, self.store)
        self.cluster.check_room([self._wants(task) for task in open_tasks.values()])
        self.nonce = self.root / "tmp" / token()  # the name of a living process's file, which no sweep takes away
        self.nonce.parent.mkdir(parents=True, exist_ok=True)
        self.nonce.touch()
        blind = [look["host"] for look in self.cluster.look(self.nonce) if not look["shared"]]
        if blind and self.wish == "shared":
            remedy = "mount it at the same path on every node, or run with --carrier objects"
            raise OutputError(f"the node {blind[0]} does not see the result folder", where=self.root, remedy=remedy)
        if self.wish == "objects" or blind:
            self.carrier = Carrier(self.store, tasks, open_tasks, ClusterObjects())
        if blind and self.wish == "auto":
            self.warnings[f"the node {blind[0]} does not see {self.root}: results travel through Ray's objects"] = None
        settings = {"id": self.run_id, "threads": self.threads, "settings": asdict(self.settings)}
        places = {"root": None if self.carrier else str(self.root), "nonce": str(self.nonce)}
        self.about = json.dumps({**settings, **places, "modules": self.modules})
        self.board = self.cluster.beside(Board)

    def _wants(self, task: Task) -> dict[str, float]:
        """What a task asks of a node, as Ray's options."""
        on_gpu = self.gpu_share and str(task.payload.get("device", "cpu")).startswith("cuda")
        limited = self.settings.memory_mb is not None and lane_of(task) == "method"
        return {
            "num_cpus": self.threads,
            "num_gpus": self.gpu_share if on_gpu else 0,
            "memory": int((self.settings.memory_mb or 0) * 2**20) if limited else 0,
        }

    def _start(self, scheduler: Scheduler) -> Iterator[Outcome]:
        """Hands as many tasks to Ray as it has seats for, and a few more."""
        on_cpu, on_gpu = (
            QUEUED * seats + 1 for seats in self.cluster.seats(self.threads, self.gpu_share)
        )  # the seats of a cluster change while it runs
        while len(self.flights) < on_cpu:
            methods = sum(lane_of(f.task) == "method" for f in self.flights.values())
            task = scheduler.take(*(("data", "method") if not self.gpu_share or methods < on_gpu else ("data",)))
            if task is None:
                return
            try:
                self._send(task)
            except ShiftBenchError as error:  # an input that cannot be read
                yield scheduler.ended(task, {**unanswered(str(error), "exception"), "fatal": True})

    def _send(self, task: Task) -> None:
        method = task.payload.get("method") if self.carrier else None
        carried = carried_method(method) if isinstance(method, Mapping) and "path" in method else None
        inputs = self.carrier.inputs(task) if self.carrier else []
        wants = self._wants(task)
        options: dict[str, Any] = {"name": task.label, "num_returns": 2, **wants}
        if self.carrier and stays_here(task):
            options |= self.cluster.here(wants)
        fresh = wants["num_gpus"] > 0  # Ray lends a process another GPU next time, and CUDA keeps to the first it saw
        message = json.dumps([task.kind, task.key, task.payload, carried])
        send = self.cluster.remote(work, max_calls=1 if fresh else 0, threads=self.threads)
        attempt_id = uuid.uuid4().hex
        answer, blob = send.options(**options).remote(self.about, attempt_id, message, inputs, self.board)
        self.flights[attempt_id] = _Flight(task, answer, blob)

    def _ended(self, scheduler: Scheduler) -> Iterator[Outcome]:
        """Waits a moment for answers and losses."""
        of_answer = {flight.answer: attempt_id for attempt_id, flight in self.flights.items()}
        if not of_answer:
            time.sleep(0 if scheduler.finished else WAIT_SECONDS)
            return
        ready, _ = self.ray.wait(list(of_answer), num_returns=1, timeout=WAIT_SECONDS)
        if ready:  # and all others that are there
            ready, _ = self.ray.wait(list(of_answer), num_returns=len(of_answer), timeout=0)
        for answer in ready:
            flight = self.flights.pop(of_answer[answer])
            yield scheduler.ended(flight.task, self._answered(flight))

    def _tick(self, tick: Callable[[], object]) -> None:
        """A few times a second: reads the board, ends what takes too long, and tells the caller."""
        if time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + WAIT_SECONDS
        self._read_board()
        for flight in self.flights.values():
            overdue = flight.began and time.time() - flight.began > self.settings.seconds + GRACE_SECONDS
            if overdue and not flight.too_long:
                flight.too_long = True
                self.ray.cancel(flight.answer, force=True)
        tick()

    def _answered(self, flight: _Flight) -> Answer:
        """What the worker said, or what became of it."""
        task = flight.task
        try:
            answer = json.loads(self.ray.get(flight.answer))
            if self.carrier is not None and answer["ok"]:
                self.carrier.publish(task, flight.blob)
        except OutputError as error:
            answer = {**unanswered(str(error), "exception"), "fatal": True}
        except self.ray.exceptions.RayError as error:
            answer = self._lost(flight, error)
        if self.carrier is not None and answer.get("reason") == "lost":
            self.carrier.forget()
        return answer

    def _lost(self, flight: _Flight, error: Exception) -> Answer:
        """Why a worker gave no answer, in words and as a reason to try again or not."""
        kinds, where = self.ray.exceptions, f" ({flight.where})" if flight.where else ""
        seconds = time.time() - flight.began if flight.began else 0.0
        if flight.too_long:
            cause = f"the task took more than {self.settings.seconds:.0f} s"
            return unanswered(cause, "timeout", Status.TIMEOUT, seconds)
        if isinstance(error, kinds.OutOfMemoryError):
            cause = f"the node ran out of memory and Ray ended the task{where}"
            return unanswered(cause, "out_of_memory", Status.OUT_OF_MEMORY, seconds)
        if isinstance(error, kinds.NodeDiedError):
            return unanswered(f"the node was lost{where}", "lost", seconds=seconds)
        if isinstance(error, kinds.WorkerCrashedError):
            return unanswered(f"the worker process died{where}", "lost", seconds=seconds)
        if isinstance(error, kinds.ObjectLostError):
            return unanswered(f"the result was lost with its node{where}", "lost", seconds=seconds)
        first = str(error).strip().splitlines() or [type(error).__name__]
        return unanswered(f"Ray could not run the task{where}: {first[-1]}", "exception", seconds=seconds)

    def _read_board(self) -> None:
        """Takes over what tasks have written, if a reading is there, and asks for the next one."""
        try:
            if self.board_line is not None:
                done, _ = self.ray.wait([self.board_line], timeout=0)
                if not done:
                    return
                for attempt_id, line in self.ray.get(self.board_line):
                    self._take_over(attempt_id, line)
            self.board_line = self.board.read.remote()
        except self.ray.exceptions.RayError:  # the board is restarted by Ray; words of progress are all that is lost
            self.board_line = None

    def _take_over(self, attempt_id: str, line: Mapping[str, str]) -> None:
        flight = self.flights.get(attempt_id)
        if flight is None:
            return
        if "began" in line:
            flight.began, flight.where = time.time(), line["began"]
        if "words" in line:
            flight.words = line["words"]
        if "warning" in line:
            self.warnings.setdefault(line["warning"], flight.task)
