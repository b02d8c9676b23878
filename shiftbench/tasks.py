"""What is segmented: classes, which of them are counted as instances, and the network outputs that serve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Task:
    """Semantic, instance or panoptic segmentation, as the layout of a network's outputs.

    The first `classes` channels are class logits; one channel per head follows.

    Attributes:
        kind: "semantic" (classes alone), "instance" (things alone are scored) or "panoptic" (things and stuff).
        classes: background and structures.
        things: labels (1 to classes - 1) whose instances are counted; the others are stuff.
        heads: of "boundary" and "distance", one output channel each, in order; none for semantic tasks.
        separate: how instances are told apart: "watershed" (marker-controlled) or "components" (connected components).
        min_voxels: smaller instances are given to the background.
    """

    classes: int
    kind: Literal["semantic", "instance", "panoptic"] = "semantic"
    things: tuple[int, ...] = ()
    heads: tuple[str, ...] = ()
    separate: Literal["watershed", "components"] = "watershed"
    min_voxels: int = 0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Task:
        """The task whose fields came out of JSON, with lists for tuples."""
        fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**fields)

    @property
    def outputs(self) -> int:
        """Channels of the network's output."""
        return self.classes + len(self.heads)

    @property
    def counts_instances(self) -> bool:
        """Whether instances are predicted and scored."""
        return self.kind != "semantic"
