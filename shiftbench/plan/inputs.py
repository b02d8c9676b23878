"""A part of a domain as tasks are handed it and as their keys name it, made once for all tasks that read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from shiftbench.domains import Part
from shiftbench.graph import Plan


@dataclass(frozen=True)
class Input:
    """One part.

    Attributes:
        part: the cases, and where they lie.
        payload: the part as JSON values, see `Part.of`.
        images: ids of the tasks that make its images.
        labelled: the same, and those of its references.
    """

    part: Part
    payload: tuple[tuple[str, str, str, tuple[str, ...]], ...]
    images: tuple[str, ...]
    references: tuple[str, ...]
    labelled: tuple[str, ...]

    @cached_property
    def cases(self) -> tuple[str, ...]:
        """Case ids, in order."""
        return tuple(case for *_, ids in self.part.chunks for case in ids)


class Inputs:
    """The inputs of one graph, by part."""

    def __init__(self, graph: Plan):
        self.graph = graph
        self._made: dict[int, Input] = {}  # by id() of the part, which the input keeps alive

    def of(self, part: Part) -> Input:
        """The part as an input."""
        made = self._made.get(id(part))
        if made is None:
            made = self._made[id(part)] = self._new(part)
        return made

    def _new(self, part: Part) -> Input:
        images = tuple(f"images/{key}" for key in part.images_keys())
        references = tuple(f"references/{key}" for key in part.references_keys())
        common = self.graph.common
        return Input(part, common(part.chunks), common(images), common(references), common(images + references))


def restricted(part: Part, cases: Sequence[str]) -> Part:
    """The chunks of a part that hold some cases, with those cases alone."""
    wanted = set(cases)
    chunks = [(a, i, r, tuple(c for c in ids if c in wanted)) for a, i, r, ids in part.chunks]
    return Part(tuple(chunk for chunk in chunks if chunk[3]))
