"""A scratch store that holds what one predict task reads, copied out of a run's, with some of it changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shiftbench.domains import Part
from shiftbench.errors import DataError
from shiftbench.rng import generator
from shiftbench.store import Store

Arrays = Mapping[str, np.ndarray]  # by file name
Change = Callable[[Arrays], Arrays]  # of the files of one task that are to be changed
Item = tuple[str, str]  # kind and key
ALL = frozenset({"*"})
SHOWN = ("source_train", "source_val", "fewshot")  # parts of a predict task that come with references
IMAGES_ALONE = ("adapt", "select")


class Overlay:
    """What is laid into a scratch store: items of a run's store, files of theirs, and which of these are changed.

    Nothing of the run is opened for writing; what is not changed is linked where the file system can.
    """

    def __init__(self, run: Store):
        self.run = run
        self.files: dict[Item, set[str]] = {}
        self.changes: dict[Item, list[tuple[frozenset[str], Change]]] = {}

    def take(self, kind: str, key: str, files: Iterable[str] = ()) -> None:
        """Adds an item with its record, and of its arrays these files; ALL for all of them."""
        self.files.setdefault((kind, key), set()).update(files)

    def change(self, kind: str, key: str, files: Iterable[str], change: Change) -> None:
        """Adds files that are there in a changed form."""
        self.take(kind, key, files)
        self.changes.setdefault((kind, key), []).append((frozenset(files), change))

    def names(self, kind: str, key: str) -> list[str]:
        """All files of an item in the run's store.

        Raises:
            DataError: they were dropped.
        """
        if not self.run.present(kind, key):
            remedy = "run again with the predictions kept"
            raise DataError(f"the arrays of {kind}/{key} are not there any more", where=self.run.root, remedy=remedy)
        folder = self.run.artifact(kind, key)
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def lay_into(self, scratch: Store) -> None:
        """Publishes everything in a store that has none of it."""
        for (kind, key), files in self.files.items():
            if not files:
                scratch.publish(kind, key, self.run.record(kind, key))
                continue
            wanted = [name for name in self.names(kind, key) if name in files or files >= ALL]
            changed = self._changed((kind, key))
            with scratch.workspace() as folder:
                for name in wanted:
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if name in changed:
                        np.save(path, changed[name])
                    else:
                        link(self.run.artifact(kind, key) / name, path)
                scratch.publish(kind, key, self.run.record(kind, key), folder)

    def _changed(self, item: Item) -> dict[str, np.ndarray]:
        """The arrays of the files that are changed, each by the last change that names it."""
        found: dict[str, np.ndarray] = {}
        folder = self.run.artifact(*item)
        for files, change in self.changes.get(item, ()):
            found |= change({name: np.load(folder / name, allow_pickle=False) for name in sorted(files)})
        return found


def link(source: Path, target: Path) -> None:
    """The file under a second name, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def take_inputs(overlay: Overlay, task: Mapping[str, Any]) -> None:
    """What a predict task reads: the state that it starts from, images, and the references that its track shows."""
    take_state(overlay, task["state"])
    for name in SHOWN:
        for anatomy, images, references, cases in Part.of(task.get(name, ())).chunks:
            overlay.take("anatomy", anatomy)
            overlay.take("images", images, image_files(overlay, images, cases))
            overlay.take("references", references, reference_files(overlay, references, cases))
    for name in IMAGES_ALONE:
        for _, images, _, cases in Part.of(task.get(name, ())).chunks:
            overlay.take("images", images, image_files(overlay, images, cases))
    for _, images, case in task["stream"]:
        overlay.take("images", images, [f"{case}.npy"])


def take_state(overlay: Overlay, state: Sequence[str]) -> None:
    """The model that a method starts from, with all that belongs to it."""
    kind, key = state
    overlay.take(kind, key, ALL)
    if kind == "prepare":
        overlay.take("train", overlay.run.record("prepare", key)["train"], ALL)


def image_files(overlay: Overlay, key: str, cases: Sequence[str]) -> list[str]:
    """Files of the cases that could be acquired."""
    missing = overlay.run.record("images", key)["not_applicable"]
    return [f"{case}.npy" for case in cases if case not in missing]


def reference_files(overlay: Overlay, key: str, cases: Sequence[str]) -> list[str]:
    """Files of the references of cases, the ids of their things among them."""
    wanted = {f"{case}{ending}" for case in cases for ending in (".npy", ".instances.npy")}
    return [name for name in overlay.names("references", key) if name in wanted]


def shown(task: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(references key, case) of all references that a predict task shows the method."""
    return {(r, case) for name in SHOWN for _, _, r, cases in Part.of(task.get(name, ())).chunks for case in cases}


def seen(task: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(images key, case) of all images that a predict task shows the method."""
    parts = [Part.of(task.get(name, ())) for name in (*SHOWN, *IMAGES_ALONE)]
    named = {(images, case) for part in parts for _, images, _, cases in part.chunks for case in cases}
    return named | {(images, case) for _, images, case in task["stream"]}


def noise(arrays: Arrays) -> Arrays:
    """Uniform noise of the same shape, kind and range in the place of every array; 0 and 1 where all is one label."""
    found = {}
    for name, array in arrays.items():
        rng = generator(0, "audit", name)
        low, high = array.min(), array.max()
        drawn: np.ndarray
        if np.issubdtype(array.dtype, np.integer):
            drawn = rng.integers(int(low), max(int(high), int(low) + 1), array.shape, endpoint=True)
        else:
            drawn = rng.uniform(low, high, array.shape)
        found[name] = drawn.astype(array.dtype)
    return found


def exchanged(arrays: Arrays) -> Arrays:
    """In the place of every array the next one, mirrored along all axes; the array's own where the shapes differ."""
    names = list(arrays)
    following = [arrays[name] for name in names[1:] + names[:1]]
    same = [
        other if other.shape == arrays[name].shape else arrays[name]
        for name, other in zip(names, following, strict=True)
    ]
    return {name: np.flip(array) for name, array in zip(names, same, strict=True)}


def relabelled(arrays: Arrays) -> Arrays:
    """Every label, and the background, as the next one, and the last as background."""
    top = max(1, *(int(array.max()) for array in arrays.values()))
    return {name: ((array.astype(np.int64) + 1) % (top + 1)).astype(array.dtype) for name, array in arrays.items()}
