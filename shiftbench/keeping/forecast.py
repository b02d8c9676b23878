"""What `shiftbench plan` says: what a run would do, or how large it would be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftbench.keeping.estimate import estimate
from shiftbench.keeping.field import sized
from shiftbench.keeping.limits import Costs, described
from shiftbench.plan import plan, plan_each
from shiftbench.runner import ask
from shiftbench.store import Store
from shiftbench.store.places import META


def forecast(
    scenarios: Sequence[str | Path], methods: Sequence[str] | None, *, dry_run: bool, **choices: Any
) -> list[str]:
    """Lines for people; nothing is computed, and the result folder is looked at and not touched.

    Args:
        scenarios: suites, scenarios or TOML files.
        methods: as of `shiftbench.run`, as are `choices`.
        dry_run: count one scenario at a time, for runs that no machine could hold.

    Raises:
        ShiftBenchError: as `shiftbench.run`.
    """
    request = ask(list(scenarios), methods, **choices)
    store = Store(request.root) if (request.root / META).is_file() else None
    cards = request.cards()
    if dry_run:
        graphs = plan_each(request.opened, cards, request.options, request.name)
        return described(sized(graphs, store), Costs())
    graph = plan(request.opened, cards, request.options, request.name)
    return estimate(graph, store or Store(request.root), request.means.jobs).lines()
