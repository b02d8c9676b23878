"""Commands that compute or plan: run, plan, audit, rescore."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from shiftbench.cli.app import FAILED_CASES, INTERRUPTED, Data, Device, Folder, console, warnings


class Isolate(StrEnum):
    """How methods are kept apart."""

    AUTO = "auto"
    STRICT = "strict"
    OFF = "off"


class Predictions(StrEnum):
    """What becomes of the arrays of predictions."""

    KEEP = "keep"
    DROP = "drop"


class Carrier(StrEnum):
    """How results travel on a cluster."""

    AUTO = "auto"
    SHARED = "shared"
    OBJECTS = "objects"


class EngineName(StrEnum):
    """Where tasks are computed."""

    LOCAL = "local"
    RAY = "ray"


Suites = Annotated[list[str], typer.Argument(help="Suites, scenarios or TOML files.")]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Shipped name, variant or file; tent_bn:lr=1e-3 sets a field."),
]
Seeds = Annotated[int | None, typer.Option(min=1, help="Number of seeds, instead of the scenario's.")]
Backbones = Annotated[list[str] | None, typer.Option("--backbone", help="Instead of the scenario's.")]
OnDevice = Annotated[Device, typer.Option(help="Where to compute.")]
Out = Annotated[Path | None, typer.Option(help="Result folder; default shiftbench-results/SUITE.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Tasks at a time; default one per core.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads per task; part of a result's address.")]
Salt = Annotated[str | None, typer.Option(help="Secret of sealed scenarios, or SHIFTBENCH_SALT; it is never stored.")]
Isolated = Annotated[
    Isolate, typer.Option(help="Methods in a sandbox (auto: where bubblewrap is), or in a process alone (off).")
]
MemoryGb = Annotated[float | None, typer.Option(min=0.1, help="Memory that a method's process may hold, GiB.")]
TimeLimit = Annotated[float | None, typer.Option(min=0.01, help="Minutes that a task may take; default 360.")]


def run(
    scenarios: Suites,
    method: Methods = None,
    data: Data = None,
    seeds: Seeds = None,
    backbone: Backbones = None,
    device: OnDevice = Device.AUTO,
    out: Out = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    jobs_per_device: Annotated[int, typer.Option(min=1, help="Methods side by side on one GPU.")] = 1,
    salt: Salt = None,
    isolate: Isolated = Isolate.AUTO,
    memory_gb: MemoryGb = None,
    time_limit: TimeLimit = None,
    predictions: Annotated[Predictions, typer.Option(help="What becomes of them once scored.")] = Predictions.KEEP,
    engine: Annotated[EngineName, typer.Option(help="Processes of this machine, or a Ray cluster.")] = EngineName.LOCAL,
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster: HOST:PORT, auto, local.")] = None,
    carrier: Annotated[Carrier, typer.Option(help="A folder that all nodes share, or Ray's objects.")] = Carrier.AUTO,
    track: Annotated[
        list[str] | None, typer.Option(help="tensorboard or mlflow, each with :PLACE where wanted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One event a line on standard output, for machines.")] = False,
) -> None:
    """Train, adapt, score and rank; what the result folder holds already is not computed again."""
    from shiftbench.report.results import run_and_report

    with _stoppable():
        failures = run_and_report(
            scenarios,
            console=console,
            methods=method,
            as_json=as_json,
            track=track or (),
            data=data,
            seeds=seeds,
            backbones=backbone,
            device=str(device),
            out=out,
            jobs=jobs,
            threads=threads,
            jobs_per_device=jobs_per_device,
            salt=salt,
            isolate=str(isolate),
            memory_gb=memory_gb,
            time_limit=time_limit,
            predictions=str(predictions),
            engine=str(engine),
            address=address,
            carrier=str(carrier),
        )
    for line in failures:
        warnings.print(line, style="red", highlight=False, markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(FAILED_CASES)


def plan(
    scenarios: Suites,
    method: Methods = None,
    data: Data = None,
    seeds: Seeds = None,
    backbone: Backbones = None,
    device: OnDevice = Device.AUTO,
    out: Out = None,
    jobs: Jobs = None,
    threads: Threads = 1,
    salt: Salt = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count tasks, files, bytes and hours, one scenario at a time.")
    ] = False,
) -> None:
    """Say what a run would train, adapt, score and reuse; nothing is computed or written."""
    from shiftbench.keeping.forecast import forecast

    choices = {"data": data, "seeds": seeds, "backbones": backbone, "device": str(device), "out": out}
    asked = {**choices, "jobs": jobs, "threads": threads, "salt": salt}
    for line in forecast(scenarios, method, dry_run=dry_run, **asked):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def audit(
    folder: Folder,
    method: Annotated[list[str] | None, typer.Option(help="Names of methods of the run; all if none.")] = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="All targets, seeds and cases.")] = False,
    isolate: Isolated = Isolate.AUTO,
) -> None:
    """Run predictions of a result folder again under changes that must not matter, and compare them to the bit."""
    from shiftbench.report.results import audit_folder

    with _stoppable():
        failed = audit_folder(folder, console, methods=method, thorough=thorough, isolate=str(isolate))
    if failed:
        raise typer.Exit(FAILED_CASES)


def rescore(
    folder: Folder,
    jobs: Jobs = None,
    threads: Threads = 1,
) -> None:
    """Score kept predictions again with the metrics of this version, without running a method."""
    from shiftbench.report.results import rescore_folder

    with _stoppable():
        rescore_folder(folder, console, jobs=jobs, threads=threads)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the program with their exit codes and one sentence."""
    try:
        yield
    except KeyboardInterrupt as stop:
        warnings.print("stopped; the same command goes on from here", highlight=False)
        raise typer.Exit(getattr(stop, "exit_code", INTERRUPTED)) from None
