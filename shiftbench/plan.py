"""Scenarios and methods -> a graph of content-addressed tasks, and the units of which the rows are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shiftbench import domains
from shiftbench.backbones import backbone_named
from shiftbench.contract import GRANTS
from shiftbench.data.splits import cross_fit_halves, fewshot_cases, real_source_split, simulated_split
from shiftbench.domains import (
    DatasetRef,
    Part,
    acquisition_steps,
    dataset_ref,
    population_of,
    shift_of,
    source_acquisition,
)
from shiftbench.errors import NotApplicable
from shiftbench.graph import MethodCard, Options, Plan, Task, Unit
from shiftbench.metrics import SCORERS
from shiftbench.rng import digest
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.shifts.protocol import check_protocol
from shiftbench.spec import Scenario, Source, Target
from shiftbench.types import Dataset, Family, Track

TRAIN_VERSION = 1
PREDICT_VERSION = 1
CHUNK = 10  # cases per data task
DRAWS = {"smoke": 1, "quick": 1, "dev": 1, "core": 3, "full": 5}  # few-shot draws per seed


def plan(scenarios: Sequence[Scenario], methods: Sequence[MethodCard], options: Options, suite: str) -> Plan:
    """The graph of a run.

    Raises:
        SpecError: an operator, protocol rule, dataset or backbone is unknown or does not fit.
        DataError: a folder is missing or cannot be used.
    """
    graph = Plan()
    opened: dict[str, tuple[DatasetRef, Dataset]] = {}
    for scenario in scenarios:
        _Scenario(graph, scenario, options, suite, opened).add(methods)
    return graph


class _Scenario:
    """Adds one scenario to a plan."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, suite: str, opened: dict):
        self.graph, self.scenario, self.options, self.suite, self.opened = graph, scenario, options, suite, opened
        self.structures = list(scenario.structures)
        self.recipe = scenario.recipe()
        self.source = scenario.source[0]

    def add(self, methods: Sequence[MethodCard]) -> None:
        seeds = self.options.seeds or self.scenario.seeds
        backbones = self.options.backbones or self.scenario.backbones
        source_parts = self.source_parts()
        folds = {self.source.name: [(source_parts["adapt"], source_parts["test"])]}
        targets = self.scenario.targets()
        for each in targets:
            folds[each.name] = self.target_folds(each)
        for backbone in backbones:
            for seed in seeds:
                train = self.train_task(backbone, seed, source_parts)
                for method in methods:
                    state = self.prepare_task(method, backbone, seed, train, source_parts)
                    for target in [None, *targets]:
                        self.add_units(method, backbone, seed, target, state, source_parts, folds)

    def dataset(self, name: str) -> tuple[DatasetRef, Dataset]:
        """The dataset of a domain, opened once per run."""
        ref = dataset_ref(self.scenario, name, self.options.folders, self.options.roots)
        address = digest(ref.payload())
        if address not in self.opened:
            self.opened[address] = (ref, ref.open())
        return self.opened[address]

    def source_parts(self) -> dict[str, Part]:
        """Train, val, adapt and test of the source domain."""
        ref, dataset = self.dataset(self.source.dataset or self.scenario.dataset)
        cases = dataset.cases()
        real = any(t.family is Family.REAL for t in self.scenario.target)
        splitter = real_source_split if real else simulated_split
        split = splitter(cases, dataset_digest=dataset.digest, seed=self.scenario.domain_seed)
        adapt = split.adapt or split.val  # a real source has no adapt part: methods see its validation images
        parts = {"train": split.train, "val": split.val, "adapt": adapt, "test": split.test}
        return {name: self.part(self.source, None, ref, dataset, ids, name) for name, ids in parts.items()}

    def target_folds(self, target: Target) -> list[tuple[Part, Part]]:
        """(adapt, test) of a target: one fold of simulated targets, two cross-fitted halves of real ones."""
        ref, dataset = self.dataset(target.dataset or self.source.dataset or self.scenario.dataset)
        cases = dataset.cases()
        if target.family is Family.REAL:
            halves = cross_fit_halves(cases, dataset_digest=dataset.digest, seed=self.scenario.domain_seed)
            splits = [(half.adapt, half.test) for half in halves]
        else:
            split = simulated_split(cases, dataset_digest=dataset.digest, seed=self.scenario.domain_seed)
            splits = [(split.adapt, split.test)]
        return [
            (
                self.part(self.source, target, ref, dataset, adapt, "adapt"),
                self.part(self.source, target, ref, dataset, test, "test"),
            )
            for adapt, test in splits
        ]

    def part(
        self, source: Source, target: Target | None, ref: DatasetRef, dataset: Dataset, cases: Sequence[str], name: str
    ) -> Part:
        """Anatomy, image and reference tasks of some cases of a domain."""
        where = f"{self.scenario.name}: {target.name if target else source.name}"
        population = population_of(source, target)
        acquisition = source_acquisition(source, dataset, where)
        steps = acquisition_steps(target)
        protocol = {**source.protocol, **(target.protocol if target else {})}
        check_protocol(protocol, dataset.optional_members, where)
        chunks = []
        for i in range(0, len(cases), CHUNK):
            ids = tuple(sorted(cases)[i : i + CHUNK])
            title = f"{target.name if target else source.name} ({name} {i // CHUNK + 1})"
            chunks.append((*self.chunk_tasks(ref, dataset, ids, population, acquisition, steps, protocol, title), ids))
        return Part(tuple(chunks))

    def chunk_tasks(self, ref, dataset, ids, population, acquisition, steps, protocol, title) -> tuple[str, str, str]:
        """Keys of the three data tasks of a chunk of cases."""
        anatomy = self.graph.add(
            "anatomy",
            {"dataset": ref.payload(), "cases": ids, "population": population},
            (),
            f"anatomies of {title}",
            0.4 * len(ids),
            [
                domains.ANATOMY_VERSION,
                dataset.digest,
                dict(sorted(population.items())),
                _population_versions(population),
                ids,
            ],
        )
        versions = [[s.operator, OPERATORS[s.operator].version, s.value, s.occurrence] for s in steps]
        images = self.graph.add(
            "images",
            {
                "anatomy": anatomy.key,
                "cases": ids,
                "acquisition": acquisition,
                "steps": [s._asdict() for s in steps],
                "domain_seed": self.scenario.domain_seed,
            },
            (anatomy.id,),
            f"images of {title}",
            0.25 * len(ids),
            [domains.IMAGES_VERSION, anatomy.key, acquisition, versions, self.scenario.domain_seed],
        )
        rules = {rule: PROTOCOLS[rule].version for rule in protocol}
        references = self.graph.add(
            "references",
            {
                "anatomy": anatomy.key,
                "dataset": ref.payload(),
                "cases": ids,
                "structures": self.structures,
                "protocol": protocol,
            },
            (anatomy.id,),
            f"references of {title}",
            0.1 * len(ids),
            [domains.REFERENCES_VERSION, anatomy.key, self.structures, protocol, rules],
        )
        return anatomy.key, images.key, references.key

    def train_task(self, backbone: str, seed: int, parts: Mapping[str, Part]) -> Task:
        """The shared training on the source."""
        spec = backbone_named(backbone)
        payload = {
            "backbone": backbone,
            "dimension": int(self.scenario.dimension[0]),
            "classes": len(self.structures) + 1,
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


def _population_versions(population: Mapping[str, float]) -> dict[str, int]:
    return {op.name: op.version for op in POPULATIONS.values() if op.key in population}


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
