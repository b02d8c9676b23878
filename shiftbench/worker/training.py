"""Training tasks: the shared source model, a method's own, and how either is taken up again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shiftbench.backbones import Backbone
from shiftbench.contract import SIDECAR_BYTES
from shiftbench.domains import Part
from shiftbench.errors import MethodError, NotApplicable
from shiftbench.methods import LoadedMethod, from_payload
from shiftbench.networks import Normalise, Normalised, build
from shiftbench.rng import generator
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.train import Checkpoint, Progress, fit_supervised
from shiftbench.worker.cases import labelled, recipe_of, tuples
from shiftbench.worker.perform import Context

# What of a training task the network and its weights depend on, beside the data.
TRAINED = ("backbone", "architecture", "dimension", "layout", "normalise", "window", "recipe", "seed")


def untrained(task: Mapping[str, Any], channels: int) -> Normalised:
    """The scenario's backbone with weights that depend on the seed alone."""
    return build(
        Backbone(**tuples(task["architecture"])),
        dimension=task["dimension"],
        channels=channels,
        task=Task.of(task["layout"]),
        normalise=Normalise(task["normalise"], tuple(task["window"])),
        patch=tuple(task["recipe"]["patch"]),
        stack=task["recipe"]["stack"],
        rng=generator(task["seed"], "build", task["backbone"]),
    )


def train(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """The source training that every method without its own shares; a killed one goes on from its last checkpoint."""
    store = context.store
    started = time.perf_counter()
    cases = labelled(store, Part.of(task["train"]), task["device"], instances=Task.of(task["layout"]).counts_instances)
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
        observe=lambda progress: context.report(_in_words(progress)),
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


def prepare(context: Context, key: str, task: Mapping[str, Any]) -> None:
    """A method's own source training (`prepare`), or its sidecar beside the shared model (`summarise`)."""
    store = context.store
    loaded = from_payload(task["method"])
    shared = store.record("train", task["train"])
    source, source_val = (
        labelled(
            store, Part.of(task[part]), task["device"], instances=Task.of(shared["task"]["layout"]).counts_instances
        )
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
