"""In which order a predict task is handed its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shiftbench.domains import Part, not_applicable
from shiftbench.rng import generator
from shiftbench.store import Store

Place = tuple[str, str, str]  # name of the prediction, images key, case


def places(store: Store, task: Mapping[str, Any]) -> Iterator[Place]:
    """Every case that could be acquired, in the order of the stream.

    A stream of targets is listed by the plan, for a case occurs in it once per target; a target alone has its seeded
    order.
    """
    if "stream" not in task:
        yield from _alone(store, Part.of(task["test"]), task["domain_seed"])
        return
    missing: dict[str, Mapping[str, str]] = {}
    for name, images_key, case in task["stream"]:
        if images_key not in missing:
            missing[images_key] = store.record("images", images_key)["not_applicable"]
        if case not in missing[images_key]:
            yield name, images_key, case


def _alone(store: Store, test: Part, domain_seed: int) -> Iterator[Place]:
    """Test cases of one target in its seeded order."""
    missing = not_applicable(store, test)
    cases = sorted((case, images) for case, (_, images, _) in test.where().items() if case not in missing)
    order = generator(domain_seed, "order", [case for case, _ in cases]).permutation(len(cases))
    for i in order:
        case, images = cases[i]
        yield case, images, case
