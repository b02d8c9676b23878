"""From the JSON values of a training task to its recipe and its untrained network; a host and its guest share this."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shiftbench.backbones import Backbone
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.types import LossTerm, Recipe


def untrained(task: Mapping[str, Any], channels: int) -> Normalised:
    """The scenario's backbone with weights that depend on the seed alone.

    Args:
        task: "backbone", "architecture", "dimension", "layout", "normalise", "window", "recipe" and "seed" of a
            training task.
        channels: of the raw images.
    """
    return build(
        Backbone(**tuples(task["architecture"])),
        dimension=task["dimension"],
        channels=channels,
        task=Task.of(task["layout"]),
        normalise=Normalise(task["normalise"], tuple(task["window"])),
        patch=tuple(task["recipe"]["patch"]),
        stack=task["recipe"]["stack"],
        rng=generator(task["seed"], "build", task["backbone"]),
    )


def recipe_of(task: Mapping[str, Any]) -> Recipe:
    """The recipe in a task, with lists as tuples."""
    fields = tuples(task["recipe"])
    return Recipe(**{**fields, "loss": tuple(LossTerm(**term) for term in fields["loss"])})


def tuples(value: Any) -> Any:
    """Parsed JSON with its lists as tuples."""
    if isinstance(value, Mapping):
        return {name: tuples(part) for name, part in value.items()}
    return tuple(tuples(part) for part in value) if isinstance(value, list | tuple) else value
