"""What a counted run needs of machines, under stated assumptions, and what of that would break first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from shiftbench.keeping.estimate import VERBS, in_columns
from shiftbench.keeping.field import BYTES_PER_TASK, CSV_PER_ROW, PEAK_PER_ROW, SHARDS, Size
from shiftbench.watch.words import duration

HOUR = 3600.0
INODE_BYTES = 16384  # mkfs.ext4 makes one inode for so many bytes of a disk
ROWS_OF_A_TABLE = 2**31 - 1  # a column of text in Arrow or pandas has 32-bit offsets in many readers


@dataclass(frozen=True)
class Costs:
    """What is assumed of times and machines; nothing here is measured.

    Attributes:
        train_hours: of a source training on one GPU, and of a method that trains as long: adaptation with source data,
            an oracle, a preparation of its own.
        predict_seconds: of one case on one GPU, with the adaptation to it.
        score_seconds: of one case on one processor core.
        gpus: how many there are.
        cores: processor cores that score.
        memory_gb: of the machine of the driver.
        disk_tb: of the disk of the result folder.
        days: that the run may take.
    """

    train_hours: float = 2.0
    predict_seconds: float = 3.0
    score_seconds: float = 2.0
    gpus: int = 64
    cores: int = 256
    memory_gb: float = 128.0
    disk_tb: float = 20.0
    days: float = 30.0


@dataclass(frozen=True)
class Limit:
    """Something that a run needs, beside what there is of it, and what helps where it does not suffice."""

    what: str
    need: float
    there_is: float
    unit: str
    remedy: str

    @property
    def share(self) -> float:
        """Above 1 it does not fit."""
        return self.need / self.there_is

    def __str__(self) -> str:
        fits = "fits" if self.share <= 1 else "does not fit"
        return f"{self.what}: {self.need:,.1f} of {self.there_is:,.1f} {self.unit}, {100 * self.share:,.0f} %: {fits}"


def gpu_hours(size: Size, costs: Costs) -> float:
    """Of all trainings, of what trains as long, and of all predictions."""
    return sum(size.trained.values()) * costs.train_hours + size.cases["predict"] * costs.predict_seconds / HOUR


def core_hours(size: Size, costs: Costs) -> float:
    """Of all scores."""
    return size.scored * costs.score_seconds / HOUR


def limits(size: Size, costs: Costs) -> list[Limit]:
    """What is needed, the scarcest first."""
    inodes = sum(map(size.inodes, size.tasks))
    table, graph = size.rows * PEAK_PER_ROW / 1e9, size.total * BYTES_PER_TASK / 1e9
    gpu, core = gpu_hours(size, costs) / 24, core_hours(size, costs) / 24
    apart = "run the scenarios in folders of their own, and take the tables of each together"
    fewer = "`--predictions drop` when they are scored, or folders of their own for the scenarios"
    found = [
        Limit("rows of all scores as one table in memory", table, costs.memory_gb, "GB", apart),
        Limit("rows in one table", size.rows / 1e6, ROWS_OF_A_TABLE / 1e6, "million", apart),
        Limit("graph in the driver's memory", graph, costs.memory_gb, "GB", apart),
        Limit("GPU days", gpu, costs.gpus * costs.days, "days of all GPUs", "more GPUs or time, or fewer seeds"),
        Limit("core days of scoring", core, costs.cores * costs.days, "days of all cores", "more cores or time"),
        Limit("bytes", sum(map(size.stored, size.tasks)) / 1e12, costs.disk_tb, "TB", fewer),
        Limit("files and folders", inodes / 1e6, costs.disk_tb * 1e6 / INODE_BYTES, "million inodes", fewer),
    ]
    return sorted(found, key=lambda limit: -limit.share)


def described(size: Size, costs: Costs) -> list[str]:
    """The table for people: what was counted, what it needs, and what would break first."""
    return [*_counted(size), "", *_needed(size, costs), "", *_breaks(size, costs)]


def _counted(size: Size) -> Iterator[str]:
    rows: list[tuple[str, ...]] = [("", "tasks", "files", "inodes", "GB", "per folder")]
    for kind in (kind for kind in VERBS if size.tasks[kind]):
        counts = (size.tasks[kind], size.files(kind), size.inodes(kind))
        gb, folder = size.stored(kind) / 1e9, -(-size.tasks[kind] // SHARDS)
        rows.append((VERBS[kind], *(f"{n:,}" for n in counts), f"{gb:,.1f}", f"{folder:,}"))
    whole = [sum(map(of, size.tasks)) for of in (size.files, size.inodes)]
    gb = sum(map(size.stored, size.tasks)) / 1e9
    rows.append(("together", *(f"{n:,}" for n in (size.total, *whole)), f"{gb:,.1f}", ""))
    yield f"{size.scenarios} scenarios, {size.units:,} units of method, target and seed"
    yield f"the largest scenario has {size.largest:,} tasks"
    yield f"bytes per record and file as measured in {size.measured}"
    yield ""
    yield from in_columns(rows)


def _needed(size: Size, costs: Costs) -> Iterator[str]:
    gpu, core = gpu_hours(size, costs), core_hours(size, costs)
    trained = sum(size.trained.values())
    yield f"trainings: {size.tasks['train']:,} of sources; {trained - size.trained['train']:,} tasks that train as long"
    yield (
        f"GPU hours: {gpu:,.0f}, {duration(HOUR * gpu / costs.gpus)} on {costs.gpus} GPUs (assumed: "
        f"{costs.train_hours:g} h a training, {costs.predict_seconds:g} s a predicted case)"
    )
    yield (
        f"core hours of scoring: {core:,.0f}, {duration(HOUR * core / costs.cores)} on {costs.cores} cores (assumed: "
        f"{costs.score_seconds:g} s a case)"
    )
    yield (
        f"rows: {size.rows:,}; {size.rows * PEAK_PER_ROW / 1e9:,.0f} GB of memory to collect as one table, "
        f"{size.rows * CSV_PER_ROW / 1e9:,.1f} GB as rows.csv.gz "
        f"({PEAK_PER_ROW} and {CSV_PER_ROW} bytes a row, as measured)"
    )
    yield f"driver: {size.total * BYTES_PER_TASK / 1e9:,.1f} GB for the whole graph at {BYTES_PER_TASK} bytes a task"
    each = 1e6 * size.planning / max(1, size.counted)
    yield f"planning: {duration(size.planning)} of one core, {each:.0f} microseconds a task"


def _breaks(size: Size, costs: Costs) -> Iterator[str]:
    found = limits(size, costs)
    yield "What is needed of what there is, the scarcest first"
    yield from (f"  {limit}" for limit in found)
    first = found[0]
    verdict = "would break first" if first.share > 1 else "is nearest to its limit, and fits"
    yield f"{first.what} {verdict}. What helps: {first.remedy}."
