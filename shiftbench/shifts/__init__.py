"""Shifts of acquisition, label protocol and population; importing the tables does not import torch."""

from shiftbench.shifts.operators import OPERATORS, LabelPolicy, Operator, apply, value_at
from shiftbench.shifts.population import POPULATIONS
from shiftbench.shifts.protocol import PROTOCOLS

__all__ = ["OPERATORS", "POPULATIONS", "PROTOCOLS", "LabelPolicy", "Operator", "apply", "value_at"]
