"""Results as objects, where the machines of a cluster share no folder: carried to a task's node, and carried back."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from shiftbench.errors import OutputError
from shiftbench.graph import Task
from shiftbench.rng import digest
from shiftbench.spec import content_root
from shiftbench.store import Store
from shiftbench.store.pack import pack, unpack

HIDDEN_READS = ("anatomy", "train")  # kinds that a task reads though only its needs name them: patients, weights
Reference = Any  # of an object in the cluster: a ray.ObjectRef
Inputs = list[tuple[str, list[Reference]]]  # task id, and in a list (which Ray does not fetch) the packed result


class Objects(Protocol):
    """What is used of a cluster's object store."""

    def put(self, value: bytes) -> Reference: ...
    def get(self, reference: Reference) -> bytes: ...


def reads(task: Task, tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Ids of the results that a task opens: those that it needs, and those that these were made from.

    Patients and spacing are in the records of anatomies, which images and references need; a prepared state may be a
    sidecar beside the shared weights.
    """
    beyond = (far for need in task.needs for far in tasks[need].needs if far.split("/")[0] in HIDDEN_READS)
    return tuple(dict.fromkeys((*task.needs, *beyond)))


class Carrier:
    """The driver's side: packs what tasks read, and unpacks what they made.

    Each result is packed once, and only when a task that reads it is about to start. It is let go of when no task that
    has not ended reads it, so that the object store holds no more than the tasks to come need; what is asked for again
    is packed again from the driver's store.

    Args:
        store: of the driver, where every result ends.
        tasks: the whole graph.
        open_ids: the tasks that have not ended.
        objects: the cluster's object store.
    """

    def __init__(self, store: Store, tasks: Mapping[str, Task], open_ids: Collection[str], objects: Objects):
        self.store, self.tasks, self.objects = store, tasks, objects
        self.held: dict[str, Reference] = {}
        self.wanted = Counter(name for task_id in open_ids for name in reads(tasks[task_id], tasks))

    def inputs(self, task: Task) -> Inputs:
        """What a node may have to fetch before it starts the task."""
        return [(name, [self._reference(name)]) for name in reads(task, self.tasks)]

    def publish(self, task: Task, reference: Reference) -> None:
        """Takes over what a task made; a result that is there already is kept.

        Raises:
            OutputError: the result arrived damaged, or the folder cannot be written.
        """
        if not self.store.present(task.kind, task.key):
            try:
                unpack(self.store, self.objects.get(reference))
            except OutputError:
                if not self.store.present(task.kind, task.key):  # else another run was faster, and its result stays
                    raise
        if self.wanted[task.id]:
            self.held[task.id] = reference

    def end(self, task: Task) -> None:
        """Lets go of what only this task still read."""
        for name in reads(task, self.tasks):
            self.wanted[name] -= 1
            if self.wanted[name] <= 0:
                self.held.pop(name, None)

    def forget(self) -> None:
        """Packs everything again when it is next asked for: a node that held some of it is gone."""
        self.held.clear()

    def _reference(self, name: str) -> Reference:
        if name not in self.held:
            kind, key = name.split("/")
            self.held[name] = self.objects.put(pack(self.store, kind, key))
        return self.held[name]


class Scratch:
    """A node's own store: what was carried there, and what its tasks make; shared by the node's processes.

    It lies in the system's temporary folder (TMPDIR). Every process that uses it holds a lock on it, by which the
    folders of runs that were killed are told from those in use.
    """

    def __init__(self, run: str, node: str):
        self.root = place_of(run, node)
        self.root.mkdir(parents=True, exist_ok=True)
        self.lock = _locked(self.root / LOCK, exclusive=False)
        self.store = Store(self.root / "store")

    def fetch(self, inputs: Inputs, objects: Objects) -> None:
        """Unpacks what is not here yet."""
        for name, (reference,) in inputs:
            kind, key = name.split("/")
            if not self.store.present(kind, key):
                unpack(self.store, objects.get(reference))

    def method(self, carried: Mapping[str, Any]) -> str:
        """Path of a method's file on this node, from what `carried_method` says of it.

        Raises:
            FileNotFoundError: the package that offers it is not installed here.
        """
        if "shipped" in carried:
            return str(content_root() / "baselines" / carried["shipped"])
        if "module" in carried:
            found = find_spec(carried["module"])
            if found is None or found.origin is None:
                raise FileNotFoundError(f"the package of the method module '{carried['module']}' is not installed here")
            return found.origin
        path = self.root / "methods" / digest(carried["source"])[:16] / carried["name"]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{os.getpid()}")
            temporary.write_bytes(carried["source"].encode())
            os.replace(temporary, path)
        return str(path)


LOCK = "in-use"


def place_of(run: str, node: str) -> Path:
    """Folder of a run's scratch store on a node."""
    return scratch_root() / f"{run}-{node[:12]}"


def scratch_root() -> Path:
    """Folder of all scratch stores of this user on this machine."""
    user = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "user")
    return Path(tempfile.gettempdir()) / f"shiftbench-scratch-{user}"


def sweep_scratch() -> None:
    """Removes the scratch stores that no process uses."""
    folders = scratch_root().iterdir() if scratch_root().is_dir() else ()
    for folder in folders:
        with contextlib.suppress(OSError), _free(folder):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _free(folder: Path) -> Iterator[None]:
    """Holds the lock of a scratch store; BlockingIOError where a process uses it."""
    lock = _locked(folder / LOCK, exclusive=True)
    try:
        yield
    finally:
        os.close(lock)


def _locked(path: Path, *, exclusive: bool) -> int:
    """An open file that is locked until it is closed or its process is gone; unlocked where there are no such locks."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        import fcntl
    except ImportError:  # Windows
        return handle
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def carried_method(method: Mapping[str, Any]) -> dict[str, Any]:
    """How a node that lacks the driver's disk finds a method's file: by name where it is shipped or installed."""
    path = Path(method["path"])
    if method.get("module"):
        return {"module": method["module"]}
    if path.resolve().parent == (content_root() / "baselines").resolve():
        return {"shipped": path.name}
    return {"name": path.name, "source": path.read_text(encoding="utf-8")}


def stays_here(task: Task) -> bool:
    """Whether a task reads a user's data folder, which only the driver's node is sure to have."""
    dataset = task.payload.get("dataset")
    return isinstance(dataset, Mapping) and dataset.get("root") is not None
