"""Taking away what nobody needs any more."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from shiftbench.errors import OutputError
from shiftbench.store.claims import abandoned, living
from shiftbench.store.files import explained, remove, size_of, text_of
from shiftbench.store.leftovers import STALE_SECONDS, clear, half_published, leftovers, named
from shiftbench.store.meta import scenarios
from shiftbench.store.owners import clock, owner_of, touched
from shiftbench.store.places import artifact_folder, dropped_file, listed, records, sharded
from shiftbench.store.store import Store
from shiftbench.store.verify import orphans

GRACE_SECONDS = 3600.0  # of arrays that nobody knows of: by far more than a publication takes


@dataclass(frozen=True)
class Removed:
    """What was taken away, or would be: path under the folder's root, bytes, and why."""

    path: Path
    bytes: int
    why: str


def gc(
    store: Store,
    keep: Collection[str] | None = None,
    dry_run: bool = False,
    *,
    quarantine: bool = False,
    grace_seconds: float = GRACE_SECONDS,
    stale_seconds: float = STALE_SECONDS,
) -> list[Removed]:
    """Removes what no run needs; safe while runs are going on.

    Args:
        store: of the results.
        keep: ids of the tasks whose results stay, of all plans that matter; None keeps every result.
        dry_run: say it, and remove nothing.
        quarantine: remove what `verify` has put aside, too.
        grace_seconds: age, by the file system's clock, from which arrays count as left that no record names.
        stale_seconds: the same of what another machine's process has not touched any more.

    Returns:
        Leftovers of processes that are gone, their claims, arrays that no record names, and what is kept of attempts
        and checkpoints of tasks that are finished; with `keep` results of other tasks.

    Raises:
        OutputError: not a result folder, or it cannot be written; with `keep`, a run is going on.
    """
    root = store.root
    if scenarios(root) is None:
        raise OutputError("not a ShiftBench result folder", where=root, remedy="give the --out of a run")
    with explained(root):
        now = clock(root)
        if keep is not None and (runs := living(root, now)):
            raise OutputError(
                f"a run is going on ({runs[0]}), whose plan may need what others do not",
                where=root,
                remedy="wait for its end",
            )
        found = []
        for path, why in _unneeded(store, now, keep, quarantine, grace_seconds, stale_seconds):
            size = size_of(path)
            if os.path.lexists(path) and (dry_run or _taken(store, path)):
                found.append(Removed(path.relative_to(root), size, why))
        if not dry_run:
            store.sweep()
    return found


def _taken(store: Store, path: Path) -> bool:
    """Removes something; whether it is gone now."""
    if path.parent.name == "tmp":
        clear(store.root, path)
    else:
        remove(path)
    if path.parts[-4:-3] == ("records",):
        store.forget(path.parts[-3], path.stem)
    return not os.path.lexists(path)


def _unneeded(
    store: Store, now: float, keep: Collection[str] | None, quarantine: bool, grace: float, stale: float
) -> Iterator[tuple[Path, str]]:
    root = store.root
    yield from _temporary(root, now, stale)
    if quarantine and (root / "quarantine").exists():
        yield root / "quarantine", "put aside by verify"
    yield from _claims(root, now, stale)
    yield from _attempts(store)
    if keep is not None:
        yield from _unplanned(store, keep)
    for _, _, path in orphans(root):
        if now - max(touched(path), _moved_at(path)) > grace:
            yield path, "arrays that no record names"
    for kind, entry in sharded(root, "artifacts"):
        key = entry.name.removesuffix(".dropped")
        if key != entry.name and now - touched(Path(entry.path)) > grace:
            if named(root, kind, key) not in ("", text_of(Path(entry.path))):
                yield Path(entry.path), "says that arrays were dropped of which there is no record"


def _moved_at(path: Path) -> float:
    """When a folder was put in its place, where the system dates that."""
    try:
        return path.lstat().st_ctime
    except OSError:
        return 0.0


def _temporary(root: Path, now: float, stale: float) -> Iterator[tuple[Path, str]]:
    why = "left by a process that is gone"
    for path in leftovers(root, stale):
        arrays = half_published(root, path)
        if arrays is not None:
            yield arrays, why
        yield path, why
    for tree in ("records", "failures", "claims"):
        for folder, _, names in os.walk(root / tree):
            yield from ((Path(folder, n), why) for n in names if n[0] == "." and _left(Path(folder, n), now, stale))
    yield from ((p, why) for p in root.glob(".*.lock*") if _left(p, now, stale))


def _left(path: Path, now: float, stale: float) -> bool:
    """Whether a temporary file, or a lock, which has its maker inside, is nobody's any more."""
    owner = owner_of(path.name) or owner_of(text_of(path) or "")
    gone = owner.gone if owner is not None else None
    return now - touched(path) > stale if gone is None else gone


def _claims(root: Path, now: float, stale: float) -> Iterator[tuple[Path, str]]:
    why = "of a run that is gone"
    gone: dict[str, bool] = {}
    for kind in listed(root / "claims"):
        for entry in listed(kind.path):
            run = None if entry.name.startswith(".") else text_of(Path(entry.path))
            if run and gone.setdefault(run, abandoned(run, root, now, stale)):
                yield Path(entry.path), why
    for beat in (root / "runs").glob("*.beat"):
        if abandoned(beat.name.removesuffix(".beat"), root, now, stale):
            yield beat, why


def _attempts(store: Store) -> Iterator[tuple[Path, str]]:
    for kind, entry in sharded(store.root, "failures"):
        key, _, what = entry.name.rpartition(".")
        if what in ("json", "arrays") and store.present(kind, key):
            yield Path(entry.path), "a failed attempt of a task that is finished"
    for folder in listed(store.root / "unfinished"):
        for entry in listed(folder.path):
            if store.present(folder.name, entry.name):
                yield Path(entry.path), "a checkpoint of a task that is finished"


def _unplanned(store: Store, keep: Collection[str]) -> Iterator[tuple[Path, str]]:
    """Results of no plan: the record, then its arrays, so that no record ever names what is not there."""
    why = "the result of no plan"
    for kind, key, path in records(store.root):
        if f"{kind}/{key}" in keep:
            continue
        name = named(store.root, kind, key)
        yield path, why
        if name:
            yield artifact_folder(store.root, kind, key, name), why
            yield dropped_file(store.root, kind, key), why
