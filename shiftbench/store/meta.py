"""What a result folder is of: its format and its scenarios, in meta.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.store.envelope import FORMAT
from shiftbench.store.files import explained, locked, read_json, write_json
from shiftbench.store.owners import owner_of
from shiftbench.store.places import META

LOCK = ".meta.lock"


def admit(root: Path, identity: Mapping[str, str]) -> None:
    """Creates or re-opens a result folder for scenarios {name: "version:digest"}, also when several do at once.

    Raises:
        OutputError: the folder cannot be written, is not a result folder, is one of another format, or holds another
            version of a scenario.
    """
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / LOCK):  # shows besides that the folder can be written
            known = scenarios(root)
            if known is None and any(_foreign(path.name) for path in root.iterdir()):
                raise OutputError(
                    "the folder is not empty and not a ShiftBench result folder",
                    where=root,
                    remedy="give an empty or new folder with --out",
                )
            refuse_others(known or {}, identity, root)
            if known is None or set(identity) - set(known):
                write_json(root / META, {"format": FORMAT, "scenarios": {**(known or {}), **identity}})


def _foreign(name: str) -> bool:
    """Whether a file is neither the lock nor something that a process who waits for the lock has made."""
    return not name.startswith(LOCK) and owner_of(name) is None


def scenarios(root: Path) -> dict[str, str] | None:
    """The scenarios of a result folder; None where there is no meta.json.

    Raises:
        OutputError: the folder is of another format.
    """
    return scenarios_of(read_json(root / META), root) if (root / META).is_file() else None


def scenarios_of(meta: Any, where: object) -> dict[str, str]:
    """The scenarios of a parsed meta.json.

    Raises:
        OutputError: it is of another format.
    """
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else None
        raise OutputError(
            f"result folder of format {found}, this version writes format {FORMAT}",
            where=where,
            remedy="give another folder with --out",
        )
    return dict(meta.get("scenarios", {}))


def refuse_others(known: Mapping[str, str], identity: Mapping[str, str], where: object) -> None:
    """Compares versions and digests of the scenarios that both have.

    Raises:
        OutputError: one differs.
    """
    for name, now in identity.items():
        before = known.get(name, now)
        if before != now:
            (v0, _), (v1, _) = before.split(":"), now.split(":")
            change = f"version {v0}, this is version {v1}" if v0 != v1 else f"another text of version {v0}"
            raise OutputError(
                f"the results were made with scenario '{name}' in {change}",
                where=where,
                remedy="give another folder with --out, or remove this one",
            )
