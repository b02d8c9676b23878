"""What the runner costs: per task, at the start of a process, to plan, to resume, in memory, and on a cluster.

Tasks that do next to nothing go through the engines, so that what remains is the engine. The time beyond a task is the
time of all processes together less the time inside the tasks, per task, after the first tenth of them, when all
processes have started.

    python benchmarks/runner.py                                       # prints the tables, some ten minutes
    python benchmarks/runner.py --write benchmarks/results/runner
    python benchmarks/runner.py --only overhead resume --size 2000
    python benchmarks/runner.py --only before --commit c61f7dd        # against the engine of an earlier version
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from plan_field import methods, scenarios
from running import tasks as tiny
from running.nodes import on_nodes, there_is_ray
from running.probes import HERE, asked, local, timed
from running.starts import guest_seconds, process_seconds, worker_seconds

from shiftbench.graph import Options, Task
from shiftbench.plan import plan
from shiftbench.store import Store

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
SECTIONS = ("overhead", "start", "planning", "resume", "memory", "before", "ray")
PACKAGES = ("shiftbench", "torch", "numpy", "ray")
JOBS = (1, 2, 4)
NODES = (1, 2, 4)
SLEEP = 0.05  # s, of a task on pretended nodes
OVERHEAD_SHARE = 4  # of the graph's size, once per line
RAY_SHARE = 20  # of the graph's size, on a cluster
BEFORE = "c61f7dd"  # the last commit with the engine that looked at every task at every step
MEMORY_SIZES = (1_000, 10_000, 50_000)
MODES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a record": {"publishes": "record"},
    "a record, not flushed": {"publishes": "record", "flushed": False},
    "a record and an array": {"publishes": "arrays"},
    "a record and an array, not flushed": {"publishes": "arrays", "flushed": False},
}

# What is aimed at: section, what is measured, the most that it may be, unit.
AIMS = (
    ("overhead", "beyond a task", 0.005, "s"),
    ("planning", "planning 10,000 tasks", 2.0, "s"),
    ("resume", "resuming a finished run of 10,000 tasks", 3.0, "s"),
)
Found = dict[tuple[str, str], float]  # by section and what is measured, as in AIMS
Section = Callable[[Path, argparse.Namespace, Found], list[str]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION")
    parser.add_argument("--size", type=int, default=10_000, help="tasks of a graph")
    parser.add_argument("--repeats", type=int, default=3, help="starts of each sort, of which the fastest counts")
    parser.add_argument("--commit", default=BEFORE, help="of the version that is compared with")
    parser.add_argument("--write", type=Path, metavar="PREFIX", help="of the .md file")
    return parser.parse_args()


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def overhead_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    rows, worst = [], 0.0
    for what, payload in MODES.items():
        for jobs in JOBS if what == "nothing" else JOBS[1:2]:
            tasks = tiny.graph(options.size // OVERHEAD_SHARE, **payload)
            wall, count, inside = timed(local(folder / f"{what}-{jobs}", jobs).run(tasks), len(tasks))
            beyond = (wall * jobs - inside) / count
            if jobs <= (os.cpu_count() or 1):
                worst = max(worst, beyond)
            cells = [f"{count / wall:,.0f}", f"{1000 * inside / count:.2f}", f"{1000 * beyond:.2f}"]
            rows.append([what, str(jobs), f"{len(tasks):,}", *cells])
    found["overhead", "beyond a task"] = worst
    head = ["a task publishes", "processes", "tasks", "tasks a second", "ms inside a task", "ms beyond it"]
    words = f"The aim is held against the worst line with no more processes than cores ({os.cpu_count()})."
    return ["## Overhead of a task on one machine", "", words, "", *table(head, rows)]


def start_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    starts: dict[str, Callable[[], float | None]] = {
        "Python": process_seconds,
        "a process for data and scoring": lambda: worker_seconds(folder, "data"),
        "a process for training and methods": lambda: worker_seconds(folder, "method"),
        "the first guest in a process": lambda: guest_seconds("off"),
        "the next one": lambda: guest_seconds("off", after=1),
        "the first guest in a sandbox": lambda: guest_seconds("strict"),
        "the next one there": lambda: guest_seconds("strict", after=1),
    }
    rows = []
    for what, measure in starts.items():
        taken = [seconds for _ in range(options.repeats) if (seconds := measure()) is not None]
        rows.append([what, f"{min(taken):.3f}" if taken else "not on this machine"])
    words = "Until it is ready to work, imports included. A process of the pool starts once in a run."
    return ["## Start of a process", "", words, "", *table(["", "s"], rows)]


def planning_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    cards, opened = methods(), scenarios(folder)
    count, seconds = 0, 0.0
    while count < options.size:
        scenario = next(opened)
        started = time.perf_counter()
        graph = plan([scenario], cards, Options(), "field")
        seconds += time.perf_counter() - started
        count += len(graph.tasks)
    of_aim = found["planning", "planning 10,000 tasks"] = seconds * 10_000 / count
    head = ["tasks", "s", "ms a task", "s for 10,000"]
    cells = [f"{count:,}", f"{seconds:.2f}", f"{1000 * seconds / count:.3f}", f"{of_aim:.2f}"]
    words = f"{len(cards)} methods, ten targets and five seeds of each scenario; its file is read before."
    return ["## Planning", "", words, "", *table(head, [cells])]


def resume_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    tasks = tiny.graph(options.size)
    store = filled(folder / "resume", tasks)
    started = time.perf_counter()
    assert list(local(store.root, 1).run(tasks)) == []
    seconds = time.perf_counter() - started
    found["resume", "resuming a finished run of 10,000 tasks"] = seconds * 10_000 / len(tasks)
    words = "From the plan to the finding that nothing is to be done; planning and writing the rows apart."
    cells = [f"{len(tasks):,}", f"{seconds:.2f}"]
    return ["## Resuming a finished run", "", words, "", *table(["tasks", "s"], [cells])]


def filled(folder: Path, tasks: Mapping[str, Task]) -> Store:
    """A store with a record of every task; nothing is flushed, since this is not what is timed."""
    store = Store(folder)
    os.fsync = tiny.not_flushed
    try:
        for task in tasks.values():
            store.publish(task.kind, task.key, {"value": 1})
    finally:
        os.fsync = tiny.FSYNC
    return store


def memory_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    rows = []
    for size in (n for n in MEMORY_SIZES if n <= 5 * options.size):
        known = asked("memory", folder / f"memory-{size}", size)
        count, plan_of, run = known["tasks"], known["planned"] - known["empty"], known["peak"] - known["planned"]
        cells = [f"{count:,.0f}", f"{known['peak'] / 2**20:.0f}", f"{plan_of / count:.0f}", f"{run / count:.0f}"]
        rows.append([*cells, f"{(known['last'] - known['first']) / 2**20:+.1f}"])
    head = ["tasks", "MiB at most", "bytes a task, the graph", "bytes a task, the engine", "MiB, first to last task"]
    words = "Of the driver, which holds the graph; what the engine knows of a task is freed when it ends."
    return ["## Memory of the driver", "", words, "", *table(head, rows)]


def before_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    old = folder / "old"
    old.mkdir()
    packed = subprocess.run(["git", "archive", options.commit, "shiftbench"], cwd=HERE.parent, stdout=subprocess.PIPE)
    if packed.returncode:
        return ["## The engine before", "", f"Not compared: there is no commit {options.commit} here."]
    subprocess.run(["tar", "-x", "-C", str(old)], input=packed.stdout, check=True)
    for name in ("data", "method"):  # its processes do the tasks of this benchmark
        (old / "shiftbench" / "worker" / f"{name}.py").write_text("from running.tasks import HANDLERS\n")
    rows = []
    for size in (options.size // 10, options.size // 2):
        then, now = (
            asked("through", folder / f"before-{size}", size, old),
            asked("through", folder / f"now-{size}", size),
        )
        cells = [f"{each[what]:.2f}" for what in ("seconds", "driver") for each in (then, now)]
        rows.append([f"{size:,}", *cells, f"{then['driver'] / now['driver']:.1f}"])
    words = f"The same graph of empty tasks through the engine of commit {options.commit}, two processes each."
    head = ["tasks", "s before", "s now", "s of the driver before", "s of it now", "ratio of the driver"]
    return ["## The engine before", "", words, "", *table(head, rows)]


def ray_section(folder: Path, options: argparse.Namespace, found: Found) -> list[str]:
    if not there_is_ray():
        return ["## Ray", "", "Not measured: Ray is not installed."]
    size = options.size // RAY_SHARE
    graph = tiny.graph(size)
    ways = {
        "local, one process": timed(local(folder / "beside", 1).run(graph), len(graph)),
        "Ray, one node of one core": on_nodes(folder / "empty", 1, size),
    }
    rows = []
    for name, (wall, count, inside) in ways.items():
        rows.append([name, f"{count:,}", f"{count / wall:,.0f}", f"{1000 * (wall - inside) / count:.2f}"])
    words = "The same graph of empty tasks; results in one folder that all nodes see."
    lines = ["## Ray", "", words, "", *table(["", "tasks", "tasks a second", "ms beyond a task"], rows)]
    rates: list[float] = []
    scaled = []
    for nodes in NODES:
        wall, count, _ = on_nodes(folder / f"nodes-{nodes}", nodes, size, SLEEP)
        rates.append(count / wall)
        shares = [f"{rates[-1] / rates[0]:.2f}", f"{rates[-1] * SLEEP / nodes:.0%}"]
        scaled.append([str(nodes), f"{count:,}", f"{rates[-1]:.1f}", *shares])
    words = f"Tasks that sleep for {1000 * SLEEP:.0f} ms, on pretended nodes of one core each, all on this machine:"
    head = ["nodes", "tasks", "tasks a second", "times one node", "share of the most there can be"]
    return [*lines, "", words, "", *table(head, scaled)]


def aims(found: Found) -> list[str]:
    rows = []
    for section, what, most, unit in AIMS:
        if (section, what) in found:
            value, factor = found[section, what], 1000 if (unit == "s" and most < 0.01) else 1
            shown = "ms" if factor == 1000 else unit
            verdict = "met" if value <= most else "not met"
            rows.append([what, f"{most * factor:g} {shown}", f"{value * factor:.3g} {shown}", verdict])
    return ["", "## Aims", "", *table(["", "at most", "measured", ""], rows)] if rows else []


def versions() -> str:
    known = []
    for package in PACKAGES:
        try:
            known.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(known)


def in_its_environment() -> None:
    """Starts this script anew where libraries were not told of one thread, or processes not where its tasks are."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(HERE) not in path or any(os.environ.get(name) != "1" for name in THREADS):
        os.environ |= {**dict.fromkeys(THREADS, "1"), "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, path)])}
        os.execv(sys.executable, [sys.executable, *sys.argv])


def main() -> None:
    options = arguments()
    in_its_environment()
    makers: dict[str, Section] = {
        **{"overhead": overhead_section, "start": start_section, "planning": planning_section},
        **{"resume": resume_section, "memory": memory_section, "before": before_section, "ray": ray_section},
    }
    found: Found = {}
    lines: list[str] = []
    for name in options.only:
        with tempfile.TemporaryDirectory() as folder:
            section = makers[name](Path(folder), options, found)
        print("\n".join(section) + "\n", flush=True)
        lines += ["", *section]
    python = ".".join(map(str, sys.version_info[:3]))
    head = [" ".join(["python benchmarks/runner.py", *sys.argv[1:]]), ""]
    head.append(f"Python {python}, {versions()}; {os.cpu_count()} cores, one thread per process.")
    text = "\n".join([*head, *aims(found), *lines]) + "\n"
    print(text)
    if options.write:
        path = options.write.with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
