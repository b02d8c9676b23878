"""Scenarios and methods -> a graph of content-addressed tasks, and the units of which the rows are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shiftbench.backbones import backbone_named
from shiftbench.contract import GRANTS
from shiftbench.data.splits import fewshot_cases
from shiftbench.domains import Part, shift_of
from shiftbench.errors import NotApplicable
from shiftbench.graph import MethodCard, Options, Plan, Task, Unit
from shiftbench.metrics import SCORERS
from shiftbench.parts import Opened, Parts
from shiftbench.rng import digest
from shiftbench.spec import Scenario, Target
from shiftbench.types import Family, Track

TRAIN_VERSION = 1
PREDICT_VERSION = 1
DRAWS = {"smoke": 1, "quick": 1, "dev": 1, "core": 3, "full": 5}  # few-shot draws per seed


def plan(scenarios: Sequence[Scenario], methods: Sequence[MethodCard], options: Options, suite: str) -> Plan:
    """The graph of a run.

    Raises:
        SpecError: an operator, protocol rule, dataset or backbone is unknown or does not fit.
        DataError: a folder is missing or cannot be used.
    """
    graph = Plan()
    opened: Opened = {}
    for scenario in scenarios:
        _Scenario(graph, scenario, options, suite).add(methods, Parts(graph, scenario, options, opened))
    return graph


class _Scenario:
    """Adds one scenario to a plan."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, suite: str):
        self.graph, self.scenario, self.options, self.suite = graph, scenario, options, suite
        self.recipe = scenario.recipe()
        self.source = scenario.source[0]

    def add(self, methods: Sequence[MethodCard], parts: Parts) -> None:
        seeds = self.options.seeds or self.scenario.seeds
        backbones = self.options.backbones or self.scenario.backbones
        source_parts = parts.of_source()
        folds = {self.source.name: [(source_parts["adapt"], source_parts["test"])]}
        targets = self.scenario.targets()
        for each in targets:
            folds[each.name] = parts.of_target(each)
        for backbone in backbones:
            for seed in seeds:
                train = self.train_task(backbone, seed, source_parts)
                for method in methods:
                    state = self.prepare_task(method, backbone, seed, train, source_parts)
                    for target in [None, *targets]:
                        self.add_units(method, backbone, seed, target, state, source_parts, folds)

    def train_task(self, backbone: str, seed: int, parts: Mapping[str, Part]) -> Task:
        """The shared training on the source."""
        spec = backbone_named(backbone)
        payload = {
            "backbone": backbone,
            "dimension": int(self.scenario.dimension[0]),
            "classes": len(self.scenario.structures) + 1,
            "normalise": self.scenario.normalise,
            "window": self.scenario.window,
            "recipe": asdict(self.recipe),
            "seed": seed,
            "train": _payload(parts["train"]),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        key = {
            **{k: v for k, v in payload.items() if k != "train"},
            "version": TRAIN_VERSION,
            "architecture": asdict(spec),
            "images": parts["train"].images_keys(),
            "references": parts["train"].references_keys(),
        }
        label = f"training {backbone} on {self.source.name} (seed {seed})"
        return self.graph.add(
            "train", payload, _needs(parts["train"], references=True), label, self.train_seconds(spec), key
        )

    def train_seconds(self, backbone) -> float:
        points = self.recipe.batch
        for n in self.recipe.patch:
            points *= n
        return self.recipe.steps * points * sum(backbone.widths[:2]) / 48 * 4e-7

    def prepare_task(
        self, method: MethodCard, backbone: str, seed: int, train: Task, parts: Mapping[str, Part]
    ) -> Task:
        """The state a method starts from: the shared checkpoint, its own preparation, or a sidecar beside either."""
        if not method.prepares:
            return train
        payload = {
            "method": method.payload,
            "train": train.key,
            "seed": seed,
            "source": _payload(parts["train"]),
            "source_val": _payload(parts["val"]),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        needs = [train.id, *_needs(parts["train"], references=True), *_needs(parts["val"], references=True)]
        key = [
            PREDICT_VERSION,
            method.identity,
            train.key,
            parts["val"].images_keys(),
            parts["val"].references_keys(),
            seed,
        ]
        seconds = self.train_seconds(backbone_named(backbone)) if "prepare" in method.prepares else 5.0
        return self.graph.add("prepare", payload, needs, f"preparing {method.name}", seconds, key)

    def add_units(self, method, backbone, seed, target, state: Task, source_parts, folds) -> None:
        """Predict and score tasks of one method on one target, for every few-shot draw."""
        family = target.family if target else Family.CONTROL
        track = method.track
        if track is Track.REFERENCE and (family is Family.CONTROL or not target.oracle):
            return
        draws = DRAWS[self.scenario.budget] if track is Track.FEWSHOT else 1
        name = target.name if target else self.source.name
        for draw in range(draws):
            tasks = [
                self.fold_tasks(method, backbone, seed, draw, name, state, source_parts, fold) for fold in folds[name]
            ]
            row = self.row(method, backbone, seed, draw, target)
            self.graph.units.append(Unit(row, tuple(tasks), method, self.scenario))

    def fold_tasks(self, method, backbone, seed, draw, name, state: Task, source, fold) -> tuple[str, str, Part]:
        """Ids of the predict and the score task of one fold, and its test part."""
        adapt, test = fold
        track = method.track
        payload: dict[str, Any] = {
            "method": method.payload,
            "identity": method.identity,
            "domain_seed": self.scenario.domain_seed,
            "state": [state.kind, state.key],
            "recipe": asdict(self.recipe),
            "seed": seed,
            "draw": draw,
            "test": _payload(test),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        needs = [state.id, *_needs(test)]
        key: dict[str, Any] = {
            "version": PREDICT_VERSION,
            "method": method.identity,
            "order": self.scenario.domain_seed,
            "state": state.key,
            "recipe": asdict(self.recipe),
            "seed": seed,
            "draw": draw,
            "test": test.images_keys(),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        self.grant(track, method, draw, payload, needs, key, adapt, source)
        seconds = self.predict_seconds(track, backbone)
        predict = self.graph.add("predict", payload, needs, f"{method.name} on {name}", seconds, key)
        return predict.id, self.score_task(predict, test, f"scoring {method.name} on {name}").id, test

    def grant(self, track, method, draw, payload, needs, key, adapt: Part, source: Mapping[str, Part]) -> None:
        """Adds to a predict task exactly the data that its track entitles it to."""
        granted = GRANTS[track]
        if "target" in granted:
            payload["adapt"] = _payload(adapt)
            needs += _needs(adapt)
            key["adapt"] = adapt.images_keys()
        for name, part in (("train", "source"), ("val", "source_val")):
            if part in granted:
                payload[f"source_{name}"] = _payload(source[name])
                needs += _needs(source[name], references=True)
                key[f"source_{name}"] = [source[name].images_keys(), source[name].references_keys()]
        if "fewshot" in granted:
            cases: Sequence[str] = list(adapt.where())
            if track is Track.FEWSHOT:
                try:
                    seed = self.scenario.domain_seed
                    cases = fewshot_cases(
                        cases, method.k or 1, dataset_digest=digest(sorted(cases)), seed=seed, draw=draw
                    )
                except NotApplicable as reason:
                    payload["not_applicable"] = key["not_applicable"] = str(reason)
            labelled = _restricted(adapt, cases)
            payload["fewshot"] = _payload(labelled)
            payload["fewshot_order"] = key["fewshot_order"] = list(cases)
            needs += _needs(labelled, references=True)
            key["fewshot"] = [labelled.images_keys(), labelled.references_keys()]

    def predict_seconds(self, track: Track, backbone: str) -> float:
        train = self.train_seconds(backbone_named(backbone))
        shares = {Track.REFERENCE: 1.0, Track.UDA: 1.0, Track.FEWSHOT: self.recipe.fewshot_steps / self.recipe.steps}
        return 3.0 + shares.get(track, 0.0) * train

    def score_task(self, predict: Task, test: Part, label: str) -> Task:
        """Scores predictions against references; made of both, so a hidden protocol only changes this task."""
        structures = [[n, s.tolerance] for n, s in self.scenario.structures.items()]
        payload = {"predict": predict.key, "test": _payload(test), "structures": structures}
        versions = {name: scorer.version for name, scorer in SCORERS.items()}
        key = [predict.key, test.references_keys(), structures, versions]
        return self.graph.add("score", payload, [predict.id, *_needs(test, references=True)], label, 1.0, key)

    def row(self, method: MethodCard, backbone: str, seed: int, draw: int, target: Target | None) -> dict[str, Any]:
        """The fields of a row that the plan knows."""
        operator, level, value, unit = shift_of(target)
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


def _payload(part: Part) -> list[Any]:
    return [list(chunk) for chunk in part.chunks]


def _restricted(part: Part, cases: Sequence[str]) -> Part:
    """The chunks of a part that hold some cases, with those cases alone."""
    wanted = set(cases)
    chunks = [(a, i, r, tuple(c for c in ids if c in wanted)) for a, i, r, ids in part.chunks]
    return Part(tuple(chunk for chunk in chunks if chunk[3]))


def _needs(part: Part, *, references: bool = False) -> list[str]:
    needs = [f"images/{k}" for k in part.images_keys()]
    return needs + [f"references/{k}" for k in part.references_keys()] if references else needs
