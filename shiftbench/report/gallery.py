"""Example images of a finished run: references and predictions of one typical patient per target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shiftbench.domains import load_case
from shiftbench.graph import Plan, Unit
from shiftbench.report.planes import picture, pixel, plane, richest
from shiftbench.report.sheet import Example
from shiftbench.scoring.case import load_arrays
from shiftbench.store import Store
from shiftbench.types import FAILURES, Geometry

PER_PAGE = 8  # targets
METHODS = 5  # beside source-only


def examples(graph: Plan, store: Store, rows: pd.DataFrame) -> list[Example]:
    """One example per target (at most PER_PAGE): the patient whose source-only DSC is the target's median.

    All examples are of the first seed and backbone; methods are source-only and the best few by mean DSC.
    """
    units = _first_seed(graph.units)
    methods = _methods(rows, units)
    made = []
    for scenario, target in _targets(units):
        mine = {u.row["method"]: u for u in units if (u.row["scenario"], u.row["target"]) == (scenario, target)}
        example = _example(mine, methods, store, rows) if "erm" in mine else None
        if example is not None:
            made.append(example)
    return _spread(made)


def _first_seed(units: Sequence[Unit]) -> list[Unit]:
    first = units[0].row
    return [u for u in units if all(u.row[key] == first[key] for key in ("seed", "backbone")) and u.row["draw"] == 0]


def _targets(units: Sequence[Unit]) -> list[tuple[str, str]]:
    """(scenario, target) pairs; a source that several scenarios share is listed once."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for unit in units:
        row = unit.row
        found.setdefault(
            (row["source"] if row["target"] == row["source"] else row["scenario"], row["target"]),
            (row["scenario"], row["target"]),
        )
    return list(found.values())


def _methods(rows: pd.DataFrame, units: Sequence[Unit]) -> list[str]:
    scored = rows[(rows.metric == "dsc") & rows.value.notna() & ~rows.status.isin([str(s) for s in FAILURES])]
    means = scored.groupby("method")["value"].mean().sort_values(ascending=False)
    rest = [m for m in means.index if m not in ("erm", "target_oracle")][: METHODS - 1]
    oracle = ["target_oracle"] if "target_oracle" in means.index else []
    return ["erm", *rest, *oracle]


def _example(mine: dict[str, Unit], methods: Sequence[str], store: Store, rows: pd.DataFrame) -> Example | None:
    erm = mine["erm"]
    row = erm.row
    chosen = rows[
        (rows.scenario == row["scenario"])
        & (rows.target == row["target"])
        & (rows.method == "erm")
        & (rows.seed == row["seed"])
        & (rows.metric == "dsc")
        & rows.value.notna()
    ]
    if chosen.empty:
        return None
    per_case = chosen.groupby("case")["value"].mean().sort_values(kind="stable")
    case = str(per_case.index[len(per_case) // 2])
    structures = list(erm.scenario.structures)
    fold = next(i for i, (_, _, test) in enumerate(erm.folds) if case in test.where())
    loaded = load_case(store, erm.folds[fold][2].where()[case], case, structures)
    reference = loaded.reference
    assert reference is not None  # load_case reads it
    z = richest(reference)
    grid = loaded.geometry
    predictions = {m: _prediction(store, mine[m], fold, case, z, grid) if m in mine else None for m in methods}
    spacing = pixel(loaded.geometry.spacing)
    title = f"{row['target']}\n{case}" + (f", slice {z + 1}" if reference.ndim == 3 else "")
    return Example(title, picture(loaded.image, z, grid), spacing, plane(reference, z, grid), predictions, structures)


def _prediction(store: Store, unit: Unit, fold: int, case: str, z: int, grid: Geometry) -> np.ndarray | None:
    kind, key = unit.folds[fold][0].split("/")
    path = store.artifact(kind, key)
    if not store.done(kind, key) or not (path / f"{case}.npz").is_file():
        return None
    return plane(load_arrays(path, case)["labels"], z, grid)


def _spread(made: Sequence[Example]) -> list[Example]:
    """At most PER_PAGE examples, evenly over the targets."""
    if len(made) <= PER_PAGE:
        return list(made)
    return [made[round(i * (len(made) - 1) / (PER_PAGE - 1))] for i in range(PER_PAGE)]
