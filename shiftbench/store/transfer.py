"""Result folders from several machines: out in one file, in from several."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store.envelope import refuse_conflict
from shiftbench.store.files import explained, flush, flush_folder, write_whole
from shiftbench.store.members import (
    PLAN,
    FolderMembers,
    Members,
    TarMembers,
    add_file,
    check_arrays,
    dropped_in,
    envelope_in,
    plans,
)
from shiftbench.store.meta import refuse_others, scenarios, scenarios_of
from shiftbench.store.owners import token
from shiftbench.store.pack import add_task, adopt
from shiftbench.store.places import META, records
from shiftbench.store.store import Store


@dataclass(frozen=True)
class Merged:
    """How many results were added, and how many were there already."""

    added: int
    there: int


def export(store: Store, path: Path, ids: Collection[str] | None = None) -> int:
    """Writes results with their scenarios and plans into one tar file; the same results give the same bytes.

    Args:
        store: of the results.
        path: a file that does not exist yet; it appears when it is whole.
        ids: of the tasks; all that are finished by default.

    Returns:
        The number of results.

    Raises:
        OutputError: the file is there already, cannot be written, or a result is missing or damaged.
    """
    path = Path(path)
    if path.exists():
        raise OutputError("the file is there already", where=path, remedy="give another name")
    if scenarios(store.root) is None:
        raise OutputError("not a ShiftBench result folder", where=store.root, remedy="give the --out of a run")
    tasks = [(kind, key) for kind, key, _ in records(store.root)] if ids is None else [_split(i) for i in sorted(ids)]
    temporary = path.with_name(f".{path.name}.{token()}")
    with explained(path):
        try:
            with tarfile.open(temporary, mode="w:", format=tarfile.PAX_FORMAT) as tar:
                add_file(tar, META, store.root / META)
                for name in plans(store.root):
                    add_file(tar, name, store.root / name)
                for kind, key in tasks:
                    add_task(tar, store, kind, key)
            flush(temporary)
            temporary.rename(path)
            flush_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    return len(tasks)


def _split(task_id: str) -> tuple[str, str]:
    kind, _, key = task_id.partition("/")
    return kind, key


def merge(into: Store, sources: Sequence[Path]) -> Merged:
    """Adds the results of other folders or of their exports to a result folder, which may be new.

    Everything is checked before anything is changed: formats, scenarios, every record and every array against its
    hash, and every result that two sides have. Costs (`envelope.COSTS`) may differ, and the first to come stays.

    Raises:
        OutputError: a source is damaged, of another format or scenario version, holds links or paths that leave the
            folder, or two sides have different results of one task; both are named.
    """
    opened = [_members(Path(source)) for source in sources]
    try:
        identity = _scenarios(into, opened)
        fresh, there = _checked(into, opened)
        into.open_for(identity)
        added = 0
        for members, name in fresh:
            added += adopt(into, members, envelope_in(members, name))
        for members in opened:
            _add_plans(into, members)
        into.sweep()
    finally:
        for members in opened:
            members.close()
    return Merged(added, there + len(fresh) - added)


def _members(source: Path) -> Members:
    if source.is_dir():
        return FolderMembers(source)
    if not source.is_file():
        raise OutputError("no such file or folder", where=source, remedy="give a result folder or what export wrote")
    return TarMembers(source, source)


def _scenarios(into: Store, opened: Sequence[Members]) -> dict[str, str]:
    """The scenarios of all sides, which agree in what they share."""
    known = dict(scenarios(into.root) or {})
    for members in opened:
        with members.open(META) as handle:
            try:
                meta: Any = json.loads(handle.read())
            except ValueError:
                raise OutputError("meta.json is damaged", where=members.where, remedy="export it again") from None
        mine = scenarios_of(meta, members.where)
        refuse_others(known, mine, f"{members.where} beside {into.root}")
        known |= mine
    return known


def _checked(into: Store, opened: Sequence[Members]) -> tuple[list[tuple[Members, str]], int]:
    """(source, record) of every result to be added, and the number of those that are there already."""
    fresh: dict[str, tuple[Members, str]] = {}
    there = 0
    for members in opened:
        for name in members.names():
            if not name.startswith("records/"):
                _refuse_foreign(members, name)
                continue
            envelope = envelope_in(members, name)
            kind, key = envelope["kind"], envelope["key"]
            task, side = f"{kind}/{key}", Path(f"{members.where}") / name
            if not dropped_in(members, envelope):
                check_arrays(members, envelope)
            if into.done(kind, key):
                refuse_conflict(task, into.envelope(kind, key), into.record_path(kind, key), envelope, side)
                there += 1
            elif task in fresh:
                other, at = fresh[task]
                refuse_conflict(task, envelope_in(other, at), Path(f"{other.where}") / at, envelope, side)
                there += 1
            else:
                fresh[task] = members, name
    return list(fresh.values()), there


def _refuse_foreign(members: Members, name: str) -> None:
    """Of an archive: what is neither meta.json nor a plan, nor an array that a record may name."""
    if name != META and not PLAN.fullmatch(name) and not name.startswith("artifacts/"):
        raise OutputError(f"'{name}' is no part of an export", where=members.where, remedy="do not use what is in it")


def _add_plans(into: Store, members: Members) -> None:
    for name in members.names():
        target = into.root / name
        if PLAN.fullmatch(name) and not target.exists():
            with members.open(name) as handle, explained(target):
                write_whole(target, handle.read())
