"""The rows of a result folder made again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from shiftbench.keeping import plans
from shiftbench.runner import collect, write_tables
from shiftbench.store import Store


def rebuild(folder: Path, digest: str | None = None) -> pd.DataFrame:
    """The rows again, from a saved plan and the records alone; no scenario file, method or data set is read.

    Args:
        folder: a result folder.
        digest: of the plan; the one that was run last if None.

    Raises:
        OutputError: there is no such plan, or a record is damaged.
    """
    store = Store(folder)
    plan = plans.latest(store) if digest is None else plans.load(store, digest)
    rows = collect(plan, store)
    write_tables(rows, folder)
    return rows
