"""Commands on a result folder: status, leaderboard, plot, why, verify, gc, export, merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shiftbench.cli.app import FAILED_CASES, Folder, console


def status(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Say what is under way in a result folder, what failed, and how long it may take."""
    from shiftbench.watch.status import told

    for line in told(folder, as_json=as_json):
        typer.echo(line)


def leaderboard(folder: Folder) -> None:
    """Print the leaderboard of a result folder."""
    from shiftbench.report.stored import print_stored

    print_stored(folder, console)


def plot(
    folder: Folder,
    rows: Annotated[bool, typer.Option("--rows", help="Make the rows again first, from the records.")] = False,
) -> None:
    """Write the leaderboard, tables and figures of a result folder again, from its rows or records."""
    from shiftbench.keeping.tables import rebuild
    from shiftbench.report.results import write_tables_and_figures
    from shiftbench.runner import read_rows

    table = rebuild(folder) if rows else read_rows(folder)
    _print(*map(str, write_tables_and_figures(table, folder)))


def why(
    task: Annotated[str, typer.Argument(help="A task: KIND/KEY, or the beginning of its key.")],
    folder: Annotated[Path, typer.Option("--in", help="The result folder.")] = Path("."),
    against: Annotated[str | None, typer.Option(help="Another task, or another result folder.")] = None,
) -> None:
    """Print what the address of a task was made of, and what would change it."""
    from shiftbench.keeping.why import why as explain

    _print(*explain(folder, task, against))


def verify(
    folder: Folder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Move what is damaged to quarantine/; the next run computes it again.")
    ] = False,
) -> None:
    """Hash every record and array of a result folder."""
    from shiftbench.store import Store
    from shiftbench.store.verify import verify as hashed

    found = hashed(Store(folder), repair)
    for damage in found:
        moved = f"; moved to {damage.moved}" if damage.moved else ""
        _print(f"{damage.path}: {damage.problem}{moved}")
    lost = sum(damage.lost for damage in found)
    remedy = "run again to compute it" if repair else "add --repair, and run again"
    _print(f"{lost} damaged results; {remedy}" if lost else "every result is what was written")
    if lost and not repair:
        raise typer.Exit(FAILED_CASES)


def gc(
    folder: Folder,
    unplanned: Annotated[bool, typer.Option("--unplanned", help="Also results that no plan of here names.")] = False,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Also what verify put aside.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove what killed runs left behind; safe while a run is going on."""
    from shiftbench.keeping.plans import planned_ids
    from shiftbench.store import Store
    from shiftbench.store.upkeep import gc as clean

    store = Store(folder)
    removed = clean(store, planned_ids(store) if unplanned else None, dry_run, quarantine=quarantine)
    for one in removed:
        _print(f"{one.path}: {one.why}")
    verb = "would be removed" if dry_run else "removed"
    _print(f"{len(removed)} things, {sum(one.bytes for one in removed) / 1e6:.1f} MB, {verb}")


def export(
    folder: Folder,
    path: Annotated[Path, typer.Argument(help="The .tar file to write.")],
    kind: Annotated[list[str] | None, typer.Option(help="Only tasks of this kind: train, predict, ...")] = None,
) -> None:
    """Write results with their scenarios and plans into one file."""
    from shiftbench.store import Store
    from shiftbench.store.transfer import export as write

    store = Store(folder)
    ids = None if not kind else {f"{k}/{key}" for k in kind for key in store.finished(k)}
    _print(f"{write(store, path, ids)} results are in {path}")


def merge(
    folder: Annotated[Path, typer.Argument(help="The result folder to add to; it may be new.")],
    sources: Annotated[list[Path], typer.Argument(help="Result folders, or files of `shiftbench export`.")],
) -> None:
    """Add the results of other machines to a result folder; results that contradict are an error."""
    from shiftbench.store import Store
    from shiftbench.store.transfer import merge as add

    merged = add(Store(folder), sources)
    _print(f"{merged.added} results added, {merged.there} were there already")


def _print(*lines: str) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
