"""The command line. Commands import what they need, so that help and listings start without torch."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shiftbench.errors import ShiftBenchError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Benchmark medical image segmentation under domain shift.",
)
console = Console(width=None if sys.stdout.isatty() else 120)
warnings = Console(stderr=True)

FAILED_CASES = 1  # exit code of a run that ended with failures among its rows
BAD_INPUT = 2
INTERRUPTED = 130


class Listing(StrEnum):
    """What `list` can list."""

    SCENARIOS = "scenarios"
    METHODS = "methods"
    SHIFTS = "shifts"
    BACKBONES = "backbones"
    METRICS = "metrics"
    FEATURES = "features"
    DATASETS = "datasets"


class Device(StrEnum):
    """Where to compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Data = Annotated[
    list[str] | None, typer.Option("--data", help="Folder of scans: NAME=PATH, or a root searched by name.")
]
Folder = Annotated[Path, typer.Argument(help="A result folder.")]


@app.command()
def run(
    scenarios: Annotated[list[str], typer.Argument(help="Suites, scenarios or TOML files.")],
    method: Annotated[
        list[str] | None, typer.Option(help="Shipped name, variant or file; tent_bn:lr=1e-3 sets a field.")
    ] = None,
    data: Data = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Number of seeds, instead of the scenario's.")] = None,
    backbone: Annotated[list[str] | None, typer.Option(help="Instead of the scenario's.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.AUTO,
    out: Annotated[Path | None, typer.Option(help="Result folder; default shiftbench-results/SUITE.")] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Tasks at a time; default one per core.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads per task; part of a result's address.")] = 1,
    jobs_per_device: Annotated[int, typer.Option(min=1, help="Methods side by side on one GPU.")] = 1,
    salt: Annotated[
        str | None, typer.Option(help="Secret of sealed scenarios, or SHIFTBENCH_SALT; it is never stored.")
    ] = None,
) -> None:
    """Train, adapt, score and rank; what the result folder holds already is not computed again."""
    from shiftbench.report.results import run_and_report

    try:
        failures = run_and_report(
            scenarios,
            console=console,
            methods=method,
            data=data,
            seeds=seeds,
            backbones=backbone,
            device=str(device),
            out=out,
            jobs=jobs,
            threads=threads,
            jobs_per_device=jobs_per_device,
            salt=salt,
        )
    except KeyboardInterrupt:
        warnings.print("stopped; the same command goes on from here", highlight=False)
        raise typer.Exit(INTERRUPTED) from None
    for line in failures:
        warnings.print(line, style="red", highlight=False, soft_wrap=True)
    if failures:
        raise typer.Exit(FAILED_CASES)


@app.command("list")
def list_(what: Annotated[Listing, typer.Argument(help="What to list.")]) -> None:
    """List what comes with the package."""
    from shiftbench import listings

    head, lines = listings.TABLES[what]()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, name in enumerate(head):
        table.add_column(name, overflow="fold", no_wrap=i == 0)  # a name can be copied
    for line in lines:
        table.add_row(*(escape(cell) for cell in line))
    console.print(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A scenario or TOML file, or a shift.")],
    data: Data = None,
    scenario: Annotated[str, typer.Option(help="Whose source a shift is shown on.")] = "abdomen-scanner",
    patients: Annotated[int, typer.Option(min=1, help="How many patients.")] = 3,
    wide: Annotated[bool, typer.Option("--wide", help="Severities of a shift side by side.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
) -> None:
    """Write a contact sheet: images at each severity, or of each target, with the reference drawn in."""
    from shiftbench.report.results import write_sheet

    for path in write_sheet(name, scenario, data, patients, out or Path("shiftbench-results") / "show", wide):
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def leaderboard(folder: Folder) -> None:
    """Print the leaderboard of a result folder."""
    from shiftbench.report.stored import print_stored

    print_stored(folder, console)


@app.command()
def plot(folder: Folder) -> None:
    """Write the leaderboard and its figures of a result folder again, from its rows."""
    from shiftbench.report.results import write_tables_and_figures
    from shiftbench.runner import read_rows

    for path in write_tables_and_figures(read_rows(folder), folder):
        console.print(str(path), highlight=False, soft_wrap=True)


@app.command()
def check(method: Annotated[str, typer.Argument(help="A method's file or name.")]) -> None:
    """Try a method against the contract that every baseline keeps."""
    from shiftbench.check import check_method
    from shiftbench.methods import load_methods

    broken = False
    for name, loaded in load_methods(method).items():
        console.print(name, style="bold", highlight=False)
        for finding in check_method(loaded):
            console.print(
                f"  {finding.outcome:8} {finding.check}" + (f": {finding.detail}" if finding.detail else ""),
                highlight=False,
            )
            broken |= finding.outcome == "failed"
    if broken:
        raise typer.Exit(FAILED_CASES)


@app.command()
def certify(
    operators: Annotated[list[str] | None, typer.Argument(help="Acquisition operators; all of them if none.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the certificate.")] = Path("shiftbench-results/certificate"),
    cases: Annotated[int, typer.Option(min=1, help="Patients of the reference set.")] = 3,
    patients: Annotated[int, typer.Option(min=0, help="On which the drop of a U-Net is measured; 0: none.")] = 8,
) -> None:
    """Measure what every operator achieves at every level, and compare it with what was asked for."""
    from shiftbench.certificate.certificate import certify as measure
    from shiftbench.certificate.certificate import write

    with console.status("") as status:
        certificate = measure(operators or (), cases=cases, patients=patients, say=status.update)
    for path in write(certificate, out):
        console.print(str(path), highlight=False, soft_wrap=True)
    for breach in certificate.breaches:
        warnings.print(f"breach: {breach}", style="red", highlight=False, markup=False, soft_wrap=True)
    done, measured = certificate.levels()["operator"].nunique(), len(certificate.checks)
    console.print(f"{done} operators, {measured} measurements on test objects, {len(certificate.breaches)} breaches")
    if certificate.breaches:
        raise typer.Exit(FAILED_CASES)


@app.command()
def doctor(
    out: Annotated[Path, typer.Option(help="Where results would be written.")] = Path("shiftbench-results"),
) -> None:
    """Report versions, devices, memory and whether results can be written."""
    from shiftbench.diagnosis import diagnose

    ok = True
    for finding in diagnose(out):
        mark = "ok     " if finding.ok else "PROBLEM"
        console.print(f"{mark}  {finding.name}: {finding.text}", highlight=False, soft_wrap=True)
        ok &= finding.ok
    if not ok:
        raise typer.Exit(FAILED_CASES)


@app.command("selftest")
def selftest_(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON list instead of lines.")] = False,
) -> None:
    """Try the libraries that scores are computed with, and the metrics, on cases with known answers."""
    import json
    from dataclasses import asdict

    from shiftbench.selftest import refusal, selftest

    checks = selftest()
    if as_json:
        console.print(json.dumps([asdict(check) for check in checks], indent=2), markup=False, soft_wrap=True)
    for check in () if as_json else checks:
        words = f"expected {check.expected}, found {check.found}"
        line = f"{'ok     ' if check.ok else 'PROBLEM'}  {check.package} {check.version}: {check.name}: {words}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    broken = next((check for check in checks if not check.ok), None)
    if broken is not None:
        warnings.print(f"error: {refusal(broken)}", style="red", highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(FAILED_CASES)


def main() -> None:
    """Entry point: errors are one sentence on standard error and a non-zero exit code."""
    try:
        app()
    except ShiftBenchError as error:
        warnings.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some space, change the rights, or give another folder with --out"
        warnings.print(
            f"error: {where}{error.strerror}; {remedy}.", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
