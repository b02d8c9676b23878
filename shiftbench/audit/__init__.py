"""The audit of a run: its predict tasks run again under changes that must not matter, and what that says of methods."""

from shiftbench.audit.answers import (
    ABOVE_ORACLE,
    ASKED,
    COLUMNS,
    TABLE,
    audit,
    failed,
    read_table,
    record,
    table,
    write_table,
)
from shiftbench.audit.asked import CASES, Line, audit_tasks, lines
from shiftbench.audit.oracle import above_oracle

__all__ = [
    "ABOVE_ORACLE",
    "CASES",
    "COLUMNS",
    "TABLE",
    "ASKED",
    "Line",
    "above_oracle",
    "audit",
    "audit_tasks",
    "failed",
    "lines",
    "read_table",
    "record",
    "table",
    "write_table",
]
