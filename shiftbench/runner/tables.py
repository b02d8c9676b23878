"""The rows of a result folder: as CSV, and beside that as Parquet where there is pyarrow."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import os
from pathlib import Path

import pandas as pd
from pandas.api.types import is_numeric_dtype

from shiftbench.errors import OutputError
from shiftbench.runner.rows import COLUMNS
from shiftbench.store.owners import token

ROWS, PARQUET = "rows.csv.gz", "rows.parquet"
NUMBERS = ("level", "level_value", "k", "tolerance", "value", "peak_mb")  # of a row, that may be absent


def write_rows(rows: pd.DataFrame, path: Path) -> None:
    """The table as CSV, gzip; equal rows give equal bytes, and a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.{token()}")
    with temporary.open("wb") as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0) as packed:  # no name and no time in it
            rows.to_csv(packed, index=False)
    os.replace(temporary, path)


def read_rows(folder: Path) -> pd.DataFrame:
    """The rows of a result folder.

    Raises:
        OutputError: there are none.
    """
    path = folder / ROWS
    if not path.is_file():
        raise OutputError(f"no {ROWS} here", where=folder, remedy="give a folder that `shiftbench run` wrote")
    text = dict.fromkeys(("method_version", "case", "patient", "bound", "detail", "stream", "stream_order"), str)
    counts = dict.fromkeys(("order_seed", "position"), "Int64")
    rows = pd.read_csv(path, dtype={**text, **counts}, low_memory=False)
    return rows.reindex(columns=[*rows.columns, *(name for name in COLUMNS if name not in rows.columns)])


def write_tables(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """Writes the rows as CSV and, where that can be had, as Parquet with equal content; says what was written.

    Tables are derived: a Parquet file that cannot be written is left out, and never fails a run.
    """
    write_rows(rows, folder / ROWS)
    return [folder / ROWS, *write_parquet(rows, folder / PARQUET)]


def write_parquet(rows: pd.DataFrame, path: Path) -> list[Path]:
    """The path if the table was written; otherwise nothing, and no older table is left under the name."""
    temporary = path.with_name(f".{path.name}.{token()}")
    try:
        if importlib.util.find_spec("pyarrow") is None:
            raise ImportError("pyarrow")
        _as_read(rows).to_parquet(temporary, index=False, engine="pyarrow")
        os.replace(temporary, path)
    except Exception:  # an old pyarrow, a full disk: the rows are in the CSV
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        return []
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return [path]


def _as_read(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows as the CSV gives them back: an empty text is no text; a column without any value keeps its type."""
    texts = [name for name in rows.columns if name not in NUMBERS and not is_numeric_dtype(rows[name])]
    numbers = {name: rows[name].astype(float) for name in NUMBERS}
    return rows.assign(**numbers, **{name: rows[name].astype("string").replace("", pd.NA) for name in texts})
