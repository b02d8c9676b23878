"""Seconds and peak memory of one way to score one pair of label maps, in a process of its own."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scorers.others import COMPETITORS, Structures, Values

MIB = 1 << 20


@dataclass(frozen=True)
class Measured:
    """Seconds of the first call and of the fastest, MiB above what was there before the first, and the values."""

    first: float
    best: float
    extra_mib: float | None
    values: Values


def measured(name: str, case: Path, spacing: Sequence[float], structures: Structures, repeats: int) -> Measured:
    """One competitor on the arrays "prediction" and "reference" of a file, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (name, case, tuple(spacing), tuple(structures), repeats))


def best_of(call, repeats: int) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _measure(name: str, case: Path, spacing: tuple[float, ...], structures: Structures, repeats: int) -> Measured:
    competitor = next(c for c in COMPETITORS if c.name == name)
    tiny = np.zeros((6,) * len(spacing), np.uint8)
    tiny[2:4, 2:4] = 1
    competitor.score(tiny, tiny, spacing, structures[:1])  # imports, and tables that a process makes once
    with np.load(case) as arrays:
        prediction, reference = arrays["prediction"], arrays["reference"]
    before = _restart_peak()
    started = time.perf_counter()
    values = competitor.score(prediction, reference, spacing, structures)
    first = time.perf_counter() - started
    extra = None if before is None else max(0.0, _status("VmHWM") - before)
    again = (
        best_of(lambda: competitor.score(prediction, reference, spacing, structures), repeats - 1)
        if repeats > 1
        else first
    )
    return Measured(first, min(first, again), extra, values)


def _restart_peak() -> float | None:
    """MiB in use now, from which the peak is counted anew; None where the system does not tell (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(entry: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024 / MIB
