"""Plans in a result folder; they are written by whoever runs them, see `shiftbench.plan.saved`."""

from shiftbench.plan.saved import known, latest, load, request_of, save
from shiftbench.store import Store

UNPLANNED = ("look", "audit")  # kinds of results that stand in no plan


def planned_ids(store: Store) -> set[str]:
    """Ids of all tasks that some plan of the folder names, and of the results that stand in no plan.

    Raises:
        OutputError: a plan is damaged.
    """
    named = {task_id for digest in known(store) for task_id in load(store, digest).tasks}
    return named | {f"{kind}/{key}" for kind in UNPLANNED for key in store.finished(kind)}


__all__ = ["known", "latest", "load", "planned_ids", "request_of", "save"]
