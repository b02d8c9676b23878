"""What a scenario says of its networks, its task and its training."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from shiftbench.backbones import BACKBONES, Backbone, backbone_named
from shiftbench.errors import SpecError, nearest
from shiftbench.spec.target import Model
from shiftbench.types import LossTerm, Recipe

Dimension = Literal["2d", "2.5d", "3d"]

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
STACK = 3  # slices of a 2.5-D network, where the scenario does not say
BUDGETS |= {(name, "2.5d"): dataclasses.replace(BUDGETS[name, "2d"], stack=STACK) for name in BUDGET_NAMES}

# The keys of `shiftbench.losses.LOSSES`, which imports torch; a test holds the two together.
LOSS_NAMES: tuple[str, ...] = (
    "bce",
    "boundary",
    "cross_entropy",
    "dice",
    "dice_ce",
    "dice_focal",
    "focal",
    "hausdorff",
    "tversky",
)


class Loss(Model):
    """A term of the training loss; its weight runs linearly from `weight` to `final_weight` over the training."""

    name: str
    weight: float = 1.0
    final_weight: float | None = None
    options: dict[str, float] = {}

    @field_validator("name")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LOSS_NAMES:
            raise ValueError(f"unknown loss '{value}'; {nearest(value, LOSS_NAMES)}")
        return value

    def term(self) -> LossTerm:
        """The term as a recipe holds it."""
        return LossTerm(self.name, self.weight, self.final_weight, tuple(sorted(self.options.items())))


class Training(Model):
    """What a scenario changes in its budget's recipe; `loss` is a name, or a list of names and terms."""

    LATER = ("stack", "loss", "average")

    steps: Annotated[int, Field(ge=1)] | None = None
    fewshot_steps: Annotated[int, Field(ge=0)] | None = None
    batch: Annotated[int, Field(ge=1)] | None = None
    patch: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    learning_rate: Annotated[float, Field(ge=0)] | None = None
    class_weights: tuple[Annotated[float, Field(ge=0)], ...] | None = None
    foreground_share: Annotated[float, Field(ge=0, le=1)] | None = None
    augmentation: Literal["none", "light", "nnunet"] | None = None
    stack: int | None = None
    loss: tuple[Loss, ...] | None = None
    average: Literal["none", "ema", "swa"] | None = None

    @field_validator("loss", mode="before")
    @classmethod
    def _terms(cls, value: Any) -> Any:
        terms = value if isinstance(value, list | tuple) else [value]
        return None if value is None else tuple({"name": t} if isinstance(t, str) else t for t in terms)

    @field_validator("loss")
    @classmethod
    def _some_loss(cls, value: tuple[Loss, ...] | None) -> tuple[Loss, ...] | None:
        if value is not None and not value:
            raise ValueError("give at least one term")
        return value

    @field_validator("stack")
    @classmethod
    def _odd(cls, value: int | None) -> int | None:
        if value is not None and (value < 3 or value % 2 == 0):
            raise ValueError("give an odd number of slices, 3 or more: the middle one is segmented")
        return value

    def changes(self) -> dict[str, Any]:
        """Fields of a recipe that are given, in a recipe's own types."""
        given = {name: value for name in type(self).model_fields if (value := getattr(self, name)) is not None}
        return given | ({"loss": tuple(loss.term() for loss in self.loss)} if self.loss else {})


class Instances(Model):
    """How instances of things are told apart (tasks "instance" and "panoptic")."""

    heads: tuple[Literal["boundary", "distance"], ...] = ("boundary", "distance")
    separate: Literal["watershed", "components"] = "watershed"
    min_voxels: Annotated[int, Field(ge=0)] = 0


class Architecture(Model):
    """A backbone of the scenario's own: another entry (`like`) with some fields changed, or a network of any package.

    The other fields are those of `shiftbench.backbones.Backbone`.
    """

    like: str | None = None
    network: str | None = None
    norm: Literal["batch", "instance", "group"] | None = None
    activation: Literal["leaky_relu", "prelu"] | None = None
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=2)] | None = None
    convolutions: Annotated[int, Field(ge=1)] | None = None
    stem_stride: Literal[1, 2] | None = None
    up: Literal["transposed", "nearest", "linear", "shuffle"] | None = None
    up_kernel: Annotated[int, Field(ge=2)] | None = None
    skips: bool | None = None
    residual: bool | None = None
    deep_supervision: Annotated[int, Field(ge=0)] | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    arguments: dict[str, Any] | None = None
    multiple: Annotated[int, Field(ge=1)] | None = None
    features: dict[str, str] | None = None

    @field_validator("like")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is not None and value not in BACKBONES:
            raise ValueError(f"unknown backbone '{value}'; {nearest(value, BACKBONES)}")
        return value

    @model_validator(mode="after")
    def _has_multiple(self) -> Architecture:
        if self.network not in (None, "unet") and self.multiple is None:
            raise ValueError(f"{self.network} needs 'multiple': the number that its input sizes are multiples of, or 1")
        return self

    def backbone(self) -> Backbone:
        """The description that networks are built from."""
        given = {name: getattr(self, name) for name in type(self).model_fields if getattr(self, name) is not None}
        base = backbone_named(given.pop("like")) if "like" in given else Backbone()
        for name in given.keys() & {"arguments", "features"}:
            given[name] = tuple((key, _frozen(value)) for key, value in sorted(given[name].items()))
        return dataclasses.replace(base, **given)


def _frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    return tuple(_frozen(part) for part in value) if isinstance(value, list) else value


def architecture_named(name: str, own: dict[str, Architecture], where: object) -> Backbone:
    """A backbone of the scenario's own tables, or of BACKBONES.

    Raises:
        SpecError: there is none of this name; the nearest one is given.
    """
    if name in own:
        return own[name].backbone()
    if name not in BACKBONES:
        remedy = nearest(name, {**own, **BACKBONES})
        raise SpecError(f"unknown backbone '{name}'", where=where, remedy=remedy)
    return BACKBONES[name]
