"""The leaderboard as it was printed when it was made; shown again without pandas or torch."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from shiftbench.errors import OutputError

TEXT = "leaderboard.txt"


def print_stored(folder: Path, console: Console) -> None:
    """Prints the leaderboard of a result folder.

    Raises:
        OutputError: there is none.
    """
    path = folder / TEXT
    if not path.is_file():
        has_rows = (folder / "rows.csv.gz").is_file()
        remedy = f"run `shiftbench plot {folder}`" if has_rows else "give a folder that `shiftbench run` wrote"
        raise OutputError("no leaderboard here", where=folder, remedy=remedy)
    console.print(path.read_text(encoding="utf-8"), markup=False, highlight=False, soft_wrap=True, end="")
