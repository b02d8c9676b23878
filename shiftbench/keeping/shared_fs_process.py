"""The processes of the kill test of a file system: writers that are killed at any moment, and readers."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from shiftbench.errors import OutputError
from shiftbench.store import Store, write_json
from shiftbench.store.claims import Claims
from shiftbench.store.envelope import author
from shiftbench.store.files import created, hashed_file
from shiftbench.store.owners import owner_of, token

KIND = "kill-test"
BYTES = (10, 100_000)  # of the arrays of a record
PAUSE_SECONDS = 0.02  # at most, between two records of a writer


@dataclass(frozen=True)
class Ground:
    """The folder of a test: a store, a file that is replaced again and again, and what each process says it saw."""

    root: Path

    @property
    def store(self) -> Store:
        """A store that remembers nothing of earlier readings."""
        return Store(self.root / "store")

    @property
    def swapped(self) -> Path:
        """The file that is replaced."""
        return self.root / "swapped.json"

    @property
    def said(self) -> Path:
        """Folder of the logs."""
        return self.root / "said"

    @property
    def held(self) -> Path:
        """Folder with a file for each claim that is held."""
        return self.root / "held"

    def log(self, role: str) -> Callable[[dict[str, str]], None]:
        """A log of this process: what is said is on disk before the next step."""
        self.said.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.said / f"{role}.{token()}.jsonl", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)

        def say(line: dict[str, str]) -> None:
            os.write(handle, json.dumps(line).encode() + b"\n")
            os.fsync(handle)

        return say


def key_of(number: int) -> str:
    """Key of the task of this number."""
    return sha256(str(number).encode()).hexdigest()[:40]


def write(ground: Ground) -> None:
    """Publishes task after task, each one against the other writers, until it is killed."""
    say, draw = ground.log("writer"), random.Random()
    ground.held.mkdir(parents=True, exist_ok=True)
    store, number = ground.store, 0
    with Claims(store) as claims:
        while True:
            while store.done(KIND, key_of(number)):
                number += 1
            task = f"{KIND}/{key_of(number)}"
            if held := claims.take(task):
                _hold(ground, task, say)
            won = _publish(store, key_of(number), number, draw)  # claim or not: the record alone decides
            say({"won" if won else "saw": key_of(number)})
            if held:
                _path_of(ground, task).unlink(missing_ok=True)
                claims.release(task)
            _swap(ground, draw)
            time.sleep(draw.uniform(0, PAUSE_SECONDS))


def _publish(store: Store, key: str, number: int, draw: random.Random) -> bool:
    content = draw.randbytes(draw.randint(*BYTES))
    with store.workspace() as folder:
        (folder / "content.bin").write_bytes(content)
        body = {"number": number, "content": sha256(content).hexdigest(), "writer": token()}
        return store.place(KIND, key, body, folder, author())


def _hold(ground: Ground, task: str, say: Callable[[dict[str, str]], None]) -> None:
    """Marks a claim as held; another process that lives and holds it too is told of."""
    path = _path_of(ground, task)
    while not created(path, token()):
        with contextlib.suppress(FileNotFoundError):
            other = owner_of(path.read_text())
            if other is not None and other.gone is not True:
                say({"twice": task, "other": f"{other.host}, process {other.pid}"})
            path.unlink()


def _path_of(ground: Ground, task: str) -> Path:
    return ground.held / task.replace("/", "-")


def _swap(ground: Ground, draw: random.Random) -> None:
    text = "x" * draw.randint(1, 20_000)
    write_json(ground.swapped, {"text": text, "hash": sha256(text.encode()).hexdigest()})


def read(ground: Ground) -> None:
    """Reads every record once it can be seen, and the file that is replaced; tells of all that is not whole."""
    say, seen, there = ground.log("reader"), set[str](), False
    while True:
        store = ground.store
        for key in store.finished(KIND) - seen:
            seen.add(key)
            fault = fault_of(store, key)
            say({"read": key} if fault is None else {"read": key, "fault": fault})
        there = _look_at_swapped(ground, there, say)
        time.sleep(PAUSE_SECONDS)


def fault_of(store: Store, key: str) -> str | None:
    """What is wrong with a record that can be seen, or None."""
    try:
        fields = store.envelope(KIND, key)
        found = hashed_file(store.artifact(KIND, key) / "content.bin")
    except (OutputError, OSError) as error:
        return str(error)
    whole = list(found) == fields["files"]["content.bin"] and found[0] == fields["body"]["content"]
    return None if whole else "the arrays are not those of the record"


def _look_at_swapped(ground: Ground, there: bool, say: Callable[[dict[str, str]], None]) -> bool:
    """Whether the replaced file has been seen; once it has, it must be there, whole, at every look."""
    try:
        fields = json.loads(ground.swapped.read_bytes())
        if sha256(fields["text"].encode()).hexdigest() != fields["hash"]:
            say({"swapped": "two versions are mixed"})
    except FileNotFoundError:
        if there:
            say({"swapped": "it was not there for a moment"})
        return there
    except (OSError, ValueError) as error:
        say({"swapped": f"it could not be read: {error}"})
    return True


def _end_with_parent() -> None:
    """Ends this process when the other end of its standard input closes, as it does when the parent is gone."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    """Entry of a process of the test: "write" or "read", and its folder."""
    role, folder = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    {"write": write, "read": read}[role](Ground(Path(folder)))


if __name__ == "__main__":
    main()
