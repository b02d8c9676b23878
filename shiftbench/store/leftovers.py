"""What processes that are gone have left half done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store.envelope import opened
from shiftbench.store.files import remove
from shiftbench.store.owners import clock, owner_of, touched
from shiftbench.store.places import artifact_folder, listed, record_file

STALE_SECONDS = 2 * 24 * 3600.0  # of what another machine left: it may be suspended, but hardly for two days
LARGE = ("records", "artifacts", "unfinished", "tmp", "claims", "failures", "quarantine")  # hold no loose temporaries


def leftovers(root: Path, stale_seconds: float = STALE_SECONDS) -> Iterator[Path]:
    """Temporary files and workspaces of processes of this machine that are gone, and of others what is long untouched.

    Never what a living process is writing. Whether a process of another machine lives cannot be known here, so its
    things are judged by their age, by the file system's own clock.
    """
    now: float | None = None
    for path in _temporary(root):
        owner = owner_of(path.name)
        gone = owner.gone if owner is not None else None
        if gone is None:
            now = clock(root) if now is None else now
            gone = now - touched(path) > stale_seconds
        if gone:
            yield path


def _temporary(root: Path) -> Iterator[Path]:
    """Everything in `tmp/`, and temporary files beside those that are written whole."""
    yield from (Path(entry.path) for entry in listed(root / "tmp"))
    small = [Path(e.path) for e in listed(root) if e.is_dir(follow_symlinks=False) and e.name not in LARGE]
    for folder in (root, *small):
        for entry in listed(folder):
            if entry.name.startswith(".") and owner_of(entry.name) is not None:
                yield Path(entry.path)


def half_published(root: Path, temporary: Path) -> Path | None:
    """The arrays that a publication which never ended has put in place; None where there are none.

    A record is written under `tmp/` before its arrays are moved to their place, so that it tells of them.
    """
    if temporary.suffix != ".json" or temporary.parent.name != "tmp":
        return None
    fields = _fields(temporary)
    if not fields.get("artifact"):
        return None
    arrays = artifact_folder(root, fields["kind"], fields["key"], fields["artifact"])
    forgotten = named(root, fields["kind"], fields["key"]) not in (arrays.name, "")
    return arrays if forgotten and arrays.is_dir() else None


def named(root: Path, kind: str, key: str) -> str | None:
    """The arrays that a task's record names; "" where the record is damaged, None where it has none or is not there."""
    path = record_file(root, kind, key)
    try:
        return opened(path.read_bytes(), kind, key, path)["artifact"]
    except FileNotFoundError:
        return None
    except (OutputError, OSError):
        return ""


def _fields(path: Path) -> dict[str, Any]:
    """Fields of a record that may be half written; none where it is."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}


def pending(root: Path) -> set[str]:
    """Names of the arrays that publications under way, or cut short, are about to name."""
    fields = (_fields(Path(e.path)) for e in listed(root / "tmp") if e.name.endswith(".json"))
    return {found["artifact"] for found in fields if found.get("artifact")}


def clear(root: Path, temporary: Path) -> None:
    """Removes a leftover, and first the arrays that it alone knows of."""
    arrays = half_published(root, temporary)
    if arrays is not None:
        remove(arrays)
    remove(temporary)


def sweep(root: Path) -> None:
    """Removes all leftovers, and `tmp/` where nothing is left in it; what cannot be removed stays, and hurts nobody."""
    with contextlib.suppress(OSError):
        for path in list(leftovers(root)):
            clear(root, path)
        (root / "tmp").rmdir()
