"""The kill test behind `shiftbench doctor --shared-fs DIR`: whether a file system keeps what a result folder needs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shiftbench.diagnosis import Finding
from shiftbench.errors import OutputError
from shiftbench.keeping.shared_fs_process import KIND, Ground, fault_of
from shiftbench.store.files import created, explained, remove, write_bytes
from shiftbench.store.owners import owner_of, token

NAME = ".shiftbench-kill-test"  # in the folder that is tested: two machines that test it at once meet there
ROLES = {"both": ("write", "write", "write", "read"), "writer": ("write",) * 3, "reader": ("read",)}
KILL_SECONDS = (0.2, 0.8)  # of a writer's life
SKEW_SECONDS = 2.0  # between two clocks, that is worth a word
LEFT_SECONDS = 600.0  # after which a machine that takes part is taken to be gone


@dataclass
class _Heard:
    """What all processes have said, of every machine.

    Attributes:
        won: who published each key, one entry for each that believes it did.
        faults: what a reader saw that was not whole.
    """

    won: dict[str, list[str]] = field(default_factory=dict)
    read: int = 0
    faults: list[str] = field(default_factory=list)
    swapped: Counter[str] = field(default_factory=Counter)
    twice: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


def shared_fs(folder: Path, *, role: str = "both", seconds: float = 20.0) -> Iterator[Finding]:
    """What a file system does under processes that publish results, are killed at random moments, and go on.

    Run on two machines at once with the same folder, it tests what they see of each other. It cannot cut the power:
    what a server has not written down when it goes is beyond it.

    Args:
        folder: on the file system to be tested; it is made if it is not there, and nothing is left in it.
        role: "both", or "writer" on one machine and "reader" on another.
        seconds: that the test takes, about.

    Raises:
        OutputError: the folder cannot be written, or the role is unknown.
    """
    if role not in ROLES:
        raise OutputError(f"unknown role '{role}'", where="--role", remedy=f"one of: {', '.join(ROLES)}")
    made = not folder.exists()
    ground = Ground(folder.absolute() / NAME)
    with explained(folder), _taking_part(ground):
        yield from _primitives(ground)
        kills = _kill_test(ground, ROLES[role], seconds)
        yield from _judged(ground, kills)
    if made:
        with contextlib.suppress(OSError):
            folder.rmdir()


@contextlib.contextmanager
def _taking_part(ground: Ground) -> Iterator[None]:
    """Signs in, and removes everything at the end where no other machine takes part any more."""
    here = ground.root / "here"
    here.mkdir(parents=True, exist_ok=True)
    mine = here / token()
    mine.touch()
    try:
        yield
    finally:
        mine.unlink(missing_ok=True)
        if not any(_takes_part(path) for path in here.iterdir()):
            remove(ground.root)


def _takes_part(path: Path) -> bool:
    owner = owner_of(path.name)
    if owner is None or owner.gone:
        return False
    with contextlib.suppress(OSError):
        return time.time() - path.stat().st_mtime < LEFT_SECONDS
    return False


def _primitives(ground: Ground) -> Iterator[Finding]:
    """Exclusive creation, hard links, the clock and what it costs to be safe, each on its own."""
    work = ground.root / token()
    work.mkdir()
    first, second = work / "first", work / "second"
    exclusive = created(first, "1") and not created(first, "2") and first.read_text() == "1"
    words = "a file is made once" if exclusive else "a file that is there can be made again: claims do not hold here"
    yield Finding("exclusive create", exclusive, words)
    yield _links(first, second)
    yield _clock(work)
    started, count = time.perf_counter(), 20
    for i in range(count):
        write_bytes(work / str(i), b"x")
    cost = (time.perf_counter() - started) / count * 1000
    yield Finding("flush", True, f"a small file is on disk after {cost:.1f} ms; a task writes about four")
    remove(work)


def _links(first: Path, second: Path) -> Finding:
    try:
        os.link(first, second)
    except OSError as error:
        words = f"none here ({error.strerror}); records are renamed under a lock instead, which is a little less safe"
        return Finding("hard links", True, words)
    try:
        os.link(first, second)
    except FileExistsError:
        return Finding("hard links", True, "a link is made once: of two processes, one publishes a result")
    return Finding("hard links", False, "a link replaces a file that is there: a result could be published twice")


def _clock(work: Path) -> Finding:
    probe = work / "clock"
    before = time.time()
    probe.touch()
    skew = probe.stat().st_mtime - (before + time.time()) / 2
    ok = abs(skew) < SKEW_SECONDS
    remedy = "" if ok else "; claims go by the file system's clock alone, but set this machine's (chrony, ntpd)"
    return Finding("clock", ok, f"the file system's is {skew:+.2f} s from this machine's{remedy}")


def _kill_test(ground: Ground, roles: Sequence[str], seconds: float) -> int:
    """Runs the processes and kills writers at random moments; how often."""
    draw, kills = random.Random(), 0
    end = time.monotonic() + seconds
    running = [_started(role, ground) for role in roles]
    try:
        while time.monotonic() < end:
            time.sleep(draw.uniform(*KILL_SECONDS))
            writers = [i for i, role in enumerate(roles) if role == "write"]
            if not writers:
                continue
            victim = draw.choice(writers)
            kills += running[victim].poll() is None
            _end(running[victim])
            running[victim] = _started("write", ground)
    finally:
        for process in running:
            _end(process)
    return kills


def _started(role: str, ground: Ground) -> subprocess.Popen[bytes]:
    package = str(Path(__file__).parents[2])
    path = os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "shiftbench.keeping.shared_fs_process", role, str(ground.root)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _heard(ground: Ground) -> _Heard:
    """All logs; the last line of a process that was killed may be a half one, and says nothing."""
    heard = _Heard()
    for path in sorted(ground.said.glob("*.jsonl")) if ground.said.is_dir() else ():
        owner = owner_of(path.name)
        heard.hosts |= {owner.host} if owner else set()
        for raw in path.read_bytes().split(b"\n")[:-1]:
            line = json.loads(raw)
            heard.read += "read" in line
            heard.faults += [line["fault"]] if "fault" in line else []
            heard.twice += [f"{line['twice']} is held by {line['other']} too"] if "twice" in line else []
            heard.swapped[line.get("swapped", "")] += "swapped" in line
            if "won" in line:
                heard.won.setdefault(line["won"], []).append(path.name)
    return heard


def _judged(ground: Ground, kills: int) -> Iterator[Finding]:
    """What the logs and the folder say when the processes are gone."""
    heard, store = _heard(ground), ground.store
    published = store.finished(KIND)
    machines = f"{len(heard.hosts)} machine{'s' if len(heard.hosts) != 1 else ''}"
    text = f"{len(published)} results by {machines}, {kills} processes killed, {heard.read} readings"
    yield Finding("kill test", bool(published) and not (heard.read == 0 and kills == 0), text)
    gone = sorted(key for key in heard.won if key not in published)
    yield _finding("kept after a kill", gone, "every result that was acknowledged is there", "results are gone")
    several = sorted(key for key, winners in heard.won.items() if len(winners) > 1)
    yield _finding("published once", several, "of all who published a task, one won", "tasks have two winners")
    broken = [fault for key in published if (fault := fault_of(store, key)) is not None]
    yield _finding("whole results", [*heard.faults, *broken], "nobody saw half a result", "half results were seen")
    mixed = [f"{words} ({times} times)" for words, times in heard.swapped.items() if words]
    yield _finding("replaced file", mixed, "a file that is replaced is always there and whole", "not atomic")
    yield _finding("claims", heard.twice, "no task was held by two processes", "tasks were held twice")


def _finding(name: str, faults: Sequence[str], good: str, bad: str) -> Finding:
    """One check of the kill test, with the first fault where there are any."""
    where = "do not write results of several machines into one folder here"
    return Finding(name, not faults, f"{bad}: {len(faults)}, the first: {faults[0]}; {where}" if faults else good)
