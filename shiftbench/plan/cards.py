"""Shift cards: a task per target that measures how far it moved from the source, and what a result folder shows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from shiftbench import cards
from shiftbench.domains import Part
from shiftbench.graph import Plan
from shiftbench.parts import Parts
from shiftbench.plan.inputs import Inputs
from shiftbench.spec import PERMUTED, Target
from shiftbench.store import Store, write_json
from shiftbench.store.owners import token

CARDS, CARD_TABLE = "cards.json", "cards.csv"


def add_cards(
    graph: Plan, parts: Parts, targets: Sequence[Target], folds: Mapping[str, Sequence[tuple[Part, Part]]]
) -> None:
    """Adds the card of every target whose references are its own; `folds` are (adapt, test) by domain."""
    inputs = Inputs(graph)
    source = _together([test for _, test in folds[parts.source.name]])
    structures = graph.common(tuple(parts.structures))
    for target in targets:
        if target.control == PERMUTED:
            continue
        tests = [test for _, test in folds[target.name]]
        redrawn = _together([parts.drawn_by_source(target, test) for test in tests])
        whole = {"source": source, "target": _together(tests), "redrawn": redrawn}
        read = {name: inputs.of(part) for name, part in whole.items()}
        payload = {**{name: each.payload for name, each in read.items()}, "structures": structures}
        made_of = {
            "version": cards.VERSION,
            "structures": structures,
            **{name: each.labelled for name, each in read.items()},
        }
        needs = [need for each in read.values() for need in each.labelled]
        label = f"shift card of {target.name}"
        task = graph.add("card", payload, needs, label, 0.2 * len(source.where()), made_of)
        graph.cards[parts.scenario.name, target.name] = task.id


def _together(several: Sequence[Part]) -> Part:
    return Part(tuple(chunk for part in several for chunk in part.chunks))


def write_cards(graph: Plan, store: Store) -> None:
    """The cards of all targets, as JSON and as a table with one number a line; a failed card says why.

    Where a plan has no cards, nothing is written.
    """
    found: dict[str, dict[str, Any]] = {}
    for (scenario, target), task_id in sorted(graph.cards.items()):
        kind, key = task_id.split("/")
        failure = store.failure(kind, key) or {"cause": "the task did not run"}
        card = store.record(kind, key)["card"] if store.done(kind, key) else {"failed": failure["cause"]}
        found.setdefault(scenario, {})[target] = card
    if not found:
        return
    write_json(store.root / CARDS, found)
    lines = [
        {"scenario": scenario, "target": target, "quantity": ".".join(names), "value": value}
        for scenario, of_target in found.items()
        for target, card in of_target.items()
        for names, value in leaves(card)
    ]
    path = store.root / CARD_TABLE
    temporary = path.with_name(f".{path.name}.{token()}")
    pd.DataFrame(lines, columns=["scenario", "target", "quantity", "value"]).to_csv(temporary, index=False)
    os.replace(temporary, path)


def leaves(tree: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(path of keys, value) of everything in a nested mapping that is no mapping itself."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*names, str(name)))
        else:
            yield (*names, str(name)), value
