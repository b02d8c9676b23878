"""`runs/<run>.json` in the result folder: how far a run is, for `shiftbench status` in another shell."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shiftbench.store.owners import Owner, me, token
from shiftbench.version import __version__
from shiftbench.watch.described import of_counts, of_running, rounded, stamp
from shiftbench.watch.events import Event

FOLDER = "runs"
EVERY_SECONDS = 2.0  # between two writings
SHOWN = 64  # tasks under way that the file names; a cluster may have thousands
FORMAT = 1


class RunFile:
    """Keeps the file of a run up to date: whole at any moment, and not forced to disk, since it is only news.

    Args:
        root: the result folder.
        run: id of the run; default: a new one.
        command: as the user gave it; default: that of this process.
    """

    name = "the file for `shiftbench status`"

    def __init__(self, root: Path, run: str | None = None, command: Sequence[str] | None = None):
        run = run or token()
        self.path = root / FOLDER / f"{run}.json"
        self.temporary = self.path.with_name(f".{self.path.name}.{token()}")  # swept by who finds its process gone
        self.fixed: dict[str, Any] = {
            "format": FORMAT,
            "run": run,
            **owner_fields(),
            "command": list(sys.argv if command is None else command),
            "shiftbench": __version__,
            "started": stamp(time.time()),
        }
        self.written = float("-inf")
        self.failed: Counter[str] = Counter()
        self.warnings: list[str] = []

    def __call__(self, event: Event) -> None:
        if event.kind == "end" and event.outcome is not None and not event.outcome.ok:
            self.failed[event.outcome.reason or "exception"] += 1
        if event.kind == "warning":
            self.warnings.append(event.words)
        at_once = event.kind in ("start", "done", "stopped")
        if at_once or time.monotonic() - self.written >= EVERY_SECONDS:
            self.written = time.monotonic()
            with contextlib.suppress(OSError):  # a full or absent disk: the store says so, and it may come back
                self._write(self._content(event))

    def _content(self, event: Event) -> dict[str, Any]:
        oldest = sorted(event.running, key=lambda one: one.since)
        return {
            **self.fixed,
            "beat": stamp(event.at if event.kind in ("done", "stopped") else time.time()),
            "state": {"done": "ended", "stopped": "stopped"}.get(event.kind, "going on"),
            "words": event.words if event.kind == "stopped" else "",
            "counts": of_counts(event.counts),
            "kinds": {kind: of_counts(counts) for kind, counts in event.kinds.items()},
            "failed": dict(self.failed),
            "jobs": event.jobs,
            "under_way": len(oldest),
            "running": [of_running(one) for one in oldest[:SHOWN]],
            "planned_left": round(event.planned_left, 3),
            "seconds_left": rounded(event.seconds_left),
            "warnings": self.warnings[-20:],
        }

    def _write(self, content: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary.write_text(json.dumps(content, sort_keys=True), encoding="utf-8")
        os.replace(self.temporary, self.path)


def owner_fields() -> dict[str, Any]:
    """Which process this is: the name of its machine for people, and what `Owner` tells it apart by."""
    owner = me()
    return {"host": socket.gethostname(), "pid": owner.pid, "table": owner.host, "start": owner.start}


def owner_in(content: Mapping[str, Any]) -> Owner:
    """The process that wrote the file of a run."""
    return Owner(str(content["table"]), int(content["pid"]), int(content["start"]))
