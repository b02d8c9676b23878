"""Tasks of methods, whose code runs in guests alone: this process sends images and, where a track says so, labels."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shiftbench.contract import GRANTS, decode_prediction
from shiftbench.domains import Part, load_image
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.isolation.session import Session
from shiftbench.isolation.talk import GuestError
from shiftbench.store import Store
from shiftbench.types import Prediction, Status, Track
from shiftbench.worker.cases import granted, unlabelled_cases
from shiftbench.worker.estimate import StoredImages, estimates, failure_facts
from shiftbench.worker.kept import kept
from shiftbench.worker.memory import PeakMemory
from shiftbench.worker.perform import Context
from shiftbench.worker.places import places
from shiftbench.worker.selection import MIRRORED, SourceProportions, selection_facts, source_proportions
from shiftbench.worker.training import Start, prepare, session_of, train


def predict(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """Adapts and predicts one fold or stream; what fails is recorded case by case and never counts as done."""
    store, level = context.store, ""
    try:
        if "not_applicable" in task:
            raise NotApplicable(task["not_applicable"].rstrip("."))
        start = Start(store, task["state"])
        with session_of(context, task, start.network, start.channels, identity=task["identity"]) as session:
            level = session.level
            session.send_weights(start.weights())
            track = Track(task["identity"][2])
            session.grant(
                granted(store, task, instances=session.terms.task.counts_instances),
                start.sidecar() if "sidecar" in GRANTS[track] else {},
                counted=session.terms.task.counts_instances,
            )
            do = _estimate if track is Track.ESTIMATE else _predict
            do(context, key, task, session, start)
    except NotApplicable as reason:
        record = {"not_applicable": str(reason), "cases": {}}
        store.publish("predict", key, {**record, **({"isolation": level} if level else {})})


def _predict(context: Context, key: str, task: Mapping[str, Any], session: Session, start: Start) -> None:
    store = context.store
    stream = _Stream(store, session, task, start)
    record: dict[str, Any] = {"cases": {}, "isolation": session.level}
    with store.workspace() as folder:
        of_task = list(places(store, task))
        for i, (name, images_key, case) in enumerate(of_task):
            context.report(f"case {i + 1} of {len(of_task)}")
            arrays, record["cases"][name] = stream.one(torch.from_numpy(load_image(store, images_key, case)))
            if arrays:
                np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        record["seconds_adapt"] = stream.seconds_adapt
        _publish(store, key, record, folder, stream.failed)


def _estimate(context: Context, key: str, task: Mapping[str, Any], session: Session, _: Start) -> None:
    """What an estimator expects on the images of one fold."""
    store = context.store
    of_task = list(places(store, task))
    entries, failed = estimates(session, StoredImages(store, of_task), session.terms.task.classes - 1)
    cases = {name: entry for (name, *_), entry in zip(of_task, entries, strict=True)}
    with store.workspace() as folder:
        _publish(store, key, {"cases": cases, "isolation": session.level}, folder, failed)


def _publish(store: Store, key: str, record: dict[str, Any], folder: Path, failed: Mapping[str, Any]) -> None:
    """Publishes the record of a fold; with a failed case it stays an attempt, of which the other cases are kept."""
    bad = {c: e for c, e in record["cases"].items() if e["status"] != Status.OK}
    if bad:
        store.publish_partial("predict", key, folder)
        raise FailedCases(record["cases"], bad, {"isolation": record["isolation"], **failed})
    store.publish("predict", key, record, folder)


class FailedCases(Exception):
    """Some or all cases of a fold got no usable prediction; `record` goes into the failure.

    Args:
        cases: of the fold.
        bad: those of them that failed.
        facts: of the first failure: the guest's isolation, where its code failed, and the reason where it is known.
    """

    def __init__(self, cases: Mapping[str, Any], bad: Mapping[str, Any], facts: Mapping[str, Any]):
        first, entry = next(iter(bad.items()))
        super().__init__(f"{len(bad)} of {len(cases)} cases failed, the first ({first}) with: {entry['detail']}")
        self.status, self.reason = entry["status"], facts.get("reason")
        self.record = {"cases": dict(cases), **{name: fact for name, fact in facts.items() if name != "reason"}}


class _Stream:
    """The cases of one task, one after the other, through a method's session."""

    def __init__(self, store: Store, session: Session, task: Mapping[str, Any], start: Start):
        self.store, self.session, self.task, self.start = store, session, task, start
        self.layout = session.terms.task
        self.seconds_adapt = 0.0
        self.failed: Mapping[str, Any] = {}  # what a failure keeps of the first case that failed

    def one(self, image: Tensor) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays of one case ("labels", where they are counted "instances", what is `kept`), and its record."""
        peak, started = PeakMemory(self.task["device"], self.session.talk), time.perf_counter()
        arrays: dict[str, np.ndarray] = {}
        facts: dict[str, Any] = {}
        status, detail = Status.OK, ""
        prediction = None
        try:
            prediction, seconds = self.session.predict(image)
            self.seconds_adapt += seconds
            arrays, facts = self._decoded(prediction, image)
        except NotApplicable:
            raise
        except GuestError as error:
            status, detail = error.status, str(error)
            self.failed = self.failed or failure_facts(error)
        except MethodError as error:
            named = MethodError(error.problem, where=error.where or self.session.terms.path, remedy=error.remedy)
            status, detail = Status.INVALID_OUTPUT, str(named)
        except Exception as error:  # whatever values a method returns are that method's result
            status, detail = Status.FAILED, f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - started
        record = {"status": str(status), "detail": detail, "seconds": seconds, "peak_mb": peak.megabytes()}
        if status is Status.OK and prediction is not None and "select" in self.task:
            facts = {**facts, "selection": self._selection(prediction, image)}
        return arrays, {**record, **facts}

    def _decoded(self, prediction: Prediction, image: Tensor) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        labels, instances = decode_prediction(prediction, image, self.layout)
        arrays, facts = kept(prediction, labels, self.layout, self.task.get("keep", ()))
        counted = {} if instances is None else {"instances": instances}
        return {"labels": labels, **counted, **arrays}, facts

    def _selection(self, prediction: Prediction, image: Tensor) -> dict[str, Any]:
        """The label-free score of one prediction, which needs that for the mirrored image.

        Only methods without state over cases are asked, so that no other prediction changes. Its costs are not those
        of the case.
        """
        try:
            view = image.flip(MIRRORED)
            mirrored, _ = self.session.predict(view)
            decode_prediction(mirrored, view, self.layout)
            return selection_facts(self.source, prediction, mirrored)
        except GuestError as error:  # the prediction itself stands
            return {"failed": str(error)}
        except Exception as error:
            return {"failed": f"{type(error).__name__}: {error}"}

    @cached_property
    def source(self) -> SourceProportions:
        """What the model that the method starts from predicts on source-val."""
        model = self.start.model(self.task["device"])
        cases = unlabelled_cases(self.store, Part.of(self.task["select"]))
        return source_proportions(model, (case.image.to(self.task["device"]) for case in cases))


HANDLERS = {"train": train, "prepare": prepare, "predict": predict}
