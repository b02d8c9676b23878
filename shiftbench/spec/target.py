"""Sources, targets and steps: what a domain is made of, as a scenario file says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from shiftbench.types import Family

RESELECT = "reselect"  # the population operator that samples real cases anew
CELL_SIGN = "+"  # between the names of the causes of a factorial cell
PERMUTED, RENOISE = "permuted_references", "renoise"
_Level = Annotated[float, Field(ge=0, le=5)]


class Model(BaseModel):
    """A part of a scenario file: frozen, unknown keys refused.

    Keys in `LATER` were added after the first release; where they say nothing they are left out of a dump, so that the
    digest of a scenario that does not use them stays what it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    LATER: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_later_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        unused = {name for name in self.LATER if getattr(self, name) == fields[name].default}
        return {name: value for name, value in handler(self).items() if name not in unused}


class Step(Model):
    """An operator of the tables in `shiftbench.shifts`: at levels (0-5), at values in its unit, or at a sealed level.

    Attributes:
        between: limits of a level that is drawn from the organiser's salt (sealed scenarios alone).
        attribute: of a case, by which real cases are selected anew (operator "reselect", as are the next six).
        favour: the value of a categorical attribute whose share grows.
        strength: instead of levels: of a tilt towards large values, in standard deviations; of a favoured category,
            from 0 (its share in the source) to 1 (it alone).
        share: of the cases with a number of at least `above`, instead of a tilt.
        above: the number that divides the cases, for `share`.
        shares: category to its share, for a categorical attribute.
        keep: share of the cases that is drawn; half of them if None.
    """

    LATER = ("between", "attribute", "favour", "strength", "share", "above", "shares", "keep")

    operator: str
    levels: tuple[_Level, ...] = ()
    values: tuple[float, ...] = ()
    between: tuple[_Level, _Level] | None = None
    attribute: str | None = None
    favour: str | None = None
    strength: tuple[float, ...] = ()
    share: Annotated[float, Field(ge=0, le=1)] | None = None
    above: float | None = None
    shares: dict[str, float] | None = None
    keep: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _one_kind_of_setting(self) -> Step:
        if self.between is not None and self.between[0] >= self.between[1]:
            raise ValueError(f"between = {list(self.between)} is no range; give a lower and a higher level")
        given = sum(map(bool, (self.levels, self.values, self.strength, self.between)))
        of_selection = [name for name in self.LATER[1:] if getattr(self, name) not in (None, ())]
        if self.operator != RESELECT:
            if of_selection:
                raise ValueError(f"'{of_selection[0]}' belongs to the operator '{RESELECT}' alone")
            if given != 1:
                raise ValueError("give either levels (0-5) or values")
            return self
        given += (self.share is not None) + (self.shares is not None)
        if not self.attribute or self.values or given != 1:
            raise ValueError(f"'{RESELECT}' needs an attribute, and one of levels (0-5), strength, share and shares")
        if (self.share is None) != (self.above is None):
            raise ValueError("'share' and 'above' belong together")
        if self.favour is not None and any(not 0 <= s <= 1 for s in self.strength):
            raise ValueError("the strength of a favoured category is from 0 to 1")
        if self.favour is not None and (self.share is not None or self.shares is not None):
            raise ValueError("'favour' goes with levels or strength")
        return self

    @property
    def settings(self) -> tuple[float, ...]:
        """Levels, values or strengths, whichever were given; none of a sealed level."""
        return self.levels or self.values or self.strength

    @property
    def kind(self) -> str:
        """Name of the key that `settings` come from."""
        return "levels" if self.levels else "values" if self.values else "strength"

    def single(self, index: int) -> Step:
        """This step at its `index`-th setting alone."""
        return self.model_copy(update={self.kind: (self.settings[index],)})

    def __len__(self) -> int:
        return len(self.settings) or 1

    def __str__(self) -> str:
        """Operator and settings, "ct_dose 2 to 4.5" of a sealed level."""
        if self.between is not None:
            return f"{self.operator} {self.between[0]:g} to {self.between[1]:g}"
        return f"{self.operator} {', '.join(f'{s:g}' for s in self.settings)}".rstrip()


class Source(Model):
    """The domain a model is trained in."""

    name: str
    dataset: str | None = None
    acquisition: dict[str, Any] = {}
    protocol: dict[str, Any] = {}
    population: dict[str, float] = {}


class Target(Model):
    """A domain a model is used in; what is not said is as in the source.

    Attributes:
        oracle: whether reference methods are trained here; without one no gap can be told.
        control: "permuted_references" (each patient is scored against another's reference: nothing may solve it) or
            "renoise" (the scanner's noise is drawn again).
        annotator_noise_mm: random displacement of the annotators' contours; a control, never a concept shift.
    """

    LATER = ("control", "annotator_noise_mm")

    name: str
    family: Family
    dataset: str | None = None
    acquisition: tuple[Step, ...] = ()
    protocol: dict[str, Any] = {}
    population: tuple[Step, ...] = ()
    oracle: bool = True
    control: Literal["permuted_references", "renoise"] | None = None
    annotator_noise_mm: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if CELL_SIGN in self.name:
            raise ValueError(f"the name '{self.name}' has a '{CELL_SIGN}', which is kept for cells of [factorial]")
        if any(step.operator == RESELECT for step in self.acquisition):
            raise ValueError(f"'{RESELECT}' selects patients; move it to population")
        if self.family is not Family.CONTROL and (self.control or self.annotator_noise_mm):
            given = "control" if self.control else "annotator_noise_mm"
            raise ValueError(f"'{given}' makes the target '{self.name}' a control; write family = 'control'")
        if self.control and (self.changed or self.annotator_noise_mm or self.dataset):
            raise ValueError(f"the control '{self.control}' of target '{self.name}' takes the source as it is")
        return self

    @property
    def changed(self) -> tuple[str, ...]:
        """Which of acquisition, protocol and population differ from the source's."""
        return tuple(name for name in ("acquisition", "protocol", "population") if getattr(self, name))

    @property
    def sealed(self) -> bool:
        """Whether a level is still to be drawn from a salt."""
        return any(step.between is not None for step in (*self.acquisition, *self.population))

    @property
    def selection(self) -> Step | None:
        """The step that selects real cases anew, where there is one."""
        return next((step for step in self.population if step.operator == RESELECT), None)

    def with_steps(self, kind: str, steps: Sequence[Step], name: str) -> Target:
        """This target under another name, with other steps of acquisition or population."""
        return self.model_copy(update={"name": name, kind: tuple(steps)})

    def expanded(self) -> list[Target]:
        """One target per level: the step that lists several settings is taken at each in turn."""
        if self.control == RENOISE:
            return [self.with_steps("acquisition", [Step(operator=RENOISE, values=(1.0,))], self.name)]
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
            self.with_steps(kind, (*steps[:i], s, *steps[i + 1 :]), f"{self.name}:{s.settings[0]:g}") for s in singles
        ]
