"""Records and artefacts by task."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from shiftbench.errors import DataError, OutputError
from shiftbench.store import places
from shiftbench.store.envelope import Files, author, damaged, opened, sealed
from shiftbench.store.files import (
    dumped,
    explained,
    flush_folder,
    hashed_file,
    locked,
    read_json,
    remove,
    text_of,
    write_bytes,
)
from shiftbench.store.leftovers import named, sweep
from shiftbench.store.meta import admit
from shiftbench.store.owners import token

CACHED_BYTES = 8 << 20  # of records that are kept in memory
ATTEMPTS = 20  # of a failing task that are remembered
NO_LINKS = (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)


class Store:
    """Records (JSON) and artefacts (folders of arrays) under one root, written by any number of processes.

    A record appears in one step, whole, and only when its artefact is complete and on disk; it never changes. Of two
    processes that publish the same task, one wins and the other takes its own arrays away. What a killed process
    leaves behind is never taken for a result.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        self._read: OrderedDict[tuple[str, str], tuple[dict[str, Any], int]] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.root,)

    def record_path(self, kind: str, key: str) -> Path:
        """Where the record of a finished task lies."""
        return places.record_file(self.root, kind, key)

    def failure_path(self, kind: str, key: str) -> Path:
        """Where a failed attempt is recorded; it never counts as done and is tried again by the next run."""
        return places.failure_file(self.root, kind, key)

    def unfinished(self, kind: str, key: str) -> Path:
        """Where a task may keep what lets it go on after a kill; removed when its result is published.

        What is written there must be safe against a second process that writes the same: files of new names, and one
        that is replaced whole and names them, as `shiftbench.train.Checkpoint` does.
        """
        return places.unfinished_folder(self.root, kind, key)

    def done(self, kind: str, key: str) -> bool:
        """Whether the task's result is there."""
        return os.path.isfile(f"{self.root}/records/{kind}/{key[:2]}/{key}.json")

    def finished(self, kind: str) -> set[str]:
        """Keys of all results of a kind, by one walk over its folders."""
        found: set[str] = set()
        for shard in places.listed(self.root / "records" / kind):
            names = (entry.name for entry in places.listed(shard.path))
            found.update(name[:-5] for name in names if name.endswith(".json") and name[0] != ".")
        return found

    def present(self, kind: str, key: str) -> bool:
        """Whether the task's result is there, with its arrays."""
        return self.done(kind, key) and not self.dropped(kind, key)

    def dropped(self, kind: str, key: str) -> bool:
        """Whether the task's result is there and its arrays were dropped by choice."""
        path = places.dropped_file(self.root, kind, key)
        name = text_of(path)
        return name is not None and self.done(kind, key) and name == self.envelope(kind, key)["artifact"]

    def envelope(self, kind: str, key: str) -> dict[str, Any]:
        """The whole record file: format, kind, key, body, files, artifact, by, sha256.

        It may be kept in memory and handed out again, since it never changes: do not change it.

        Raises:
            OutputError: the file is missing or damaged.
        """
        with self._guard:
            if (kind, key) in self._read:
                self._read.move_to_end((kind, key))
                return self._read[kind, key][0]
        path = self.record_path(kind, key)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            raise OutputError(
                "no such file", where=path, remedy="run `shiftbench run` into this folder first"
            ) from None
        fields = opened(raw, kind, key, path)
        self._remember((kind, key), fields, len(raw))
        return fields

    def record(self, kind: str, key: str) -> dict[str, Any]:
        """What a finished task recorded (see `envelope`).

        Raises:
            OutputError: the file is missing or damaged.
        """
        return self.envelope(kind, key)["body"]

    def artifact(self, kind: str, key: str) -> Path:
        """Folder with a task's arrays: those of its result, else those of an attempt that failed in part.

        Of a task that has neither, and of one whose arrays were dropped, a path that does not exist.
        """
        if not self.done(kind, key):
            return places.partial_folder(self.root, kind, key)
        return places.artifact_folder(self.root, kind, key, self.envelope(kind, key)["artifact"] or f"{key}.none")

    def failure(self, kind: str, key: str) -> dict[str, Any] | None:
        """The last failed attempt of a task with the history of attempts, or None."""
        path = self.failure_path(kind, key)
        return read_json(path) if path.is_file() else None

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder on the same file system, removed at the end if nobody published it."""
        path = self._temporary()
        with explained(path):
            _in_folder(path, path.mkdir)
        try:
            yield path
        finally:
            remove(path)

    def publish(self, kind: str, key: str, record: Mapping[str, Any], workspace: Path | None = None) -> None:
        """Makes a result visible in one step; a result that is already there is kept.

        Where the arrays of that result were dropped, those of the workspace take their place if they are the same.

        Raises:
            OutputError: the disk is full or cannot be written.
            DataError: the arrays were dropped, and these are others.
        """
        self.place(kind, key, record, workspace, author())

    def place(
        self,
        kind: str,
        key: str,
        record: Mapping[str, Any],
        workspace: Path | None,
        by: Mapping[str, Any],
        files: Files | None = None,
    ) -> bool:
        """Publishes a result of another author; whether it was this one that was put there.

        Args:
            kind, key, record, workspace: as of `publish`.
            by: who made the result.
            files: hashes that the arrays must have; with no workspace, those of arrays that were dropped.

        Raises:
            OutputError: as `publish`, or an array is not the one that was hashed.
        """
        with explained(self.root):
            if self.done(kind, key):
                self._restore(kind, key, workspace)
                return False
            found = _hashed(workspace) if workspace is not None else files or {}
            if files is not None and found != files:
                raise damaged(f"{kind}/{key} on its way")
            name = f"{key}.{uuid4().hex[:8]}" if workspace is not None or files else None
            raw = sealed(kind, key, record, found, name, by)
            won, temporary = False, self._temporary(".json")
            try:
                _in_folder(temporary, lambda: write_bytes(temporary, raw))
                if name is not None:
                    self._put_arrays(places.artifact_folder(self.root, kind, key, name), key, workspace)
                won = _linked(temporary, self.record_path(kind, key))
            finally:
                if name is not None and not won and named(self.root, kind, key) not in (name, ""):
                    remove(places.artifact_folder(self.root, kind, key, name))
                temporary.unlink(missing_ok=True)
            self._forget_attempts(kind, key)
        return won

    def publish_partial(self, kind: str, key: str, workspace: Path) -> None:
        """Keeps the arrays of an attempt that failed in part, instead of an earlier one's; they never count as done."""
        with explained(self.root):
            if self.present(kind, key):
                return
            target = places.partial_folder(self.root, kind, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            while True:
                self._take_away(target)
                try:
                    os.rename(workspace, target)
                    return
                except OSError as error:  # another process has put its own there meanwhile
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise

    def publish_failure(self, kind: str, key: str, record: Mapping[str, Any]) -> None:
        """Records a failed attempt over an earlier one, and adds it to "attempts", which are kept."""
        with explained(self.root):
            if self.present(kind, key):
                return
            try:
                earlier = (self.failure(kind, key) or {}).get("attempts", [])
            except OutputError:
                earlier = []
            by = author()
            attempt = {"at": by["at"], "host": by["host"], "cause": record.get("cause"), "reason": record.get("reason")}
            attempts = record.get("attempts", [*earlier, attempt])[-ATTEMPTS:]
            self._write(self.failure_path(kind, key), dumped({**record, "attempts": attempts}))

    def drop(self, kind: str, key: str) -> None:
        """Removes a result's arrays and keeps its record, which still has their hashes."""
        name = self.envelope(kind, key)["artifact"]
        if name is None:
            return
        with explained(self.root):
            self._write(places.dropped_file(self.root, kind, key), name)
            self._take_away(places.artifact_folder(self.root, kind, key, name))

    def sweep(self) -> None:
        """Removes what killed processes left half done; never what a living one is writing."""
        sweep(self.root)

    def open_for(self, identity: Mapping[str, str]) -> None:
        """Creates or re-opens the folder for a run of scenarios {name: "version:digest"}.

        Raises:
            OutputError: the folder cannot be written, is not a result folder, is one of another format, or holds
                another version of a scenario.
        """
        admit(self.root, identity)

    def forget(self, kind: str, key: str) -> None:
        """Drops a record from memory; for those who move it away."""
        with self._guard:
            self._bytes -= self._read.pop((kind, key), ({}, 0))[1]

    def _remember(self, task: tuple[str, str], fields: dict[str, Any], size: int) -> None:
        with self._guard:
            self._bytes += size - self._read.pop(task, ({}, 0))[1]
            self._read[task] = fields, size
            while self._bytes > CACHED_BYTES:
                self._bytes -= self._read.popitem(last=False)[1][1]

    def _temporary(self, suffix: str = "") -> Path:
        return self.root / "tmp" / f"{token()}{suffix}"

    def _put_arrays(self, target: Path, key: str, workspace: Path | None) -> None:
        if workspace is None:
            self._write(target.with_name(f"{key}.dropped"), target.name)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(workspace, target)
        flush_folder(target.parent)

    def _write(self, path: Path, text: str) -> None:
        """Puts a small file in the place of the one before."""
        temporary = self._temporary()
        try:
            _in_folder(temporary, lambda: write_bytes(temporary, text.encode()))
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def _restore(self, kind: str, key: str, workspace: Path | None) -> None:
        """Puts arrays back that were dropped."""
        if workspace is None or not self.dropped(kind, key):
            return
        envelope = self.envelope(kind, key)
        if _hashed(workspace) != {name: tuple(found) for name, found in envelope["files"].items()}:
            raise DataError(
                f"the arrays of {kind}/{key} were dropped, and computing them again gave others",
                remedy="give another folder with --out to have both, or leave them dropped",
            )
        with contextlib.suppress(FileExistsError):
            os.rename(workspace, places.artifact_folder(self.root, kind, key, envelope["artifact"]))
        places.dropped_file(self.root, kind, key).unlink(missing_ok=True)
        self._forget_attempts(kind, key)

    def _forget_attempts(self, kind: str, key: str) -> None:
        for path in (
            self.failure_path(kind, key),
            places.partial_folder(self.root, kind, key),
            self.unfinished(kind, key),
        ):
            remove(path)

    def _take_away(self, folder: Path) -> None:
        """Removes a folder so that no reader sees a part of it."""
        aside = self._temporary()
        with contextlib.suppress(FileNotFoundError):
            if folder.is_dir():
                _in_folder(aside, lambda: os.rename(folder, aside))
                remove(aside)


def _in_folder(path: Path, make: Callable[[], object]) -> None:
    """Makes a path in a folder, and first that, which another process may take away while it is empty."""
    for _ in range(100):
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            make()
            return
    make()


def _hashed(workspace: Path) -> dict[str, tuple[str, int]]:
    """Hashes and sizes of all files of a workspace, which are on disk when this returns."""
    found: dict[str, tuple[str, int]] = {}
    for folder, _, names in os.walk(workspace):
        for name in names:
            path = Path(folder, name)
            if path.is_symlink():
                raise OutputError("an artefact holds files alone, and this is a link", where=path)
            found[path.relative_to(workspace).as_posix()] = hashed_file(path, to_disk=True)
        flush_folder(Path(folder))
    return found


def _linked(temporary: Path, path: Path) -> bool:
    """Gives a record its place, unless there is one; whether it did.

    A hard link either makes the name or fails since there is one, for any number of processes on any machines. Where
    the file system has none, the record is renamed under a lock. It is whole there too; but two processes may both
    win if the first was stopped for longer than `files.LOCK_SECONDS` inside the lock, and the later record then takes
    the place of the earlier one, whose arrays are left for `gc`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return os.path.samefile(temporary, path)  # of a network file system that was asked twice
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with locked(path.with_name(f".{path.stem}.lock")):
            if path.exists():
                return False
            os.rename(temporary, path)
    flush_folder(path.parent)
    return True
