"""Factorial cells: every combination of two or three causes, on the same patients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from shiftbench.errors import nearest
from shiftbench.spec.target import CELL_SIGN, Step, Target
from shiftbench.types import Family

PURE = {Family.ACQUISITION: "acquisition", Family.ANNOTATION: "protocol", Family.POPULATION: "population"}


def missing_cells(cells: Sequence[str], targets: Sequence[Target]) -> list[Target]:
    """The combinations of two and more cells, as targets of the family "combined" named "dose:3+hilum-in".

    Args:
        cells: names of two or three of `targets`.
        targets: of the scenario, one per level.

    Raises:
        ValueError: an unknown cell, one cell twice, a cell that is no pure cause on the source's patients, or two cells
            that change the same thing.
    """
    by_name = {target.name: target for target in targets}
    for cell in cells:
        if cell not in by_name:
            raise ValueError(f"unknown factorial cell '{cell}'; {nearest(cell, by_name)}")
    if len(set(cells)) != len(cells):
        raise ValueError(f"the factorial cell '{max(cells, key=cells.count)}' is listed twice")
    chosen = [by_name[cell] for cell in cells]
    for target in chosen:
        _check_pure(target)
    return [_combined(several) for n in range(2, len(cells) + 1) for several in combinations(chosen, n)]


def _check_pure(target: Target) -> None:
    """Raises ValueError where a cell is not one cause on the same patients."""
    kind = PURE.get(target.family)
    if kind is None:
        raise ValueError(
            f"the factorial cell '{target.name}' is of the family '{target.family}'; use acquisition, annotation"
            " or population targets"
        )
    if target.changed != (kind,):
        changes = " and ".join(target.changed) or "nothing"
        raise ValueError(
            f"the factorial cell '{target.name}' of the family '{target.family}' changes {changes}; change {kind} alone"
        )
    if target.dataset is not None or target.selection is not None:
        raise ValueError(f"the factorial cell '{target.name}' has other patients; all cells need the same")


def _combined(targets: Sequence[Target]) -> Target:
    """One target that differs from the source in all that these differ in."""
    acquisition = [step for target in targets for step in target.acquisition]
    population = [step for target in targets for step in target.population]
    for steps in (acquisition, population):
        _refuse_twice([step.operator for step in steps], "the operator", targets)
    _refuse_twice([key for target in targets for key in target.protocol], "the protocol key", targets)
    return targets[0].model_copy(
        update={
            "name": CELL_SIGN.join(target.name for target in targets),
            "family": Family.COMBINED,
            "acquisition": tuple[Step, ...](acquisition),
            "protocol": {key: value for target in targets for key, value in target.protocol.items()},
            "population": tuple[Step, ...](population),
            "oracle": all(target.oracle for target in targets),
        }
    )


def _refuse_twice(names: Sequence[str], what: str, targets: Sequence[Target]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        cells = " and ".join(f"'{target.name}'" for target in targets)
        raise ValueError(f"the factorial cells {cells} both set {what} '{twice[0]}'")
