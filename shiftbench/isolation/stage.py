"""A private folder with the part of this package that a guest needs, and nothing else of it."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import py_compile
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import shiftbench
from shiftbench.guest.rooms import ROOMS

PREFIX = "shiftbench-guest-"
PASSWD = "guest:x:1000:1000:guest:/tmp:/bin/sh\n"  # so that asking for the user's name does not fail in a sandbox


class Stage:
    """Copies of exactly the rooms that are named, as a package `shiftbench`.

    Args:
        rooms: modules and packages of this package ("types", "train", "spec.training"); a package stands for all its
            modules, a module inside one for itself and the `__init__` of what holds it.
        source: the package's folder.
    """

    def __init__(self, rooms: Sequence[str] = ROOMS, source: Path = Path(shiftbench.__file__).parent):
        sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
        self.package = self.folder / "package"
        self.files = _files(rooms, source)
        for name in self.files:
            copy = self.package / "shiftbench" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, copy)
            py_compile.compile(str(copy), dfile=f"shiftbench/{name}", doraise=True)  # or every guest would compile
        (self.folder / "passwd").write_text(PASSWD)

    def bytes(self) -> int:
        """Size of everything staged, compiled copies included."""
        return sum(p.stat().st_size for p in self.package.rglob("*") if p.is_file())

    def working_folder(self) -> Path:
        """A new empty folder for one guest."""
        return Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))

    def close(self) -> None:
        """Takes the folder away."""
        shutil.rmtree(self.folder, ignore_errors=True)


@functools.cache
def staged() -> Stage:
    """This process's stage, made once and removed at its exit."""
    stage = Stage()
    atexit.register(stage.close)
    return stage


def sweep() -> None:
    """Removes the stages of this user's processes that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(folder.name.removeprefix(PREFIX).partition("-")[0])
            if not folder.is_symlink() and _own(folder) and not _runs(pid):
                shutil.rmtree(folder, ignore_errors=True)


def _files(rooms: Sequence[str], source: Path) -> list[str]:
    """The modules' paths inside the package, sorted.

    Raises:
        FileNotFoundError: a room that is not there.
    """
    found = {"__init__.py"}
    for room in rooms:
        place = source.joinpath(*room.split("."))
        modules = list(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
        if not all(module.is_file() for module in modules) or not modules:
            raise FileNotFoundError(f"{place}: a guest needs this module")
        for module in modules:
            above = [folder / "__init__.py" for folder in module.parents if source in folder.parents]
            found |= {path.relative_to(source).as_posix() for path in (module, *above) if path.is_file()}
    return sorted(found)


def _own(path: Path) -> bool:
    return not hasattr(os, "getuid") or path.stat().st_uid == os.getuid()


def _runs(pid: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 would end it there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
