"""The tissue map of a phantom while it is painted, shape by shape, from the outside in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from shiftbench.data.phantoms.shapes import Box, Grid
from shiftbench.data.phantoms.tissues import Tissue, varied

JITTER = 0.07  # SD of a patient's T1 and T2 in a tissue
JITTER_HU = 7.0

Draw = Callable[[str], np.random.Generator]  # part name -> its own generator


@dataclass
class Canvas:
    """The tissue map while it is painted, and the tissues it refers to.

    Attributes:
        grid: the supersampled, warped grid.
        draw: part name -> generator of that part, so that changing one part moves no other.
        fine_labels: names of the fine labels, "outside" first.
        known: tissue name -> tabulated properties; must hold "air".
        jitter: relative SD of T1 and T2 between patients.
        jitter_hu: SD of CT numbers between patients.
        tissue: uint8 (*f), index into `tissues` and `labels`.
        labels: fine label of each tissue.
        tissues: properties of each tissue.
    """

    grid: Grid
    draw: Draw
    fine_labels: Sequence[str]
    known: Mapping[str, Tissue]
    jitter: float = JITTER
    jitter_hu: float = JITTER_HU
    tissue: np.ndarray = field(init=False)
    labels: list[int] = field(default_factory=list)
    tissues: list[Tissue] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tissue = np.zeros(self.grid.shape, np.uint8)
        self.add("outside", self.known["air"])

    def add(self, label: str, tissue: Tissue) -> int:
        """Index of a new tissue of that fine label."""
        self.labels.append(self.fine_labels.index(label))
        self.tissues.append(tissue)
        return len(self.tissues) - 1

    def add_of(self, label: str, name: str) -> int:
        """Index of a new tissue with the tabulated properties of `name`, varied for this patient."""
        return self.add(label, self.varied(name))

    def varied(self, name: str) -> Tissue:
        """The tabulated properties of `name`, varied for this patient."""
        return varied(self.known[name], self._own[name], times=self.jitter, hu=self.jitter_hu)

    @cached_property
    def _own(self) -> dict[str, np.ndarray]:
        """Normal numbers (5,) of this patient for each known tissue; a tissue added at the end moves no other."""
        numbers = self.draw("tissues").standard_normal((len(self.known), 5))
        return dict(zip(self.known, numbers, strict=True))

    def fill(self, box: Box, inside: np.ndarray, index: int) -> None:
        """Paint `index` where `inside`."""
        np.copyto(self.tissue[box], np.uint8(index), where=inside)

    def fill_only(self, box: Box, inside: np.ndarray, index: int, over: Sequence[int]) -> None:
        """Paint `index` where `inside` and where one of the tissues `over` is."""
        if inside.size == 0:
            return
        below = self.tissue[box]
        if len(over) == 1:
            self.fill(box, inside & (below == over[0]), index)
            return
        table = np.zeros(256, bool)
        table[over if isinstance(over, range) else list(over)] = True
        self.fill(box, inside & table[below], index)
