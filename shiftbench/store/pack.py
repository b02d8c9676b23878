"""One result as bytes, for engines whose machines share no file system."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store.envelope import refuse_conflict
from shiftbench.store.members import (
    Members,
    TarMembers,
    add_bytes,
    add_file,
    arrays_at,
    check_arrays,
    copy_arrays,
    dropped_in,
    envelope_in,
    task_of,
)
from shiftbench.store.places import dropped_file
from shiftbench.store.store import Store

WHERE = "a packed result"


def pack(store: Store, kind: str, key: str) -> bytes:
    """A finished task's record and arrays in one piece.

    Raises:
        OutputError: the record is missing or damaged.
    """
    blob = io.BytesIO()
    with tarfile.open(fileobj=blob, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        add_task(tar, store, kind, key)
    return blob.getvalue()


def add_task(tar: tarfile.TarFile, store: Store, kind: str, key: str) -> None:
    """Puts a finished task's record and arrays into a tar archive, under their places in a result folder."""
    envelope, record = store.envelope(kind, key), store.record_path(kind, key)
    add_file(tar, record.relative_to(store.root).as_posix(), record)
    if store.dropped(kind, key):
        note = dropped_file(store.root, kind, key)
        add_bytes(tar, note.relative_to(store.root).as_posix(), note.read_bytes())
        return
    for path in sorted(envelope["files"]):
        array = store.artifact(kind, key) / path
        if not array.is_file():
            raise OutputError("the file is missing", where=array, remedy="run `shiftbench verify DIR --repair`")
        add_file(tar, f"{arrays_at(envelope)}/{path}", array)


def unpack(store: Store, blob: bytes) -> None:
    """Publishes a packed result; one that is there already is kept.

    Raises:
        OutputError: the pack is damaged, holds links or paths that leave the folder, or says something else than what
            is there already; both sides are named.
    """
    members = TarMembers(io.BytesIO(blob), WHERE)
    names = [name for name in members.names() if name.startswith("records/")]
    if len(names) != 1 or task_of(names[0]) is None:
        raise OutputError("not one result", where=WHERE, remedy="pack it again")
    envelope = envelope_in(members, names[0])
    if not dropped_in(members, envelope):
        check_arrays(members, envelope)
    adopt(store, members, envelope)


def adopt(store: Store, members: Members, envelope: Mapping[str, Any]) -> bool:
    """Publishes a result of another folder under its author's name; whether it was not there yet.

    Raises:
        OutputError: another result is there.
    """
    kind, key = envelope["kind"], envelope["key"]
    if store.done(kind, key) and not (store.dropped(kind, key) and not dropped_in(members, envelope)):
        _compare(store, members, envelope)
        return False
    by, body = envelope["by"], envelope["body"]
    files: dict[str, tuple[str, int]] = {name: (digest, size) for name, (digest, size) in envelope["files"].items()}
    if dropped_in(members, envelope):
        won = store.place(kind, key, body, None, by, files)
    elif envelope["artifact"] is None:
        won = store.place(kind, key, body, None, by)
    else:
        with store.workspace() as folder:
            copy_arrays(members, envelope, folder)
            won = store.place(kind, key, body, folder, by, files)
    if not won:
        _compare(store, members, envelope)
    return won


def _compare(store: Store, members: Members, envelope: Mapping[str, Any]) -> None:
    kind, key = envelope["kind"], envelope["key"]
    refuse_conflict(
        f"{kind}/{key}",
        *(store.envelope(kind, key), store.record_path(kind, key)),
        *(envelope, members.where),
    )
