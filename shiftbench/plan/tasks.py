"""The tasks behind the rows of one scenario: what each computes, and what its result is addressed by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from shiftbench.backbones import Backbone, fingerprint
from shiftbench.contract import GRANTS
from shiftbench.data.splits import fewshot_cases
from shiftbench.domains import Part
from shiftbench.errors import NotApplicable, SpecError
from shiftbench.graph import MethodCard, Options, Plan, Task
from shiftbench.losses.terms import check_terms
from shiftbench.methods import BASE
from shiftbench.metrics.features import VERSIONS as FEATURE_VERSIONS
from shiftbench.metrics.ibsi import check_installed
from shiftbench.metrics.scorers import METRICS
from shiftbench.parts import Parts
from shiftbench.plan.orders import Pass, derangement
from shiftbench.rng import digest
from shiftbench.spec import Scenario
from shiftbench.types import Track

TRAIN_VERSION = 2
PREDICT_VERSION = 2
SELECT_VERSION = 1  # of the criterion that configurations are chosen by without labels
GUESS_SECONDS = 6e-8  # of a step, per position, channel and convolution of the first level: order of work, time left
Fold = tuple[str, str, Part]  # predict task id, score task id, test part


class Tasks:
    """Adds the tasks of one scenario to a graph."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, parts: Parts):
        self.graph, self.scenario, self.options, self.parts = graph, scenario, options, parts
        self.recipe = scenario.recipe()
        self.layout = parts.layout
        check_terms(self.recipe.loss, where=scenario.name)
        if scenario.radiomics is not None and scenario.radiomics.features == "ibsi":
            check_installed(scenario.name)
        self.source = scenario.source[0]

    def train_task(self, backbone: str, seed: int, parts: Mapping[str, Part]) -> Task:
        """The shared training on the source."""
        spec = self.scenario.architecture(backbone)
        payload = {
            "backbone": backbone,
            "dimension": int(self.scenario.dimension[0]),
            "architecture": asdict(spec),
            "layout": asdict(self.layout),
            "normalise": self.scenario.normalise,
            "window": self.scenario.window,
            "recipe": asdict(self.recipe),
            "seed": seed,
            "train": payload_of(parts["train"]),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        key = {
            **{k: v for k, v in payload.items() if k != "train"},
            "version": TRAIN_VERSION,
            "code": fingerprint(spec),
            "images": parts["train"].images_keys(),
            "references": parts["train"].references_keys(),
        }
        label = f"training {backbone} on {self.source.name} (seed {seed})"
        return self.graph.add(
            "train", payload, needs_of(parts["train"], references=True), label, self.train_seconds(spec), key
        )

    def train_seconds(self, backbone: Backbone) -> float:
        """A guess from the positions of a batch and the width and convolutions of the first level."""
        positions = self.recipe.batch * math.prod(self.recipe.patch) / backbone.stem_stride ** len(self.recipe.patch)
        width = backbone.widths[0]
        return self.recipe.steps * positions * width * (1 + backbone.convolutions) * GUESS_SECONDS

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
            "source": payload_of(parts["train"]),
            "source_val": payload_of(parts["val"]),
            "recipe": asdict(self.recipe),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        needs = [train.id, *needs_of(parts["train"], references=True), *needs_of(parts["val"], references=True)]
        key = [
            PREDICT_VERSION,
            method.identity,
            train.key,
            parts["val"].images_keys(),
            parts["val"].references_keys(),
            seed,
        ]
        seconds = self.train_seconds(self.scenario.architecture(backbone)) if "prepare" in method.prepares else 5.0
        return self.graph.add("prepare", payload, needs, f"preparing {method.name}", seconds, key)

    def fold_tasks(self, method, backbone, seed, draw, name, state: Task, source, fold, *, permuted, select) -> Fold:
        """Ids of the predict and the score task of one fold, and its test part.

        With `select` the method is one of several configurations, and each prediction's label-free score is kept too.
        """
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
            "test": payload_of(test),
            "device": self.options.device,
            "threads": self.options.threads,
        }
        needs = [state.id, *needs_of(test)]
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
        if track is not Track.ESTIMATE:
            self.keep(payload, key)
        if select:
            payload["select"] = payload_of(source["val"])
            needs += needs_of(source["val"])
            key["select"] = [SELECT_VERSION, source["val"].images_keys()]
        self.grant(track, method, draw, payload, needs, key, adapt, source)
        seconds = self.predict_seconds(track, backbone)
        predict = self.graph.add("predict", payload, needs, f"{method.name} on {name}", seconds, key)
        donors = self.donors(test) if permuted else None
        options = {**self.scenario.scoring_options(), **({"selection": True} if select else {})}
        if track is Track.ESTIMATE:
            options = {"estimates": BASE}  # it predicts no mask that anything else could be scored of
        label = f"scoring {method.name} on {name}"
        return predict.id, self.score_task(predict, test, label, donors=donors, options=options).id, test

    def stream_tasks(self, each: Pass, method, backbone, seed, state: Task) -> dict[str, tuple[Fold, ...]]:
        """One predict task over a pass, and a score task for every target in it."""
        images = {name: test.where() for name, test in each.tests.items()}
        order = [[str(i), images[name][case][1], case] for i, (name, case) in enumerate(each.order)]
        common = {
            "recipe": asdict(self.recipe),
            "seed": seed,
            "draw": 0,
            "device": self.options.device,
            "threads": self.options.threads,
        }
        payload: dict[str, Any] = {
            **common,
            "method": method.payload,
            "identity": method.identity,
            "state": [state.kind, state.key],
            "stream": order,
        }
        key: dict[str, Any] = {
            **common,
            "version": PREDICT_VERSION,
            "method": method.identity,
            "state": state.key,
            "stream": [place[1:] for place in order],
        }
        self.keep(payload, key)
        needs = [state.id, *(need for test in each.tests.values() for need in needs_of(test))]
        label = f"{method.name} on stream {each.name} (order {each.seed})"
        seconds = self.predict_seconds(method.track, backbone) * len(each.tests)
        predict = self.graph.add("predict", payload, needs, label, seconds, key)
        scored: dict[str, tuple[Fold, ...]] = {}
        for name, test in each.tests.items():
            names = {case: str(i) for case, i in each.positions(name).items()}
            score = self.score_task(predict, test, f"scoring {label}, {name}", names=names)
            scored[name] = ((predict.id, score.id, test),)
        return scored

    def keep(self, payload: dict[str, Any], key: dict[str, Any]) -> None:
        """Adds what of a prediction is kept beside its labels."""
        if self.scenario.calibration is not None:
            payload["keep"] = key["keep"] = ["log_probabilities"]

    def donors(self, test: Part) -> dict[str, str]:
        """Whose reference each test case of the impossible control is scored against."""
        patients = self.parts.patients(test)
        if len(set(patients.values())) < 2:
            raise SpecError(
                "references are permuted between patients, and there is one test patient",
                where=self.scenario.name,
                remedy="add patients to [phantom]",
            )
        return derangement(patients, self.scenario.domain_seed)

    def grant(self, track, method, draw, payload, needs, key, adapt: Part, source: Mapping[str, Part]) -> None:
        """Adds to a predict task exactly the data that its track entitles it to."""
        granted = GRANTS[track]
        if "target" in granted:
            payload["adapt"] = payload_of(adapt)
            needs += needs_of(adapt)
            key["adapt"] = adapt.images_keys()
        for name, part in (("train", "source"), ("val", "source_val")):
            if part in granted:
                payload[f"source_{name}"] = payload_of(source[name])
                needs += needs_of(source[name], references=True)
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
            labelled = restricted(adapt, cases)
            payload["fewshot"] = payload_of(labelled)
            payload["fewshot_order"] = key["fewshot_order"] = list(cases)
            needs += needs_of(labelled, references=True)
            key["fewshot"] = [labelled.images_keys(), labelled.references_keys()]

    def predict_seconds(self, track: Track, backbone: str) -> float:
        train = self.train_seconds(self.scenario.architecture(backbone))
        shares = {Track.REFERENCE: 1.0, Track.UDA: 1.0, Track.FEWSHOT: self.recipe.fewshot_steps / self.recipe.steps}
        return 3.0 + shares.get(track, 0.0) * train

    def score_task(
        self,
        predict: Task,
        test: Part,
        label: str,
        *,
        names: Mapping[str, str] | None = None,
        donors: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Task:
        """Scores predictions against references; made of both, so a hidden protocol only changes this task.

        `names`, `donors` and `options` (the scenario's if None) are those of `shiftbench.scoring.score_fold`.
        """
        structures = [[n, s.tolerance, s.form] for n, s in self.scenario.structures.items()]
        layout = asdict(self.layout) if self.layout.counts_instances else None
        options = self.scenario.scoring_options() if options is None else options
        extra = {"names": names, "donors": donors, "layout": layout, "options": options or None}
        special = {name: value for name, value in extra.items() if value is not None}
        payload = {"predict": predict.key, "test": payload_of(test), "structures": structures, **special}
        versions = {name: scorer.version for name, scorer in METRICS.items()}
        if self.scenario.radiomics is not None:
            versions |= FEATURE_VERSIONS
        key = [predict.key, test.references_keys(), structures, versions, *([special] if special else [])]
        return self.graph.add("score", payload, [predict.id, *needs_of(test, references=True)], label, 1.0, key)


def payload_of(part: Part) -> list[Any]:
    """A part as JSON values."""
    return [list(chunk) for chunk in part.chunks]


def restricted(part: Part, cases: Sequence[str]) -> Part:
    """The chunks of a part that hold some cases, with those cases alone."""
    wanted = set(cases)
    chunks = [(a, i, r, tuple(c for c in ids if c in wanted)) for a, i, r, ids in part.chunks]
    return Part(tuple(chunk for chunk in chunks if chunk[3]))


def needs_of(part: Part, *, references: bool = False) -> list[str]:
    """Ids of the tasks that make a part's images, and its references where they are asked for."""
    needs = [f"images/{k}" for k in part.images_keys()]
    return needs + [f"references/{k}" for k in part.references_keys()] if references else needs
