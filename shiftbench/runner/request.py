"""A run asked for: scenarios and methods planned, and the folder opened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from shiftbench.data.folders import parse_places
from shiftbench.engine.local import LocalEngine
from shiftbench.errors import MethodError, OutputError
from shiftbench.graph import MethodCard, Options, Plan
from shiftbench.machine import cores, gpus, resolve_device
from shiftbench.methods import locate_method, shipped_methods
from shiftbench.plan import plan, write_cards
from shiftbench.rng import digest
from shiftbench.runner.compute import Observer, compute
from shiftbench.runner.rows import ROWS, collect, write_rows
from shiftbench.shifts import OPERATORS, POPULATIONS
from shiftbench.spec import SALT_VARIABLE, Scenario, commitment, load_suite, unsealed
from shiftbench.store import Store, read_json, write_json
from shiftbench.types import Track
from shiftbench.version import __version__

Data = Mapping[str, str | Path] | str | Path | Sequence[str] | None


@dataclass(frozen=True)
class Prepared:
    """A run that has been planned and whose folder is open: what there is to do, and where results go."""

    name: str
    graph: Plan
    store: Store
    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()
    jobs_per_device: int = 1

    def finished(self) -> bool:
        """Whether every task is in the store."""
        return all(self.store.done(t.kind, t.key) for t in self.graph.tasks.values())

    def engine(self) -> LocalEngine:
        """The processes that compute this run."""
        return LocalEngine(
            self.store.root,
            jobs=self.jobs,
            threads=self.threads,
            gpus=self.gpus,
            jobs_per_device=self.jobs_per_device,
        )

    def digest(self) -> str:
        """Changes whenever other rows would come out."""
        units = [*self.graph.units, *self.graph.streams]
        return digest("run", [[dict(u.row), [list(f[:2]) for f in u.folds]] for u in units], sorted(self.graph.cards))

    def rows(self, observer: Observer | None = None) -> pd.DataFrame:
        """Computes what is missing, and writes and returns the rows."""
        if self.finished():
            self.store.sweep()
        else:
            compute(self.graph, self.store, self.engine(), observer)
        rows = collect(self.graph, self.store)
        write_rows(rows, self.store.root / ROWS)
        write_cards(self.graph, self.store)
        return rows


def prepare(
    scenario: Scenario | str | Path | Sequence[Scenario | str | Path],
    methods: Sequence[str] | None = None,
    *,
    data: Data = None,
    seeds: int | None = None,
    backbones: Sequence[str] | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    jobs: int | None = None,
    threads: int = 1,
    jobs_per_device: int = 1,
    salt: str | None = None,
) -> Prepared:
    """Plans a run and opens its folder; the arguments are those of `run`."""
    name, scenarios, default_methods = _selected(scenario)
    salt = salt or os.environ.get(SALT_VARIABLE)
    opened = [unsealed(s, salt, whole=whole_severities) for s in scenarios]
    root = Path(out) if out is not None else Path("shiftbench-results") / name
    folders, roots = places(data)
    where = resolve_device(device)
    options = Options(
        folders=folders,
        roots=roots,
        seeds=tuple(range(seeds)) if seeds is not None else None,
        backbones=tuple(backbones) if backbones else None,
        device=where,
        threads=threads,
    )
    store = Store(root)
    identities = {s.name: identity(s, salt) for s in scenarios}
    _refuse_other_salt(root, identities)
    store.open_for(identities)
    cards = method_cards(methods or default_methods or list(shipped_methods()), store)
    return Prepared(
        name, plan(opened, cards, options, name), store, jobs or cores(), threads, gpus(where), jobs_per_device
    )


def whole_severities(operator: str) -> bool:
    """Whether an operator has no levels between the whole severities."""
    return not OPERATORS[operator].monotone if operator in OPERATORS else operator in POPULATIONS


def identity(scenario: Scenario, salt: str | None) -> str:
    """What a result folder remembers of a scenario: version, digest of the text, and what the salt commits to."""
    text = f"{scenario.version}:{scenario.digest()[:16]}"
    return f"{text}+{commitment(scenario, salt)}" if scenario.sealed else text


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
    observer: Observer | None = None,
    **choices: Any,
) -> pd.DataFrame:
    """Runs scenarios or suites and returns one row per scenario, target, method, seed, case, structure and metric.

    Args:
        scenario: a Scenario, a TOML file, a shipped name, a suite, or several of them.
        methods: shipped names, variants, files, each with overrides where wanted ("tent_bn:lr=1e-3"); default: the
            suite's, or every shipped method. Source-only (`erm`) always runs beside them: drops are taken against it.
        observer: told of every start and end, for progress.
        **choices: `data` (folder of real scans per dataset name, a root that is searched by name, or a list of
            `NAME=PATH` and roots), `seeds` (number of seeds 0, 1, ... instead of the scenario's), `backbones` (instead
            of the scenario's), `device` ("auto", "cpu", "cuda"), `out` (result folder, default
            `shiftbench-results/<suite>`; what is in it already is not computed again), `jobs` (tasks at a time, default
            one per core), `jobs_per_device` (methods side by side on one GPU, default 1),
            `threads` (per task; part of every result's address, since it can change the last digit),
            `salt` (the organiser's secret for sealed scenarios, or else the variable SHIFTBENCH_SALT; never stored).

    Returns:
        The columns of `shiftbench.types.Row`; a failure is a row with its status. Also written to `rows.csv.gz`.

    Raises:
        ShiftBenchError: a scenario, a dataset, a method or the folder cannot be used.
    """
    return prepare(scenario, methods, **choices).rows(observer)


def _selected(scenario: Any) -> tuple[str, list[Scenario], list[str]]:
    """Name of the run, its scenarios and the methods that its suite asks for."""
    if isinstance(scenario, Scenario):
        return scenario.name, [scenario], []
    if isinstance(scenario, str | Path):
        suite, scenarios = load_suite(str(scenario))
        return suite.name, scenarios, list(suite.methods)
    parts = [_selected(one) for one in scenario]
    if len(parts) == 1:
        return parts[0]
    scenarios = list({s.name: s for _, several, _ in parts for s in several}.values())
    return "+".join(name for name, _, _ in parts), scenarios, list(dict.fromkeys(m for *_, ms in parts for m in ms))


def places(data: Data) -> tuple[dict[str, Path], tuple[Path, ...]]:
    """Folders by dataset name, and roots that are searched by name."""
    if data is None:
        return {}, ()
    if isinstance(data, Mapping):
        return {name: Path(path) for name, path in data.items()}, ()
    return parse_places([str(data)] if isinstance(data, str | Path) else [str(d) for d in data])


def method_cards(specs: Sequence[str], store: Store) -> list[MethodCard]:
    """What the named methods are; source-only is always among them.

    Methods import torch, which takes seconds, so another process looks at them and the answer is kept by the content
    of the files.
    """
    wanted = list(dict.fromkeys(["erm", *specs]))
    contents = [[spec, sha256(locate_method(spec).read_bytes()).hexdigest()] for spec in wanted]
    key = digest("cards", __version__, contents)
    path = store.root / "records" / "cards" / f"{key}.json"
    if not path.is_file():
        write_json(path, _ask_for_cards(wanted))
    cards = [MethodCard(**{**card, "track": Track(card["track"])}) for card in read_json(path)]
    by_name: dict[str, MethodCard] = {}
    for card in cards:
        if by_name.setdefault(card.name, card).identity != card.identity:
            raise MethodError(f"two methods are called '{card.name}'", remedy="rename one of the files or variants")
    return list(by_name.values())


def _ask_for_cards(specs: Sequence[str]) -> Any:
    command = [sys.executable, "-m", "shiftbench.worker.cards", *specs]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode == 2:
        problem, where, remedy = json.loads(done.stdout.splitlines()[-1])
        raise MethodError(problem, where=where, remedy=remedy)
    if done.returncode:
        raise MethodError("the methods could not be looked at", remedy=f"python said: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])
