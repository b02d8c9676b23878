"""Scenarios and suites: what is trained, where it is used, and how much is spent on it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from shiftbench.errors import nearest
from shiftbench.rng import digest
from shiftbench.spec.factorial import missing_cells
from shiftbench.spec.target import PERMUTED, Model, Source, Target
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


class Structure(Model):
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


class Phantom(Model):
    """Size of a synthetic cohort and of its grid."""

    patients: Annotated[int, Field(ge=4)] = 100
    shape: tuple[int, int, int] = (20, 128, 128)
    spacing_mm: tuple[float, float, float] = (4.0, 3.125, 3.125)
    supersampling: tuple[int, int, int] = (1, 2, 2)
    seed: int = 0


class Training(Model):
    """What a scenario changes in its budget's recipe."""

    steps: int | None = None
    fewshot_steps: int | None = None
    batch: int | None = None
    patch: tuple[int, ...] | None = None
    learning_rate: float | None = None
    class_weights: tuple[float, ...] | None = None
    foreground_share: Annotated[float, Field(ge=0, le=1)] | None = None
    augmentation: Literal["none", "light"] | None = None


class Factorial(Model):
    """Two or three targets whose combinations are run too, on the same patients, for attribution."""

    cells: Annotated[tuple[str, ...], Field(min_length=2, max_length=3)]


class Stream(Model):
    """Targets that an online method meets one after another without being told where one ends.

    Attributes:
        order: "continual" (one target after another), "gradual" (along the list and back), "mixed" (all cases
            shuffled) or "correlated" (uneven blocks of the targets, by Dirichlet shares).
        targets: names of targets, one per level, or of the source.
        order_seeds: one pass over the stream each; of a continual stream, 0 keeps the targets as listed.
        concentration: of the Dirichlet distribution of a correlated stream; smaller is more uneven.
    """

    name: str
    order: Literal["continual", "gradual", "mixed", "correlated"]
    targets: Annotated[tuple[str, ...], Field(min_length=1)]
    order_seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0, 1, 2)
    concentration: Annotated[float, Field(gt=0)] = 0.1


class Scenario(Model):
    """One source domain, its targets, and the question they answer.

    `sealed` scenarios give ranges of levels; see `shiftbench.spec.sealed`.
    """

    LATER = ("answer", "factorial", "stream", "sealed")

    name: str
    version: Annotated[int, Field(ge=1)]
    question: str
    reason: str
    answer: str = ""  # what would answer the question
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
    factorial: Factorial | None = None
    stream: tuple[Stream, ...] = ()
    sealed: bool = False

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
        self._check_streams()
        self._check_seal()
        return self

    def _check_streams(self) -> None:
        known = {self.source[0].name, *(t.name for t in self.targets() if t.control != PERMUTED)}
        names = [stream.name for stream in self.stream]
        for stream in self.stream:
            if names.count(stream.name) > 1:
                raise ValueError(f"the stream name '{stream.name}' is used twice")
            for name in stream.targets:
                if name not in known:
                    raise ValueError(f"unknown target '{name}' in stream '{stream.name}'; {nearest(name, known)}")
                if stream.targets.count(name) > 1:
                    raise ValueError(f"the stream '{stream.name}' lists the target '{name}' twice")
            if len(set(stream.order_seeds)) < len(stream.order_seeds):
                raise ValueError(f"the stream '{stream.name}' lists an order seed twice")

    def _check_seal(self) -> None:
        ranges = [target.name for target in self.target if target.sealed]
        if ranges and not self.sealed:
            raise ValueError(f"the target '{ranges[0]}' gives a range of levels; add sealed = true")
        if self.sealed and not ranges:
            raise ValueError("the scenario is sealed, and no target gives a range with between = [low, high]")

    def targets(self) -> list[Target]:
        """All targets, one per level, then the combinations of the factorial cells."""
        singles = [single for target in self.target for single in target.expanded()]
        return singles + (missing_cells(self.factorial.cells, singles) if self.factorial else [])

    def family_of(self, domain: str) -> Family:
        """The family of a target by its name; of the source, control."""
        return {target.name: target.family for target in self.targets()}.get(domain, Family.CONTROL)

    def recipe(self) -> Recipe:
        """The budget's recipe with this scenario's changes."""
        base = BUDGETS[self.budget, self.dimension]
        changes = {k: v for k, v in self.training.model_dump().items() if v is not None}
        return Recipe(**{**base.__dict__, **changes})

    def digest(self) -> str:
        """Changes whenever any parsed value changes; formatting and order of keys do not matter."""
        return digest("scenario", self.model_dump(mode="json"))


class Suite(Model):
    """Scenarios that are run and reported together, with the methods that are run by default."""

    name: str
    question: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...] = ()
