"""What a process of methods reads out of the store: cases and recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from shiftbench.domains import Part, load_image, load_instances, load_reference, not_applicable
from shiftbench.rng import digest
from shiftbench.store import Store
from shiftbench.types import LabelledSet, LossTerm, Recipe


def labelled(
    store: Store, part: Part, device: str, order: Sequence[str] | None = None, *, instances: bool = False
) -> LabelledSet:
    """Images and references of a part (cases that could not be acquired are left out), under opaque patient ids."""
    missing, where = not_applicable(store, part), part.where()
    cases = [case for case in (order if order is not None else where) if case not in missing]
    images = [torch.from_numpy(load_image(store, where[case][1], case)).to(device) for case in cases]
    references = [torch.from_numpy(load_reference(store, where[case][2], case)).to(device) for case in cases]
    patients = [store.record("anatomy", where[case][0])["cases"][case]["patient"] for case in cases]
    ids = None
    if instances:
        ids = [torch.from_numpy(load_instances(store, where[case][2], case)).to(device) for case in cases]
    return LabelledSet(images, references, [digest("patient", p)[:12] for p in patients], ids)


def unlabelled(store: Store, part: Part, device: str) -> list[torch.Tensor]:
    """Images of a part, without those that could not be acquired."""
    missing = not_applicable(store, part)
    wanted = [(case, images) for case, (_, images, _) in part.where().items() if case not in missing]
    return [torch.from_numpy(load_image(store, images, case)).to(device) for case, images in wanted]


def recipe_of(task: Mapping[str, Any]) -> Recipe:
    """The recipe in a task, with lists as tuples."""
    fields = tuples(task["recipe"])
    return Recipe(**{**fields, "loss": tuple(LossTerm(**term) for term in fields["loss"])})


def tuples(value: Any) -> Any:
    """Parsed JSON with its lists as tuples."""
    if isinstance(value, Mapping):
        return {name: tuples(part) for name, part in value.items()}
    return tuple(tuples(part) for part in value) if isinstance(value, list) else value
