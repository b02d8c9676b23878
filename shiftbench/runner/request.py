"""What is asked for: scenarios, methods and options, resolved and checked; nothing is planned or written yet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shiftbench.data.folders import parse_places
from shiftbench.engine import Engine, engine_class
from shiftbench.errors import OutputError, nearest
from shiftbench.graph import MethodCard, Options, Settings
from shiftbench.isolation.launcher import level
from shiftbench.machine import cores, gpus, resolve_device
from shiftbench.methods import shipped_methods
from shiftbench.shifts import OPERATORS, POPULATIONS
from shiftbench.spec import SALT_VARIABLE, Scenario, commitment, load_suite, unsealed
from shiftbench.store import Store
from shiftbench.worker.looks import method_cards

PREDICTIONS = ("keep", "drop")
RESULTS = Path("shiftbench-results")
DEFAULT_SETTINGS = Settings()
Data = Mapping[str, str | Path] | str | Path | Sequence[str] | None


@dataclass(frozen=True)
class Means:
    """With what a run is computed; nothing of it changes a result.

    Attributes:
        jobs: tasks at a time.
        gpus: that methods may compute on.
        jobs_per_device: methods side by side on one GPU.
        settings: how tasks are run.
        predictions: "keep" or "drop" the arrays of predictions once they are scored.
        engine: a name of `shiftbench.engine.ENGINES`.
        address: of a cluster.
        carrier: how results travel on a cluster: "auto", "shared" or "objects".
    """

    jobs: int = 1
    gpus: tuple[str, ...] = ()
    jobs_per_device: int = 1
    settings: Settings = DEFAULT_SETTINGS
    predictions: str = "keep"
    engine: str = "local"
    address: str | None = None
    carrier: str = "auto"

    def start(self, root: Path, threads: int) -> Engine:
        """The engine.

        Raises:
            ShiftBenchError: it is unknown or not installed, or its cluster does not answer.
        """
        cluster = {"address": self.address, "carrier": self.carrier}
        own: dict[str, Any] = {"jobs": self.jobs} if self.engine == "local" else cluster
        shared = {"threads": threads, "gpus": self.gpus, "jobs_per_device": self.jobs_per_device}
        return engine_class(self.engine)(root, settings=self.settings, **shared, **own)


@dataclass(frozen=True)
class Request:
    """A run that is asked for.

    Attributes:
        name: of the suite or scenario.
        scenarios: as given; `opened` are those with the levels of sealed ones drawn.
        identities: scenario to what its result folder remembers of it.
        methods: as they were asked for.
        root: of the result folder.
    """

    name: str
    scenarios: tuple[Scenario, ...]
    opened: tuple[Scenario, ...]
    identities: Mapping[str, str]
    methods: tuple[str, ...]
    options: Options
    root: Path
    means: Means

    def cards(self, store: Store | None = None) -> list[MethodCard]:
        """What the methods are; what was seen is kept in the store, if one is given.

        Raises:
            MethodError: a method cannot be used.
        """
        if store is not None:
            return method_cards(self.methods, store, self.means.settings)
        with tempfile.TemporaryDirectory() as folder:
            return method_cards(self.methods, Store(Path(folder)), self.means.settings)

    def told(self) -> dict[str, Any]:
        """For people, as JSON values."""
        options = self.options
        chosen = {"seeds": options.seeds, "backbones": options.backbones}
        where = {"device": options.device, "threads": options.threads}
        return {"scenarios": sorted(self.identities), "methods": list(self.methods), **chosen, **where}


def ask(
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
    isolate: str = "auto",
    memory_gb: float | None = None,
    time_limit: float | None = None,
    predictions: str = "keep",
    engine: str = "local",
    address: str | None = None,
    carrier: str = "auto",
) -> Request:
    """Resolves the arguments of `shiftbench.run`.

    Raises:
        ShiftBenchError: a scenario, a place or an option cannot be used.
    """
    if predictions not in PREDICTIONS:
        raise OutputError(f"predictions cannot be '{predictions}'", remedy=nearest(predictions, PREDICTIONS))
    level(isolate)  # refused before anything is planned
    name, scenarios, default_methods = _selected(scenario)
    salt = salt or os.environ.get(SALT_VARIABLE)
    here = engine == "local"  # a cluster has its own GPUs, and the machine that asks may have none
    where = resolve_device(device) if here or device == "auto" else device
    settings = Settings(isolate, *_limits(time_limit, memory_gb))
    return Request(
        name,
        tuple(scenarios),
        tuple(unsealed(s, salt, whole=whole_severities) for s in scenarios),
        {s.name: identity(s, salt) for s in scenarios},
        tuple(methods or default_methods or shipped_methods()),
        _options(data, seeds, backbones, where, threads),
        Path(out) if out is not None else RESULTS / name,
        Means(
            jobs or cores(),
            gpus(where) if here else (where,) * (where == "cuda"),
            jobs_per_device,
            settings,
            predictions,
            engine,
            address,
            carrier,
        ),
    )


def _options(data: Data, seeds: int | None, backbones: Sequence[str] | None, device: str, threads: int) -> Options:
    folders, roots = places(data)
    return Options(
        folders=folders,
        roots=roots,
        seeds=tuple(range(seeds)) if seeds is not None else None,
        backbones=tuple(backbones) if backbones else None,
        device=device,
        threads=threads,
    )


def _limits(time_limit: float | None, memory_gb: float | None) -> tuple[float, float | None]:
    """Seconds and MiB of a task, from minutes and GiB."""
    seconds = DEFAULT_SETTINGS.seconds if time_limit is None else 60.0 * time_limit
    return seconds, None if memory_gb is None else 1024.0 * memory_gb


def whole_severities(operator: str) -> bool:
    """Whether an operator has no levels between the whole severities."""
    return not OPERATORS[operator].monotone if operator in OPERATORS else operator in POPULATIONS


def identity(scenario: Scenario, salt: str | None) -> str:
    """What a result folder remembers of a scenario: version, digest of the text, and what the salt commits to."""
    text = f"{scenario.version}:{scenario.digest()[:16]}"
    return f"{text}+{commitment(scenario, salt)}" if scenario.sealed else text


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
