"""The literal table of losses with their options; importing it does not import torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from shiftbench.errors import SpecError, nearest
from shiftbench.types import LossTerm

# Loss -> its options with the least value of each (a value at the limit is allowed).
OPTIONS: Mapping[str, Mapping[str, float]] = {
    "cross_entropy": {},
    "bce": {},
    "focal": {"gamma": 0.0},
    "dice": {},
    "tversky": {"alpha": 0.0, "beta": 0.0},
    "boundary": {},
    "hausdorff": {"alpha": 0.0},
    "dice_ce": {},
    "dice_focal": {"gamma": 0.0},
}


def check_terms(terms: Sequence[LossTerm], *, where: object = None) -> None:
    """Raises SpecError unless every term is a known loss with known options and weights that can be added up.

    Args:
        terms: of a recipe.
        where: the file and key that an error names.
    """
    if not terms:
        raise SpecError("no loss is given", where=where, remedy=f"name one of {', '.join(sorted(OPTIONS))}")
    for term in terms:
        if term.name not in OPTIONS:
            raise SpecError(f"unknown loss '{term.name}'", where=where, remedy=nearest(term.name, OPTIONS))
        for name, value in term.options:
            _check_option(term.name, name, value, where)
        for weight in _weights(term):
            if not (math.isfinite(weight) and weight >= 0):
                raise SpecError(
                    f"the loss '{term.name}' has the weight {weight}", where=where, remedy="give zero or more"
                )
    for end, weights in (("first", [t.weight for t in terms]), ("last", [_weights(t)[-1] for t in terms])):
        if not any(weights):
            raise SpecError(f"every loss has weight 0 at the {end} step", where=where, remedy="give one of them more")


def _weights(term: LossTerm) -> tuple[float, ...]:
    """Weight at the first step and at the last one."""
    return term.weight, term.weight if term.final_weight is None else term.final_weight


def _check_option(loss: str, name: str, value: float, where: object) -> None:
    known = OPTIONS[loss]
    if name not in known:
        remedy = nearest(name, known) if known else "it has no options"
        raise SpecError(f"the loss '{loss}' has no option '{name}'", where=where, remedy=remedy)
    if not (math.isfinite(value) and value >= known[name]):
        remedy = f"give {known[name]:g} or more"
        raise SpecError(f"the option '{name}' of the loss '{loss}' is {value}", where=where, remedy=remedy)
