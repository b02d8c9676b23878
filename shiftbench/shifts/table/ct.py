"""Operators of computed tomography. A literal table; importing it needs no torch."""

from __future__ import annotations

from shiftbench.shifts.operator import Operator

ROWS: tuple[Operator, ...] = ()
