"""The conformance of a method: what the tests and `shiftbench check FILE` run."""

from shiftbench.check.conformance import IMPORTS, Finding, check_method
from shiftbench.check.problem import CLASSES, SHAPES, Problem, problem

__all__ = ["CLASSES", "IMPORTS", "SHAPES", "Finding", "Problem", "check_method", "problem"]
