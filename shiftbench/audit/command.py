"""What `shiftbench audit` does once a run is found: asks, writes `audit.csv`, and prints what failed."""

from __future__ import annotations

from collections.abc import Collection

import pandas as pd
from rich.console import Console

from shiftbench.audit.answers import audit, failed, table, write_table
from shiftbench.audit.oracle import above_oracle
from shiftbench.errors import SpecError, nearest
from shiftbench.graph import Plan, Settings
from shiftbench.store import Store


def command(
    console: Console,
    graph: Plan,
    store: Store,
    settings: Settings,
    *,
    rows: pd.DataFrame | None = None,
    methods: Collection[str] | None = None,
    thorough: bool = False,
) -> int:
    """Number of audits that failed; prints one line for each, and the counts of all.

    Args:
        console: for the lines.
        graph, store, settings, methods, thorough: as of `audit`.
        rows: of the run, for the audit of scores; none where it has not ended.

    Raises:
        SpecError: a method that was named is not in the run.
        OutputError: the folder cannot be read or written.
    """
    names = {name for unit in graph.units for name in (unit.method.name, unit.method.stem)}
    for name in methods or ():
        if name not in names:
            raise SpecError(f"no method '{name}' in this run", where=store.root, remedy=nearest(name, names))
    found = audit(graph, store, settings, methods=methods, thorough=thorough, report=_said(console))
    if rows is not None and not rows.empty:
        scores = above_oracle(rows)
        known = set(found["method"])
        found = table([*found.to_dict("records"), *scores[scores["method"].isin(known)].to_dict("records")])
    path = write_table(found, store.root)
    wrong = failed(found)
    for line in wrong.to_dict("records"):
        where = f"{line['method']} on {line['scenario']}/{line['target']}"
        console.print(f"FAILED  {where}: {line['audit']}: {line['detail']}", highlight=False, markup=False)
    counts = found["outcome"].value_counts()
    words = ", ".join(f"{n} {outcome}" for outcome, n in counts.items())
    console.print(f"{words}; the table is in {path}", highlight=False, markup=False, soft_wrap=True)
    return len(wrong)


def _said(console: Console):
    def say(words: str) -> None:
        if words.startswith("audit of "):
            console.print(words, style="dim", highlight=False, markup=False)

    return say
