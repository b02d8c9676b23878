"""Plans in a result folder: every distinct plan that was run, whole, so that nothing else is needed to read results."""

from __future__ import annotations

import gzip
import io
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.graph import Plan
from shiftbench.plan.packed import Packer, Unpacker
from shiftbench.store import Store
from shiftbench.store.owners import token

FORMAT = 1
DIGITS = 16  # of a plan's digest in its file name
ENDING = ".json.gz"
LEVEL = 4  # of the compression: half the time of the default, and a few per cent more bytes
DAMAGED = (OSError, EOFError, zlib.error, UnicodeDecodeError, ValueError, KeyError, IndexError, TypeError)


def save(plan: Plan, store: Store, request: Mapping[str, Any]) -> str:
    """Keeps a plan and says what it is addressed by; one that is there already becomes the latest.

    The file is JSON, one element a line, and is written as it is made: nothing of it is held in memory.

    Args:
        plan: with its payloads.
        store: the result folder.
        request: for people: the names of scenarios and methods, and the options, as JSON values.
    """
    name = plan.digest()[:DIGITS]
    path = _path(store, name)
    if path.is_file():
        os.utime(path)
        return name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{token()}")
    try:
        with temporary.open("wb") as file:
            _write(plan, file, {"format": FORMAT, "plan": name, "request": dict(request)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(
            f"the plan cannot be kept: {error.strerror}", where=path, remedy="free some space or give --out elsewhere"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
    return name


def _write(plan: Plan, file: io.BufferedWriter, head: Mapping[str, Any]) -> None:
    # Without a name and a time in it, equal plans are equal bytes.
    with gzip.GzipFile(filename="", mode="wb", compresslevel=LEVEL, fileobj=file, mtime=0) as packed:
        with io.TextIOWrapper(packed, encoding="ascii") as text:
            text.write("[" + json.dumps(head, sort_keys=True))
            for line in Packer().lines(plan):
                text.write(",\n" + json.dumps(line, separators=(",", ":"), allow_nan=False))
            text.write("]\n")


def load(store: Store, digest: str) -> Plan:
    """The plan of this digest, or of the only one that begins so; it equals the one that was saved.

    Raises:
        OutputError: there is none, there are several, or the file is damaged.
    """
    path = _path(store, _named(store, digest))
    unpacker = Unpacker()
    try:
        for line in _lines(path):
            unpacker.add(line)
    except DAMAGED:
        raise OutputError("the plan is damaged", where=path, remedy="delete this file and run again") from None
    return unpacker.plan


def latest(store: Store) -> Plan:
    """The plan that was run last in this folder.

    Raises:
        OutputError: there is none, or its file is damaged.
    """
    names = known(store)
    if not names:
        remedy = "give a folder that `shiftbench run` wrote"
        raise OutputError("no plan here", where=store.root, remedy=remedy)
    return load(store, names[0])


def known(store: Store) -> list[str]:
    """Digests of the plans of a folder, the one that was run last first."""
    files = [path for path in (store.root / "plans").glob(f"*{ENDING}") if not path.name.startswith(".")]
    ordered = sorted(files, key=lambda path: (-path.stat().st_mtime_ns, path.name))
    return [path.name.removesuffix(ENDING) for path in ordered]


def request_of(store: Store, digest: str) -> dict[str, Any]:
    """What was asked for when the plan was first made.

    Raises:
        OutputError: there is no such plan, or its file is damaged.
    """
    path = _path(store, _named(store, digest))
    try:
        with gzip.open(path, "rt", encoding="ascii") as text:
            return json.loads(text.readline()[1:-2])["request"]
    except DAMAGED:
        raise OutputError("the plan is damaged", where=path, remedy="delete this file and run again") from None


def _path(store: Store, name: str) -> Path:
    return store.root / "plans" / f"{name}{ENDING}"


def _named(store: Store, digest: str) -> str:
    names = [name for name in known(store) if name.startswith(digest)]
    if len(names) == 1:
        return names[0]
    problem = f"several plans begin with '{digest}'" if names else f"no plan '{digest}' here"
    remedy = f"known: {', '.join(known(store)[:5]) or 'none'}"
    raise OutputError(problem, where=store.root, remedy=remedy)


def _lines(path: Path) -> Iterator[Any]:
    """The elements behind the head; each line ends with a comma, the last with the list's own bracket."""
    with gzip.open(path, "rt", encoding="ascii") as text:
        head = json.loads(text.readline()[1:-2])
        if head["format"] != FORMAT:
            raise ValueError("another format")
        for line in text:
            yield json.loads(line[:-2])
