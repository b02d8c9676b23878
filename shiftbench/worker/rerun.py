"""One predict task of a run, performed again on some of its cases in scratch stores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from shiftbench.domains import Part
from shiftbench.errors import OutputError
from shiftbench.questions import Broken
from shiftbench.rng import digest
from shiftbench.store import Store
from shiftbench.types import Episode, Status
from shiftbench.worker.overlay import ALL, Change, Overlay, exchanged, noise, relabelled, seen, shown, take_inputs
from shiftbench.worker.perform import Context, perform
from shiftbench.worker.places import Place, places

WAYS: Mapping[str, Change] = {
    "replaced by noise": noise,
    "exchanged between cases": exchanged,
    "with other labels": relabelled,
}
ACCIDENTS = (Status.OUT_OF_MEMORY, Status.TIMEOUT)  # which say nothing about a method's honesty
Reader = Callable[[Store, str, Sequence[str]], list[str]]
LABELS, LOG_PROBABILITIES = frozenset({"labels"}), frozenset({"log_probabilities"})
LOST = ("signal", "timeout", "out_of_memory", "lost")


class NotRun(Exception):
    """A task could not be run again, for a reason that is none of the method's."""


class Rerun:
    """A predict task that is run again, a `questions.Runnable`; the run's own store is only read.

    `first` holds fingerprints of the predictions in the run's store. Where these were made on another device than the
    CPU, or were not kept, it is those of a first run on the CPU, and `note` says so.

    Args:
        context: of the run.
        asked: "key" and "predict" (payload) of the predict task, "episode" of its method, "cases" (how many, the first
            of the stream; None for all), "hidden" (keys of references that it must not see, but for the cases that its
            track shows), "ways" (of WAYS, in which these are changed) and "source" (parts that a source-free method has
            no more, once it is trained).
    """

    def __init__(self, context: Context, asked: Mapping[str, Any]):
        self.context, self.asked = context, asked
        self.task, self.key = asked["predict"], asked["key"]
        self.episode = Episode(asked["episode"])
        self.ways = tuple(asked["ways"])
        self.places: list[Place] = list(places(context.store, self.task))[: asked["cases"]]
        self.names = [name for name, _, _ in self.places]
        self.note = ""

    @cached_property
    def first(self) -> list[str]:
        """Fingerprints of what was predicted for every case."""
        store = self.context.store
        if self.task["device"] != "cpu":
            self.note = f"run again on the CPU, for the predictions of the run were made on {self.task['device']}"
        elif not store.present("predict", self.key):
            self.note = "run once more first, for the predictions of the run were not kept"
        else:
            return fingerprints(store, self.key, self.names)
        return self.run(range(len(self.places)))

    def run(
        self,
        order: Sequence[int],
        *,
        replaced: Collection[int] = (),
        hidden: str = "",
        poisoned: bool = False,
        read: Reader | None = None,
    ) -> list[str]:
        """Fingerprints of the predictions of a new pass over the cases at these places.

        Args:
            order, replaced, hidden: as of `questions.Runnable`.
            poisoned: the images and references of the source are noise.
            read: what is looked at instead of `fingerprints`; log-probabilities are kept for it.

        Raises:
            Broken: the method fails where it did not before.
            NotRun: memory or time ran out, or the process was lost.
        """
        task = self._task(order, ["log_probabilities"] if read else ())
        overlay = Overlay(self.context.store)
        take_inputs(overlay, task)
        self._hide(overlay, task, hidden)
        if poisoned:
            self._poison(overlay, task)
        for i in replaced:
            _, images, case = self.places[i]
            overlay.change("images", images, [f"{case}.npy"], noise)
        with self.context.store.workspace() as folder:
            scratch = Store(folder)
            overlay.lay_into(scratch)
            self._perform(scratch, "predict", self.key, task)
            return (read or fingerprints)(scratch, self.key, [name for name, _, _ in task["stream"]])

    def train_on_noise(self, kind: str, key: str, payload: Mapping[str, Any]) -> None:
        """Lets the method's own source training see noise, in a store that is thrown away with what comes out.

        What it left outside the store, where nothing kept it from that, is then of the noise too.
        """
        overlay = Overlay(self.context.store)
        overlay.take("train", payload["train"], ALL)
        self._poison(overlay, {"stream": ()})
        with self.context.store.workspace() as folder:
            scratch = Store(folder)
            overlay.lay_into(scratch)
            perform(Context(scratch, self.context.settings), kind, key, {**payload, "device": "cpu"})

    def _task(self, order: Sequence[int], keep: Sequence[str]) -> dict[str, Any]:
        """The payload of a pass over the cases at these places; every place is named by its number."""
        other = {name: value for name, value in self.task.items() if name not in ("test", "select", "stream")}
        stream = [[str(n), *self.places[i][1:]] for n, i in enumerate(order)]
        kept = sorted({*self.task.get("keep", ()), *keep})
        return {**other, "stream": stream, "device": "cpu", **({"keep": kept} if kept else {})}

    def _hide(self, overlay: Overlay, task: Mapping[str, Any], way: str) -> None:
        """Lays the references beside the task that the method must not see, changed in some way or as they are."""
        granted = shown(task)
        for key in self.asked["hidden"]:
            names = overlay.names("references", key)
            overlay.take("references", key, names)
            files = [
                name for name in names if (key, name.removesuffix(".npy").removesuffix(".instances")) not in granted
            ]
            ids = [name for name in files if name.endswith(".instances.npy")]
            for several in (ids, [name for name in files if name not in ids]):
                if way and several:
                    overlay.change("references", key, several, WAYS[way])

    def _poison(self, overlay: Overlay, task: Mapping[str, Any]) -> None:
        """Lays noise in the place of the source's cases, but for images that are the target's too."""
        granted = seen(task)
        for anatomy, images, references, _ in Part.of(self.asked["source"]).chunks:
            overlay.take("anatomy", anatomy)
            files = [name for name in overlay.names("images", images) if (images, name[:-4]) not in granted]
            overlay.change("images", images, files, noise)
            overlay.change("references", references, overlay.names("references", references), noise)

    def _perform(self, scratch: Store, kind: str, key: str, task: Mapping[str, Any]) -> None:
        answer = perform(Context(scratch, self.context.settings, self.context.report), kind, key, task)
        if answer["ok"]:
            if "not_applicable" in scratch.record(kind, key):
                raise Broken(f"it was applicable before: {scratch.record(kind, key)['not_applicable']}")
            return
        if answer["fatal"]:
            raise OutputError(answer["cause"].rstrip("."))
        of_method = "cases" in answer["record"]  # what fails before is none of its doing
        if not of_method or answer["status"] in ACCIDENTS or answer["reason"] in LOST:
            raise NotRun(answer["cause"])
        raise Broken(f"it fails where it did not before: {answer['cause']}")


def fingerprints(store: Store, key: str, names: Sequence[str]) -> list[str]:
    """SHA-256 of the arrays of every prediction, and of what an estimator expects."""
    entries, folder = store.record("predict", key)["cases"], store.artifact("predict", key)
    return [digest(of_arrays(folder / f"{name}.npz"), entries[name].get("estimate")) for name in names]


def of_labels(store: Store, key: str, names: Sequence[str]) -> list[str]:
    """SHA-256 of the labels of every prediction."""
    return [of_arrays(store.artifact("predict", key) / f"{name}.npz", LABELS) for name in names]


def of_log_probabilities(store: Store, key: str, names: Sequence[str]) -> list[str]:
    """SHA-256 of the log-probabilities of every prediction; empty where none are kept."""
    return [of_arrays(store.artifact("predict", key) / f"{name}.npz", LOG_PROBABILITIES) for name in names]


def of_arrays(path: Path, wanted: frozenset[str] | None = None) -> str:
    """SHA-256 over names, types, shapes and bytes of the wanted arrays of a file; empty where there are none."""
    if not path.is_file():
        return ""
    found = sha256()
    with np.load(path, allow_pickle=False) as arrays:
        names = sorted(arrays.files if wanted is None else wanted.intersection(arrays.files))
        for name in names:
            array = np.ascontiguousarray(arrays[name])
            found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
            found.update(array.tobytes())
    return found.hexdigest() if names else ""
