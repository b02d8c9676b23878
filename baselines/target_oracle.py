"""Target oracle: the source's recipe from scratch on all labelled adapt cases of the target.

The supervised reference of domain adaptation, "train on target" (Ganin, Ustinova, Ajakan, Germain, Larochelle,
Laviolette, Marchand, Lempitsky, Domain-adversarial training of neural networks, JMLR 17, 2016).

Differs from the paper: nothing. It is no upper bound where the target has few adapt cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.api import (
    Access,
    Episode,
    Normalised,
    NotApplicable,
    Predictor,
    Track,
    fit_supervised,
    predictor,
    untrained,
)

VERSION = 1


@dataclass(frozen=True)
class Method:
    """A new network of the same backbone, trained on the target with labels."""

    track: Track = Track.REFERENCE
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def adapt(self, model: Normalised, access: Access, *, rng: np.random.Generator) -> Predictor:
        """The target's own model; nothing of the source's but its architecture and normalisation is used."""
        if access.fewshot is None or not len(access.fewshot):
            raise NotApplicable("there is no labelled target case", remedy="choose a target with labelled adapt cases")
        own = untrained(model, rng)
        fit_supervised(own, access.fewshot, access.recipe, rng=rng)
        return predictor(own)


VARIANTS = {"target_oracle": Method()}
