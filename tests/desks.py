"""Guests without a process: a desk, or whoever else is to sit at the other end of the wire, in a thread of the test."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO

import torch

from shiftbench.backbones import BACKBONES
from shiftbench.guest.desk import Desk
from shiftbench.isolation.process import Death
from shiftbench.isolation.session import Session, Terms
from shiftbench.loading import MethodSource
from shiftbench.tasks import Task
from shiftbench.types import Recipe, Status

Serve = Callable[[BinaryIO, BinaryIO], None]
PATH = Path("/somewhere/of/mine/mine.py")
LAYOUT = Task(3)
NETWORK = {
    "backbone": "unet_bn",
    "architecture": asdict(BACKBONES["unet_bn"]),
    "dimension": 2,
    "layout": asdict(LAYOUT),
    "normalise": "zscore",
    "window": (-160.0, 240.0),
    "recipe": asdict(Recipe("tiny", 2, 2, 2, (32, 32), 1e-2)),
    "seed": 0,
}
HEAD = '''"""Mine."""
from dataclasses import dataclass
import torch
from shiftbench.api import Access, Episode, LabelledSet, NotApplicable, Prediction, Prepared, Track, predictor

@dataclass(frozen=True)
class Method:
    track: Track = Track.{track}
    episode: Episode = Episode.{episode}
    requires: tuple[str, ...] = ()

'''


def written(body: str, track: str = "TTA", episode: str = "ONLINE") -> str:
    """The text of a method's file whose class ends with `body`."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    return HEAD.format(track=track, episode=episode) + lines + "\n"


def terms(text: str, track: str = "TTA", episode: str = "ONLINE", path: Path = PATH) -> Terms:
    """What a guest is told of a method with this text."""
    source = MethodSource(path.stem, text, variant=path.stem)
    identity = (path.stem, "sha256:0", track.lower(), episode.lower(), {"requires": ()})
    common = {"channels": 1, "recipe": NETWORK["recipe"], "device": "cpu", "threads": 1, "seed": 0}
    return Terms(source=source, path=path, network=NETWORK, identity=identity, **common)


def image(n: int = 0, shape: tuple[int, ...] = (1, 2, 32, 32)) -> torch.Tensor:
    """Raw image number n."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(n)) * 100


class ThreadGuest:
    """What a session knows of a process, with a thread behind it."""

    def __init__(self, serve: Serve):
        mine, theirs = os.pipe(), os.pipe()  # (read, write): to the guest, and from it
        self.writer, self.reader = os.fdopen(mine[1], "wb"), os.fdopen(theirs[0], "rb")
        self.pid, self.dead = None, False
        self.ends = os.fdopen(mine[0], "rb"), os.fdopen(theirs[1], "wb")
        self.thread = threading.Thread(target=self._run, args=(serve,), daemon=True)
        self.thread.start()

    def _run(self, serve: Serve) -> None:
        with contextlib.suppress(OSError, ValueError):
            serve(*self.ends)
        for end in self.ends:
            with contextlib.suppress(OSError, ValueError):
                end.close()
        self.dead = True

    def kill(self) -> None:
        self.dead = True

    def ended(self) -> Death | None:
        return Death("the thread ended", Status.FAILED, "signal") if self.dead else None

    def log(self) -> str:
        return ""

    def close(self) -> None:
        for pipe in (self.writer, self.reader):
            with contextlib.suppress(OSError):
                pipe.close()
        self.thread.join(timeout=5)


class ThreadLauncher:
    """Gives guests that are threads; each desk has a folder of its own."""

    level = "thread"

    def __init__(self, folder: Path, serve: Serve | None = None):
        self.folder, self.serve, self.started = folder, serve, 0

    def start(self) -> ThreadGuest:
        self.started += 1
        own = self.folder / f"guest-{self.started}"
        own.mkdir()
        return ThreadGuest(self.serve or (lambda inlet, outlet: Desk(inlet, outlet, own).serve()))


def session(launcher, text: str, track: str = "TTA", episode: str = "ONLINE", **options) -> Session:
    """A session of a method with this text."""
    return Session(launcher, terms(text, track, episode), **{"seconds": 60.0, **options})
