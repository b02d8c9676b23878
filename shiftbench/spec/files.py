"""Scenario and suite files: TOML in, checked objects or one sentence out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from shiftbench.errors import SpecError, nearest
from shiftbench.spec.scenario import Factorial, Phantom, Scenario, Stream, Structure, Suite
from shiftbench.spec.target import Source, Step, Target
from shiftbench.spec.training import Architecture, Instances, Loss, Training


def content_root() -> Path:
    """The folder that holds `scenarios/` and `baselines/`: package data of a wheel, or the checkout."""
    packaged = Path(__file__).parents[1] / "_content"
    return packaged if packaged.is_dir() else Path(__file__).parents[2]


def read_toml(path: Path) -> dict[str, Any]:
    """The parsed file; a missing or malformed one raises SpecError with the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("no such file", where=path, remedy="check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(f"not valid TOML: {error}", where=path, remedy="mend this line") from None
    except OSError as error:
        raise SpecError(
            f"cannot be read: {error.strerror}", where=path, remedy="check the path and its rights"
        ) from None


def _keys_known_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Field names that are allowed where an unknown key was met."""
    for part in location[:-1]:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        nested: dict[str, type[BaseModel]] = {
            "structures": Structure,
            "source": Source,
            "target": Target,
            "phantom": Phantom,
            "training": Training,
            "loss": Loss,
            "instances": Instances,
            "backbone": Architecture,
            "factorial": Factorial,
            "stream": Stream,
        }
        model = nested.get(part) or (Step if part in ("acquisition", "population") else model)
    return list(model.model_fields)


def parse(model: type[BaseModel], table: dict[str, Any], where: object) -> Any:
    """`model` filled from `table`; the first problem becomes a SpecError that names the key and the remedy."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda e: e["type"] != "extra_forbidden"
        )  # a misspelt key before the one it hides
        key = ".".join(str(p) for p in first["loc"]) or "file"
        if first["type"] == "extra_forbidden":
            name = str(first["loc"][-1])
            raise SpecError(
                f"unknown key '{key}'", where=where, remedy=nearest(name, _keys_known_at(model, first["loc"]))
            ) from None
        if first["type"] == "missing":
            raise SpecError(
                f"the key '{key}' is missing", where=where, remedy=f"add '{first['loc'][-1]} = ...'"
            ) from None
        problem = first["msg"].removeprefix("Value error, ")
        given = first.get("input")
        shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
        raise SpecError(f"key '{key}': {problem}{shown}", where=where, remedy="change this value") from None


def _named(folder: Path, name: str, kind: str) -> Path:
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    known = {p.stem: p for p in sorted(folder.glob("*.toml"))}
    if name not in known:
        raise SpecError(f"unknown {kind} '{name}'", remedy=f"{nearest(name, known)}; or give the path of a .toml file")
    return known[name]


def scenario_files() -> dict[str, Path]:
    """Name to file of the scenarios that come with the package."""
    return {p.stem: p for p in sorted((content_root() / "scenarios").glob("*.toml"))}


def suite_files() -> dict[str, Path]:
    """Name to file of the suites that come with the package."""
    return {p.stem: p for p in sorted((content_root() / "scenarios" / "suites").glob("*.toml"))}


def load_scenario(path_or_name: str | Path) -> Scenario:
    """The scenario in a TOML file, given by its path or by the name of a shipped one.

    Raises:
        SpecError: the file is missing, malformed, or holds an unknown key or an impossible value.
    """
    path = _named(content_root() / "scenarios", str(path_or_name), "scenario")
    return parse(Scenario, read_toml(path), path)


def load_suite(name: str) -> tuple[Suite, list[Scenario]]:
    """A shipped suite, a suite file, or a single scenario taken as a suite of its own."""
    suites = suite_files()
    path = Path(name)
    if name in suites or (path.suffix == ".toml" and path.is_file() and "scenarios" in read_toml(path)):
        file = suites.get(name, path)
        suite = parse(Suite, read_toml(file), file)
        return suite, [load_scenario(_beside(file, s)) for s in suite.scenarios]
    if path.suffix == ".toml" or name in scenario_files():
        scenario = load_scenario(name)
        return Suite(name=scenario.name, question=scenario.question, scenarios=(scenario.name,)), [scenario]
    raise SpecError(
        f"unknown suite or scenario '{name}'",
        remedy=f"{nearest(name, [*suites, *scenario_files()])}; or give the path of a .toml file",
    )


def _beside(file: Path, scenario: str) -> str:
    """A scenario named in a suite file: a path relative to that file, or a shipped name."""
    candidate = file.parent / scenario
    return str(candidate) if scenario.endswith(".toml") and candidate.is_file() else scenario
