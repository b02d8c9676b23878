"""The loop of a pool process: one task in, one answer out."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from shiftbench.graph import Settings
from shiftbench.store import Store
from shiftbench.worker.perform import Context, perform


@dataclass(frozen=True)
class Post:
    """What a pool process is told when it is started.

    Attributes:
        root: the store's folder.
        settings: fields of `Settings`.
        modules: by kind of task, the module whose HANDLERS does it; all are imported before the first task.
        parent: process id of the engine.
    """

    root: str
    lane: str
    threads: int
    settings: Mapping[str, Any]
    modules: Mapping[str, str]
    parent: int


def serve(connection: Connection, post: Post) -> None:
    """Runs tasks [kind, key, payload] (JSON) from `connection` until it closes.

    Says {"progress": words} while a task is under way, {"warning": words} where something is worth saying to the
    user (libraries' own warnings go to standard error), and {"ok": ...} at its end.
    """
    say = _voice(connection)
    for module in dict.fromkeys(post.modules.values()):
        import_module(module)
    context = Context(Store(Path(post.root)), Settings(**post.settings), lambda words: say({"progress": words}))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(post.threads)
    warnings.showwarning = _told(say)
    say({"ready": True})
    while True:
        try:
            kind, key, payload = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        say(perform(context, kind, key, payload, post.modules))


def _voice(connection: Connection) -> Callable[[dict[str, Any]], None]:
    """Sends one message at a time, whichever thread speaks."""
    lock = threading.Lock()

    def say(message: dict[str, Any]) -> None:
        with lock, contextlib.suppress(OSError):  # the parent is gone, and this process with it
            connection.send_bytes(json.dumps(message).encode())

    return say


def _told(say: Callable[[dict[str, Any]], None]) -> Callable[..., None]:
    """What `warnings.showwarning` becomes: the parent is told of ours, so that each is said once for all processes."""
    plain, ours = warnings.showwarning, (str(Path(__file__).parents[1]), "baselines")

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if category is UserWarning and any(place in filename for place in ours):
            say({"warning": str(message)})
        else:
            plain(message, category, filename, *rest)

    return show


def _connected() -> Connection:
    """The connection to the parent: an inherited handle, or on Windows a shared socket that standard input tells of."""
    if sys.platform == "win32":
        return Connection(socket.fromshare(bytes.fromhex(sys.stdin.readline().strip())).detach())
    handle = int(sys.argv[2])
    os.set_inheritable(handle, False)  # what a task starts does not hold it open
    return Connection(handle)


def main() -> None:
    """What `shiftbench.worker.start` runs: a POST (JSON), and except on Windows the HANDLE of its connection."""
    serve(_connected(), Post(**json.loads(sys.argv[1])))
