"""What a run leaves for people: the leaderboard in four forms, the figures, and a line per failure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from shiftbench.agreement import COLUMNS as AGREEMENT_COLUMNS
from shiftbench.agreement import protocol_agreement
from shiftbench.audit import read_table
from shiftbench.audit.command import command as audit
from shiftbench.errors import OutputError, SpecError, nearest
from shiftbench.graph import Options, Settings
from shiftbench.keeping.estimate import estimate
from shiftbench.keeping.plans import latest
from shiftbench.keeping.rescore import drop_predictions, rescore
from shiftbench.machine import cores
from shiftbench.report.sections.section import Section
from shiftbench.report.stored import TEXT, print_stored
from shiftbench.robustness.streams import outside_streams
from shiftbench.runner import ROWS, Prepared, places, prepare, read_rows
from shiftbench.runner.request import Means
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.spec import load_scenario, scenario_files
from shiftbench.store import Store, read_json, write_json
from shiftbench.types import FAILURES
from shiftbench.version import __version__
from shiftbench.watch.events import Observer
from shiftbench.watch.jsonlines import JsonLines
from shiftbench.watch.people import for_people
from shiftbench.watch.recorder import Recorder
from shiftbench.watch.runfile import RunFile
from shiftbench.watch.trackers import trackers
from shiftbench.watch.watch import Watch

REPORT = "report.json"
REPORT_VERSION = 5
AGREEMENT = "agreement.csv"


def run_and_report(
    scenarios: Sequence[str],
    *,
    console: Console,
    methods: Sequence[str] | None = None,
    as_json: bool = False,
    track: Sequence[str] = (),
    **choices: Any,
) -> list[str]:
    """Runs, writes rows, tables and figures, prints the leaderboard; returns one line per failure, with what to do.

    Args:
        scenarios: suites, scenarios or TOML files.
        console: for the progress and the leaderboard.
        methods: see `shiftbench.run`, as are `choices`.
        as_json: events go to standard output, one a line, and nothing else.
        track: trackers that are told, see `shiftbench.watch.trackers`.
    """
    job = prepare(list(scenarios), methods, **choices)
    silent = Console(quiet=True)
    people = silent if as_json else console
    finished = job.finished()
    if finished and _up_to_date(job):
        print_stored(job.store.root, people)
        people.print(f"nothing to compute; results are in {job.store.root}", highlight=False, soft_wrap=True)
        if as_json:
            _tell_all_is_done(job)
        return []
    for line in () if as_json or finished else estimate(job.graph, job.store, job.jobs).lines():
        people.print(line, highlight=False, markup=False, soft_wrap=True)
    shown = JsonLines.on_stdout() if as_json else for_people(console)
    apart: list[Observer] = [shown, *trackers(track, job.store, {"suite": job.name, **job.request.told()})]
    with Watch([RunFile(job.store.root)], apart) as watch:
        rows, failures = job.computed(watch)
        made = write_tables_and_figures(rows, job.store.root, job)
        watch.table(leaderboard_lines(job.store.root))
    if job.request.means.predictions == "drop":
        drop_predictions(job.graph, job.store)
    print_stored(job.store.root, people)
    pictures = sum(p.suffix == ".png" for p in made)
    people.print(f"rows, leaderboard and {pictures} figures are in {job.store.root}", highlight=False, soft_wrap=True)
    lines = [*failures, *uncovered(rows)]
    if not lines:
        write_json(job.store.root / REPORT, _fingerprint(job))
    return lines


def _tell_all_is_done(job: Prepared) -> None:
    """The events of a run that has nothing to do."""
    tell = JsonLines.on_stdout()
    with Recorder(tell, job.graph.tasks, set(job.graph.tasks), running=lambda: (), jobs=job.jobs):
        pass
    tell.close()


def leaderboard_lines(folder: Path) -> list[dict[str, Any]]:
    """The leaderboard of a result folder, a mapping per line."""
    from shiftbench.report.leaderboard import read_csv

    return read_csv(folder / "leaderboard.csv").to_dict("records")


def audit_folder(folder: Path, console: Console, *, methods: Sequence[str] | None, thorough: bool, isolate: str) -> int:
    """Audits the run of a result folder, writes its tables again, and returns how many audits failed.

    Raises:
        ShiftBenchError: there is no run here, or a method is not in it.
    """
    store = Store(folder)
    graph = latest(store)
    rows = read_rows(folder) if (folder / ROWS).is_file() else None
    failed = audit(console, graph, store, Settings(isolate), rows=rows, methods=methods, thorough=thorough)
    if rows is not None:
        write_tables_and_figures(rows, folder)
    return failed


def rescore_folder(folder: Path, console: Console, *, jobs: int | None, threads: int) -> None:
    """Scores kept predictions again and writes the tables.

    Raises:
        OutputError: there is no run here, or its predictions cannot be scored.
    """
    engine = Means(jobs=jobs or cores()).start(folder, threads)
    done = rescore(folder, engine)
    for line in done.lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    made = write_tables_and_figures(done.rows, folder)
    console.print(f"{len(made)} tables and figures are written again in {folder}", highlight=False, soft_wrap=True)


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
    audits = read_table(folder)
    made_sections = sections(rows, agreement, audits)
    rows = outside_streams(rows)
    table = leaderboard.leaderboard(rows, audits)
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


def uncovered(rows: pd.DataFrame) -> list[str]:
    """A line that says how many cases have no usable prediction and what becomes of them; none if there are none."""
    failed = rows[rows["status"].isin([str(s) for s in FAILURES])]
    cases = failed[["scenario", "target", "backbone", "method", "draw", "seed", "case"]].drop_duplicates()
    if cases.empty:
        return []
    names = ", ".join(sorted(set(cases["method"])))
    return [
        f"{len(cases)} cases have no usable prediction ({names}): they count as the worst value and are tried again by"
        " the next run"
    ]


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
