"""What runs inside a Ray cluster: one task in a worker process, a look at a node, and the board of what tasks say."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from shiftbench.engine.carrier import Inputs, Scratch, place_of, sweep_scratch
from shiftbench.graph import Settings
from shiftbench.store import Store
from shiftbench.store.pack import pack
from shiftbench.types import Status
from shiftbench.version import __version__
from shiftbench.worker.perform import Answer, Context, perform

SAY_SECONDS = 0.5  # between two words of one task
LAG_SECONDS = 5.0  # for a file of one node to be seen by another
PACKAGE = str(Path(__file__).parents[1])


class Board:
    """An actor beside the driver, on which tasks write that they began, how far they are and what they warn of."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, str]]] = []

    def write(self, attempt_id: str, line: dict[str, str]) -> None:
        """Adds a line of an attempt: {"began": where}, {"words": ...} or {"warning": ...}."""
        self.lines.append((attempt_id, line))

    def read(self) -> list[tuple[str, dict[str, str]]]:
        """The lines since the last reading."""
        lines, self.lines = self.lines, []
        return lines


class ClusterObjects:
    """The cluster's object store, as `shiftbench.engine.carrier` uses it."""

    def put(self, value: bytes) -> Any:
        """Reference of a stored value."""
        import ray

        return ray.put(value)

    def get(self, reference: Any) -> bytes:
        """The value, fetched to this node."""
        import ray

        return ray.get(reference)


def look(nonce: str) -> dict[str, Any]:
    """What the driver asks of a node before it sends tasks: its version, and whether it sees the run's file.

    Scratch stores that killed runs have left on the node are removed.
    """
    sweep_scratch()
    return {
        "shiftbench": __version__,
        "host": socket.gethostname(),
        "shared": _appears(Path(nonce)),
    }


def tidy(run: str, node: str) -> None:
    """Removes the scratch store of a run that has ended from a node."""
    shutil.rmtree(place_of(run, node), ignore_errors=True)


def _appears(path: Path) -> bool:
    """Whether a file is there, or comes within a moment where its folder is there: network file systems lag."""
    end = time.monotonic() + LAG_SECONDS
    while not path.is_file():
        if not path.parent.is_dir() or time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def work(run: str, attempt_id: str, task: str, inputs: Inputs, board: Any) -> tuple[str, bytes]:
    """One task, in a worker process of the cluster.

    Args:
        run: JSON of {"id", "root" (None where results are carried), "nonce", "threads", "settings", "modules"}.
        attempt_id: what the board's lines are under.
        task: JSON of [kind, key, payload, how a method's file is carried or None].
        inputs: what the task reads, where results are carried.
        board: handle of the Board.

    Returns:
        The answer (JSON), and the packed result, empty where there is none or a shared folder has it.
    """
    about, (kind, key, payload, method) = json.loads(run), json.loads(task)
    node = _node()
    board.write.remote(attempt_id, {"began": f"{socket.gethostname()} ({node[:6]}), process {os.getpid()}"})
    blob = b""
    try:
        scratch = None if about["root"] else _scratch(about["id"], node)
        if scratch is not None:
            scratch.fetch(inputs, ClusterObjects())
            payload = payload if method is None else {**payload, "method": _here(payload["method"], scratch, method)}
        store = scratch.store if scratch else _shared(about["root"], about["nonce"])
        answer = _performed(about, store, kind, key, payload, lambda line: board.write.remote(attempt_id, line))
        if scratch is not None and answer["ok"]:
            blob = pack(store, kind, key)
    except Exception as error:
        answer = _not_reached(error)
    return json.dumps(answer), blob


def _performed(
    about: Mapping[str, Any], store: Store, kind: str, key: str, payload: Any, write: Callable[[dict[str, str]], object]
) -> Answer:
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(about["threads"])
    context = Context(store, Settings(**about["settings"]), _seldom(lambda words: write({"words": words})))
    with _warnings_to(lambda words: write({"warning": words})):
        return perform(context, kind, key, payload, about["modules"])


def _not_reached(error: Exception) -> Answer:
    """The answer where a task could not begin, or its result could not be packed; lost objects are put again."""
    import ray

    lost = isinstance(error, ray.exceptions.RayError)
    return {
        "ok": False,
        "fatal": isinstance(error, FolderNotSeen),
        "status": str(Status.FAILED),
        "reason": "lost" if lost else "exception",
        "cause": f"an input was lost on its way: {error}" if lost else f"{type(error).__name__}: {error}",
        "trace": "",
        "record": {},
        "seconds": 0.0,
        "inputs_lost": lost,
    }


class FolderNotSeen(Exception):
    """The result folder of the run is not on this node."""


def _shared(root: str, nonce: str) -> Store:
    if not Path(nonce).is_file():
        host = socket.gethostname()
        raise FolderNotSeen(f"{root}: the node {host} does not see the result folder; run again with --carrier objects")
    return Store(Path(root))


@cache
def _scratch(run: str, node: str) -> Scratch:
    """Of this process and run; one that ends leaves the folder to the node's other processes."""
    return Scratch(run, node)


def _here(method: Mapping[str, Any], scratch: Scratch, carried: Mapping[str, Any]) -> dict[str, Any]:
    return {**method, "path": scratch.method(carried)}


def _node() -> str:
    import ray

    return ray.get_runtime_context().get_node_id()


def _seldom(say: Callable[[str], object]) -> Callable[[str], None]:
    """`say`, but at most every SAY_SECONDS: words that come faster are of no use to people and load the board."""
    last = -SAY_SECONDS

    def said(words: str) -> None:
        nonlocal last
        if time.monotonic() - last >= SAY_SECONDS:
            last = time.monotonic()
            say(words)

    return said


@contextmanager
def _warnings_to(say: Callable[[str], object]) -> Iterator[None]:
    """Tells the driver of the warnings that the package or a method gives; others go where they always go."""
    plain = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if category is UserWarning and (PACKAGE in filename or "baselines" in filename):
            say(str(message))
        else:
            plain(message, category, filename, *rest)

    warnings.showwarning = show  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = plain
