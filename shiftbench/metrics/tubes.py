"""Scores of tubes: how much of each centre line lies in the other mask."""

from __future__ import annotations

from numpy.typing import ArrayLike


def cldice(prediction: ArrayLike, reference: ArrayLike) -> float | None:
    """Centre-line Dice."""
    raise NotImplementedError
