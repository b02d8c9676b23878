"""Audits carried out: what was found, as the table `audit.csv` of a result folder."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from shiftbench.audit.asked import Line, lines
from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Settings
from shiftbench.store import Store
from shiftbench.worker.audit import AUDITS, FAILED, HANDLERS, NOT_CONCERNED, SKIPPED
from shiftbench.worker.perform import Context, attempt

TABLE = "audit.csv"
ABOVE_ORACLE = "above_oracle"
ASKED = {name: audit.words for name, audit in AUDITS.items()} | {ABOVE_ORACLE: "share of the gap that is closed"}
PLACE = ("scenario", "target", "track", "backbone", "budget", "method", "k", "seed", "draw", "stream", "order_seed")
COLUMNS = (*PLACE, "audit", "outcome", "detail", "asked")
TEXT = ("scenario", "target", "track", "backbone", "budget", "method", "stream", "audit", "outcome", "detail", "asked")
COUNTS = ("k", "seed", "draw", "order_seed")


def audit(
    graph: Plan,
    store: Store,
    settings: Settings | None = None,
    *,
    methods: Collection[str] | None = None,
    thorough: bool = False,
    report: Callable[[str], None] = lambda words: None,
) -> pd.DataFrame:
    """Asks the methods of a run, finished or not, and returns the table; what was answered before is not asked again.

    Tasks are run again in this process as an engine's would: a method in a process of its own, isolated as `settings`
    say. An engine can do it before: see `audit_tasks`.

    Args:
        graph, methods, thorough: as of `lines`.
        store: of the run, which is only read but for records of the kind "audit".
        settings: how tasks are run.
        report: told what is asked, line by line.

    Raises:
        OutputError: the folder cannot be read or written.
    """
    asked = lines(graph, methods=methods, thorough=thorough, ready=lambda task: store.done(*task.split("/")))
    context = Context(store, settings or Settings(), report)
    causes: dict[str, str] = {}
    for line in asked:
        task = line.task
        if task is None or store.done("audit", task.key) or task.id in causes or not _ready(store, line):
            continue
        report(task.label)
        answer = attempt(HANDLERS["audit"], context, task.key, task.payload)
        if not answer["ok"] and answer["fatal"]:
            raise OutputError(answer["cause"].rstrip("."))
        if not answer["ok"]:
            causes[task.id] = answer["cause"]
    return table([record(line, store, causes) for line in asked])


def record(line: Line, store: Store, causes: dict[str, str]) -> dict[str, Any]:
    """One line as fields of the table; `causes` are those of audits that could not be carried out, by task."""
    outcome, detail = (NOT_CONCERNED, line.reason) if line.task is None else _found(line, store, causes)
    place = {name: line.unit.row.get(name) for name in PLACE}
    place["target"] = line.target or place["target"]
    return {**place, "audit": line.audit, "outcome": outcome, "detail": detail, "asked": ASKED[line.audit]}


def _found(line: Line, store: Store, causes: dict[str, str]) -> tuple[str, str]:
    task = line.task
    assert task is not None
    if store.done("audit", task.key):
        found = store.record("audit", task.key)
        return found["outcome"], found["detail"]
    if task.id in causes:
        return SKIPPED, causes[task.id]
    failure = next((store.failure(*need.split("/")) for need in task.needs if not store.done(*need.split("/"))), None)
    return SKIPPED, f"it did not predict: {failure['cause']}" if failure else "it has not predicted yet"


def _ready(store: Store, line: Line) -> bool:
    assert line.task is not None
    return all(store.done(*need.split("/")) for need in line.task.needs)


def table(records: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Findings with the columns and types of the file."""
    made = pd.DataFrame(list(records), columns=list(COLUMNS))
    made = made.astype(dict.fromkeys(TEXT, object) | dict.fromkeys(COUNTS, "Int64"))
    words = made[list(TEXT)]
    return made.assign(**words.where(words.notna(), None))


def failed(found: pd.DataFrame) -> pd.DataFrame:
    """The findings that say a method did what it must not."""
    return found[found["outcome"] == FAILED]


def write_table(found: pd.DataFrame, folder: Path) -> Path:
    """Writes `audit.csv`; lines of an earlier audit that were not asked this time are kept.

    Raises:
        OutputError: the file cannot be written.
    """
    earlier = read_table(folder)
    if earlier is not None:
        both = pd.concat([found, earlier], ignore_index=True)
        found = table(both.drop_duplicates([*PLACE, "audit"], keep="first").to_dict("records"))
    path = folder / TABLE
    try:
        found.to_csv(path, index=False, lineterminator="\n")
    except OSError as error:
        raise OutputError(
            f"cannot be written: {error.strerror}", where=path, remedy="free some space or change its rights"
        ) from error
    return path


def read_table(folder: Path) -> pd.DataFrame | None:
    """The audits that a folder holds; None where there are none.

    Raises:
        OutputError: the file is no such table.
    """
    path = folder / TABLE
    if not path.is_file():
        return None
    types = dict.fromkeys(TEXT, str) | dict.fromkeys(COUNTS, "Int64")
    try:
        found = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        remedy = "delete this file and audit again"
        raise OutputError("the table cannot be read", where=path, remedy=remedy) from error
    if list(found.columns) != list(COLUMNS):
        raise OutputError("this is no table of audits", where=path, remedy="delete this file and audit again")
    return table(found.assign(detail=found["detail"].fillna("")).to_dict("records"))
