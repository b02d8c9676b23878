"""Which audits a run is put to: one line per method, audit and target, and the task that answers it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from shiftbench.domains import Part
from shiftbench.graph import Plan, Task, Unit
from shiftbench.questions import CARRIES_STATE
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.headline import LABELLED_TRACKS
from shiftbench.types import Family, Track
from shiftbench.worker.audit import AUDIT_VERSION
from shiftbench.worker.rerun import WAYS

CASES = 3  # that show each fault: one in the middle, with a neighbour on either side
SOURCE_FREE = (Track.SFDA, Track.TTA, Track.HARMONISE)
UNSHIFTED = (Family.CONTROL, Family.FAULT)
SECONDS = 20.0  # a guess for what a pass over a few cases costs beside an adaptation
Ready = Callable[[str], bool]  # whether the task of this id is done


@dataclass(frozen=True)
class Line:
    """One line of the table of audits.

    Attributes:
        unit: whose predictions are asked.
        audit: a name of `shiftbench.worker.audit.AUDITS`.
        task: what answers it; None where it does not concern the method.
        reason: why it does not.
        target: what is said of the target where it is not the unit's.
    """

    unit: Unit
    audit: str
    task: Task | None
    reason: str = ""
    target: str | None = None


def lines(
    graph: Plan, *, methods: Collection[str] | None = None, thorough: bool = False, ready: Ready = lambda task: True
) -> list[Line]:
    """The audits of a run, in the order of its plan.

    Of every scenario, backbone and method, and number of labelled cases, one target with the first seed is asked, a
    shifted one that has been predicted where there is any, on CASES cases. A thorough audit asks all of them, streams
    and few-shot draws too, on all cases.

    Args:
        graph: of the run.
        methods: names or files of those that are asked; all if None.
        thorough: everything.
        ready: whether a task is done.
    """
    asking = _Asking(graph, thorough)
    found: list[Line] = []
    for units in _groups(graph, methods).values():
        chosen = units if thorough else [min(units, key=lambda unit: _worse(unit, ready))]
        found += [line for unit in chosen for line in asking.of(unit)]
        found += asking.protocol_swap(units, chosen[0])
        found += asking.no_op(units, chosen[0], ready)
    return found


def audit_tasks(found: Sequence[Line]) -> dict[str, Task]:
    """The tasks that answer some lines, for an engine."""
    return {line.task.id: line.task for line in found if line.task is not None}


def _groups(graph: Plan, methods: Collection[str] | None) -> dict[tuple[Any, ...], list[Unit]]:
    """Units by scenario, backbone and method; those of streams last, where the method is run on them."""
    groups: dict[tuple[Any, ...], list[Unit]] = {}
    on_streams = [u for u in graph.streams if "stream" in graph.tasks[u.folds[0][0]].payload]
    for unit in (*graph.units, *on_streams):
        card = unit.method
        if methods is None or {card.name, card.stem} & set(methods):
            group = (unit.row["scenario"], unit.row["backbone"], card.name, card.k)
            groups.setdefault(group, []).append(unit)
    return groups


def _worse(unit: Unit, ready: Ready) -> tuple[bool, bool, bool, int, int]:
    """Sorts first what is asked first."""
    row = unit.row
    done = all(ready(predict) for predict, _, _ in unit.folds)
    return unit.positions is not None, not done, row["family"] in UNSHIFTED, row["seed"], row["draw"]


class _Asking:
    """Makes the lines of units."""

    def __init__(self, graph: Plan, thorough: bool):
        self.graph, self.thorough = graph, thorough
        self.answers = Plan()
        self.tests: dict[str, set[str]] = {}  # references of the test parts by predict task
        for unit in (*graph.units, *graph.streams):
            for predict, _, test in unit.folds:
                self.tests.setdefault(predict, set()).update(test.references_keys())
        self.source_only = {_place(unit): unit for unit in graph.units if unit.method.name == SOURCE_ONLY}
        self.by_images: dict[Any, list[Unit]] = {}
        for unit in graph.units:
            self.by_images.setdefault(self._images(unit), []).append(unit)

    def of(self, unit: Unit) -> Iterator[Line]:
        """Every audit of one unit alone."""
        folds = unit.folds if self.thorough else unit.folds[:1]
        card = unit.method
        state = card.episode in CARRIES_STATE
        reasons: dict[str, str] = {
            "label_canary": "",
            "causality": "" if state else "it carries no state over cases",
            "order": "" if not state else "the order may matter",
            "reset": "",
            "poisoned_source": "" if card.track in SOURCE_FREE else "its track is not source-free",
        }
        if card.track is Track.ESTIMATE:
            reasons["order"] = "it is handed all images at once; `shiftbench check` asks for their order"
        for audit, reason in reasons.items():
            if reason:
                yield Line(unit, audit, None, reason)
                continue
            for predict, _, _ in folds:
                yield self._line(unit, audit, self._asked(unit, predict, audit), [predict])

    def protocol_swap(self, units: Sequence[Unit], chosen: Unit) -> Iterator[Line]:
        """A line for a target, thorough for each, that differs from another in the label protocol alone."""
        if chosen.method.track in LABELLED_TRACKS:
            yield Line(chosen, "protocol_swap", None, "its track is given target labels")
            return
        pairs = [(unit, twin) for unit in units if (twin := self._twin(unit)) is not None]
        pairs.sort(key=lambda pair: pair[0].row["family"] in UNSHIFTED)
        for unit, twin in pairs[: None if self.thorough else 1]:
            for (own, _, test), (other, _, _) in zip(unit.folds, twin.folds, strict=True):
                asked = {
                    "audit": "protocol_swap",
                    "key": _key(own),
                    "twin": _key(other),
                    "other": twin.row["target"],
                    "names": tuple(sorted(test.where())),
                }
                yield self._line(unit, "protocol_swap", asked, [own, other])
        if not pairs:
            yield Line(chosen, "protocol_swap", None, "no two targets differ in the label protocol alone")

    def no_op(self, units: Sequence[Unit], chosen: Unit, ready: Ready) -> Iterator[Line]:
        """One line of a method: all its shifted targets with the first seed (thorough: with every seed)."""
        if chosen.method.track in (Track.DG, Track.ESTIMATE):
            yield Line(chosen, "no_op", None, "it does not say that it adapts")
            return
        shifted = [u for u in units if u.row["family"] not in UNSHIFTED and u.positions is None]
        for seed in sorted({unit.row["seed"] for unit in shifted})[: None if self.thorough else 1]:
            pairs = [pair for u in shifted if u.row["seed"] == seed for pair in self._pairs(u)]
            pairs = [pair for pair in pairs if all(map(ready, _predictions(pair)))] or pairs
            if pairs:
                needs = [predict for pair in pairs for predict in _predictions(pair)]
                line = self._line(chosen, "no_op", {"audit": "no_op", "pairs": tuple(pairs)}, needs)
                yield replace(line, target="all shifted")
        if not shifted:
            yield Line(chosen, "no_op", None, "no target is shifted")

    def _pairs(self, unit: Unit) -> Iterator[dict[str, Any]]:
        """The folds of a unit beside those of source-only."""
        base = self.source_only.get(_place(unit))
        if base is None:
            return
        for (own, _, test), (other, _, _) in zip(unit.folds, base.folds, strict=True):
            yield {
                "target": unit.row["target"],
                "names": tuple(sorted(test.where())),
                "own": self._asked(unit, own, "no_op"),
                "source_only": self._asked(base, other, "no_op"),
            }

    def _twin(self, unit: Unit) -> Unit | None:
        """The first other target with the same images and other references."""
        mine = [test.references_keys() for _, _, test in unit.folds]
        same = self.by_images[self._images(unit)] if unit.positions is None else []
        return next((u for u in same if [test.references_keys() for _, _, test in u.folds] != mine), None)

    def _asked(self, unit: Unit, predict: str, audit: str) -> dict[str, Any]:
        """What a predict task is run again with; see `shiftbench.worker.rerun.Rerun`."""
        task, card = self.graph.tasks[predict], unit.method
        estimates = card.track is Track.ESTIMATE
        asked: dict[str, Any] = {
            "audit": audit,
            "key": task.key,
            "predict": task.payload,
            "episode": card.episode,
            "cases": None if self.thorough or estimates else CASES,
            "hidden": tuple(sorted(self._hidden(predict))),
            "ways": tuple(WAYS)[: None if self.thorough else 1],
            "source": (),
        }
        if estimates:
            asked["estimates"] = True
        if audit == "poisoned_source":
            state = self.graph.tasks["/".join(task.payload["state"])]
            asked["source"] = self._source(state)
            if state.kind == "prepare" and (self.thorough or "prepare" not in card.prepares):
                asked["trains"] = (state.kind, state.key, state.payload)
        return asked

    def _hidden(self, predict: str) -> set[str]:
        """References of the target that a predict task names or is scored against."""
        payload = self.graph.tasks[predict].payload
        parts = [Part.of(payload[name]) for name in ("test", "adapt", "fewshot") if name in payload]
        return self.tests[predict].union(*(part.references_keys() for part in parts))

    def _source(self, state: Task) -> tuple[Any, ...]:
        """The parts of the source that a state was trained on."""
        train = state if state.kind == "train" else self.graph.tasks[f"train/{state.payload['train']}"]
        chunks = [*train.payload["train"], *state.payload.get("source", ()), *state.payload.get("source_val", ())]
        return tuple({tuple(chunk[:3]): chunk for chunk in chunks}.values())

    def _line(self, unit: Unit, audit: str, asked: Mapping[str, Any], needs: Sequence[str]) -> Line:
        label = f"audit of {unit.method.name} on {unit.row['target']}: {audit}"
        made_of = {"version": AUDIT_VERSION, "audit": audit, "asked": _address(asked)}
        return Line(unit, audit, self.answers.add("audit", asked, needs, label, SECONDS, made_of))

    def _images(self, unit: Unit) -> Any:
        """Equal for units of one method whose targets have the same images."""
        tests = tuple((tuple(test.images_keys()), tuple(test.where())) for _, _, test in unit.folds)
        row = unit.row
        return row["scenario"], row["backbone"], unit.method.name, unit.method.k, row["seed"], row["draw"], tests


def _place(unit: Unit) -> tuple[Any, ...]:
    return unit.row["scenario"], unit.row["target"], unit.row["backbone"], unit.row["seed"]


def _predictions(pair: Mapping[str, Any]) -> tuple[str, str]:
    """Ids of the two predict tasks that are compared."""
    return f"predict/{pair['own']['key']}", f"predict/{pair['source_only']['key']}"


def _key(task_id: str) -> str:
    return task_id.split("/")[1]


def _address(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked, with the predict tasks by their keys alone: their payloads say where things lie."""
    if "pairs" in asked:
        return {"pairs": [[_address(pair[who]) for who in ("own", "source_only")] for pair in asked["pairs"]]}
    left = {name: value for name, value in asked.items() if name not in ("predict", "trains")}
    return left | ({"trains": list(asked["trains"][:2])} if "trains" in asked else {})
