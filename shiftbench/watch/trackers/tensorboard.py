"""TensorBoard: event files in the result folder, or elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.watch.trackers.tracked import Point

FOLDER = "tensorboard"
NEEDED = "tensorboard"


class TensorBoardLog:
    """Writes with `torch.utils.tensorboard`, one folder per run.

    Args:
        root: the result folder.
        where: folder instead of `tensorboard` in it.
    """

    name = "TensorBoard"

    def __init__(self, root: Path, where: str = ""):
        self.folder = Path(where) if where else root / FOLDER
        self.writer: Any = None

    def open(self, params: Mapping[str, str]) -> None:
        """Begins a folder named by the time and the process.

        Raises:
            OutputError: the library is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing(NEEDED) from error
        folder = self.folder / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self.writer = SummaryWriter(str(folder), flush_secs=10)
        lines = [f"| {name} | {value} |" for name, value in params.items()]
        self.writer.add_text("parameters", "\n".join(["| parameter | value |", "|---|---|", *lines]))

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self.writer.add_scalar(point.name, point.value, point.step, walltime=point.at)

    def close(self, well: bool) -> None:
        self.writer.close()


def missing(library: str) -> OutputError:
    """The error for a library that is not installed."""
    return OutputError(f"{library} is not installed", remedy="pip install 'shiftbench[track]'")
