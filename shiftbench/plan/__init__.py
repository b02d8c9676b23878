"""Scenarios and methods -> a graph of content-addressed tasks, and the units of which the rows are made."""

from __future__ import annotations

from collections.abc import Sequence

from shiftbench.graph import MethodCard, Options, Plan
from shiftbench.parts import Opened, Parts
from shiftbench.plan.cards import CARD_TABLE, CARDS, write_cards
from shiftbench.plan.scenario import ScenarioPlan
from shiftbench.spec import Scenario


def plan(scenarios: Sequence[Scenario], methods: Sequence[MethodCard], options: Options, suite: str) -> Plan:
    """The graph of a run.

    Raises:
        SpecError: an operator, protocol rule, dataset or backbone is unknown or does not fit, or a scenario is sealed.
        DataError: a folder is missing or cannot be used.
    """
    graph = Plan()
    opened: Opened = {}
    for scenario in scenarios:
        parts = Parts(graph, scenario, options, opened)
        ScenarioPlan(graph, scenario, options, suite, parts).add(methods)
    return graph


__all__ = ["CARDS", "CARD_TABLE", "plan", "write_cards"]
