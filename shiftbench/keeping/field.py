"""How large a run is that nobody has started: tasks, files, bytes, trainings, GPU hours and the memory of its tables.

Graphs are looked at one scenario at a time, so that a run can be counted that no machine could hold.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Task, Unit
from shiftbench.keeping.estimate import SAMPLE
from shiftbench.metrics.scorers import metrics_of
from shiftbench.store import Store
from shiftbench.tasks import Task as Layout
from shiftbench.types import Track

SHARDS = 256  # folders of a kind's records, and as many of its arrays: the first two letters of the keys

# Bytes of a record and of each of its files, where no folder is given to measure them in; of a score, of each row.
# From `python benchmarks/plan_field.py --measure`.
MEASURED_ON = "abdomen-scanner (16 x 128 x 128 voxels, four structures, unet_bn)"
BYTES: Mapping[str, tuple[float, float]] = {
    "anatomy": (2539, 4205219),
    "images": (951, 524416),
    "references": (862, 262272),
    "card": (2890, 0),
    "train": (1676, 963312),
    "prepare": (900, 963312),  # as of a training: weights, and a sidecar of some kB
    "predict": (979, 4672),
    "score": (0, 212),
}
BYTES_PER_TASK = 1500  # of the graph in memory, by tracemalloc on 7,600 tasks of sixty methods
PEAK_PER_ROW = 908  # while rows are collected into one table, by tracemalloc
TABLE_PER_ROW = 739  # of the table alone
CSV_PER_ROW = 14  # of rows.csv.gz, in the committed results


@dataclass
class Size:
    """What was counted.

    Attributes:
        tasks: distinct tasks by kind.
        cases: cases in them: files of arrays, for most kinds.
        trained: tasks by kind that take as long as a training.
        units: of one method on one target with one seed.
        scored: cases that are scored.
        score_rows: in the records of scores; a score that several units share counts once.
        rows: of the table.
        scenarios: how many graphs there were.
        largest: tasks of the largest graph.
        counted: tasks of all graphs, one that several share as often as it occurs.
        planning: processor seconds of making and counting the graphs.
        bytes: of a record and of each of its files, by kind.
        measured: where these come from.
    """

    tasks: Counter[str] = field(default_factory=Counter)
    cases: Counter[str] = field(default_factory=Counter)
    trained: Counter[str] = field(default_factory=Counter)
    units: int = 0
    scored: int = 0
    score_rows: int = 0
    rows: int = 0
    scenarios: int = 0
    largest: int = 0
    counted: int = 0
    planning: float = 0.0
    bytes: Mapping[str, tuple[float, float]] = field(default_factory=lambda: BYTES)
    measured: str = MEASURED_ON

    @property
    def total(self) -> int:
        """Tasks of all kinds."""
        return sum(self.tasks.values())

    def files(self, kind: str) -> int:
        """Records and arrays of a kind."""
        return self.tasks[kind] + self.cases[kind]

    def inodes(self, kind: str) -> int:
        """Files and folders of a kind: a folder for the arrays of every task, and the shards."""
        has_arrays = self.cases[kind] > 0
        return self.files(kind) + has_arrays * self.tasks[kind] + (1 + has_arrays) * min(SHARDS, self.tasks[kind])

    def stored(self, kind: str) -> float:
        """Bytes of a kind."""
        record, each = self.bytes.get(kind, (0.0, 0.0))
        return self.tasks[kind] * record + (self.score_rows if kind == "score" else self.cases[kind]) * each


def sized(graphs: Iterable[Plan], store: Store | None = None) -> Size:
    """Counts the graphs of several scenarios; a task that several share counts once.

    Args:
        graphs: of `shiftbench.plan.plan_each`.
        store: a result folder of the same kind of data, in which bytes are measured; constants are used if None.
    """
    size = Size()
    seen: set[bytes] = set()
    example: dict[str, list[Task]] = {}
    started = time.process_time()
    for graph in graphs:
        size.scenarios += 1
        size.largest = max(size.largest, len(graph.tasks))
        size.counted += len(graph.tasks)
        for task in graph.tasks.values():
            short = bytes.fromhex(task.key[:32])
            if short in seen:
                continue
            seen.add(short)
            _count(size, task)
        for unit in (*graph.units, *graph.streams):
            size.units += 1
            size.rows += rows_of(unit, graph)
        if store is not None:
            _collect_examples(graph, store, example)
    size.planning = time.process_time() - started
    if store is not None and example:
        size.bytes = {**BYTES, **{kind: _measured(store, kind, tasks) for kind, tasks in example.items() if tasks}}
        size.measured = str(store.root)
    return size


def _count(size: Size, task: Task) -> None:
    size.tasks[task.kind] += 1
    size.cases[task.kind] += files_of(task)
    if task.kind == "score":
        cases = sum(len(ids) for *_, ids in task.payload["test"])
        size.scored += cases
        size.score_rows += cases * _rows_of_case(task.payload)
    if task.kind == "train" or (task.kind == "prepare" and task.seconds > 5.0):
        size.trained[task.kind] += 1
    elif task.kind == "predict" and str(task.payload["identity"][2]) in (Track.UDA, Track.REFERENCE):
        size.trained[task.kind] += 1


def files_of(task: Task) -> int:
    """Files of arrays that a task writes."""
    payload = task.payload
    if task.kind in ("anatomy", "images"):
        return len(payload["cases"])
    if task.kind == "references":
        return len(payload["cases"]) * (2 if payload.get("instances") else 1)
    if task.kind == "predict" and payload["identity"][2] != Track.ESTIMATE:
        return len(payload["stream"]) if "stream" in payload else sum(len(ids) for *_, ids in payload["test"])
    return {"train": 1, "prepare": 2}.get(task.kind, 0)


def rows_of(unit: Unit, graph: Plan) -> int:
    """Rows of a unit's scores of masks; those of calibration and radiomics are not counted."""
    n = 0
    for _, score_id, test in unit.folds:
        score = graph.tasks[score_id]
        cases = sum(len(ids) for *_, ids in test.chunks)
        n += cases * _rows_of_case(score.payload)
    return n


def _rows_of_case(payload: Mapping[str, Any]) -> int:
    if "estimates" in (payload.get("options") or {}):
        return len(payload["structures"])
    layout = Layout.of(payload["layout"]) if "layout" in payload else None
    found = (metrics_of(i, layout, form) for i, (_, _, form) in enumerate(payload["structures"], start=1))
    return sum(len(scorer.definitions) for metrics in found for scorer in metrics.values())


def _collect_examples(graph: Plan, store: Store, example: dict[str, list[Task]]) -> None:
    """Adds finished tasks to look at, `SAMPLE` of each kind at most."""
    for task in graph.tasks.values():
        several = example.setdefault(task.kind, [])
        if len(several) < SAMPLE and store.present(task.kind, task.key):
            several.append(task)


def _measured(store: Store, kind: str, tasks: Iterable[Task]) -> tuple[float, float]:
    """Mean bytes of a record, and of each file of its arrays; of a score, all bytes as those of its rows."""
    records: list[int] = []
    parts: list[int] = []
    for task in tasks:
        try:
            envelope = store.envelope(task.kind, task.key)
        except OutputError:
            continue
        records.append(store.record_path(task.kind, task.key).stat().st_size)
        parts += [1] * len(envelope["body"]["rows"]) if kind == "score" else [n for _, n in envelope["files"].values()]
    if kind == "score":
        return 0.0, sum(records) / max(1, len(parts))
    return sum(records) / max(1, len(records)), sum(parts) / max(1, len(parts))
