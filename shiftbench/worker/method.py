"""Tasks of methods. A process that runs these is handed images and, where its track says so, labels."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from shiftbench.contract import decode_prediction, grant
from shiftbench.domains import Part, load_image, not_applicable
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.methods import LoadedMethod, from_payload
from shiftbench.rng import digest, generator
from shiftbench.store import Store
from shiftbench.types import Access, Episode, LabelledSet, Method, Prediction, Predictor, Status, Track, UnlabelledSet
from shiftbench.worker.cases import labelled, recipe_of, unlabelled
from shiftbench.worker.estimate import StoredImages, estimates
from shiftbench.worker.kept import kept
from shiftbench.worker.memory import PeakMemory
from shiftbench.worker.perform import Context
from shiftbench.worker.selection import MIRRORED, SourceProportions, selection_facts, source_proportions
from shiftbench.worker.training import load_state, prepare, train


def predict(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """Adapts and predicts one fold or stream; what fails is recorded case by case and never counts as done."""
    try:
        _predict(context, key, task)
    except NotApplicable as reason:
        context.store.publish("predict", key, {"not_applicable": str(reason), "cases": {}})


def _predict(context: Context, key: str, task: Mapping[str, Any]) -> None:
    store = context.store
    if "not_applicable" in task:
        raise NotApplicable(task["not_applicable"].rstrip("."))
    loaded = from_payload(task["method"])
    if loaded.method.track is Track.ESTIMATE:
        _estimate(store, key, task, loaded)
        return
    stream = _Stream(store, loaded, task)
    record: dict[str, Any] = {"cases": {}}
    with store.workspace() as folder:
        places = list(_places(store, task))
        for i, (name, images_key, case) in enumerate(places):
            context.report(f"case {i + 1} of {len(places)}")
            image = torch.from_numpy(load_image(store, images_key, case)).to(task["device"])
            arrays, record["cases"][name] = stream.one(image)
            if arrays:
                np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        record["seconds_adapt"] = stream.seconds_adapt
        _publish(store, key, record, folder)


def _estimate(store: Store, key: str, task: Mapping[str, Any], loaded: LoadedMethod) -> None:
    """What an estimator expects on the images of one fold."""
    model, sidecar = load_state(store, task["state"], task["device"])
    access = granted(store, task, loaded.method, sidecar, instances=model.task.counts_instances)
    places = list(_places(store, task))
    images = StoredImages(store, places, task["device"])
    entries = estimates(loaded, model, access, images, task["device"])
    record = {"cases": {name: entry for (name, *_), entry in zip(places, entries, strict=True)}}
    with store.workspace() as folder:
        _publish(store, key, record, folder)


def _publish(store: Store, key: str, record: dict[str, Any], folder: Path) -> None:
    """Publishes the record of a fold; with a failed case it stays an attempt, of which the other cases are kept."""
    bad = {c: e for c, e in record["cases"].items() if e["status"] != Status.OK}
    if bad:
        store.publish_partial("predict", key, folder)
        raise FailedCases(record["cases"], bad)
    store.publish("predict", key, record, folder)


class FailedCases(Exception):
    """Some or all cases of a fold got no usable prediction; `record` goes into the failure."""

    def __init__(self, cases: Mapping[str, Any], bad: Mapping[str, Any]):
        first, entry = next(iter(bad.items()))
        super().__init__(f"{len(bad)} of {len(cases)} cases failed, the first ({first}) with: {entry['detail']}")
        self.status = entry["status"]
        self.record = {"cases": dict(cases)}


class _Stream:
    """Calls `adapt` as often as the method's episode asks for, and the predictor once per case."""

    def __init__(self, store: Store, loaded: LoadedMethod, task: Mapping[str, Any]):
        self.store, self.loaded, self.task = store, loaded, task
        self.model, sidecar = load_state(store, task["state"], task["device"])
        self.access = granted(store, task, loaded.method, sidecar, instances=self.model.task.counts_instances)
        self.predictor: Predictor | None = None
        self.broken: Exception | None = None
        self.seconds_adapt = 0.0

    def one(self, image: torch.Tensor) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays of one case ("labels", where they are counted "instances", what is `kept`), and its record."""
        peak, started = PeakMemory(self.task["device"]), time.perf_counter()
        arrays: dict[str, np.ndarray] = {}
        facts: dict[str, Any] = {}
        status, detail = Status.OK, ""
        prediction = None
        try:
            prediction = self._predicted(image)
            arrays, facts = self._decoded(prediction, image)
        except NotApplicable:
            raise
        except (MemoryError, torch.OutOfMemoryError) as error:
            status, detail = Status.OUT_OF_MEMORY, str(error)
        except MethodError as error:
            named = MethodError(error.problem, where=error.where or self.loaded.path, remedy=error.remedy)
            status, detail = Status.INVALID_OUTPUT, str(named)
        except Exception as error:  # whatever a method's code does is that method's result
            status, detail = Status.FAILED, f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        record = {"status": str(status), "detail": detail, "seconds": seconds, "peak_mb": peak.megabytes()}
        if status is Status.OK and prediction is not None and "select" in self.task:
            facts = {**facts, "selection": self._selection(prediction, image)}
        return arrays, {**record, **facts}

    def _predicted(self, image: torch.Tensor) -> Prediction:
        if self.broken is not None:
            raise self.broken
        episodic = self.loaded.method.episode is Episode.EPISODIC
        if self.predictor is None or episodic:
            name = _content(image) if episodic else "offline"
            rng = generator(self.task["seed"], *self.task["identity"], self.task["draw"], name)
            started = time.perf_counter()
            try:
                self.predictor = self.loaded.method.adapt(copy.deepcopy(self.model), self.access, rng=rng)
            except Exception as error:
                if not episodic:
                    self.broken = error
                raise
            self.seconds_adapt += time.perf_counter() - started
        assert self.predictor is not None
        return self.predictor(image.clone())

    def _decoded(self, prediction: Prediction, image: torch.Tensor) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        labels, instances = decode_prediction(prediction, image, self.model.task)
        arrays, facts = kept(prediction, labels, self.model.task, self.task.get("keep", ()))
        counted = {} if instances is None else {"instances": instances}
        return {"labels": labels, **counted, **arrays}, facts

    def _selection(self, prediction: Prediction, image: torch.Tensor) -> dict[str, Any]:
        """The label-free score of one prediction, which needs that for the mirrored image.

        Only methods without state over cases are asked, so that no other prediction changes. Its costs are not those
        of the case.
        """
        spent = self.seconds_adapt
        try:
            view = image.flip(MIRRORED)
            mirrored = self._predicted(view)
            decode_prediction(mirrored, view, self.model.task)
            return selection_facts(self.source, prediction, mirrored)
        except Exception as error:  # whatever a method's code does; the prediction itself stands
            return {"failed": f"{type(error).__name__}: {error}"}
        finally:
            self.seconds_adapt = spent

    @cached_property
    def source(self) -> SourceProportions:
        """What the model that the method starts from predicts on source-val."""
        part = Part.of(self.task["select"])
        return source_proportions(self.model, unlabelled(self.store, part, self.task["device"]))


def _content(image: torch.Tensor) -> str:
    return digest(image.cpu().numpy().tobytes().hex())


def _places(store: Store, task: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """(name of the prediction, images key, case) of every case that could be acquired, in the order of the stream.

    A stream of targets is listed by the plan, for a case occurs in it once per target; a target alone has its seeded
    order.
    """
    if "stream" not in task:
        for case, images_key in _stream_order(store, Part.of(task["test"]), task["domain_seed"]):
            yield case, images_key, case
        return
    missing: dict[str, Mapping[str, str]] = {}
    for name, images_key, case in task["stream"]:
        if images_key not in missing:
            missing[images_key] = store.record("images", images_key)["not_applicable"]
        if case not in missing[images_key]:
            yield name, images_key, case


def _stream_order(store: Store, test: Part, domain_seed: int) -> Iterable[tuple[str, str]]:
    """Test cases that could be acquired, in the target's seeded order."""
    missing = not_applicable(store, test)
    cases = [(case, images) for case, (_, images, _) in test.where().items() if case not in missing]
    order = generator(domain_seed, "order", sorted(case for case, _ in cases)).permutation(len(cases))
    by_name = sorted(cases)
    return [by_name[i] for i in order]


def granted(
    store: Store,
    task: Mapping[str, Any],
    method: Method,
    sidecar: Mapping[str, torch.Tensor],
    *,
    instances: bool = False,
) -> Access:
    """What the plan put into the task, as far as the method's track entitles it."""
    device = task["device"]

    def cases(part: str, order: Sequence[str] | None = None) -> LabelledSet | None:
        return labelled(store, Part.of(task[part]), device, order, instances=instances) if part in task else None

    return grant(
        method,
        recipe=recipe_of(task),
        source=cases("source_train"),
        source_val=cases("source_val"),
        target=UnlabelledSet(unlabelled(store, Part.of(task["adapt"]), device)) if "adapt" in task else None,
        labelled_target=cases("fewshot", task.get("fewshot_order")),
        sidecar=sidecar,
    )


HANDLERS = {"train": train, "prepare": prepare, "predict": predict}
