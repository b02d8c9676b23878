"""A run: what was asked for is planned, its folder is open, and what is missing can be computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from shiftbench.engine import Engine
from shiftbench.engine.scheduler import to_do
from shiftbench.errors import OutputError
from shiftbench.graph import Plan
from shiftbench.plan import plan, saved, write_cards
from shiftbench.runner.compute import compute
from shiftbench.runner.request import Request, ask
from shiftbench.runner.rows import collect
from shiftbench.runner.tables import write_tables
from shiftbench.spec import Scenario
from shiftbench.store import Store, read_json
from shiftbench.watch.events import Observer


@dataclass(frozen=True)
class Prepared:
    """What there is to do, and where results go."""

    request: Request
    graph: Plan
    store: Store

    @property
    def name(self) -> str:
        """Of the suite or scenario."""
        return self.request.name

    @property
    def jobs(self) -> int:
        """Tasks at a time."""
        return self.request.means.jobs

    def finished(self) -> bool:
        """Whether every task is in the store."""
        return not to_do(self.graph.tasks, self.store)

    def engine(self) -> Engine:
        """What computes this run.

        Raises:
            ShiftBenchError: see `Means.start`.
        """
        return self.request.means.start(self.store.root, self.request.options.threads)

    def digest(self) -> str:
        """Changes whenever other rows would come out."""
        return self.graph.digest()

    def rows(self, tell: Observer = lambda event: None) -> pd.DataFrame:
        """Computes what is missing, and writes and returns the rows."""
        return self.computed(tell)[0]

    def computed(self, tell: Observer) -> tuple[pd.DataFrame, list[str]]:
        """As `rows`, and a line for every sort of task that failed, with what to do."""
        saved.save(self.graph, self.store, self.request.told())
        recorder = compute(self.graph, self.store, self.engine(), tell, self.jobs)
        rows = collect(self.graph, self.store)
        write_tables(rows, self.store.root)
        write_cards(self.graph, self.store)
        return rows, recorder.failures.lines()


def prepare(
    scenario: Scenario | str | Path | Sequence[Scenario | str | Path],
    methods: Sequence[str] | None = None,
    **choices: Any,
) -> Prepared:
    """Plans a run and opens its folder; the arguments are those of `run`."""
    request = ask(scenario, methods, **choices)
    store = Store(request.root)
    _refuse_other_salt(request.root, request.identities)
    store.open_for(dict(request.identities))
    graph = plan(request.opened, request.cards(store), request.options, request.name)
    return Prepared(request, graph, store)


def _refuse_other_salt(root: Path, identities: Mapping[str, str]) -> None:
    meta = root / "meta.json"
    known = read_json(meta).get("scenarios", {}) if meta.is_file() else {}
    for name, now in identities.items():
        before = known.get(name, now)
        if before != now and before.partition("+")[0] == now.partition("+")[0]:
            raise OutputError(
                f"the results of the sealed scenario '{name}' were made with another salt",
                where=root,
                remedy="give that salt, or another folder with --out",
            )


def run(
    scenario: Scenario | str | Path | Sequence[Scenario | str | Path],
    methods: Sequence[str] | None = None,
    *,
    observer: Observer = lambda event: None,
    **choices: Any,
) -> pd.DataFrame:
    """Runs scenarios or suites and returns one row per scenario, target, method, seed, case, structure and metric.

    Args:
        scenario: a Scenario, a TOML file, a shipped name, a suite, or several of them.
        methods: shipped names, variants, files, each with overrides where wanted ("tent_bn:lr=1e-3"); default: the
            suite's, or every shipped method. Source-only (`erm`) always runs beside them: drops are taken against it.
        observer: told of what happens, see `shiftbench.watch.events`.
        **choices: `data` (folder of real scans per dataset name, a root that is searched by name, or a list of
            `NAME=PATH` and roots), `seeds` (number of seeds 0, 1, ... instead of the scenario's), `backbones` (instead
            of the scenario's), `device` ("auto", "cpu", "cuda"), `out` (result folder, default
            `shiftbench-results/<suite>`; what is in it already is not computed again), `jobs` (tasks at a time, default
            one per core), `jobs_per_device` (methods side by side on one GPU, default 1),
            `threads` (per task; part of every result's address, since it can change the last digit),
            `salt` (the organiser's secret for sealed scenarios, or else the variable SHIFTBENCH_SALT; never stored),
            `isolate` ("auto": methods in a sandbox where there is bubblewrap; "strict": in a sandbox or not at all;
            "off": in a process), `memory_gb` and `time_limit` (minutes) of a task, `predictions` ("keep", or "drop"
            their arrays once they are scored), `engine` ("local", "ray") and the cluster's `address`.

    Returns:
        The columns of `shiftbench.types.Row`; a failure is a row with its status. Also written to `rows.csv.gz`.

    Raises:
        ShiftBenchError: a scenario, a dataset, a method or the folder cannot be used.
    """
    return prepare(scenario, methods, **choices).rows(observer)
