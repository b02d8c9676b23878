"""Faults of a pipeline, reported apart from acquisition shifts. A literal table; importing it needs no torch."""

from __future__ import annotations

from shiftbench.shifts.operator import Operator

ROWS: tuple[Operator, ...] = ()
