"""Scenarios and suites: what is trained, where it is used, and how much is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from shiftbench.backbones import Backbone
from shiftbench.errors import SpecError, nearest
from shiftbench.rng import digest
from shiftbench.spec.factorial import missing_cells
from shiftbench.spec.scored import Calibration, Radiomics, Structure
from shiftbench.spec.target import PERMUTED, Model, Source, Target
from shiftbench.spec.training import (
    BUDGET_NAMES,
    BUDGETS,
    Architecture,
    Dimension,
    Instances,
    Training,
    architecture_named,
)
from shiftbench.tasks import Task
from shiftbench.types import Family, Recipe


class Phantom(Model):
    """Size of a synthetic cohort and of its grid."""

    patients: Annotated[int, Field(ge=4)] = 100
    shape: tuple[int, int, int] = (20, 128, 128)
    spacing_mm: tuple[float, float, float] = (4.0, 3.125, 3.125)
    supersampling: tuple[int, int, int] = (1, 2, 2)
    seed: int = 0


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

    LATER = ("answer", "factorial", "stream", "sealed", "task", "instances", "backbone", "calibration", "radiomics")

    name: str
    version: Annotated[int, Field(ge=1)]
    question: str
    reason: str
    answer: str = ""  # what would answer the question
    citation: str
    dataset: str
    dimension: Dimension
    task: Literal["semantic", "instance", "panoptic"] = "semantic"
    instances: Instances | None = None
    calibration: Calibration | None = None
    radiomics: Radiomics | None = None
    budget: str
    seeds: tuple[int, ...] = (0,)
    domain_seed: int = 0
    backbones: tuple[str, ...] = ("unet_bn",)
    backbone: dict[str, Architecture] = {}
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
        self._check_training()
        return self

    def _check_training(self) -> None:
        axes, patch = int(self.dimension[0]), self.training.patch
        if patch is not None and len(patch) != axes:
            raise ValueError(f"training.patch has {len(patch)} entries; a {self.dimension} network has {axes} axes")
        if self.training.stack is not None and self.dimension != "2.5d":
            raise ValueError('training.stack is the number of slices of dimension = "2.5d"')
        weights = self.training.class_weights
        if weights is not None and len(weights) != len(self.structures) + 1:
            raise ValueError(
                f"training.class_weights has {len(weights)} entries; give {len(self.structures) + 1}: background first"
            )
        if self.instances is not None and self.task == "semantic":
            raise ValueError('[instances] needs task = "instance" or task = "panoptic"')

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
        return Recipe(**{**base.__dict__, **self.training.changes()})

    def architecture(self, name: str) -> Backbone:
        """The backbone of this name, from the scenario's own tables or the shipped ones; SpecError if there is none."""
        return architecture_named(name, self.backbone, self.name)

    def layout(self, things: Sequence[str]) -> Task:
        """The outputs of a network; `things` are the structures whose instances the data set tells apart.

        Raises:
            SpecError: instances are asked for and none of the scenario's structures has any.
        """
        classes = len(self.structures) + 1
        if self.task == "semantic":
            return Task(classes)
        labels = tuple(i for i, name in enumerate(self.structures, start=1) if name in things)
        if not labels:
            known = ", ".join(things) or "none"
            raise SpecError(
                f"task = '{self.task}' needs a structure with instances",
                where=self.name,
                remedy=f"add one of those that the data set tells apart ({known}), or take the semantic task",
            )
        rules = self.instances or Instances()
        return Task(classes, self.task, labels, rules.heads, rules.separate, rules.min_voxels)

    def scoring_options(self) -> dict[str, Any]:
        """What is scored beside the masks, as the score tasks are given it."""
        asked = {"calibration": self.calibration, "radiomics": self.radiomics}
        return {name: table.model_dump(mode="json") for name, table in asked.items() if table is not None}

    def digest(self) -> str:
        """Changes whenever any parsed value changes; formatting and order of keys do not matter."""
        return digest("scenario", self.model_dump(mode="json"))


class Suite(Model):
    """Scenarios that are run and reported together, with the methods that are run by default."""

    name: str
    question: str
    scenarios: tuple[str, ...]
    methods: tuple[str, ...] = ()
