"""The literal table of synthetic cohorts; every other dataset is a folder with a description."""

from __future__ import annotations

# Name -> "module:class" of a frozen dataclass that is a `Dataset`; a text, so that naming a cohort does not import it.
LOADERS = {
    "phantom/abdomen": "shiftbench.data.phantoms.abdomen:AbdomenPhantom",
    "phantom/brain": "shiftbench.data.phantoms.brain:BrainPhantom",
    "phantom/heart": "shiftbench.data.phantoms.heart:HeartPhantom",
}
