"""A record file: what a task found, the hashes of its arrays, who made it, and the hash of all that."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store.files import dumped
from shiftbench.version import __version__

FORMAT = 2
# Keys of a body, at any depth, that say what an attempt cost and how it was run: two machines that find the same
# differ in them, so that they are no part of what is compared.
COSTS = frozenset({"seconds", "seconds_adapt", "seconds_setup", "speed", "peak_mb", "isolation"})
SEAL = ',"sha256":"'  # of the keys of an envelope, this one sorts last: the seal is the end of the text

Files = Mapping[str, tuple[str, int]]  # path inside the artefact, with "/" -> SHA-256 (hex) and bytes


def author() -> dict[str, Any]:
    """Who makes a record now."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "pid": os.getpid(), "shiftbench": __version__, "at": at}


def sealed(
    kind: str, key: str, body: Mapping[str, Any], files: Files, artifact: str | None, by: Mapping[str, Any]
) -> bytes:
    """The text of a record, which ends with the hash of everything before."""
    fields = {
        "format": FORMAT,
        "kind": kind,
        "key": key,
        "body": body,
        "files": {name: list(found) for name, found in files.items()},
        "artifact": artifact,
        "by": by,
    }
    text = dumped(fields)
    return f'{text[:-1]}{SEAL}{sha256(text.encode()).hexdigest()}"}}'.encode()


def opened(raw: bytes, kind: str, key: str, where: object) -> dict[str, Any]:
    """The fields of a record.

    Raises:
        OutputError: a byte of it is not what was written, or it is not that of this task.
    """
    rest, seal, end = raw.rpartition(SEAL.encode())
    whole = bool(seal) and end == f'{sha256(rest + b"}").hexdigest()}"}}'.encode()
    fields = json.loads(raw) if whole else {}
    if not whole or fields.get("format") != FORMAT:
        raise damaged(where)
    if (fields["kind"], fields["key"]) != (kind, key):
        raise OutputError(f"the record is that of {fields['kind']}/{fields['key']}", where=where, remedy=REPAIR)
    return fields


REPAIR = "run `shiftbench verify DIR --repair`"


def damaged(where: object) -> OutputError:
    """The error of a record that is not what was written."""
    return OutputError("the record is damaged", where=where, remedy=REPAIR)


def content(envelope: Mapping[str, Any]) -> str:
    """What two records of one task must agree in: the body without costs, and the hashes of the arrays."""
    return dumped([_free_of_costs(envelope["body"]), {name: list(found) for name, found in envelope["files"].items()}])


def _free_of_costs(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _free_of_costs(part) for name, part in value.items() if name not in COSTS}
    return [_free_of_costs(part) for part in value] if isinstance(value, list | tuple) else value


def refuse_conflict(task: str, one: Mapping[str, Any], where: Path, other: Mapping[str, Any], beside: object) -> None:
    """Compares two records of one task.

    Raises:
        OutputError: they say different things; both sides are named.
    """
    if content(one) != content(other):
        names = sorted(n for n in {*one["files"], *other["files"]} if one["files"].get(n) != other["files"].get(n))
        what = f"in {', '.join(names)}" if names else "in the record"
        raise OutputError(
            f"{task} has two results that differ {what}: {where} ({_made(one)}) and {beside} ({_made(other)})",
            remedy="keep one of them: delete the other's record, or leave that folder out",
        )


def _made(envelope: Mapping[str, Any]) -> str:
    by = envelope["by"]
    return f"made on {by['host']} at {by['at']}"
