"""Rows out of a finished plan: what every unit scored, with failures as rows."""

from __future__ import annotations

import importlib.metadata
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Task, Unit
from shiftbench.scoring import score_fold
from shiftbench.store import Store
from shiftbench.tasks import Task as Layout
from shiftbench.types import Row, Status

COLUMNS = list(Row.__dataclass_fields__)
RECORDED = ("shiftbench", "torch", "monai", "numpy", "scipy", "scikit-image", "edt", "connected-components-3d")


def collect(graph: Plan, store: Store) -> pd.DataFrame:
    """The rows of all units, sorted, with failures as rows."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}  # a third less memory than a mapping per row
    for row in _rows(graph, store):
        for name, values in columns.items():
            value = row.get(name, math.nan)
            values.append(sys.intern(value) if type(value) is str else value)
    table = pd.DataFrame(columns)
    table = table.astype({"stream": object, "stream_order": object, "order_seed": "Int64", "position": "Int64"})
    keys = ["scenario", "target", "backbone", "budget", "method", "seed", "draw", "case", "structure", "metric"]
    return table.sort_values([*keys, "stream", "order_seed"], kind="stable", ignore_index=True, na_position="first")


def _rows(graph: Plan, store: Store) -> Iterator[Mapping[str, Any]]:
    versions = "; ".join(f"{name} {_version(name)}" for name in RECORDED)
    for unit in [*graph.units, *graph.streams]:
        for predict_id, score_id, test in unit.folds:
            predict = graph.tasks[predict_id]
            common = {
                **unit.row,
                "isolation": _isolation(predict, store),
                "checkpoint": _checkpoint(predict, store)[:16],
                "prediction": predict.key,
                "versions": versions,
            }
            for score in _fold_rows(unit, store, graph.tasks[score_id], predict.key, test):
                place = {} if unit.positions is None else {"position": unit.positions[score["case"]]}
                yield {**common, **score, **place}


def _fold_rows(unit: Unit, store: Store, score: Task, predict_key: str, test: Any) -> list[dict[str, Any]]:
    if store.done(score.kind, score.key):
        return store.record(score.kind, score.key)["rows"]
    structures = score.payload["structures"]
    if store.done("predict", predict_key):  # the scoring itself failed
        failure = store.failure(score.kind, score.key) or {"cause": "scoring did not end"}
        raise OutputError(failure["cause"].rstrip("."), where=score.id, remedy="run again")
    failure = store.failure("predict", predict_key) or {"cause": "the task did not run", "status": str(Status.FAILED)}
    entry = {"status": failure["status"], "detail": failure["cause"]}
    names, donors = score.payload.get("names"), score.payload.get("donors")
    layout = Layout.of(score.payload["layout"]) if "layout" in score.payload else None
    cases = failure.get("cases") or {(names or {}).get(case, case): entry for case in test.where()}
    prediction = {"cases": cases}
    options = score.payload.get("options")
    return score_fold(
        store, prediction, predict_key, test, structures, names=names, donors=donors, layout=layout, options=options
    )


def _checkpoint(predict: Task, store: Store) -> str:
    """Key of the source training behind a prediction."""
    kind, key = predict.payload["state"]
    if kind == "prepare" and store.done(kind, key):
        return store.record(kind, key)["train"]
    return key


def _isolation(predict: Task, store: Store) -> str:
    """How the method was kept apart, or would have been where it never began."""
    done = store.done(predict.kind, predict.key)
    about = store.record(predict.kind, predict.key) if done else store.failure(predict.kind, predict.key) or {}
    return str(about.get("isolation", "process"))


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
