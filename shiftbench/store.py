"""The result folder: one immutable record per task, addressed by the hash of what computed it."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError

FORMAT = 1


class Store:
    """Records (JSON) and artefacts (folders of arrays) under one root.

    A record appears only when its artefact is complete: both are written under `tmp/`, flushed to disk and renamed.
    What a killed process leaves behind is never taken for a result.
    """

    def __init__(self, root: Path):
        self.root = Path(root)

    def record_path(self, kind: str, key: str) -> Path:
        """Where the record of a finished task lies."""
        return self.root / "records" / kind / f"{key}.json"

    def artifact(self, kind: str, key: str) -> Path:
        """Folder with a finished task's arrays."""
        return self.root / "artifacts" / kind / key

    def failure_path(self, kind: str, key: str) -> Path:
        """Where a failed attempt is recorded; it never counts as done and is tried again by the next run."""
        return self.root / "failures" / kind / f"{key}.json"

    def done(self, kind: str, key: str) -> bool:
        """Whether the task's result is there."""
        return self.record_path(kind, key).is_file()

    def record(self, kind: str, key: str) -> dict[str, Any]:
        """The record of a finished task.

        Raises:
            OutputError: the file is missing or damaged.
        """
        return read_json(self.record_path(kind, key))

    def failure(self, kind: str, key: str) -> dict[str, Any] | None:
        """The last failed attempt of a task, or None."""
        path = self.failure_path(kind, key)
        return read_json(path) if path.is_file() else None

    def unfinished(self, kind: str, key: str) -> Path:
        """Where a task may keep what lets it go on after a kill; removed when its result is published."""
        return self.root / "unfinished" / kind / key

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder on the same file system, removed at the end if nobody published it."""
        path = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex}"
        with _explained(path):
            path.mkdir(parents=True)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, kind: str, key: str, record: dict[str, Any], workspace: Path | None = None) -> None:
        """Makes a result visible, artefact first and record last; a result that is already there is kept."""
        if self.done(kind, key):
            return
        with _explained(self.root):
            if workspace is not None:
                target = self.artifact(kind, key)
                target.parent.mkdir(parents=True, exist_ok=True)
                for file in workspace.rglob("*"):
                    if file.is_file():
                        flush(file)
                if target.exists():  # left by a process that was killed before it wrote the record
                    shutil.rmtree(target)
                os.rename(workspace, target)
            write_json(self.record_path(kind, key), record)
            self.failure_path(kind, key).unlink(missing_ok=True)
            shutil.rmtree(self.unfinished(kind, key), ignore_errors=True)

    def publish_partial(self, kind: str, key: str, workspace: Path) -> None:
        """Keeps the arrays of an attempt that failed in part; without a record they do not count as done."""
        with _explained(self.root):
            target = self.artifact(kind, key)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            os.rename(workspace, target)

    def publish_failure(self, kind: str, key: str, record: dict[str, Any]) -> None:
        """Records a failed attempt, over an earlier one."""
        with _explained(self.root):
            write_json(self.failure_path(kind, key), record)

    def sweep(self) -> None:
        """Removes what killed processes left under `tmp/`."""
        shutil.rmtree(self.root / "tmp", ignore_errors=True)

    def open_for(self, identity: dict[str, str]) -> None:
        """Creates or re-opens the folder for a run of scenarios {name: "version:digest"}.

        Raises:
            OutputError: the folder cannot be written, is not a result folder, or holds another version of a scenario.
        """
        meta = self.root / "meta.json"
        with _explained(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
            if meta.is_file():
                _same_scenarios(read_json(meta), identity, self.root)
            elif any(self.root.iterdir()):
                raise OutputError(
                    "the folder is not empty and not a ShiftBench result folder",
                    where=self.root,
                    remedy="give an empty or new folder with --out",
                )
            probe = self.root / f".write-{uuid.uuid4().hex}"
            probe.write_bytes(b"")
            probe.unlink()
            known = read_json(meta)["scenarios"] if meta.is_file() else {}
            if not meta.is_file() or set(identity) - set(known):
                write_json(meta, {"format": FORMAT, "scenarios": {**known, **identity}})


def _same_scenarios(meta: dict[str, Any], identity: dict[str, str], root: Path) -> None:
    if meta.get("format") != FORMAT:
        raise OutputError(
            f"result folder of format {meta.get('format')}, this version writes format {FORMAT}",
            where=root,
            remedy="give another folder with --out",
        )
    for name, now in identity.items():
        before = meta.get("scenarios", {}).get(name, now)
        if before != now:
            (v0, _), (v1, _) = before.split(":"), now.split(":")
            change = f"version {v0}, this is version {v1}" if v0 != v1 else f"another text of version {v0}"
            raise OutputError(
                f"the results were made with scenario '{name}' in {change}",
                where=root,
                remedy="give another folder with --out, or remove this one",
            )


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(
                "the disk is full", where=path, remedy="free some space or give --out elsewhere"
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise OutputError(
                "the folder cannot be written", where=path, remedy="change its rights or give --out"
            ) from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise OutputError("the path is a file", where=path, remedy="give a folder with --out") from None
        raise


def flush(path: Path) -> None:
    """Forces a written file to disk."""
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is either absent, the old one, or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            json.dump(content, handle, allow_nan=False, separators=(",", ":"), sort_keys=True)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """Parsed JSON; a missing or damaged file raises OutputError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError("no such file", where=path, remedy="run `shiftbench run` into this folder first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise OutputError("the record is damaged", where=path, remedy="delete this file and run again") from None
