"""Every operator at every level on the reference set: what was asked, what was achieved, and what must not happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.certificate.reference_set import SEED, ReferenceSet, candidates
from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import apply, value_at
from shiftbench.shifts.acquisition import moved_labels
from shiftbench.shifts.operator import LabelPolicy, Operator, resolve
from shiftbench.shifts.settings import Step
from shiftbench.types import Status

LEVELS = (1, 2, 3, 4, 5)
FEWEST_LEVELS = 3  # a set serves an operator if it can carry so many of its levels
COLUMNS = ("operator", "set", "case", "level", "value", "unit", "quantity", "achieved", "error", "nrmse", "status")


def effects(operator: Operator, cases: int) -> pd.DataFrame:
    """One row per case and level of an operator on the set that serves it.

    Returns:
        `value` asked for in `unit`; `achieved` in `quantity`; `error`, their relative distance where the operator
        states a tolerance; `nrmse` of the image against the one without the step; `status` ok, or why there is none.
        Empty where no set can carry three levels.
    """
    for chosen in candidates(operator):
        try:
            rows = [_row(operator, chosen, 0, level) for level in LEVELS]
        except OperatorError:
            continue  # the set's acquisition has no such parameter
        if sum(row["status"] == Status.OK for row in rows) < FEWEST_LEVELS:
            continue
        rows += [_row(operator, chosen, case, level) for case in range(1, cases) for level in LEVELS]
        return pd.DataFrame(rows, columns=COLUMNS)
    return pd.DataFrame(columns=COLUMNS)


def _row(operator: Operator, chosen: ReferenceSet, case: int, level: int) -> dict[str, Any]:
    value = value_at(operator, level)
    row: dict[str, Any] = {"operator": operator.name, "set": chosen.name, "case": case, "level": level, "value": value}
    row |= {"unit": operator.unit, "quantity": operator.achieved, "status": str(Status.OK)}
    try:
        image, measured = chosen.acquired(case, [Step(operator.name, value)])
    except (NotApplicable, OperatorError) as reason:
        if case == 0 and isinstance(reason, OperatorError):
            raise  # not defined for this set at all
        return row | {"status": str(reason)}
    plain, _ = chosen.acquired(case, [])
    reached = measured[operator.achieved]
    error = abs(reached / value - 1) if operator.tolerance is not None and value else np.nan
    nrmse = float(np.sqrt(np.mean((image - plain) ** 2)) / plain.std()) if np.isfinite(image).all() else np.inf
    return row | {"achieved": reached, "error": error, "nrmse": nrmse}


def breaches(operator: Operator, table: pd.DataFrame) -> list[str]:
    """What is wrong with an operator's effects, one sentence each."""
    done = table[table["status"] == Status.OK]
    if done.empty:
        return [f"{operator.name}: no scan of the reference set can carry three of its levels"]
    found = []
    if not np.isfinite(done["nrmse"].astype(float)).all():
        found.append(f"{operator.name}: the image holds NaN or infinity")
    if operator.tolerance is not None:
        worst = done.loc[done["error"].astype(float).idxmax()]
        if worst["error"] > operator.tolerance:
            found.append(
                f"{operator.name}: {worst['achieved']:.4g} instead of {worst['value']:.4g} {operator.unit} at severity "
                f"{worst['level']} of case {worst['case']}, {worst['error']:.1%} off (allowed {operator.tolerance:.0%})"
            )
    if operator.monotone:
        for case, own in done.groupby("case"):
            reached = operator.worse * own.sort_values("level")["achieved"].to_numpy(float)
            if (np.diff(reached) <= 0).any():
                found.append(
                    f"{operator.name}: {operator.achieved} is not monotone in case {case}: {own['achieved'].tolist()}"
                )
    return found


def identity_breaches(operator: Operator, sets: Sequence[ReferenceSet]) -> list[str]:
    """Whether severity 0 changes a bit, and whether an invariant operator moves a label."""
    chosen = sets[0]
    found = []
    if operator.kind == "parameter":
        table = _table_for(operator, sets)
        if table is not None and resolve(operator.function)(table, operator.identity) != table:
            found.append(f"{operator.name}: severity 0 changes the acquisition")
    else:
        image, _ = chosen.acquired(0, [])
        spacing = chosen.case(0).geometry.spacing
        try:
            same = apply(operator.name, image, severity=0, spacing_mm=spacing, seed=SEED, modality=chosen.modality)
        except OperatorError:  # it needs maps: a scenario leaves its severity 0 out
            same = image
        if np.asarray(same).tobytes() != image.tobytes():
            found.append(f"{operator.name}: severity 0 is not the identity to the bit")
    anatomy = chosen.case(0)
    key = (SEED, chosen.name, anatomy.case_id)
    moved = moved_labels(anatomy, [Step(operator.name, value_at(operator, 3))], key=key)
    unchanged = bool((moved.fine == anatomy.fine).all())
    if unchanged != (operator.policy is not LabelPolicy.CO_WARP):
        found.append(f"{operator.name}: labels are {'left' if unchanged else 'moved'} against its label policy")
    return found


def _table_for(operator: Operator, sets: Sequence[ReferenceSet]) -> dict[str, Any] | None:
    """The first acquisition table that the operator is defined for."""
    for chosen in sets:
        try:
            resolve(operator.function)(chosen.table, operator.levels[0])
        except (OperatorError, KeyError):
            continue
        return chosen.table
    return None
