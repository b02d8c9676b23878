"""A run: scenarios and methods in, a tidy table of rows out, everything computed once and kept."""

from shiftbench.machine import cores, gpus, resolve_device
from shiftbench.runner.compute import compute
from shiftbench.runner.prepared import Prepared, prepare, run
from shiftbench.runner.request import Request, ask, places, whole_severities
from shiftbench.runner.rows import COLUMNS, collect
from shiftbench.runner.tables import PARQUET, ROWS, read_rows, write_rows, write_tables
from shiftbench.spec import load_scenario

__all__ = [
    "COLUMNS",
    "PARQUET",
    "ROWS",
    "Prepared",
    "Request",
    "ask",
    "collect",
    "compute",
    "cores",
    "gpus",
    "load_scenario",
    "places",
    "prepare",
    "read_rows",
    "resolve_device",
    "run",
    "whole_severities",
    "write_rows",
    "write_tables",
]
