"""Which targets of a scenario are looked at together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from shiftbench.types import Family

TARGET, FAMILY, OVERALL = "target", "family", "overall"
NOT_SHIFTED = frozenset({Family.CONTROL, Family.FAULT})
UNSEEN = NOT_SHIFTED | {Family.ANNOTATION}  # overall is without them: no image shows what annotators were told to draw
T = TypeVar("T")


def pooled(by_target: Mapping[str, T], families: Mapping[str, str]) -> Iterator[tuple[str, str | None, dict[str, T]]]:
    """(scope, family, what belongs to its targets): each family but controls and faults, then overall.

    Args:
        by_target: anything, by target of one scenario.
        families: of the targets.
    """
    for family in dict.fromkeys(families[target] for target in by_target):
        if family not in NOT_SHIFTED:
            yield FAMILY, family, {t: value for t, value in by_target.items() if families[t] == family}
    seen = {t: value for t, value in by_target.items() if families[t] not in UNSEEN}
    if seen:
        yield OVERALL, None, seen
