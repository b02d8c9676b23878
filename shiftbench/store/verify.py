"""Every byte of a result folder against the hash that it was written with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from shiftbench.errors import OutputError
from shiftbench.store.envelope import opened
from shiftbench.store.files import explained, hashed_file, read_json, remove, text_of
from shiftbench.store.leftovers import named, pending
from shiftbench.store.meta import scenarios
from shiftbench.store.places import artifact_folder, dropped_file, key_of_artifact, listed, records, sharded
from shiftbench.store.store import Store


@dataclass(frozen=True)
class Damage:
    """Something in a result folder that is not what was written there.

    Attributes:
        path: what it is, under the folder's root.
        problem: one clause.
        task: id of the task that it belongs to, where one is known.
        lost: a result cannot be used until it is computed again; False for what only takes room.
        moved: where it lies now, after a repair.
    """

    path: Path
    problem: str
    task: str | None
    lost: bool
    moved: Path | None = None


def verify(store: Store, repair: bool = False) -> list[Damage]:
    """Hashes all records and arrays of a result folder; may be called while a run is going on.

    With `repair` what is damaged is moved to `quarantine/`, the record with its arrays, and nothing is deleted, so
    that the next run computes these tasks again.

    Returns:
        Damaged or misplaced records, arrays that are missing or changed, failures that cannot be read, and arrays that
        no record names, which a repair leaves to `gc`.

    Raises:
        OutputError: the folder is not a result folder of this format, or cannot be written.
    """
    if scenarios(store.root) is None:
        raise OutputError("not a ShiftBench result folder", where=store.root, remedy="give the --out of a run")
    found = []
    for kind, key, path in records(store.root):
        for damage in _of_record(store, kind, key, path):
            found.append(_repaired(store, kind, key, path, damage) if repair else damage)
    for kind, entry in sharded(store.root, "failures"):
        if entry.name.endswith(".json") and not _readable(Path(entry.path)):
            key = entry.name.removesuffix(".json")
            broken = Damage(Path(entry.path), "the record of a failure is damaged", f"{kind}/{key}", lost=False)
            found.append(_moved(store, broken, _ward(store, kind, key)) if repair else broken)
    found += [
        Damage(path, "no record names these arrays; `shiftbench gc` removes them", f"{kind}/{key}", lost=False)
        for kind, key, path in orphans(store.root)
    ]
    return [replace(damage, path=damage.path.relative_to(store.root)) for damage in found]


def _of_record(store: Store, kind: str, key: str, path: Path) -> Iterator[Damage]:
    """What is wrong with one record and its arrays; at most one, the first."""
    task = f"{kind}/{key}"
    try:
        envelope = opened(path.read_bytes(), kind, key, path)
    except FileNotFoundError:
        return  # taken away meanwhile
    except OutputError as error:
        yield Damage(path, error.problem, task, lost=True)
        return
    except OSError as error:  # the disk itself
        yield Damage(path, f"the record cannot be read ({error.strerror})", task, lost=True)
        return
    if path.parent.name != key[:2]:
        yield Damage(path, "the record lies in another record's place", task, lost=True)
        return
    if envelope["artifact"] is None or text_of(dropped_file(store.root, kind, key)) == envelope["artifact"]:
        return
    folder = artifact_folder(store.root, kind, key, envelope["artifact"])
    problem = _of_arrays(folder, envelope["files"])
    if problem and path.is_file() and text_of(dropped_file(store.root, kind, key)) != envelope["artifact"]:
        yield Damage(folder, problem, task, lost=True)


def _of_arrays(folder: Path, files: dict[str, Any]) -> str:
    for name, expected in files.items():
        path = folder / name
        try:
            if path.is_symlink() or list(hashed_file(path)) != list(expected):
                return f"{name} is not the file that was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    there = {Path(at, name).relative_to(folder).as_posix() for at, _, names in os.walk(folder) for name in names}
    more = sorted(there - set(files))
    return f"{more[0]} was not written by the task" if more else ""


def _readable(path: Path) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except OutputError:
        return not path.is_file()


def _repaired(store: Store, kind: str, key: str, record: Path, damage: Damage) -> Damage:
    """Moves a damaged record and its arrays, arrays first: the record still tells of them if this is cut short."""
    ward = _ward(store, kind, key)
    with explained(store.root):
        if record == store.record_path(kind, key):  # and not a stray copy in another folder
            shard, under_way = store.root / "artifacts" / kind / key[:2], pending(store.root)
            for entry in listed(shard):
                if key_of_artifact(entry.name) == key and entry.name not in under_way:
                    _move(Path(entry.path), ward)
            remove(dropped_file(store.root, kind, key))
        _move(record, ward)
    store.forget(kind, key)
    return replace(damage, moved=(ward / damage.path.name).relative_to(store.root))


def _ward(store: Store, kind: str, key: str) -> Path:
    return store.root / "quarantine" / kind / f"{key}.{uuid4().hex[:8]}"


def _moved(store: Store, damage: Damage, ward: Path) -> Damage:
    with explained(store.root):
        _move(damage.path, ward)
    return replace(damage, moved=(ward / damage.path.name).relative_to(store.root))


def _move(path: Path, ward: Path) -> None:
    ward.mkdir(parents=True, exist_ok=True)
    try:
        os.rename(path, ward / path.name)
    except FileNotFoundError:
        if path.exists():
            raise


def orphans(root: Path) -> Iterator[tuple[str, str, Path]]:
    """(kind, key, folder) of arrays that no record names and that no process is about to name.

    Arrays whose record is damaged are none: they belong to it.
    """
    for kind, entry in sharded(root, "artifacts"):
        key = key_of_artifact(entry.name)
        if key is None or not entry.is_dir(follow_symlinks=False) or named(root, kind, key) in (entry.name, ""):
            continue
        # A publication tells of itself under `tmp/` until its record is in place, so this order misses none.
        if entry.name not in pending(root) and named(root, kind, key) not in (entry.name, ""):
            yield kind, key, Path(entry.path)
