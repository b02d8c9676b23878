"""Commands that compute: run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shiftbench.cli.app import FAILED_CASES, INTERRUPTED, Data, Device, console, warnings


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
