"""A training's state on disk: safetensors and JSON, written atomically."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

FORMAT = 1
RECORD = "checkpoint.json"
EVERY_SECONDS = 120.0  # a kill costs a minute on average; writing takes well under a second


class Checkpoint:
    """The last state of a training that may be killed at any time.

    The record names the file of tensors that belongs to it and its SHA-256, and is put in its place last, so that
    whatever was being written at a kill is never read. A checkpoint that is damaged, or of another training, is left
    out with a warning: the training starts anew. One that cannot be written costs a warning too, not the training.

    Args:
        folder: made when the first state is written; for one training.
        identity: of the training: its data, recipe and seed. What is seen by the loop (steps, weights, device) is
            compared besides.
        every_seconds: between two states.
        clock: seconds, from any origin.
    """

    def __init__(
        self,
        folder: Path,
        *,
        identity: str,
        every_seconds: float = EVERY_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.folder, self.identity, self.every_seconds, self.clock = Path(folder), identity, every_seconds, clock
        self.last = clock()

    def due(self) -> bool:
        """Whether it is time to write a state."""
        return self.clock() - self.last >= self.every_seconds

    def write(self, tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> None:
        """Puts a state in the place of the one before.

        Args:
            tensors: anywhere, of any strides.
            record: JSON values; `training` among them is compared at reading.
        """
        data = save({name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()})
        name = f"state-{uuid.uuid4().hex}.safetensors"
        content = {"format": FORMAT, "identity": self.identity, "tensors": name, "sha256": _sha256(data), **record}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _put(self.folder / name, data)
            _put(self.folder / RECORD, json.dumps(content, allow_nan=False).encode())
            for left in (
                *self.folder.glob("state-*"),
                *self.folder.glob(".state-*"),
                *self.folder.glob(f".{RECORD}.*"),
            ):
                if left.name != name:
                    left.unlink()
        except OSError as error:
            warnings.warn(f"{self.folder}: the checkpoint could not be written ({error.strerror})", stacklevel=2)
        self.last = self.clock()

    def read(self, training: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Tensors and record of the last state; None where there is none that belongs to this training."""
        if not (self.folder / RECORD).is_file():
            return None
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            data = (self.folder / record["tensors"]).read_bytes()
            if _sha256(data) != record["sha256"]:
                raise ValueError("the file of tensors is not the one that was written")
            tensors = load(data)
            found = record["format"], record["identity"], record["training"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            warnings.warn(f"{self.folder}: the checkpoint is damaged ({error}); the training starts anew", stacklevel=2)
            return None
        if found != (FORMAT, self.identity, json.loads(json.dumps(training))):
            warnings.warn(f"{self.folder}: the checkpoint is of another training; this one starts anew", stacklevel=2)
            return None
        return tensors, record

    def remove(self) -> None:
        """Takes the folder away, when the training's result is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _put(path: Path, data: bytes) -> None:
    """Writes a file so that it is absent, the old one, or whole, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
