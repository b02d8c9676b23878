"""Files that are whole or absent after any kill, and errors of the disk as sentences."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from shiftbench.errors import OutputError
from shiftbench.store.owners import clock, owner_of, token

LOCK_SECONDS = 10.0  # a lock is held for milliseconds; one that is older was left behind
BLOCK = 1 << 20  # bytes


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
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


def flush_folder(path: Path) -> None:
    """Forces the names in a folder to disk, where the system can."""
    if os.name != "posix":
        return  # Windows opens no folders
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems
            raise
    finally:
        os.close(handle)


def dumped(content: Any) -> str:
    """The one JSON text of a value; NaN is refused."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"), sort_keys=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file and forces it to disk."""
    with path.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file so that it is absent, the old one, or whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token()}")
    try:
        write_bytes(temporary, data)
        os.replace(temporary, path)
        flush_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON so that the file is either absent, the old one, or whole."""
    write_whole(path, dumped(content).encode())


def read_json(path: Path) -> Any:
    """Parsed JSON; a missing or damaged file raises OutputError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OutputError("no such file", where=path, remedy="run `shiftbench run` into this folder first") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise OutputError("the record is damaged", where=path, remedy="delete this file and run again") from None


def hashed(handle: BinaryIO) -> tuple[str, int]:
    """SHA-256 (hex) and number of the bytes that are left in an open file."""
    digest, size = sha256(), 0
    while block := handle.read(BLOCK):
        digest.update(block)
        size += len(block)
    return digest.hexdigest(), size


def hashed_file(path: Path, *, to_disk: bool = False) -> tuple[str, int]:
    """SHA-256 (hex) and size of a file, which is forced to disk besides where that is asked for."""
    with path.open("rb") as handle:
        found = hashed(handle)
        if to_disk:
            os.fsync(handle.fileno())
    return found


def remove(path: Path) -> None:
    """Takes away a file or a folder with all that is in it; one that is not there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    total = 0
    for each in path.rglob("*") if path.is_dir() and not path.is_symlink() else (path,):
        with contextlib.suppress(OSError):
            total += 0 if each.is_dir() else each.lstat().st_size
    return total


def text_of(path: Path) -> str | None:
    """What a small file says; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps others of any machine out for the moment that it takes to change one file.

    A file of this name is made exclusively and holds who made it. One whose maker is gone, or that is older than
    `LOCK_SECONDS` by the file system's clock, was left behind and is taken away.
    """
    name = token()
    while not created(path, name):
        if not _broken(path):
            time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if text_of(path) == name:
                path.unlink()


def created(path: Path, text: str) -> bool:
    """Makes a small file with this text, if there is none of the name; whether it did."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        return False
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _broken(path: Path) -> bool:
    """Takes a lock away that was left behind; whether it did."""
    text, aside = text_of(path), path.with_name(f"{path.name}.{token()}")
    try:
        owner = owner_of(text or "")
        if text is None or not (owner and owner.gone) and clock(path.parent) - path.stat().st_mtime < LOCK_SECONDS:
            return False
        os.rename(path, aside)  # of several that see it stale, one
        if text_of(aside) == text:
            return True
        os.rename(aside, path)  # it was broken and made again meanwhile
        return False
    except FileNotFoundError:
        return False
    finally:
        aside.unlink(missing_ok=True)
