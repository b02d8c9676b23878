"""Entry of a pool process: sees to its end with its parent before anything is imported that takes a while."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from importlib import import_module

DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_parent(parent: int) -> None:
    """Ends this process when its parent, of this process id, is gone, however it went."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


def main() -> None:
    """Runs `shiftbench.worker.serve`, whose arguments these are."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    end_with_parent(json.loads(sys.argv[1])["parent"])
    import_module("shiftbench.worker.serve").main()


if __name__ == "__main__":
    main()
