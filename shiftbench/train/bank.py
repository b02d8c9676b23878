"""Cases as one tensor on the device (or in pinned memory), from which windows are read in batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shiftbench.errors import DataError
from shiftbench.instances import head_targets
from shiftbench.networks import Normalised
from shiftbench.types import LabelledSet

IGNORE = 255  # label of voxels that no loss looks at
POINTS_PER_CLASS = 10_000  # candidate patch centres kept per case and structure
DEVICE_SHARE = 0.25  # of a GPU's free memory that a bank may take; the rest is the network's


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """A host array as a tensor on `device`, without waiting for the device."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Volumes:
    """Volumes (c, d, h, w) of varied size, end to end in one tensor.

    Args:
        shapes: (n, 3) voxels of each volume.
        channels: c, the same in all.
        dtype: of the voxels.
        device: where they are kept.
        pinned: in memory from which a GPU copies without waiting (on the host).
    """

    def __init__(self, shapes: np.ndarray, channels: int, dtype: torch.dtype, device: torch.device, pinned: bool):
        self.shapes, self.channels = shapes, channels
        sizes = shapes.prod(1) * channels
        self.offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.flat = torch.empty(int(self.offsets[-1]), dtype=dtype, device=device, pin_memory=pinned)
        self.outside = torch.zeros(len(shapes), channels, dtype=dtype, device=device)
        self.volumes = [
            part.view(channels, *shape)
            for part, shape in zip(self.flat.split(sizes.tolist()), shapes.tolist(), strict=True)
        ]

    def put_(self, i: int, volume: Tensor, *, minimum_outside: bool) -> None:
        """Writes volume `i`; outside it lies the minimum of each channel, or 0."""
        self.volumes[i].copy_(volume.reshape(self.volumes[i].shape))
        if minimum_outside:
            self.outside[i] = self.volumes[i].flatten(1).amin(1)

    def windows(self, cases: np.ndarray, starts: np.ndarray, size: Sequence[int], *, repeat: bool = False) -> Tensor:
        """Windows (n, c, *size) of the named volumes, on the bank's device.

        Args:
            cases: (n,) volumes.
            starts: (n, 3) first voxel of each window; windows may lie partly outside.
            size: of all windows.
            repeat: the first and last slice go on outside, in place of the value for outside.
        """
        if self.flat.is_cuda:
            return self.gathered(cases, starts, size, repeat=repeat)
        return self.sliced(cases, starts, size, repeat=repeat)

    def sliced(self, cases: np.ndarray, starts: np.ndarray, size: Sequence[int], *, repeat: bool = False) -> Tensor:
        """`windows` with one slice of memory per window: the fastest on a CPU."""
        return torch.stack(
            [
                self._slice(case, start, size, repeat)
                for case, start in zip(cases.tolist(), starts.tolist(), strict=True)
            ]
        )

    def _slice(self, case: int, start: Sequence[int], size: Sequence[int], repeat: bool) -> Tensor:
        volume = self.volumes[case]
        shape = volume.shape[1:]
        begin = [min(max(0, s), n) for s, n in zip(start, shape, strict=True)]
        end = [max(min(n, s + p), b) for s, p, n, b in zip(start, size, shape, begin, strict=True)]
        inner = volume[:, begin[0] : end[0], begin[1] : end[1], begin[2] : end[2]]
        if inner.shape[1:] == tuple(size):
            return inner
        if repeat and inner.shape[1] < size[0]:
            planes = [min(max(0, z), shape[0] - 1) for z in range(start[0], start[0] + size[0])]
            inner = volume[:, :, begin[1] : end[1], begin[2] : end[2]][:, planes]
            begin[0] = start[0]
        out = self.outside[case].view(-1, 1, 1, 1).expand(-1, *size).clone()
        at = [b - s for b, s in zip(begin, start, strict=True)]
        d, h, w = inner.shape[1:]
        out[:, at[0] : at[0] + d, at[1] : at[1] + h, at[2] : at[2] + w] = inner
        return out

    def gathered(self, cases: np.ndarray, starts: np.ndarray, size: Sequence[int], *, repeat: bool = False) -> Tensor:
        """`windows` by one gather, whose indices are made on the device: the host never waits for it."""
        device, shapes = self.flat.device, self.shapes[cases]
        strides = np.stack([shapes[:, 1] * shapes[:, 2], shapes[:, 2], np.ones_like(cases)], 1)
        n = len(cases)
        base = self.offsets[cases][:, None] + np.arange(self.channels) * shapes.prod(1)[:, None]
        index = to_device(base, device).view(n, -1, 1, 1, 1)
        inside: Tensor | None = None
        for axis in range(3):
            at = starts[:, axis, None] + np.arange(size[axis])
            last = shapes[:, axis, None] - 1
            view = (n, 1, *(-1 if i == axis else 1 for i in range(3)))
            index = index + to_device(np.clip(at, 0, last) * strides[:, axis, None], device).view(view)
            within = (at >= 0) & (at <= last)
            if not within.all() and not (repeat and axis == 0):
                mask = to_device(within, device).view(view)
                inside = mask if inside is None else inside & mask
        out = self.flat.take(index)
        if inside is None:
            return out
        outside = self.outside.index_select(0, to_device(cases, device)).view(n, -1, 1, 1, 1)
        return torch.where(inside, out, outside)


class CaseBank:
    """Normalised images, references and the targets of the task's heads, with candidate patch centres.

    All lie on the model's device where they fit into DEVICE_SHARE of its free memory, else in pinned host memory.
    A two-dimensional image counts as a volume of one slice.

    Args:
        model: whose normalisation, device and task are used.
        cases: raw images and references (IGNORE: voxels that do not count).
        rng: draws the candidates of structures with more than POINTS_PER_CLASS voxels.

    Attributes:
        shapes: (n, 3) voxels of each case.
        images, references, targets: their volumes; no targets for tasks without heads.
        classes: labels (m,) that occur.
        holders: per label, the cases that hold it.
        points: (case, label) -> positions in the flattened case.

    Raises:
        DataError: there is no case, a reference has another shape than its image, a label has no output, or the task
            has heads and the cases have no instances.
    """

    def __init__(self, model: Normalised, cases: LabelledSet, rng: np.random.Generator):
        _check(model, cases)
        self.device = next(model.parameters()).device
        self.shapes = np.array([_as_volume(r.shape) for r in cases.references], np.int64)
        channels, heads = cases.images[0].shape[0], len(model.task.heads)
        home = self._home(int(self.shapes.prod(1).sum()) * (4 * channels + 1 + 4 * heads))
        pinned = home != self.device
        self.images = Volumes(self.shapes, channels, torch.float32, home, pinned)
        self.references = Volumes(self.shapes, 1, torch.uint8, home, pinned)
        self.targets = Volumes(self.shapes, heads, torch.float32, home, pinned) if heads else None
        for i, (image, reference) in enumerate(zip(cases.images, cases.references, strict=True)):
            self.images.put_(i, model.normalise(image), minimum_outside=True)
            self.references.put_(i, reference, minimum_outside=False)
            if self.targets is not None and cases.instances is not None:
                targets = _head_targets(reference, cases.instances[i], model)
                self.targets.put_(i, targets, minimum_outside=False)
        self._find_points(cases.references, model.task.classes, rng)

    def _home(self, size: int) -> torch.device:
        """Where `size` bytes are kept."""
        if self.device.type != "cuda":
            return self.device
        free, _ = torch.cuda.mem_get_info(self.device)
        kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return self.device if size <= DEVICE_SHARE * (free + kept) else torch.device("cpu")

    def _find_points(self, references: Sequence[Tensor], classes: int, rng: np.random.Generator) -> None:
        self.points: dict[tuple[int, int], np.ndarray] = {}
        for i, reference in enumerate(references):
            flat = reference.cpu().numpy().reshape(-1)
            labels = np.unique(flat)
            outside = [int(k) for k in labels if k != IGNORE and not 0 <= k < classes]
            if outside:
                raise DataError(
                    f"a reference holds the label {outside[0]}, but the network tells {classes} classes apart",
                    remedy="name every label in the dataset's structures, or build the network for more classes",
                )
            for label in (int(k) for k in labels if 0 < k < classes):
                where = np.flatnonzero(flat == label)
                if len(where) > POINTS_PER_CLASS:
                    where = np.sort(rng.choice(where, POINTS_PER_CLASS, replace=False, shuffle=False))
                self.points[i, label] = where
        self.classes = np.array(sorted({label for _, label in self.points}), np.int64)
        self.holders = {int(k): np.array([i for i, label in self.points if label == k]) for k in self.classes}

    def __len__(self) -> int:
        return len(self.shapes)

    def centres_on(self, labels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """For each of `labels` (n,), a case that holds it and a voxel (n, 3) of it, both uniform."""
        cases, flat = np.zeros(len(labels), np.int64), np.zeros(len(labels), np.int64)
        for i, (label, (u, v)) in enumerate(zip(labels.tolist(), rng.random((len(labels), 2)), strict=True)):
            holders = self.holders[label]
            cases[i] = holders[int(u * len(holders))]
            positions = self.points[int(cases[i]), label]
            flat[i] = positions[int(v * len(positions))]
        rest, x = np.divmod(flat, self.shapes[cases, 2])
        z, y = np.divmod(rest, self.shapes[cases, 1])
        return cases, np.stack([z, y, x], 1).reshape(-1, 3)

    def windows(
        self, volumes: Volumes, cases: np.ndarray, starts: np.ndarray, size: Sequence[int], *, repeat: bool = False
    ) -> Tensor:
        """`Volumes.windows`, on the model's device."""
        out = volumes.windows(cases, starts, size, repeat=repeat)
        return out if out.device == self.device else out.pin_memory().to(self.device, non_blocking=True)


def _as_volume(shape: Sequence[int]) -> tuple[int, ...]:
    return (1,) * (3 - len(shape)) + tuple(shape)


def _head_targets(reference: Tensor, instances: Tensor, model: Normalised) -> Tensor:
    """Targets (h, *s) of a case; slice by slice for networks that see slices."""
    if reference.ndim == model.dimension:
        return head_targets(reference, instances, model.task)
    pairs = zip(reference, instances, strict=True)
    return torch.stack([head_targets(r, i, model.task) for r, i in pairs], 1)


def _check(model: Normalised, cases: LabelledSet) -> None:
    if not len(cases):
        raise DataError("there is no labelled case to train on", remedy="give at least one case and its reference")
    for i, (image, reference) in enumerate(zip(cases.images, cases.references, strict=True)):
        if tuple(image.shape[1:]) != tuple(reference.shape):
            raise DataError(
                f"image and reference of labelled case {i} differ in shape: "
                f"{tuple(image.shape[1:])} and {tuple(reference.shape)}",
                remedy="bring both to one grid",
            )
        if reference.ndim < model.dimension or reference.ndim > 3:
            raise DataError(
                f"labelled case {i} has {reference.ndim} axes, but the network is {model.dimension}-D",
                remedy="choose a network of the cases' dimension",
            )
    if model.task.heads and cases.instances is None:
        raise DataError("the task counts instances, but the labelled cases have none", remedy="give instance ids")
