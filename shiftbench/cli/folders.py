"""Commands on a result folder."""

from __future__ import annotations

from shiftbench.cli.app import Folder, console


def leaderboard(folder: Folder) -> None:
    """Print the leaderboard of a result folder."""
    from shiftbench.report.stored import print_stored

    print_stored(folder, console)


def plot(folder: Folder) -> None:
    """Write the leaderboard and its figures of a result folder again, from its rows."""
    from shiftbench.report.results import write_tables_and_figures
    from shiftbench.runner import read_rows

    for path in write_tables_and_figures(read_rows(folder), folder):
        console.print(str(path), highlight=False, soft_wrap=True)
