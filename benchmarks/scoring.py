"""Speed and memory of scoring beside other libraries, and of turning rows into a leaderboard, in one run.

Everything runs on one thread; each way to score has a fresh process for each case, its time is the best of some calls,
and its memory is the peak of the first call above what was in use before it, with the masks loaded. Every library
computes what it has of DSC, HD95, ASSD and NSD, of three structures of a 256 x 256 x 128 volume (an organ, kidneys,
six lesions), of the same volume with speckle, and of a slice. ShiftBench has HD, MASD, IoU and volume errors on top.

    python benchmarks/scoring.py                                        # prints the tables, about three minutes
    python benchmarks/scoring.py --write benchmarks/results/scoring
    python benchmarks/scoring.py --only volume slice --repeats 1
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from scorers.cases import SPACING_MM, STRUCTURES, slice_2d, speckled, volume
from scorers.measure import Measured, best_of, measured
from scorers.others import COMPETITORS, SHOWN, Competitor
from scorers.rows import made_up_rows

from shiftbench.metrics import score_cases
from shiftbench.report.leaderboard import leaderboard

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SECTIONS = ("volume", "speckle", "slice", "parallel", "leaderboard")
PACKAGES = (
    *("shiftbench", "numpy", "scipy", "edt", "torch", "monai", "surface-distance", "SimpleITK", "medpy", "pandas"),
)
OURS = {"V": "ShiftBench V", "S": "ShiftBench S", "S and V": "ShiftBench S and V"}
SPECKLE = (0.0, 0.001, 0.01, 0.05, 0.2)
CASES, JOBS = 40, 2  # scored in parallel

# What is aimed at: section, what is measured, the most that it may be, unit.
AIMS = (
    ("volume", "V", 0.22, "s"),
    ("volume", "S", 0.30, "s"),
    ("volume", "S and V", 0.40, "s"),
    ("volume", "extra memory of S and V", 200.0, "MiB"),
    ("speckle", "S and V at 20 % speckle", 3.0, "s"),
    ("slice", "S and V of a slice", 0.002, "s"),
    ("leaderboard", "10,000 rows with intervals", 2.0, "s"),
)
Found = dict[tuple[str, str], float]  # by section and what is measured, as in AIMS


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--repeats", type=int, default=3, help="calls of each, of which the fastest counts")
    parser.add_argument("--write", type=Path, metavar="PREFIX", help="of the .md file")
    return parser.parse_args()


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def stored(folder: Path, name: str, prediction: np.ndarray, reference: np.ndarray) -> Path:
    """A file with both label maps, so that every process loads the same."""
    path = folder / f"{name}.npz"
    np.savez(path, prediction=prediction, reference=reference)
    return path


def compared(case: Path, spacing: Sequence[float], repeats: int) -> dict[Competitor, Measured]:
    return {
        competitor: measured(competitor.name, case, spacing, STRUCTURES, repeats)
        for competitor in COMPETITORS
        if competitor.installed
    }


def competitor_table(results: dict[Competitor, Measured], unit: str) -> list[str]:
    factor = {"s": 1, "ms": 1000}[unit]
    fastest = min(m.best for c, m in results.items() if c.name in OURS.values())
    rows = []
    for competitor, found in results.items():
        without = f" (no {', '.join(competitor.lacks).upper()})" if competitor.lacks else ""
        memory = "" if found.extra_mib is None else f"{found.extra_mib:.0f}"
        times = f"{found.best * factor:.3g}", f"{found.first * factor:.3g}", f"{found.best / fastest:.1f}"
        rows.append([competitor.name + without, competitor.definition, *times, memory])
    return table(["", "definition", unit, f"first call, {unit}", "times the fastest", "extra MiB"], rows)


def value_table(results: dict[Competitor, Measured]) -> list[str]:
    """What everybody found, to see that the same is timed."""
    rows = []
    for competitor, found in results.items():
        cells = [
            "/".join(f"{found.values[name][m]:.4g}" if m in found.values[name] else "-" for m in SHOWN)
            for name, _ in STRUCTURES
        ]
        rows.append([competitor.name, competitor.definition, *cells])
    return table(["DSC/HD95/ASSD/NSD", "definition", *(name for name, _ in STRUCTURES)], rows)


def volume_section(folder: Path, repeats: int, found: Found) -> list[str]:
    case = stored(folder, "volume", *volume())
    results = compared(case, SPACING_MM, repeats)
    by_name = {competitor.name: result for competitor, result in results.items()}
    found |= {("volume", what): by_name[name].best for what, name in OURS.items()}
    extra = by_name[OURS["S and V"]].extra_mib
    if extra is not None:
        found["volume", "extra memory of S and V"] = extra
    missing = [c.name for c in COMPETITORS if not c.installed]
    words = [f"Not installed: {', '.join(missing)}.", ""] if missing else []
    return [
        "## Three structures, 256 x 256 x 128",
        "",
        *words,
        *competitor_table(results, "s"),
        "",
        *value_table(results),
    ]


def speckle_section(folder: Path, repeats: int, found: Found) -> list[str]:
    prediction, reference = volume()
    rows = []
    for share in SPECKLE:
        case = stored(folder, f"speckle-{share}", speckled(prediction, share), reference)
        results = [measured(name, case, SPACING_MM, STRUCTURES, repeats) for name in OURS.values()]
        cells = [f"{r.best:.2f}" for r in results]
        memory = results[-1].extra_mib
        rows.append([f"{100 * share:g} %", *cells, "" if memory is None else f"{memory:.0f}"])
    found["speckle", "S and V at 20 % speckle"] = results[-1].best
    head = ["voxels that became the first structure", *(f"{what}, s" for what in OURS), "extra MiB of S and V"]
    return ["## The same with speckle", "", *table(head, rows)]


def slice_section(folder: Path, repeats: int, found: Found) -> list[str]:
    case = stored(folder, "slice", *slice_2d())
    results = compared(case, SPACING_MM[:2], 10 * repeats)
    both = next(result for competitor, result in results.items() if competitor.name == OURS["S and V"])
    found["slice", "S and V of a slice"] = both.best
    return ["## Three structures, 256 x 256", "", *competitor_table(results, "ms")]


def arguments_of(case: Path) -> dict[str, Any]:
    """The arguments of `score_case`, read from a file by the process that scores."""
    with np.load(case) as arrays:
        return {**arrays, "spacing": SPACING_MM, "unit": "mm", "structures": STRUCTURES}


def parallel_section(folder: Path, repeats: int, found: Found) -> list[str]:
    cases = [partial(arguments_of, stored(folder, "volume", *volume()))] * CASES
    rows, rates = [], []
    for jobs in (1, JOBS):
        started = time.perf_counter()
        ends = [time.perf_counter() - started for _ in score_cases(cases, jobs)]
        rates.append((CASES - jobs) / (ends[-1] - ends[jobs - 1]))  # when every process has started
        rows.append([str(jobs), f"{ends[-1]:.2f}", f"{ends[0]:.2f}", f"{rates[-1]:.1f}", f"{rates[-1] / rates[0]:.2f}"])
    head = ["processes", f"s for {CASES} cases", "s until the first", "cases a second from then on", "speed-up of that"]
    return ["## Cases in parallel, S and V", "", *table(head, rows)]


def leaderboard_section(folder: Path, repeats: int, found: Found) -> list[str]:
    rows = made_up_rows()
    board = leaderboard(rows)
    seconds = best_of(lambda: leaderboard(rows), repeats)
    found["leaderboard", "10,000 rows with intervals"] = seconds
    cells = [f"{len(rows):,}", str(rows["method"].nunique()), str(len(board)), f"{seconds:.2f}"]
    return ["## From rows to a leaderboard with intervals", "", *table(["rows", "methods", "lines", "s"], [cells])]


def aims(found: Found) -> list[str]:
    rows = []
    for section, what, most, unit in AIMS:
        if (section, what) in found:
            value, factor = found[section, what], 1000 if (unit == "s" and most < 0.01) else 1
            shown = "ms" if factor == 1000 else unit
            verdict = "met" if value <= most else "not met"
            rows.append([what, f"{most * factor:g} {shown}", f"{value * factor:.3g} {shown}", verdict])
    return ["## Aims", "", *table(["", "at most", "measured", ""], rows)]


def versions() -> str:
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


def on_one_thread() -> None:
    """Starts this script anew where numpy was not told before its import; the processes that it starts inherit that."""
    if any(os.environ.get(name) != "1" for name in THREADS):
        os.environ |= dict.fromkeys(THREADS, "1")
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    options = arguments()
    on_one_thread()
    makers: dict[str, Callable[[Path, int, Found], list[str]]] = {
        **{"volume": volume_section, "speckle": speckle_section, "slice": slice_section},
        **{"parallel": parallel_section, "leaderboard": leaderboard_section},
    }
    found: Found = {}
    command = " ".join(["python benchmarks/scoring.py", *sys.argv[1:]])
    python = ".".join(map(str, sys.version_info[:3]))
    lines = [command, "", f"Python {python}, {versions()}; {os.cpu_count()} cores, one thread;"]
    lines[-1] += f" best of {options.repeats} calls ({10 * options.repeats} of a slice)."
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            lines += ["", *makers[name](Path(folder), options.repeats, found)]
            print("\n".join(lines[-12:]), flush=True)
    lines[3:3] = ["", *aims(found)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.write:
        path = options.write.with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
