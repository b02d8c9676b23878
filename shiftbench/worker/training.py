"""Training tasks: the shared source model, a method's own, and how either is taken up again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from shiftbench.domains import Part
from shiftbench.errors import NotApplicable
from shiftbench.guest.model import recipe_of, untrained
from shiftbench.isolation.session import NETWORK_FACTS, Session, Terms
from shiftbench.methods import source_of
from shiftbench.networks import Normalised
from shiftbench.rng import generator
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.train import Checkpoint, Progress, fit_supervised
from shiftbench.worker.cases import labelled, labelled_cases
from shiftbench.worker.guests import launcher_for
from shiftbench.worker.perform import Context

SHOWN = ("source", "source_val")  # to a method's own training


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
        "task": {k: task[k] for k in NETWORK_FACTS},
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
    store, shared = context.store, Start(context.store, ["train", task["train"]])
    counted = Task.of(shared.network["layout"]).counts_instances
    with session_of(context, task, shared.network, shared.channels) as session:
        if "prepare" not in session.prepares:
            session.send_weights(shared.weights())
        parts = {name: labelled_cases(store, Part.of(task[name]), instances=counted) for name in SHOWN}
        session.grant(parts, counted=counted)
        started = time.perf_counter()
        facts = {"train": task["train"], "isolation": session.level}
        try:
            own, sidecar = session.prepare(untrained(shared.network, shared.channels), task["seed"])
        except NotApplicable as reason:
            store.publish("prepare", key, {**facts, "own": False, "not_applicable": str(reason)})
            return
        record = {**facts, "own": own is not None, "seconds": time.perf_counter() - started}
    with store.workspace() as folder:
        if own is not None:
            save_file(own, folder / "weights.safetensors")
        save_file(sidecar, folder / "sidecar.safetensors")
        store.publish("prepare", key, record, folder)


def session_of(
    context: Context,
    task: Mapping[str, Any],
    network: Mapping[str, Any],
    channels: int,
    identity: Sequence[Any] | None = None,
) -> Session:
    """A guest that knows the task's method and network."""
    method = task["method"]
    terms = Terms(
        source=source_of(method),
        path=Path(method["path"]),
        network=network,
        channels=channels,
        recipe=task["recipe"],
        device=task["device"],
        threads=task["threads"],
        seed=task["seed"],
        draw=task.get("draw", 0),
        identity=identity,
    )
    settings = context.settings
    launcher = launcher_for(settings, task["device"], task["threads"], context.store.root)
    return Session(launcher, terms, seconds=settings.seconds, report=context.report)


class Start:
    """What a method starts from: the network of a training task, its weights, and a sidecar.

    Raises:
        NotApplicable: the method's preparation had no meaning.
    """

    def __init__(self, store: Store, state: Sequence[str]):
        kind, key = state
        self.of_sidecar: Path | None = None
        place = ("train", key)
        if kind == "prepare":
            prepared = store.record("prepare", key)
            if "not_applicable" in prepared:
                raise NotApplicable(prepared["not_applicable"].rstrip("."))
            self.of_sidecar = store.artifact("prepare", key) / "sidecar.safetensors"
            place = ("prepare", key) if prepared["own"] else ("train", prepared["train"])
            key = prepared["train"]
        record = store.record("train", key)
        self.network: Mapping[str, Any] = record["task"]
        self.channels: int = record["channels"]
        self.of_weights = store.artifact(*place) / "weights.safetensors"

    def weights(self) -> dict[str, torch.Tensor]:
        """The model's state."""
        return load_file(self.of_weights)

    def sidecar(self) -> dict[str, torch.Tensor]:
        """Declared statistics; none where the method has not declared any."""
        return load_file(self.of_sidecar) if self.of_sidecar is not None else {}

    def model(self, device: str) -> Normalised:
        """The model itself, in evaluation mode."""
        model = untrained(self.network, self.channels)
        model.load_state_dict(self.weights())
        return model.to(device).eval()
