"""Source-only: the model as the source trained it (empirical risk minimisation).

Vapnik, Principles of risk minimization for learning theory, NeurIPS 1991. The control of every comparison.

Differs from the paper: nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.api import Access, Episode, Normalised, Predictor, Track, predictor

VERSION = 1


@dataclass(frozen=True)
class Method:
    """The source model, unchanged."""

    track: Track = Track.DG
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The source model as it is."""
        return predictor(model)


VARIANTS = {"erm": Method()}
