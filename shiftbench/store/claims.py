"""Who is at which task, so that two runs on one folder share the work.

Claims save work and are never what correctness rests on: a result is published exclusively whoever computes it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from pathlib import Path
from types import TracebackType

from shiftbench.store.files import created, explained, locked, text_of
from shiftbench.store.owners import owner_of, token
from shiftbench.store.store import Store

BEAT_SECONDS = 5.0
STALE_SECONDS = 120.0  # network file systems show a file's date up to a minute late


class Claims:
    """The tasks that one run has taken, with one heartbeat for all of them.

    A claim is a file made exclusively that holds the run's id; the run's heart is a file whose date a thread renews.
    A claim is stale when its run's process is gone from this machine, or when its heart has stood still for
    `stale_seconds` by the file system's clock. A heart that seems to stand still is watched for two beats more by
    this process's own clock before it is believed: a clock that jumps makes no run look dead.

    Args:
        store: of the results.
        beat_seconds: between two beats.
        stale_seconds: without a beat, after which a run of another machine counts as gone.
    """

    def __init__(self, store: Store, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS):
        self.store, self.beat_seconds, self.stale_seconds = store, beat_seconds, stale_seconds
        self.run = token()
        self.beat = store.root / "runs" / f"{self.run}.beat"
        self._held: set[str] = set()
        self._hearts: dict[str, tuple[float, float]] = {}  # run -> date of its last beat, and when it was seen first
        self._guard = threading.Lock()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Claims:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def take(self, task_id: str) -> bool:
        """Whether the task is this run's now: it was free, left by a run that is gone, or this run's already."""
        self._start()
        path = self._path(task_id)
        with explained(path), self._guard:
            if task_id in self._held:
                return True
            try:
                won = created(path, self.run)
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                won = created(path, self.run)
            if not won:
                won = self._taken_over(path)
            if won:
                self._held.add(task_id)
            return won

    def release(self, task_id: str) -> None:
        """Lets others have the task; one that is not this run's is left alone."""
        with self._guard:
            if task_id not in self._held:
                return
            self._held.discard(task_id)
            path = self._path(task_id)
            if text_of(path) == self.run:
                with contextlib.suppress(OSError):
                    path.unlink()

    def holder(self, task_id: str) -> str | None:
        """Id of the run that has taken the task, living or gone; None where nobody has."""
        return text_of(self._path(task_id)) or None

    def close(self) -> None:
        """Releases everything and stops the heart."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        for task_id in list(self._held):
            self.release(task_id)
        with contextlib.suppress(OSError):
            self.beat.unlink(missing_ok=True)

    def _path(self, task_id: str) -> Path:
        return self.store.root / "claims" / task_id

    def _start(self) -> None:
        with self._guard:
            if self._thread is not None or self._end.is_set():
                return
            with explained(self.beat):
                self.beat.parent.mkdir(parents=True, exist_ok=True)
                self.beat.touch()
            self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)
            self._thread.start()

    def _live(self) -> None:
        while not self._end.wait(self.beat_seconds):
            with contextlib.suppress(OSError):  # a folder that cannot be reached for a moment
                self.beat.touch()

    def _taken_over(self, path: Path) -> bool:
        """Takes a stale claim; of several runs that see it stale, one gets it."""
        holder = text_of(path)  # "" while it is being made
        if holder is None or not self._stale(holder, path):
            return False
        with locked(path.with_name(f".{path.name}.lock")):
            if text_of(path) != holder:
                return False
            aside = path.with_name(f".{path.name}.{self.run}")
            aside.write_text(self.run)
            os.replace(aside, path)
        return True

    def _stale(self, run: str, claim: Path) -> bool:
        owner = owner_of(run)
        if owner is not None and owner.gone:
            return True
        last = max(_date(claim), _date(self.beat.with_name(f"{run}.beat")))
        self.beat.touch()
        if self.beat.stat().st_mtime - last <= self.stale_seconds:
            self._hearts.pop(run, None)
            return False
        seen, since = self._hearts.get(run, (None, 0.0))
        if seen != last:
            self._hearts[run] = last, time.monotonic()
            return False
        return time.monotonic() - since > 2 * self.beat_seconds


def _date(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def abandoned(run: str, root: Path, now: float, stale_seconds: float) -> bool:
    """Whether a run has ended without releasing its claims.

    Args:
        run: its id.
        root: of the results.
        now: by the file system's clock.
        stale_seconds: without a beat, after which a run of another machine counts as gone.
    """
    owner = owner_of(run)
    gone = owner.gone if owner is not None else None
    return now - _date(root / "runs" / f"{run}.beat") > stale_seconds if gone is None else gone


def living(root: Path, now: float, stale_seconds: float = STALE_SECONDS) -> list[str]:
    """Ids of the runs that are going on in a result folder."""
    runs = [path.name.removesuffix(".beat") for path in (root / "runs").glob("*.beat")]
    return sorted(run for run in runs if not abandoned(run, root, now, stale_seconds))
