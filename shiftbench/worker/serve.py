"""The loop of a pool process: one task in, one answer out, and an end with the parent."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from shiftbench.graph import Settings
from shiftbench.store import Store
from shiftbench.worker.perform import Context, attempt

LANES = {"data": "shiftbench.worker.data", "method": "shiftbench.worker.method"}


def serve(connection: Connection, lane: str, root: str, threads: int, settings: Settings) -> None:
    """Runs tasks [kind, key, payload] (JSON) from `connection` until it closes.

    Says {"progress": words} while a task is under way, {"warning": words} where something is worth saying to the
    user (libraries' own warnings go to standard error), and {"ok": ...} at its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    handlers = import_module(LANES[lane]).HANDLERS
    context = Context(Store(Path(root)), settings, lambda words: _send(connection, {"progress": words}))
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)
    warnings.showwarning = _told(connection)
    _send(connection, {"ready": True})
    while True:
        try:
            kind, key, payload = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        handler = handlers.get(kind, _unknown(kind, lane))
        _send(connection, attempt(handler, context, key, payload))


def _send(connection: Connection, answer: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # the parent is gone, and this process with it
        connection.send_bytes(json.dumps(answer).encode())


def _told(connection: Connection) -> Callable[..., None]:
    """What `warnings.showwarning` becomes: the parent is told of ours, so that each is said once for all processes."""
    plain, ours = warnings.showwarning, (str(Path(__file__).parents[1]), "baselines")

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        if category is UserWarning and any(place in filename for place in ours):
            _send(connection, {"warning": str(message)})
        else:
            plain(message, category, filename, *rest)

    return show


def _unknown(kind: str, lane: str) -> Any:
    """The handler of a task that this process was not made for: a cause instead of the end of the process."""

    def refuse(*_: Any) -> None:
        raise ValueError(f"a process of the lane '{lane}' has no task '{kind}'")

    return refuse


def end_with_parent() -> None:
    """Ends this process when its parent is gone, however it went."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Entry of a pool process: ADDRESS LANE ROOT THREADS SETTINGS (JSON), the connection's secret on standard input."""
    address, lane, root, threads, settings = sys.argv[1:]
    end_with_parent()
    secret = bytes.fromhex(sys.stdin.readline().strip())
    serve(Client(address, authkey=secret), lane, root, int(threads), Settings(**json.loads(settings)))


if __name__ == "__main__":
    main()
