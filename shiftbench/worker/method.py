"""Training and method tasks. A process that runs these is handed images and, where its track says so, labels."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from shiftbench.backbones import Backbone
from shiftbench.contract import SIDECAR_BYTES, decode_prediction, grant
from shiftbench.domains import Part, load_image, load_instances, load_reference, not_applicable
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.methods import LoadedMethod, from_payload
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import digest, generator
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.train import Checkpoint, Progress, fit_supervised
from shiftbench.types import Access, Episode, LabelledSet, LossTerm, Method, Predictor, Recipe, Status, UnlabelledSet
from shiftbench.worker.memory import PeakMemory

Report = Callable[[str], None]  # told in words how far a task is

# What of a training task the network and its weights depend on, beside the data.
TRAINED = ("backbone", "architecture", "dimension", "layout", "normalise", "window", "recipe", "seed")


def untrained(task: Mapping[str, Any], channels: int) -> Normalised:
    """The scenario's backbone with weights that depend on the seed alone."""
    return build(
        Backbone(**_tuples(task["architecture"])),
        dimension=task["dimension"],
        channels=channels,
        task=Task.of(task["layout"]),
        normalise=Normalise(task["normalise"], tuple(task["window"])),
        patch=tuple(task["recipe"]["patch"]),
        stack=task["recipe"]["stack"],
        rng=generator(task["seed"], "build", task["backbone"]),
    )


def train(store: Store, key: str, task: Mapping[str, Any], report: Report) -> None:
    """The source training that every method without its own shares; a killed one goes on from its last checkpoint."""
    started = time.perf_counter()
    cases = labelled(store, Part.of(task["train"]), task["device"], instances=_counts_instances(task))
    channels = int(cases.images[0].shape[0])
    model = untrained(task, channels).to(task["device"])
    notes: dict[str, Any] = {}
    losses = fit_supervised(
        model,
        cases,
        recipe_of(task),
        note=notes.__setitem__,
        rng=generator(task["seed"], "train"),
        checkpoint=Checkpoint(store.unfinished("train", key), identity=key),
        observe=lambda progress: report(_in_words(progress)),
    )
    record = {
        "task": {k: task[k] for k in TRAINED},
        "channels": channels,
        "parameters": sum(p.numel() for p in model.parameters()),
        "losses": losses,
        "notes": notes,
        "seconds": time.perf_counter() - started,
    }
    with store.workspace() as folder:
        save_file(
            {n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()}, folder / "weights.safetensors"
        )
        store.publish("train", key, record, folder)


def _in_words(progress: Progress) -> str:
    """How far a training is, for people."""
    score = "" if progress.dsc is None else f", DSC {progress.dsc:.2f}"
    left = f", {progress.seconds_left:.0f} s left"
    return f"step {progress.step} of {progress.steps}, loss {progress.loss:.3f}{score}{left}"


def prepare(store: Store, key: str, task: Mapping[str, Any], report: Report) -> None:
    """A method's own source training (`prepare`), or its sidecar beside the shared model (`summarise`)."""
    loaded = from_payload(task["method"])
    shared = store.record("train", task["train"])
    source, source_val = (
        labelled(store, Part.of(task[part]), task["device"], instances=_counts_instances(shared["task"]))
        for part in ("source", "source_val")
    )
    started = time.perf_counter()
    own = None
    try:
        if hasattr(loaded.method, "prepare"):
            prepared = loaded.method.prepare(
                source,
                source_val,
                lambda: untrained(shared["task"], shared["channels"]).to(task["device"]),
                recipe=recipe_of(task),
                rng=generator(task["seed"], "prepare", loaded.path.stem),  # variants of a file share their draws
            )
            own, sidecar = prepared.model, dict(prepared.sidecar)
        else:
            model, _ = load_state(store, ["train", task["train"]], task["device"])
            sidecar = dict(loaded.method.summarise(model, source, source_val))  # type: ignore[attr-defined]
    except NotApplicable as reason:
        store.publish("prepare", key, {"train": task["train"], "own": False, "not_applicable": str(reason)})
        return
    _check_sidecar(sidecar, loaded)
    record = {"train": task["train"], "own": own is not None, "seconds": time.perf_counter() - started}
    with store.workspace() as folder:
        if own is not None:
            save_file(
                {n: t.detach().cpu().contiguous() for n, t in own.state_dict().items()}, folder / "weights.safetensors"
            )
        save_file({n: t.detach().cpu().contiguous() for n, t in sidecar.items()}, folder / "sidecar.safetensors")
        store.publish("prepare", key, record, folder)


def _check_sidecar(sidecar: Mapping[str, torch.Tensor], loaded: LoadedMethod) -> None:
    size = sum(t.numel() * t.element_size() for t in sidecar.values())
    if size > SIDECAR_BYTES:
        raise MethodError(
            f"the sidecar holds {size} bytes",
            where=loaded.path,
            remedy=f"declare at most {SIDECAR_BYTES} bytes of statistics",
        )


def load_state(store: Store, state: Sequence[str], device: str) -> tuple[Normalised, dict[str, torch.Tensor]]:
    """A copy of the model a method starts from, and its sidecar."""
    kind, key = state
    sidecar: dict[str, torch.Tensor] = {}
    weights_at = ("train", key)
    if kind == "prepare":
        record = store.record("prepare", key)
        if "not_applicable" in record:
            raise NotApplicable(record["not_applicable"].rstrip("."))
        sidecar = load_file(store.artifact("prepare", key) / "sidecar.safetensors", device=device)
        weights_at = ("prepare", key) if record["own"] else ("train", record["train"])
        key = record["train"]
    record = store.record("train", key)
    model = untrained(record["task"], record["channels"])
    model.load_state_dict(load_file(store.artifact(*weights_at) / "weights.safetensors"))
    return model.to(device).eval(), sidecar


def predict(store: Store, key: str, task: Mapping[str, Any], report: Report) -> None:
    """Adapts and predicts one fold or stream; what fails is recorded case by case and never counts as done."""
    try:
        _predict(store, key, task, report)
    except NotApplicable as reason:
        store.publish("predict", key, {"not_applicable": str(reason), "cases": {}})


def _predict(store: Store, key: str, task: Mapping[str, Any], report: Report) -> None:
    if "not_applicable" in task:
        raise NotApplicable(task["not_applicable"].rstrip("."))
    loaded = from_payload(task["method"])
    stream = _Stream(store, loaded, task)
    record: dict[str, Any] = {"cases": {}}
    with store.workspace() as folder:
        places = list(_places(store, task))
        for i, (name, images_key, case) in enumerate(places):
            report(f"case {i + 1} of {len(places)}")
            image = torch.from_numpy(load_image(store, images_key, case)).to(task["device"])
            arrays, record["cases"][name] = stream.one(image)
            if arrays:
                np.savez_compressed(folder / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        record["seconds_adapt"] = stream.seconds_adapt
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
        """Arrays of one case ("labels" and, where they are counted, "instances") and what there is to record of it."""
        peak, started = PeakMemory(self.task["device"]), time.perf_counter()
        arrays: dict[str, np.ndarray] = {}
        status, detail = Status.OK, ""
        try:
            arrays = self._decoded(image)
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
        return arrays, {"status": str(status), "detail": detail, "seconds": seconds, "peak_mb": peak.megabytes()}

    def _decoded(self, image: torch.Tensor) -> dict[str, np.ndarray]:
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
        prediction = self.predictor(image.clone())
        labels, instances = decode_prediction(prediction, image, self.model.task)
        return {"labels": labels} if instances is None else {"labels": labels, "instances": instances}


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
        target=UnlabelledSet(_images(store, Part.of(task["adapt"]), device)) if "adapt" in task else None,
        labelled_target=cases("fewshot", task.get("fewshot_order")),
        sidecar=sidecar,
    )


def _counts_instances(task: Mapping[str, Any]) -> bool:
    """Whether the network of a training task tells instances apart."""
    return task["layout"]["kind"] != "semantic"


def labelled(
    store: Store, part: Part, device: str, order: Sequence[str] | None = None, *, instances: bool = False
) -> LabelledSet:
    """Images and references of a part (cases that could not be acquired are left out), under opaque patient ids."""
    missing, where = not_applicable(store, part), part.where()
    cases = [case for case in (order if order is not None else where) if case not in missing]
    images = [torch.from_numpy(load_image(store, where[case][1], case)).to(device) for case in cases]
    references = [torch.from_numpy(load_reference(store, where[case][2], case)).to(device) for case in cases]
    patients = [store.record("anatomy", where[case][0])["cases"][case]["patient"] for case in cases]
    ids = None
    if instances:
        ids = [torch.from_numpy(load_instances(store, where[case][2], case)).to(device) for case in cases]
    return LabelledSet(images, references, [digest("patient", p)[:12] for p in patients], ids)


def _images(store: Store, part: Part, device: str) -> list[torch.Tensor]:
    missing = not_applicable(store, part)
    wanted = [(case, images) for case, (_, images, _) in part.where().items() if case not in missing]
    return [torch.from_numpy(load_image(store, images, case)).to(device) for case, images in wanted]


def recipe_of(task: Mapping[str, Any]) -> Recipe:
    """The recipe in a task, with lists as tuples."""
    fields = _tuples(task["recipe"])
    return Recipe(**{**fields, "loss": tuple(LossTerm(**term) for term in fields["loss"])})


def _tuples(value: Any) -> Any:
    """Parsed JSON with its lists as tuples."""
    if isinstance(value, Mapping):
        return {name: _tuples(part) for name, part in value.items()}
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


HANDLERS = {"train": train, "prepare": prepare, "predict": predict}
