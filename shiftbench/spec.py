"""Scenario and suite files: TOML in, frozen and fully checked objects out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shiftbench.errors import SpecError, nearest
from shiftbench.rng import digest
from shiftbench.types import Family, Recipe

Dimension = Literal["2d", "3d"]

# Budgets (ARCHITECTURE.md section 5): steps from scratch, steps of a few-shot fine-tuning, batch, patch per axis.
BUDGETS: dict[tuple[str, Dimension], Recipe] = {
    ("smoke", "2d"): Recipe("smoke", 20, 8, 4, (32, 32), 1e-2),
    ("smoke", "3d"): Recipe("smoke", 20, 8, 2, (16, 32, 32), 1e-2),
    ("quick", "2d"): Recipe("quick", 300, 40, 12, (128, 128), 1e-2),
    ("quick", "3d"): Recipe("quick", 300, 60, 4, (32, 64, 64), 1e-2),
    ("dev", "2d"): Recipe("dev", 500, 120, 16, (128, 128), 1e-2),
    ("dev", "3d"): Recipe("dev", 400, 100, 4, (32, 64, 64), 1e-2),
    ("core", "2d"): Recipe("core", 2500, 200, 16, (128, 128), 1e-2),
    ("core", "3d"): Recipe("core", 2000, 200, 4, (32, 64, 64), 1e-2),
    ("full", "2d"): Recipe("full", 20000, 500, 16, (256, 256), 1e-2),
    ("full", "3d"): Recipe("full", 20000, 500, 2, (96, 96, 96), 1e-2),
}
BUDGET_NAMES = tuple(dict.fromkeys(name for name, _ in BUDGETS))


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Structure(_Model):
    """What is segmented, with the tolerance of the normalised surface distance in mm or in pixels."""

    tolerance_mm: Annotated[float, Field(gt=0)] | None = None
    tolerance_px: Annotated[float, Field(gt=0)] | None = None
    may_be_absent: bool = False

    @model_validator(mode="after")
    def _one_tolerance(self) -> Structure:
        if (self.tolerance_mm is None) == (self.tolerance_px is None):
            raise ValueError("give exactly one of tolerance_mm and tolerance_px")
        return self

    @property
    def tolerance(self) -> float:
        """The tolerance in the unit that was given."""
        return self.tolerance_mm if self.tolerance_mm is not None else self.tolerance_px  # type: ignore[return-value]


class Step(_Model):
    """An operator of the tables in `shiftbench.shifts`, at levels (0-5) or at values in the operator's unit."""

    operator: str
    levels: tuple[Annotated[float, Field(ge=0, le=5)], ...] = ()
    values: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _levels_or_values(self) -> Step:
        if bool(self.levels) == bool(self.values):
            raise ValueError("give either levels (0-5) or values")
        return self

    def single(self, index: int) -> Step:
        """This step at its `index`-th setting alone."""
        if self.levels:
            return Step(operator=self.operator, levels=(self.levels[index],))
        return Step(operator=self.operator, values=(self.values[index],))

    def __len__(self) -> int:
        return len(self.levels) or len(self.values)


class Source(_Model):
    """The domain a model is trained in."""

    name: str
    dataset: str | None = None
    acquisition: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    population: dict[str, float] = {}


class Target(_Model):
    """A domain a model is used in; what is not said is as in the source."""

    name: str
    family: Family
    dataset: str | None = None
    acquisition: tuple[Step, ...] = ()
    protocol: dict[str, Any] = {}
    population: tuple[Step, ...] = ()
    oracle: bool = True  # whether reference methods are trained here; without one no gap can be told

    def expanded(self) -> list[Target]:
        """One target per level: the step that lists several settings is taken at each in turn."""
        many = [
            (kind, i) for kind in ("acquisition", "population") for i, s in enumerate(getattr(self, kind)) if len(s) > 1
        ]
        if not many:
            return [self]
        if len(many) > 1:
            raise ValueError(f"target '{self.name}' lists several levels for more than one operator")
        kind, i = many[0]
        steps = getattr(self, kind)
        singles = [steps[i].single(j) for j in range(len(steps[i]))]
        return [
            self.model_copy(
                update={
                    "name": f"{self.name}:{(s.levels or s.values)[0]:g}",
                    kind: (*steps[:i], s, *steps[i + 1 :]),
                }
            )
            for s in singles
        ]


class Phantom(_Model):
    """Size of a synthetic cohort and of its grid."""

    patients: Annotated[int, Field(ge=4)] = 100
    shape: tuple[int, int, int] = (20, 128, 128)
    spacing_mm: tuple[float, float, float] = (4.0, 3.125, 3.125)
    supersampling: tuple[int, int, int] = (1, 2, 2)
    seed: int = 0


class Training(_Model):
    """What a scenario changes in its budget's recipe."""

    steps: int | None = None
    fewshot_steps: int | None = None
    batch: int | None = None
    patch: tuple[int, ...] | None = None
    learning_rate: float | None = None
    class_weights: tuple[float, ...] | None = None
    foreground_share: Annotated[float, Field(ge=0, le=1)] | None = None
    augmentation: Literal["none", "light"] | None = None


class Scenario(_Model):
    """One source domain, its targets, and the question they answer."""

    name: str
    version: Annotated[int, Field(ge=1)]
    question: str
    reason: str
    citation: str
    dataset: str
    dimension: Dimension
    budget: str
    seeds: tuple[int, ...] = (0,)
    domain_seed: int = 0
    backbones: tuple[str, ...] = ("unet_bn",)
    normalise: Literal["zscore", "window"] = "zscore"
    window: tuple[float, float] = (-160.0, 240.0)
    phantom: Phantom = Phantom()
    training: Training = Training()
    structures: dict[str, Structure]
    source: tuple[Source, ...]
    target: tuple[Target, ...]

    @field_validator("budget")
    @classmethod
    def _known_budget(cls, value: str) -> str:
        if value not in BUDGET_NAMES:
            raise ValueError(f"unknown budget '{value}'; {nearest(value, BUDGET_NAMES)}")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Scenario:
        if len(self.source) != 1:
            raise ValueError("give exactly one [[source]]")
        if not self.structures or not self.seeds or not self.target:
            raise ValueError("give at least one structure, one seed and one target")
        names = [self.source[0].name, *(t.name for t in self.targets())]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"the domain name '{twice[0]}' is used twice")
        return self

    def targets(self) -> list[Target]:
        """All targets, one per level."""
        return [single for target in self.target for single in target.expanded()]

    def recipe(self) -> Recipe:
        """The budget's recipe with this scenario's changes."""
        base = BUDGETS[self.budget, self.dimension]
        changes = {k: v for k, v in self.training.model_dump().items() if v is not None}
        return Recipe(**{**base.__dict__, **changes})

    def digest(self) -> str:
        """Changes whenever any parsed value changes; formatting and order of keys do not matter."""
        return digest("scenario", self.model_dump(mode="json"))


class Suite(_Model):
    """Scenarios that are run and reported together, with the methods that are run by default."""

    name: str
    question: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...] = ()


def content_root() -> Path:
    """The folder that holds `scenarios/` and `baselines/`: package data of a wheel, or the checkout."""
    packaged = Path(__file__).parent / "_content"
    return packaged if packaged.is_dir() else Path(__file__).parents[1]


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
