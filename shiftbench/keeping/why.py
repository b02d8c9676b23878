"""Why a task has the key that it has: what it was made of, what would change it, and how it differs from another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Task
from shiftbench.keeping import plans
from shiftbench.keeping.origins import origin
from shiftbench.store import Store

SHOWN = 12  # digits of a key in a text
LISTED = 4  # tasks that are named one by one
WIDTH = 160  # characters of a value


def why(folder: Path, task: str, against: str | None = None) -> list[str]:
    """What a task's key was made of, what became of the task, what reads it and what would change it; as lines.

    Args:
        folder: a result folder.
        task: the task's id, or a beginning of it or of its key that no other task has ("predict/3fa", "3fa09c").
        against: another task of the folder, or another result folder, where the task with the same name that differs
            least is taken. Then the lines say what differs, down to where it comes from.

    Raises:
        OutputError: the folder has no plan, or none or several of its tasks are meant.
    """
    store = Store(folder)
    plan, found = find(store, task)
    if against is None:
        return [*_title(found), *_state(store, found), *_made_of(plan, found), *_readers(plan, found), *_origins(found)]
    if Path(against).is_dir():
        other_plan, other = _closest(Store(Path(against)), found)
    else:
        other_plan, other = find(store, against)
    return compared(plan, found, other_plan, other)


def find(store: Store, task: str) -> tuple[Plan, Task]:
    """The task whose id or key begins so, in the latest plan that has it.

    Raises:
        OutputError: there is no plan, no such task, or several.
    """
    if not plans.known(store):
        plans.latest(store)  # says so
    for digest in plans.known(store):
        plan = plans.load(store, digest)
        if task in plan.tasks:
            return plan, plan.tasks[task]
        fitting = [t for t in plan.tasks.values() if t.id.startswith(task) or t.key.startswith(task)]
        if len(fitting) == 1:
            return plan, fitting[0]
        if fitting:
            some = "; ".join(f"{_short(t.id)} ({t.label})" for t in fitting[:LISTED])
            problem = f"{len(fitting)} tasks begin with '{task}'"
            raise OutputError(problem, where=store.root, remedy=f"give more of the key: {some}")
    remedy = "give the beginning of a task's key, as `shiftbench status` and the column `prediction` have it"
    raise OutputError(f"no task begins with '{task}'", where=store.root, remedy=remedy)


def _closest(store: Store, task: Task) -> tuple[Plan, Task]:
    """The task of another folder that has the same name and differs in the fewest parts."""
    plan = plans.latest(store)
    if task.id in plan.tasks:
        return plan, plan.tasks[task.id]
    named = [t for t in plan.tasks.values() if (t.kind, t.label) == (task.kind, task.label)]
    if not named:
        remedy = "give a task of the same folder, or a folder with the same scenario"
        raise OutputError(f"no task '{task.label}' here", where=store.root, remedy=remedy)
    return plan, min(named, key=lambda t: sum(1 for _ in _leaves(task.made_of, t.made_of, ())))


def compared(plan: Plan, one: Task, other_plan: Plan, other: Task) -> list[str]:
    """In which parts two tasks differ, and where that comes from."""
    lines = [*_title(one), f"against {_short(other.id)}: {other.label}"]
    if one.kind != other.kind:
        return [*lines, f"they are tasks of two kinds, {one.kind} and {other.kind}"]
    if one.id == other.id:
        return [*lines, "they are the same task: nothing differs"]
    return [*lines, "differs in", *_differences(plan, one, other_plan, other, "  ", set())]


def _differences(
    plan: Plan, one: Task, other_plan: Plan, other: Task, indent: str, told: set[tuple[str, str]]
) -> Iterator[str]:
    for path, a, b in _leaves(one.made_of, other.made_of, ()):
        before, after = plan.tasks.get(str(a)), other_plan.tasks.get(str(b))
        name = ".".join(path)
        if before is None or after is None:
            yield f"{indent}{name}: {_value(a)} -> {_value(b)}   ({origin(one.kind, path[0])})"
            continue
        pair = (before.id, after.id)
        known = "  (see above)" if pair in told else ""
        yield f"{indent}{name}: {_short(before.id)} -> {_short(after.id)}  {after.label}{known}"
        if not known and before.kind == after.kind:
            told.add(pair)
            yield from _differences(plan, before, other_plan, after, indent + "  ", told)


_ABSENT = "(none)"


def _leaves(a: Any, b: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """(path, one, other) of the smallest parts in which two values differ."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys([*a, *b]):
            yield from _leaves(a.get(name, _ABSENT), b.get(name, _ABSENT), (*path, str(name)))
    elif isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            yield from _leaves(x, y, (*path, str(i)))
    elif a != b:
        yield path, a, b


def _title(task: Task) -> list[str]:
    return [f"{task.id}: {task.label}"]


def _state(store: Store, task: Task) -> Iterator[str]:
    """Whether the task is in the store, dropped, failed or not computed."""
    kind, key = task.kind, task.key
    if store.done(kind, key):
        by = store.envelope(kind, key).get("by", {})
        made = f"by shiftbench {by.get('shiftbench')} on {by.get('host')}, {by.get('at')}"
        arrays = "; its arrays were dropped, the record is kept" if store.dropped(kind, key) else ""
        yield f"in the store, made {made}{arrays}"
        return
    failure = store.failure(kind, key)
    if failure is None:
        yield "not computed yet"
        return
    attempts = failure.get("attempts", [])
    yield f"failed ({failure.get('reason') or failure.get('status')}, {max(1, len(attempts))} attempts)"
    yield f"  {failure['cause']}"
    yield from (f"  {a.get('at')} on {a.get('host')}: {a.get('cause')}" for a in attempts[:-1])


def _made_of(plan: Plan, task: Task) -> Iterator[str]:
    yield "made of"
    width = max(map(len, task.made_of), default=0)
    for name in sorted(task.made_of):
        first, *others = _told(plan, task.made_of[name])
        yield f"  {name:{width}}  {first}"
        yield from (f"  {'':{width}}  {line}" for line in others)


def _told(plan: Plan, value: Any) -> list[str]:
    """A value, or the tasks that it names by label and id."""
    named = value if isinstance(value, tuple) and value else (value,)
    parents = [plan.tasks.get(str(each)) for each in named]
    if not all(parents):
        return [_value(value)]
    lines = [f"{parent.label}  {_short(parent.id)}" for parent in parents[:LISTED] if parent]
    return [*lines, *([f"and {len(parents) - LISTED} more"] if len(parents) > LISTED else [])]


def _readers(plan: Plan, task: Task) -> Iterator[str]:
    readers = [other for other in plan.tasks.values() if task.id in other.needs]
    counts = Counter(reader.kind for reader in readers)
    yield "read by " + (", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "no task")
    yield from (f"  {reader.label}  {_short(reader.id)}" for reader in readers[:LISTED])
    if len(readers) > LISTED:
        yield f"  and {len(readers) - LISTED} more"


def _origins(task: Task) -> Iterator[str]:
    yield "would change with"
    width = max(map(len, task.made_of), default=0)
    yield from (f"  {name:{width}}  {origin(task.kind, name)}" for name in sorted(task.made_of))


def _short(task_id: str) -> str:
    kind, _, key = task_id.partition("/")
    return f"{kind}/{key[:SHOWN]}"


def _value(value: Any) -> str:
    text = value if value is _ABSENT else json.dumps(value, sort_keys=True)
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
