"""Which modules of this package a guest is given: its own and all that they import, however late, and no others."""

from __future__ import annotations

ROOMS = (
    "api",
    "backbones",
    "blocks",
    "contract",
    "errors",
    "guest",
    "inference",
    "instances",
    "loading",
    "losses",
    "networks",
    "overrides",
    "rng",
    "tasks",
    "train",
    "types",
    "version",
)
