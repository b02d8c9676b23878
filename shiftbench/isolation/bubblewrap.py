"""The sandbox: bubblewrap without network or capabilities, and of the disk only what Python and a GPU's driver need."""

from __future__ import annotations

import functools
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import shiftbench
from shiftbench.isolation.limits import FILES_MB, MIB
from shiftbench.isolation.stage import Stage

PACKAGE = "/stage"  # where the guest sees the staged package
HOME = "/guest"  # its working folder
WRITABLE = (HOME, "/tmp", "/dev/shm")  # all that it can write to
PROBE_SECONDS = 20.0
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "localtime", "fonts")
# Of an interpreter's prefix, so that data beside them stays out of sight.
PREFIX_PARTS = ("bin", "lib", "lib32", "lib64", "libexec", "share", "nvvm", "targets", "pyvenv.cfg")
SITES = ("site-packages", "dist-packages")
USER = ("--uid", "1000", "--gid", "1000")


@dataclass(frozen=True)
class Bubblewrap:
    """A bubblewrap that works here: its program, the options of namespaces, and whether it limits a tmpfs's size."""

    program: str
    options: tuple[str, ...]
    sizes: bool

    def command(
        self,
        stage: Stage,
        inner: Sequence[str],
        *,
        cuda: bool = False,
        files: Mapping[Path, str] | None = None,
        hide: Sequence[Path] = (),
    ) -> list[str]:
        """The command line that runs `inner` in a sandbox.

        Args:
            stage: its package is seen at `PACKAGE`.
            inner: program and arguments, as paths outside.
            cuda: whether the GPU's devices are there.
            files: that are seen, each at the place given, read-only.
            hide: files and folders that are not seen even where they lie inside something that is.
        """
        mounts = _mounts(stage, cuda=cuda, files=files or {})
        mounts |= {path: _covered(path) for path in _visible([*own_places(), *hide], mounts)}
        mounts |= {Path(p): [*self._size(), "--tmpfs", p] for p in WRITABLE}
        arguments = [a for path in sorted(mounts, key=lambda p: len(p.parts)) for a in mounts[path]]
        closed = ["--remount-ro", "/dev", "--remount-ro", "/"]  # else both are room without a limit
        return [self.program, *self.options, *arguments, *closed, "--chdir", HOME, "--", *inner]

    def _size(self) -> list[str]:
        return ["--size", str(FILES_MB * MIB)] if self.sizes else []


@functools.cache
def bubblewrap() -> Bubblewrap | str:
    """The bubblewrap of this machine, tried once per process; where there is none that works, why, as a clause."""
    if sys.platform != "linux":
        return "bubblewrap is for Linux alone"
    program = shutil.which("bwrap")
    if program is None:
        return "bubblewrap is not installed"
    offered = subprocess.run([program, "--help"], capture_output=True, text=True, check=False)
    known = offered.stdout + offered.stderr
    if "--cap-drop" not in known or "--remount-ro" not in known:
        return "this bubblewrap is too old"
    fault = ""
    for namespaces in _namespaces(known):
        found = Bubblewrap(program, (*namespaces, *_FIRM), "--size" in known)
        fault = _fault(found)
        if not fault:
            return found
    return f"bubblewrap cannot make a sandbox here ({fault})"


_FIRM = ("--die-with-parent", "--new-session", "--cap-drop", "ALL", "--hostname", "guest")


def _namespaces(known: str) -> Iterator[tuple[str, ...]]:
    """Options of namespaces, the strongest first; without one of users only root, or a setuid program, gets through."""
    if "--disable-userns" in known:
        yield ("--unshare-all", "--unshare-user", "--disable-userns", *USER)
    yield ("--unshare-all", "--unshare-user", *USER)
    yield ("--unshare-all",)


def _fault(found: Bubblewrap) -> str:
    """Why this interpreter does not start in the sandbox, in bubblewrap's words; empty where it does."""
    stage = Stage(())
    try:
        line = found.command(stage, [sys.executable, "-I", "-S", "-c", "pass"])
        done = subprocess.run(line, env={}, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    finally:
        stage.close()
    words = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
    return words[0].removeprefix("bwrap: ") if done.returncode else ""


def own_places() -> list[Path]:
    """Where this package lies: its checkout, or its folder among installed packages."""
    package = Path(shiftbench.__file__).resolve().parent
    own = package.parent if (package.parent / "pyproject.toml").is_file() else package
    return [own, *(place / "shiftbench" for place in sites())]


def sites() -> list[Path]:
    """Folders of installed packages that this interpreter imports from."""
    found = [Path(entry) for entry in sys.path if os.path.isabs(entry)]
    return [p for p in found if p.is_dir() and (p.name in SITES or next(p.glob("*.dist-info"), None) is not None)]


def further_sites() -> list[Path]:
    """Those that the interpreter does not find by itself with another home: a user's own, a cluster's modules."""
    return [path for path in sites() if str(path) not in site.getsitepackages()]


def _mounts(stage: Stage, *, cuda: bool, files: Mapping[Path, str]) -> dict[Path, list[str]]:
    """Place inside to the arguments that put it there; a deeper place goes over a shallower one."""
    mounts: dict[Path, list[str]] = {Path("/usr"): _bound("/usr")}
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = Path("/", name)
        if place.is_symlink():
            mounts[place] = ["--symlink", os.readlink(place), str(place)]
        elif place.is_dir():
            mounts[place] = _bound(place)
    seen = [*(Path("/etc", name) for name in ETC), *_interpreter(), *sites(), *(Path("/sys"),) * cuda]
    mounts |= {path: _bound(path) for path in seen if path.exists()}
    mounts[Path("/etc/passwd")] = _bound(stage.folder / "passwd", "/etc/passwd")
    mounts[Path("/proc")] = ["--proc", "/proc"]
    mounts[Path("/dev")] = ["--dev", "/dev"]
    if cuda:
        mounts |= {p: ["--dev-bind", str(p), str(p)] for p in _gpu_devices()}
    mounts[Path(PACKAGE)] = _bound(stage.package, PACKAGE)
    return mounts | {Path(place): _bound(path, place) for path, place in files.items()}


def _interpreter() -> list[Path]:
    """What starts Python: the parts of its prefixes, and every link on the way to the program."""
    prefixes = [Path(p) for p in (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)]
    named = dict.fromkeys([*prefixes, *(p.resolve() for p in prefixes)])
    found = [p / part for p in named if str(p) not in ("/", "/usr") for part in PREFIX_PARTS]
    link = Path(sys.executable)
    while link.is_symlink():
        found.append(link)
        link = Path(os.path.normpath(link.parent / os.readlink(link)))
    held = {path for path in found if path.is_dir()}
    return [p for p in [*found, link] if p in held or not held & set(p.parents)]


def _gpu_devices() -> list[Path]:
    places = [*Path("/dev").glob("nvidia*"), Path("/dev/kfd"), Path("/dev/dri")]
    return [place for place in places if place.exists()]


def _visible(places: Sequence[Path], mounts: Mapping[Path, list[str]]) -> list[Path]:
    """Those that lie inside something that is mounted, or are it."""
    named = {q for p in places for q in (Path(os.path.abspath(p)), p.resolve())}
    return sorted(p for p in named if p.exists() and (p in mounts or set(p.parents) & set(mounts)))


def _covered(path: Path) -> list[str]:
    return ["--tmpfs", str(path), "--remount-ro", str(path)] if path.is_dir() else _bound("/dev/null", path)


def _bound(path: object, place: object | None = None) -> list[str]:
    return ["--ro-bind", str(path), str(path if place is None else place)]
