"""Randomness that depends on names, never on order."""

from __future__ import annotations

import hashlib
import json

import numpy as np


def digest(*parts: object) -> str:
    """SHA-256 (hex) of a canonical JSON rendering of `parts`; equal parts give equal digests on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def generator(seed: int, *names: object) -> np.random.Generator:
    """A generator keyed by `seed` and `names` (JSON values): the same key always draws the same numbers."""
    return np.random.Generator(np.random.PCG64(int(digest(seed, *names)[:32], 16)))
