"""A run: scenarios and methods in, a tidy table of rows out, everything computed once and kept."""

from shiftbench.machine import cores, gpus, resolve_device
from shiftbench.runner.compute import compute
from shiftbench.runner.request import Prepared, method_cards, places, prepare, run
from shiftbench.runner.rows import COLUMNS, ROWS, collect, read_rows, write_rows
from shiftbench.spec import load_scenario

__all__ = [
    "COLUMNS",
    "ROWS",
    "Prepared",
    "collect",
    "compute",
    "cores",
    "gpus",
    "load_scenario",
    "method_cards",
    "places",
    "prepare",
    "read_rows",
    "resolve_device",
    "run",
    "write_rows",
]
