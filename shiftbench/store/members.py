"""Results on their way: what may be in a tar file or a folder of somebody else's, and nothing beside."""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from shiftbench.errors import OutputError
from shiftbench.store.envelope import opened
from shiftbench.store.files import BLOCK, hashed
from shiftbench.store.places import META, NAME, listed, records

PLAN = re.compile(r"plans/[0-9a-f]+\.json\.gz")


def checked_name(name: str, where: object) -> str:
    """A path inside a result folder, "/" between its parts.

    Raises:
        OutputError: it leaves the folder.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ":" in name or ".." in parts or "\0" in name:
        raise OutputError(f"the path '{name}' leaves the folder", where=where, remedy="do not use what is in it")
    return "/".join(parts)


class TarMembers:
    """The files of a tar archive by name; links and devices are refused, and names that leave the folder."""

    def __init__(self, source: Path | BinaryIO, where: object):
        self.where = where
        try:
            if isinstance(source, Path):
                self.tar = tarfile.open(source, mode="r:")  # noqa: SIM115 - closed by close
            else:
                self.tar = tarfile.open(fileobj=source, mode="r:")  # noqa: SIM115
            members = self.tar.getmembers()
        except (tarfile.TarError, EOFError) as error:
            raise OutputError(
                f"no tar file that `shiftbench export` has written ({error})", where=where, remedy="export it again"
            ) from None
        self.files: dict[str, tarfile.TarInfo] = {}
        for member in members:
            name = checked_name(member.name, where)
            if member.isdir():
                continue
            if not member.isreg() or name in self.files:
                what = "is there twice" if member.isreg() else "is a link or a device"
                raise OutputError(f"'{name}' {what}", where=where, remedy="do not use what is in it")
            self.files[name] = member

    def names(self) -> Iterator[str]:
        """Of all files."""
        return iter(self.files)

    def open(self, name: str) -> BinaryIO:
        """One file."""
        handle = self.tar.extractfile(self.files[name]) if name in self.files else None
        if handle is None:
            raise OutputError("no such file", where=f"{self.where}: {name}", remedy="export the results again")
        return handle  # type: ignore[return-value]

    def close(self) -> None:
        """Closes the archive."""
        self.tar.close()


class FolderMembers:
    """The files of a result folder by name, read only where they are regular files inside it."""

    def __init__(self, root: Path):
        self.where: object = root
        self.root = root

    def names(self) -> Iterator[str]:
        """Of meta.json, plans and records."""
        yield META
        yield from plans(self.root)
        for _, _, path in records(self.root):
            yield path.relative_to(self.root).as_posix()

    def open(self, name: str) -> BinaryIO:
        """One file; a link on the way to it is refused."""
        path = self.root
        for part in PurePosixPath(checked_name(name, self.where)).parts:
            path = path / part
            if path.is_symlink():
                raise OutputError("a link in a result folder", where=path, remedy="put the file itself there")
        try:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                raise OutputError("no regular file", where=path, remedy="do not use what is in it")
            return path.open("rb")
        except FileNotFoundError:
            raise OutputError("no such file", where=path, remedy="run `shiftbench verify DIR` there") from None

    def close(self) -> None:
        """Nothing is held open."""


Members = TarMembers | FolderMembers


def plans(root: Path) -> list[str]:
    """The plans in a result folder."""
    return sorted(name for entry in listed(root / "plans") if PLAN.fullmatch(name := f"plans/{entry.name}"))


def task_of(name: str) -> tuple[str, str] | None:
    """Kind and key of a record by its place; None for another file."""
    parts = name.split("/")
    if len(parts) != 4 or parts[0] != "records" or not parts[3].endswith(".json"):
        return None
    kind, key = parts[1], parts[3].removesuffix(".json")
    return (kind, key) if NAME.fullmatch(kind) and NAME.fullmatch(key) and parts[2] == key[:2] else None


def envelope_in(members: Members, name: str) -> dict[str, Any]:
    """A record, whose hash was seen to fit.

    Raises:
        OutputError: it is damaged, of another format, or not that of its place.
    """
    task = task_of(name)
    where = f"{members.where}: {name}"
    if task is None:
        raise OutputError("not the place of a record", where=where, remedy="do not use what is in it")
    with members.open(name) as handle:
        envelope = opened(handle.read(), *task, where)
    for path in envelope["files"]:
        checked_name(path, where)
    if envelope["artifact"] is not None:
        if not NAME.fullmatch(envelope["artifact"]):
            raise OutputError("the artefact's name leaves the folder", where=where, remedy="do not use what is in it")
    return envelope


def arrays_at(envelope: Mapping[str, Any]) -> str:
    """Where the arrays of a record lie inside a result folder."""
    return f"artifacts/{envelope['kind']}/{envelope['key'][:2]}/{envelope['artifact']}"


def dropped_in(members: Members, envelope: Mapping[str, Any]) -> bool:
    """Whether a record comes without its arrays, since they were dropped."""
    name = f"artifacts/{envelope['kind']}/{envelope['key'][:2]}/{envelope['key']}.dropped"
    if isinstance(members, TarMembers) and name not in members.files:
        return False
    if isinstance(members, FolderMembers) and not (members.root / name).is_file():
        return False
    with members.open(name) as handle:
        return handle.read() == str(envelope["artifact"]).encode()


def check_arrays(members: Members, envelope: Mapping[str, Any]) -> None:
    """Hashes the arrays of a record.

    Raises:
        OutputError: one is missing, or not the one that was written.
    """
    for path, (digest, size) in envelope["files"].items():
        name = f"{arrays_at(envelope)}/{path}"
        with members.open(name) as handle:
            if hashed(handle) != (digest, size):
                raise OutputError(
                    "the file is not the one that was written",
                    where=f"{members.where}: {name}",
                    remedy="run `shiftbench verify DIR --repair` where it comes from",
                )


def copy_arrays(members: Members, envelope: Mapping[str, Any], folder: Path) -> None:
    """Writes the arrays of a record into a folder."""
    for path in envelope["files"]:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with members.open(f"{arrays_at(envelope)}/{path}") as handle, target.open("wb") as written:
            while block := handle.read(BLOCK):
                written.write(block)


def add_bytes(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Puts a small file into a tar archive, the same bytes at any time."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def add_file(tar: tarfile.TarFile, name: str, path: Path) -> None:
    """Puts a file into a tar archive, the same bytes at any time."""
    with path.open("rb") as handle:
        member = tarfile.TarInfo(name)
        member.size = os.fstat(handle.fileno()).st_size
        tar.addfile(member, handle)
