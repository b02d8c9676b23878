"""What a process of methods reads out of the store: cases of parts, one by one or all together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from shiftbench.contract import GRANTS
from shiftbench.domains import Part, load_image, load_instances, load_reference, not_applicable
from shiftbench.isolation.session import GivenCase
from shiftbench.rng import digest
from shiftbench.store import Store
from shiftbench.types import LabelledSet, Track


def labelled(store: Store, part: Part, device: str, *, instances: bool = False) -> LabelledSet:
    """Images and references of a part, under opaque patient ids."""
    cases = list(labelled_cases(store, part, instances=instances))
    images = [case.image.to(device) for case in cases]
    references = [case.reference.to(device) for case in cases if case.reference is not None]
    ids = [case.instances.to(device) for case in cases if case.instances is not None] if instances else None
    return LabelledSet(images, references, [digest("patient", case.patient)[:12] for case in cases], ids)


def labelled_cases(
    store: Store, part: Part, order: Sequence[str] | None = None, *, instances: bool = False
) -> Iterator[GivenCase]:
    """Cases of a part with their references, each read when it is reached; those not acquired are left out.

    Args:
        store: where they lie.
        part: which they are.
        order: of the cases; None for that of the part.
        instances: whether the ids of things are read too.
    """
    missing, where = not_applicable(store, part), part.where()
    for case in order if order is not None else where:
        if case not in missing:
            anatomy, images, references = where[case]
            yield GivenCase(
                torch.from_numpy(load_image(store, images, case)),
                torch.from_numpy(load_reference(store, references, case)),
                torch.from_numpy(load_instances(store, references, case)) if instances else None,
                store.record("anatomy", anatomy)["cases"][case]["patient"],
            )


def unlabelled_cases(store: Store, part: Part) -> Iterator[GivenCase]:
    """Images of a part, each read when it is reached, without those that could not be acquired."""
    missing = not_applicable(store, part)
    for case, (_, images, _) in part.where().items():
        if case not in missing:
            yield GivenCase(torch.from_numpy(load_image(store, images, case)))


def granted(store: Store, task: Mapping[str, Any], *, instances: bool) -> dict[str, Iterator[GivenCase]]:
    """What the plan put into a predict task, as far as the method's track entitles it; see `contract.grant`."""
    _, _, track, _, parameters = task["identity"]
    allowed = GRANTS[Track(track)]
    parts = {"source": "source_train", "source_val": "source_val", "fewshot": "fewshot"}
    sets: dict[str, Iterator[GivenCase]] = {}
    for name, part in parts.items():
        if name in allowed and part in task:
            order = task.get("fewshot_order") if name == "fewshot" else None
            sets[name] = labelled_cases(store, Part.of(task[part]), order, instances=instances)
    k = parameters.get("k")
    if track == Track.FEWSHOT and k is not None and "fewshot" in sets:
        sets["fewshot"] = _first(sets["fewshot"], k)
    if "target" in allowed and "adapt" in task:
        sets["target"] = unlabelled_cases(store, Part.of(task["adapt"]))
    return sets


def _first(cases: Iterator[GivenCase], k: int) -> Iterator[GivenCase]:
    for _, case in zip(range(k), cases, strict=False):
        yield case
