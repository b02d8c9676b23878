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
from shiftbench.graph import MethodCard, Options, Plan, Task, frozen
from shiftbench.losses.terms import check_terms
from shiftbench.methods import BASE
from shiftbench.metrics.ibsi import check_installed
from shiftbench.parts import Parts
from shiftbench.plan.inputs import Input, Inputs, restricted
from shiftbench.plan.orders import Pass, derangement
from shiftbench.plan.versions import PREDICT_VERSION, SELECT_VERSION, TRAIN_VERSION, metric_versions
from shiftbench.rng import digest
from shiftbench.spec import Scenario
from shiftbench.types import Track

GUESS_SECONDS = 6e-8  # of a step, per position, channel and convolution of the first level: order of work, time left
Fold = tuple[str, str, Part]  # predict task id, score task id, test part
Made = dict[str, Any]  # payload of a task, or what its key is made of


class Tasks:
    """Adds the tasks of one scenario to a graph."""

    def __init__(self, graph: Plan, scenario: Scenario, options: Options, parts: Parts):
        self.graph, self.scenario, self.parts = graph, scenario, parts
        self.inputs = Inputs(graph)
        recipe = scenario.recipe()
        check_terms(recipe.loss, where=scenario.name)
        if scenario.radiomics is not None and scenario.radiomics.features == "ibsi":
            check_installed(scenario.name)
        self.steps, self.fewshot_steps = recipe.steps, recipe.fewshot_steps
        self.positions = recipe.batch * math.prod(recipe.patch), len(recipe.patch)
        self.recipe = graph.common(frozen(asdict(recipe)))
        self.machine = {"device": options.device, "threads": options.threads}
        self.layout = parts.layout
        self.structures = graph.common(tuple((n, s.tolerance, s.form) for n, s in scenario.structures.items()))
        self.scoring = graph.common(frozen(scenario.scoring_options()))
        self.metrics = graph.common(metric_versions(scenario))
        self.source = scenario.source[0]
        self.seconds: dict[str, float] = {}  # of a training, by backbone

    def train_task(self, backbone: str, seed: int, parts: Mapping[str, Part]) -> Task:
        """The shared training on the source."""
        spec, train = self.scenario.architecture(backbone), self.inputs.of(parts["train"])
        trained = {
            "backbone": backbone,
            "dimension": int(self.scenario.dimension[0]),
            "architecture": self.graph.common(frozen(asdict(spec))),
            "layout": self.graph.common(frozen(asdict(self.layout))),
            "normalise": self.scenario.normalise,
            "window": self.scenario.window,
            "recipe": self.recipe,
            "seed": seed,
            **self.machine,
        }
        made_of = {
            **trained,
            "version": TRAIN_VERSION,
            "code": fingerprint(spec),
            "images": train.images,
            "references": train.references,
        }
        label = f"training {backbone} on {self.source.name} (seed {seed})"
        payload = {**trained, "train": train.payload}
        return self.graph.add("train", payload, train.labelled, label, self.train_seconds(backbone), made_of)

    def train_seconds(self, backbone: str) -> float:
        """A guess from the positions of a batch and the width and convolutions of the first level."""
        if backbone not in self.seconds:
            self.seconds[backbone] = self._train_seconds(self.scenario.architecture(backbone))
        return self.seconds[backbone]

    def _train_seconds(self, backbone: Backbone) -> float:
        count, axes = self.positions
        width = backbone.widths[0] * (1 + backbone.convolutions)
        return self.steps * count / backbone.stem_stride**axes * width * GUESS_SECONDS

    def prepare_task(
        self, method: MethodCard, backbone: str, seed: int, train: Task, parts: Mapping[str, Part]
    ) -> Task:
        """The state a method starts from: the shared checkpoint, its own preparation, or a sidecar beside either."""
        if not method.prepares:
            return train
        source, val = self.inputs.of(parts["train"]), self.inputs.of(parts["val"])
        payload = {
            "method": method.payload,
            "train": train.key,
            "seed": seed,
            "source": source.payload,
            "source_val": val.payload,
            "recipe": self.recipe,
            **self.machine,
        }
        made_of = {
            "version": PREDICT_VERSION,
            "method": self.graph.common(method.identity),
            "train": train.id,
            "images": val.images,
            "references": val.references,
            "seed": seed,
        }
        needs = (train.id, *source.labelled, *val.labelled)
        seconds = self.train_seconds(backbone) if "prepare" in method.prepares else 5.0
        return self.graph.add("prepare", payload, needs, f"preparing {method.name}", seconds, made_of)

    def fold_tasks(self, method, backbone, seed, draw, name, state: Task, source, fold, *, permuted, select) -> Fold:
        """Ids of the predict and the score task of one fold, and its test part.

        With `select` the method is one of several configurations, and each prediction's label-free score is kept too.
        """
        adapt, part = fold
        track, test = method.track, self.inputs.of(part)
        payload, made_of = self.of_method(method, seed, draw, state)
        payload |= {"domain_seed": self.scenario.domain_seed, "test": test.payload}
        made_of |= {"order": self.scenario.domain_seed, "test": test.images}
        needs = [state.id, *test.images]
        if track is not Track.ESTIMATE:
            self.keep(payload, made_of)
        if select:
            val = self.inputs.of(source["val"])
            payload["select"] = val.payload
            needs += val.images
            made_of |= {"select": val.images, "select_version": SELECT_VERSION}
        self.grant(method, draw, payload, needs, made_of, adapt, source)
        seconds = self.predict_seconds(track, backbone)
        predict = self.graph.add("predict", payload, needs, f"{method.name} on {name}", seconds, made_of)
        donors = self.donors(part) if permuted else None
        options = {**self.scoring, "selection": True} if select else self.scoring
        if track is Track.ESTIMATE:
            options = {"estimates": BASE}  # it predicts no mask that anything else could be scored of
        label = f"scoring {method.name} on {name}"
        return predict.id, self.score_task(predict, test, label, donors=donors, options=options).id, part

    def of_method(self, method: MethodCard, seed: int, draw: int, state: Task) -> tuple[Made, Made]:
        """What the payloads of all predict tasks have, and what their keys are made of, as far as that is the same."""
        identity = self.graph.common(method.identity)
        run = {"recipe": self.recipe, "seed": seed, "draw": draw, **self.machine}
        start = self.graph.common((state.kind, state.key))
        payload = {**run, "method": method.payload, "identity": identity, "state": start}
        return payload, {**run, "version": PREDICT_VERSION, "method": identity, "state": state.id}

    def stream_tasks(self, each: Pass, method, backbone, seed, state: Task) -> dict[str, tuple[Fold, ...]]:
        """One predict task over a pass, and a score task for every target in it."""
        images = {name: test.where() for name, test in each.tests.items()}
        order = tuple((str(i), images[name][case][1], case) for i, (name, case) in enumerate(each.order))
        payload, made_of = self.of_method(method, seed, 0, state)
        payload["stream"] = self.graph.common(order)
        made_of["stream"] = self.graph.common(tuple((f"images/{key}", case) for _, key, case in order))
        self.keep(payload, made_of)
        tests = {name: self.inputs.of(test) for name, test in each.tests.items()}
        needs = [state.id, *(need for test in tests.values() for need in test.images)]
        label = f"{method.name} on stream {each.name} (order {each.seed})"
        seconds = self.predict_seconds(method.track, backbone) * len(each.tests)
        predict = self.graph.add("predict", payload, needs, label, seconds, made_of)
        scored: dict[str, tuple[Fold, ...]] = {}
        for name, test in tests.items():
            names = self.graph.common({case: str(i) for case, i in each.positions(name).items()})
            score = self.score_task(predict, test, f"scoring {label}, {name}", names=names)
            scored[name] = ((predict.id, score.id, test.part),)
        return scored

    def keep(self, payload: Made, made_of: Made) -> None:
        """Adds what of a prediction is kept beside its labels."""
        if self.scenario.calibration is not None:
            payload["keep"] = made_of["keep"] = self.graph.common(("log_probabilities",))

    def donors(self, test: Part) -> dict[str, str]:
        """Whose reference each test case of the impossible control is scored against."""
        patients = self.parts.patients(test)
        if len(set(patients.values())) < 2:
            raise SpecError(
                "references are permuted between patients, and there is one test patient",
                where=self.scenario.name,
                remedy="add patients to [phantom]",
            )
        return self.graph.common(derangement(patients, self.scenario.domain_seed))

    def grant(
        self,
        method: MethodCard,
        draw: int,
        payload: Made,
        needs: list[str],
        made_of: Made,
        adapt: Part,
        source: Mapping[str, Part],
    ) -> None:
        """Adds to a predict task exactly the data that its track entitles it to."""
        granted = GRANTS[method.track]
        if "target" in granted:
            seen = self.inputs.of(adapt)
            payload["adapt"], made_of["adapt"] = seen.payload, seen.images
            needs += seen.images
        for name, part in (("train", "source"), ("val", "source_val")):
            if part in granted:
                given = self.inputs.of(source[name])
                payload[f"source_{name}"], made_of[f"source_{name}"] = given.payload, given.labelled
                needs += given.labelled
        if "fewshot" in granted:
            labelled = self.labelled(method, draw, payload, made_of, adapt)
            payload["fewshot"], made_of["fewshot"] = labelled.payload, labelled.labelled
            needs += labelled.labelled

    def labelled(self, method: MethodCard, draw: int, payload: Made, made_of: Made, adapt: Part) -> Input:
        """The labelled target cases of a method, in the order in which it takes them up."""
        cases: Sequence[str] = self.inputs.of(adapt).cases
        if method.track is Track.FEWSHOT:
            seed = self.scenario.domain_seed
            known = digest(sorted(cases))
            try:
                cases = fewshot_cases(cases, method.k or 1, dataset_digest=known, seed=seed, draw=draw)
            except NotApplicable as reason:
                payload["not_applicable"] = made_of["not_applicable"] = str(reason)
        payload["fewshot_order"] = made_of["fewshot_order"] = self.graph.common(tuple(cases))
        return self.inputs.of(restricted(adapt, cases))

    def predict_seconds(self, track: Track, backbone: str) -> float:
        """A guess: some seconds, and the share of a training that the track takes."""
        shares = {Track.REFERENCE: 1.0, Track.UDA: 1.0, Track.FEWSHOT: self.fewshot_steps / self.steps}
        return 3.0 + shares.get(track, 0.0) * self.train_seconds(backbone)

    def score_task(
        self,
        predict: Task,
        test: Input,
        label: str,
        *,
        names: Mapping[str, str] | None = None,
        donors: Mapping[str, str] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Task:
        """Scores predictions against references; made of both, so a hidden protocol only changes this task.

        `names`, `donors` and `options` (the scenario's if None) are those of `shiftbench.scoring.score_fold`.
        """
        common = self.graph.common
        layout = frozen(asdict(self.layout)) if self.layout.counts_instances else None
        options = self.scoring if options is None else options
        extra = {"names": names, "donors": donors, "layout": layout, "options": options or None}
        special = {name: common(value) for name, value in extra.items() if value is not None}
        payload = {"predict": predict.key, "test": test.payload, "structures": self.structures, **special}
        made_of = {
            "prediction": predict.id,
            "references": test.references,
            "structures": self.structures,
            "metrics": self.metrics,
            **special,
        }
        return self.graph.add("score", payload, (predict.id, *test.labelled), label, 1.0, made_of)
