"""Where things lie in a result folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")  # of a kind or a key: one part of a path
META = "meta.json"


def record_file(root: Path, kind: str, key: str) -> Path:
    """The record of a task."""
    return root / "records" / kind / key[:2] / f"{key}.json"


def artifact_folder(root: Path, kind: str, key: str, name: str) -> Path:
    """The arrays that a record names."""
    return root / "artifacts" / kind / key[:2] / name


def dropped_file(root: Path, kind: str, key: str) -> Path:
    """Says that the arrays of the name in it were dropped by choice."""
    return root / "artifacts" / kind / key[:2] / f"{key}.dropped"


def failure_file(root: Path, kind: str, key: str) -> Path:
    """The last failed attempts of a task."""
    return root / "failures" / kind / key[:2] / f"{key}.json"


def partial_folder(root: Path, kind: str, key: str) -> Path:
    """The arrays of an attempt that failed in part."""
    return root / "failures" / kind / key[:2] / f"{key}.arrays"


def unfinished_folder(root: Path, kind: str, key: str) -> Path:
    """What lets a task go on after a kill."""
    return root / "unfinished" / kind / key


def key_of_artifact(name: str) -> str | None:
    """The key in the name of an artefact, <key>.<8 hex>; None for another name."""
    found = re.fullmatch(r"(.+)\.[0-9a-f]{8}", name)
    return found[1] if found else None


def listed(folder: Path | str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing where there is none."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def sharded(root: Path, tree: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """(kind, entry) of everything in a tree of <kind>/<two letters of the key>/."""
    for kind in sorted(listed(root / tree), key=lambda e: e.name):
        for shard in sorted(listed(kind.path), key=lambda e: e.name):
            for entry in sorted(listed(shard.path), key=lambda e: e.name):
                yield kind.name, entry


def records(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, key, path) of every record, by their places."""
    for kind, entry in sharded(root, "records"):
        if entry.name.endswith(".json") and not entry.name.startswith("."):
            yield kind, entry.name.removesuffix(".json"), Path(entry.path)
