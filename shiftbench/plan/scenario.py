"""One scenario in a plan: every method on every target and stream, as the units of which the rows are made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from shiftbench.domains import Part, shift_of
from shiftbench.graph import MethodCard, Options, Plan, Task, Unit
from shiftbench.parts import Parts
from shiftbench.plan.cards import add_cards
from shiftbench.plan.configurations import configurations
from shiftbench.plan.orders import passes, runs_on_streams, stands_in_streams
from shiftbench.plan.tasks import Fold, Tasks
from shiftbench.spec import PERMUTED, RESELECT, Scenario, Stream, Target
from shiftbench.types import Family, Track

DRAWS = {"smoke": 1, "quick": 1, "dev": 1, "core": 3, "full": 5}  # few-shot draws per seed


class ScenarioPlan:
    """Adds one scenario to a plan."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, suite: str, parts: Parts):
        self.graph, self.scenario, self.options, self.suite, self.parts = graph, scenario, options, suite, parts
        self.tasks = Tasks(graph, scenario, options, parts)
        self.source = scenario.source[0]
        self.chosen_between: frozenset[str] = frozenset()  # names of methods that are several configurations of one

    def add(self, methods: Sequence[MethodCard]) -> None:
        """Adds the units of the methods, and all that they need."""
        parts = self.parts
        seeds = self.options.seeds or self.scenario.seeds
        backbones = self.options.backbones or self.scenario.backbones
        source_parts = parts.of_source()
        folds = {self.source.name: [(source_parts["adapt"], source_parts["test"])]}
        targets = self.scenario.targets()
        for each in targets:
            folds[each.name] = parts.of_target(each)
        add_cards(self.graph, parts, targets, folds)
        self.chosen_between = configurations(methods)
        for backbone in backbones:
            for seed in seeds:
                train = self.tasks.train_task(backbone, seed, source_parts)
                for method in methods:
                    state = self.tasks.prepare_task(method, backbone, seed, train, source_parts)
                    done = {
                        target.name if target else self.source.name: self.add_units(
                            method, backbone, seed, target, state, source_parts, folds
                        )
                        for target in [None, *targets]
                    }
                    for stream in self.scenario.stream:
                        self.add_stream(stream, method, backbone, seed, state, folds, done)

    def add_units(self, method, backbone, seed, target, state: Task, source_parts, folds) -> tuple[Fold, ...]:
        """Predict and score tasks of one method on one target, for every few-shot draw; the folds of the last one."""
        family = target.family if target else Family.CONTROL
        track = method.track
        if track is Track.REFERENCE and (family is Family.CONTROL or not target.oracle):
            return ()
        permuted = target is not None and target.control == PERMUTED
        if track is Track.ESTIMATE and permuted:  # nobody expects how well another patient's reference is met
            return ()
        draws = DRAWS[self.scenario.budget] if track is Track.FEWSHOT else 1
        name = target.name if target else self.source.name
        flags = {"permuted": permuted, "select": method.name in self.chosen_between}
        tasks: tuple[Fold, ...] = ()
        for draw in range(draws):
            tasks = tuple(
                self.tasks.fold_tasks(method, backbone, seed, draw, name, state, source_parts, fold, **flags)
                for fold in folds[name]
            )
            row = self.row(method, backbone, seed, draw, target)
            self.graph.units.append(Unit(row, tasks, method, self.scenario))
        return tasks

    def add_stream(self, stream: Stream, method, backbone, seed, state: Task, folds, done) -> None:
        """Units of one method on the targets of a stream, for every order seed.

        An online method is run over the stream; one that forgets every case is not run again, for its predictions are
        those on the targets alone.
        """
        if not stands_in_streams(method):
            return
        by_name = {target.name: target for target in self.scenario.targets()}
        tests = {name: Part(tuple(c for _, test in folds[name] for c in test.chunks)) for name in stream.targets}
        for each in passes(stream, tests, self.scenario.domain_seed):
            own = self.tasks.stream_tasks(each, method, backbone, seed, state) if runs_on_streams(method) else done
            for name in stream.targets:
                fields = {"stream": stream.name, "stream_order": stream.order, "order_seed": each.seed}
                row = self.row(method, backbone, seed, 0, by_name.get(name)) | fields
                unit = Unit(row, own[name], method, self.scenario, each.positions(name))
                self.graph.streams.append(unit)

    def row(self, method: MethodCard, backbone: str, seed: int, draw: int, target: Target | None) -> dict[str, Any]:
        """The fields of a row that the plan knows."""
        operator, level, value, unit = self.shift_of(target)
        return {
            "suite": self.suite,
            "scenario": self.scenario.name,
            "scenario_version": self.scenario.version,
            "source": self.source.name,
            "target": target.name if target else self.source.name,
            "family": str(target.family if target else Family.CONTROL),
            "operator": operator,
            "level": level,
            "level_value": value,
            "level_unit": unit,
            "method": method.name,
            "method_version": method.version,
            "track": str(method.track),
            "backbone": backbone,
            "budget": self.scenario.budget,
            "k": method.k,
            "draw": draw,
            "episode": method.episode,
            "seed": seed,
        }

    def shift_of(self, target: Target | None) -> tuple[str | None, float | None, float | None, str | None]:
        """Operator, level, value and unit of a target that one operator makes; Nones for any other."""
        if target is None or target.selection is None:
            return shift_of(target)
        if target.changed != ("population",) or len(target.population) > 1:
            return None, None, None, None
        step = target.selection
        if step.share is not None or step.shares is not None:
            return RESELECT, None, step.share, None if step.share is None else "share"
        unit = "SD" if step.favour is None else "share"
        return RESELECT, *((step.levels[0], None) if step.levels else (None, step.strength[0])), unit
