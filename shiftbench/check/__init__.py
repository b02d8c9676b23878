"""The conformance of a method: what the tests and `shiftbench check FILE` run."""

from shiftbench.check.conformance import check_method
from shiftbench.check.findings import IMPORTS, Finding
from shiftbench.check.problem import CLASSES, SHAPES, Problem, problem

__all__ = ["CLASSES", "IMPORTS", "SHAPES", "Finding", "Problem", "check_method", "problem"]
