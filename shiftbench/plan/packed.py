"""Plans as lines of JSON, in which whatever several tasks share is written once."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from typing import Any

from shiftbench.domains import Part
from shiftbench.graph import MethodCard, Plan, Task, Unit
from shiftbench.spec import Scenario
from shiftbench.types import Track

Line = list[Any]  # what it is, then its values
Fields = dict[str, Any]

# A JSON object in a line is one of these: the number of an object of an earlier line, of the task whose id or key is
# meant, or a mapping or list itself. A JSON list is a tuple, of which plans are made.
OBJECT, ID, KEY, MAPPING, LIST = "o", "i", "k", "m", "l"


class Packer:
    """Turns a plan into lines; it remembers what it has written by number, and nothing of the lines."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._objects: dict[bytes, int] = {}  # by the hash of their text
        self._seen: dict[int, int] = {}  # by id() of what the plan keeps alive
        self._names: dict[tuple[str, ...], int] = {}
        self._methods: dict[int, int] = {}
        self._scenarios: dict[int, int] = {}
        self._new: list[Line] = []  # lines that the next line refers to

    def lines(self, plan: Plan) -> Iterator[Line]:
        """The lines of a plan, each after those that it refers to."""
        for number, task in enumerate(plan.tasks.values()):
            yield from self._after_new(self._task(task))
            self._ids[task.id] = self._keys[task.key] = number
        for name, units in (("unit", plan.units), ("stream", plan.streams)):
            for unit in units:
                yield from self._after_new(self._unit(name, unit))
        for where, task_id in plan.cards.items():
            yield ["card", *where, self._ids[task_id]]

    def _after_new(self, line: Line) -> Iterator[Line]:
        yield from self._new
        self._new = []
        yield line

    def _task(self, task: Task) -> Line:
        """A task; what it needs is one task and a list that it mostly shares with others."""
        parts = ({name: self._value(v) for name, v in made.items()} for made in (task.payload, task.made_of))
        needs = [*(self._whole(need) for need in task.needs[:1]), self._named(task.needs[1:])]
        return ["task", task.kind, task.key, *parts, needs, task.label, task.seconds]

    def _unit(self, name: str, unit: Unit) -> Line:
        method = self._kept(self._methods, unit.method, lambda: ["method", self._whole(_fields(unit.method))])
        scenario = self._kept(self._scenarios, unit.scenario, lambda: _scenario_line(unit.scenario))
        folds = [[self._ids[p], self._ids[s], self._alive(test.chunks)] for p, s, test in unit.folds]
        positions = None if unit.positions is None else self._alive(unit.positions)
        return [name, self._named(tuple(unit.row)), list(unit.row.values()), folds, method, scenario, positions]

    def _kept(self, known: dict[int, int], value: object, line: Callable[[], Line]) -> int:
        if id(value) not in known:
            self._new.append(line())
            known[id(value)] = len(known)
        return known[id(value)]

    def _value(self, value: Any) -> Any:
        """A value of a task: a nested one as the number of an object."""
        return {OBJECT: self._alive(value)} if isinstance(value, tuple | list | Mapping) else self._whole(value)

    def _alive(self, value: Any) -> int:
        """The number of an object that the plan holds, so that no other will have its id()."""
        if id(value) not in self._seen:
            self._seen[id(value)] = self._object(value)
        return self._seen[id(value)]

    def _named(self, names: tuple[str, ...]) -> int:
        if names not in self._names:
            self._names[names] = self._object(names)
        return self._names[names]

    def _object(self, value: Any) -> int:
        whole = self._whole(value)
        address = sha256(json.dumps(whole, sort_keys=True).encode()).digest()
        if address not in self._objects:
            self._objects[address] = len(self._objects)
            self._new.append(["object", whole])
        return self._objects[address]

    def _whole(self, value: Any) -> Any:
        if isinstance(value, str):
            if value in self._ids:
                return {ID: self._ids[value]}
            return {KEY: self._keys[value]} if value in self._keys else str(value)
        if isinstance(value, Mapping):
            return {MAPPING: {name: self._whole(part) for name, part in value.items()}}
        if isinstance(value, tuple):
            return [self._whole(part) for part in value]
        return {LIST: [self._whole(part) for part in value]} if isinstance(value, list) else value


def _fields(method: MethodCard) -> dict[str, Any]:
    return {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}


def _scenario_line(scenario: Scenario) -> Line:
    """The scenario as it was planned: the levels of a sealed one are drawn, so that it has no range any more."""
    return ["scenario", scenario.model_copy(update={"sealed": False}).model_dump(mode="json"), scenario.sealed]


class Unpacker:
    """Builds the plan again, line by line."""

    def __init__(self) -> None:
        self.plan = Plan()
        self._tasks: list[Task] = []
        self._objects: list[Any] = []
        self._parts: dict[int, Part] = {}
        self._needs: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._methods: list[MethodCard] = []
        self._scenarios: list[Scenario] = []

    def add(self, line: Line) -> None:
        """Takes the next line of `Packer.lines`."""
        what, *values = line
        getattr(self, f"_add_{what}")(*values)

    def _add_object(self, whole: Any) -> None:
        self._objects.append(self._value(whole))

    def _add_task(
        self, kind: str, key: str, payload: Fields, made_of: Fields, needs: list[Any], label: str, seconds: float
    ) -> None:
        given, parts = ({sys.intern(n): self._value(v) for n, v in made.items()} for made in (payload, made_of))
        *first, others = needs
        all_needs = (*(self._value(need) for need in first), *self._objects[others])
        shared = self._needs.setdefault(all_needs, all_needs)
        task = Task(kind, key, given, shared, sys.intern(label), seconds, parts)
        self._tasks.append(task)
        self.plan.tasks[task.id] = task

    def _add_method(self, fields: Any) -> None:
        values = self._value(fields)
        self._methods.append(MethodCard(**{**values, "track": Track(values["track"])}))

    def _add_scenario(self, dump: Any, sealed: bool) -> None:
        self._scenarios.append(Scenario.model_validate(dump).model_copy(update={"sealed": sealed}))

    def _add_unit(self, *values: Any) -> None:
        self.plan.units.append(self._unit(*values))

    def _add_stream(self, *values: Any) -> None:
        self.plan.streams.append(self._unit(*values))

    def _add_card(self, scenario: str, target: str, task: int) -> None:
        self.plan.cards[scenario, target] = self._tasks[task].id

    def _unit(self, names: int, row: Any, folds: Any, method: int, scenario: int, positions: int | None) -> Unit:
        return Unit(
            dict(zip(self._objects[names], row, strict=True)),
            tuple((self._tasks[p].id, self._tasks[s].id, self._part(test)) for p, s, test in folds),
            self._methods[method],
            self._scenarios[scenario],
            None if positions is None else self._objects[positions],
        )

    def _part(self, chunks: int) -> Part:
        return self._parts.setdefault(chunks, Part(self._objects[chunks]))

    def _value(self, value: Any) -> Any:
        if isinstance(value, list):
            return tuple(self._value(part) for part in value)
        if not isinstance(value, dict):
            return value
        ((sign, content),) = value.items()
        if sign == MAPPING:
            return {name: self._value(part) for name, part in content.items()}
        if sign == LIST:
            return [self._value(part) for part in content]
        if sign == OBJECT:
            return self._objects[content]
        return self._tasks[content].id if sign == ID else self._tasks[content].key
