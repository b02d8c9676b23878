"""What a run leaves for people: the leaderboard in four forms, the figures, and a line per failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from shiftbench.agreement import COLUMNS as AGREEMENT_COLUMNS
from shiftbench.agreement import protocol_agreement
from shiftbench.errors import OutputError, SpecError, nearest
from shiftbench.graph import Options
from shiftbench.progress import RunProgress
from shiftbench.report.sections.section import Section
from shiftbench.report.stored import TEXT, print_stored
from shiftbench.robustness.streams import outside_streams
from shiftbench.runner import ROWS, Prepared, places, prepare
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.spec import load_scenario, scenario_files
from shiftbench.store import read_json, write_json
from shiftbench.types import FAILURES, Track
from shiftbench.version import __version__

REPORT = "report.json"
REPORT_VERSION = 4
AGREEMENT = "agreement.csv"


def run_and_report(
    scenarios: Sequence[str], *, console: Console, methods: Sequence[str] | None = None, **choices: Any
) -> list[str]:
    """Runs, writes rows, tables and figures, prints the leaderboard; returns one line per failed method and target.

    Args:
        scenarios: suites, scenarios or TOML files.
        console: for the progress and the leaderboard.
        methods: see `shiftbench.run.run`, as are `choices`.
    """
    job = prepare(list(scenarios), methods, **choices)
    if job.finished() and _up_to_date(job):
        print_stored(job.store.root, console)
        console.print(f"nothing to compute; results are in {job.store.root}", highlight=False, soft_wrap=True)
        return []
    progress = RunProgress(console, job.store, job.jobs)
    try:
        rows = job.rows(progress)
    finally:
        progress.close()
    made = write_tables_and_figures(rows, job.store.root, job)
    print_stored(job.store.root, console)
    pictures = sum(p.suffix == ".png" for p in made)
    console.print(f"rows, leaderboard and {pictures} figures are in {job.store.root}", highlight=False, soft_wrap=True)
    lines = failure_lines(rows)
    if not lines:
        write_json(job.store.root / REPORT, _fingerprint(job))
    return lines


def _fingerprint(job: Prepared) -> dict[str, Any]:
    return {"run": job.digest(), "report": REPORT_VERSION, "shiftbench": __version__}


def _up_to_date(job: Prepared) -> bool:
    root = job.store.root
    if not all(
        (root / name).is_file() for name in (REPORT, ROWS, TEXT, "leaderboard.csv", "leaderboard.md", AGREEMENT)
    ):
        return False
    return read_json(root / REPORT) == _fingerprint(job)


def write_tables_and_figures(rows: pd.DataFrame, folder: Path, job: Prepared | None = None) -> list[Path]:
    """Leaderboard (CSV, Markdown, text) and figures (PNG, SVG) of the rows.

    Where the run is at hand there are example images and the agreement of the label protocols too; without it the
    agreement is the one that the folder holds, if any.
    """
    from shiftbench.report import figures, leaderboard  # matplotlib: a second that a finished run does not need
    from shiftbench.report.sections import sections, write_sections

    agreement = read_agreement(folder) if job is None else protocol_agreement(job.graph, job.store)
    made_sections = sections(rows, agreement)
    rows = outside_streams(rows)
    table = leaderboard.leaderboard(rows)
    title = str(rows["suite"].iloc[0])
    made = [
        leaderboard.write_csv(table, folder / "leaderboard.csv"),
        leaderboard.write_markdown(
            table, folder / "leaderboard.md", title=title, agreement=agreement, sections=made_sections
        ),
        _write_text(table, made_sections, folder / TEXT),
        *write_sections(made_sections, folder),
        *figures.write_figures(rows, folder / "figures"),
    ]
    if job is not None:
        made.append(leaderboard.write_csv(agreement, folder / AGREEMENT))
        made += _write_examples(rows, folder / "figures", job)
    return made


def read_agreement(folder: Path) -> pd.DataFrame | None:
    """The agreement of the label protocols that a run wrote into its folder; None where there is none.

    Raises:
        OutputError: the file is no such table.
    """
    path = folder / AGREEMENT
    if not path.is_file():
        return None
    text = dict.fromkeys(("scenario", "target", "structure"), str)
    try:
        table = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise OutputError("the table cannot be read", where=path, remedy="delete this file and run again") from error
    if list(table.columns) != AGREEMENT_COLUMNS:
        raise OutputError("this is no table of agreements", where=path, remedy="delete this file and run again")
    return table


def _write_text(table: pd.DataFrame, made_sections: Sequence[Section], path: Path) -> Path:
    from shiftbench.report.leaderboard import print_leaderboard
    from shiftbench.report.sections import print_sections

    with path.open("w", encoding="utf-8") as handle:
        console = Console(file=handle, width=118, force_terminal=False)
        print_leaderboard(console, table)
        print_sections(console, made_sections)
    return path


def _write_examples(rows: pd.DataFrame, folder: Path, job: Prepared) -> list[Path]:
    from shiftbench.report.gallery import examples
    from shiftbench.report.sheet import example_page
    from shiftbench.report.style import save

    found = examples(job.graph, job.store, rows)
    return list(save(example_page(found, title=f"Examples: {job.name}"), folder, "examples")) if found else []


def failure_lines(rows: pd.DataFrame) -> list[str]:
    """One line per scenario, target and method with failed cases: how many, and the first cause."""
    failed = rows[rows["status"].isin([str(s) for s in FAILURES])]
    lines = []
    for (scenario, target, method), group in failed.groupby(["scenario", "target", "method"], sort=True):
        first = group.iloc[0]
        lines.append(
            f"{method} on {scenario}/{target}: {first['status']} in {group['case'].nunique()} cases: "
            f"{first['detail']}; they count as {_worth(first)} and are tried again by the next run"
        )
    return lines


def _worth(row: pd.Series) -> str:
    """What a failure counts as."""
    return "wrong as can be" if row["track"] == Track.ESTIMATE else "zero"


def write_sheet(
    name: str, scenario: str, data: Sequence[str] | None, patients: int, folder: Path, wide: bool
) -> list[Path]:
    """The contact sheet of a shift (on the source of `scenario`) or of a scenario, as PNG and SVG.

    Raises:
        SpecError: neither a shift nor a scenario.
    """
    from shiftbench.report import show, style

    folders, roots = places(list(data) if data else None)
    options = Options(folders=folders, roots=roots)
    if name in OPERATORS or name in POPULATIONS or name in PROTOCOLS:
        figure = show.severities(load_scenario(scenario), name, options, patients=patients, wide=wide)
    elif name in scenario_files() or name.endswith(".toml"):
        figure = show.targets_of(load_scenario(name), options, patients=patients)
    else:
        known = [*OPERATORS, *POPULATIONS, *PROTOCOLS, *scenario_files()]
        raise SpecError(f"'{name}' is neither a shift nor a scenario", remedy=nearest(name, known))
    try:
        return list(style.save(figure, folder, Path(name).stem))
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=folder, remedy="give --out elsewhere") from None
