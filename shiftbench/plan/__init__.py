"""Scenarios and methods -> a graph of content-addressed tasks, and the units of which the rows are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

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
        add_scenario(graph, scenario, methods, options, suite, opened)
    return graph


def plan_each(
    scenarios: Iterable[Scenario], methods: Sequence[MethodCard], options: Options, suite: str
) -> Iterator[Plan]:
    """The graph of every scenario on its own, one after another: a run that is too large to be held can be counted.

    Tasks that scenarios share have the same ids in each of their graphs.

    Raises:
        SpecError, DataError: see `plan`.
    """
    opened: Opened = {}
    for scenario in scenarios:
        graph = Plan()
        add_scenario(graph, scenario, methods, options, suite, opened)
        yield graph


def add_scenario(
    graph: Plan, scenario: Scenario, methods: Sequence[MethodCard], options: Options, suite: str, opened: Opened
) -> None:
    """Adds one scenario to a graph; `opened` holds the datasets that are open already."""
    ScenarioPlan(graph, scenario, options, suite, Parts(graph, scenario, options, opened)).add(methods)


__all__ = ["CARDS", "CARD_TABLE", "plan", "plan_each", "write_cards"]
