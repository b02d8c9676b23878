"""Embedded phantoms: seeded patients whose tissue maps can be put through any acquisition."""

from shiftbench.data.phantoms.abdomen import AbdomenPhantom
from shiftbench.data.phantoms.tissues import tissue_maps

__all__ = ["AbdomenPhantom", "tissue_maps"]
