"""Commands on what comes with the package and on this machine: list, show, check, certify, doctor, selftest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from shiftbench.cli.app import FAILED_CASES, Data, console, warnings


class Role(StrEnum):
    """What this machine does in the trial of a file system."""

    BOTH = "both"
    WRITER = "writer"
    READER = "reader"


class Listing(StrEnum):
    """What `list` can list."""

    SCENARIOS = "scenarios"
    METHODS = "methods"
    SHIFTS = "shifts"
    BACKBONES = "backbones"
    METRICS = "metrics"
    FEATURES = "features"
    DATASETS = "datasets"


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


def doctor(
    out: Annotated[Path, typer.Option(help="Where results would be written.")] = Path("shiftbench-results"),
    shared_fs: Annotated[
        Path | None, typer.Option(help="Kill writers and readers on this file system instead, for some seconds.")
    ] = None,
    role: Annotated[Role, typer.Option(help="On two machines at once: one writes, one reads.")] = Role.BOTH,
) -> None:
    """Report versions, devices, isolation, memory and whether results can be written; or try a file system."""
    from shiftbench.diagnosis import diagnose
    from shiftbench.keeping.shared_fs import shared_fs as try_out

    ok = True
    for finding in diagnose(out) if shared_fs is None else try_out(shared_fs, role=str(role)):
        mark = "ok     " if finding.ok else "PROBLEM"
        console.print(f"{mark}  {finding.name}: {finding.text}", highlight=False, soft_wrap=True)
        ok &= finding.ok
    if not ok:
        raise typer.Exit(FAILED_CASES)


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
