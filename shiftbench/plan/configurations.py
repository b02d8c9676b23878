"""Which methods of a run are several configurations of one, between which could be chosen without labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from shiftbench.graph import MethodCard
from shiftbench.types import Episode, Track

UNCHOSEN = frozenset({Track.REFERENCE, Track.ESTIMATE})  # one has the target's labels, the other predicts nothing
CARRIES_STATE = (Episode.ONLINE, Episode.CONTINUAL)


def configurations(methods: Sequence[MethodCard]) -> frozenset[str]:
    """Names of the methods of which the run has several: one entry with other overrides, and as many labelled cases.

    A name is that of the entry and, behind a colon, its overrides; entries of one file are methods of their own.

    A method that carries state over a stream is none: there is one pass, and nothing is chosen after it.
    """
    groups = {card.name: _group(card) for card in methods if _may_be_chosen(card)}
    sizes = Counter(groups.values())
    return frozenset(name for name, group in groups.items() if sizes[group] > 1)


def _may_be_chosen(card: MethodCard) -> bool:
    return card.track not in UNCHOSEN and card.episode not in CARRIES_STATE


def _group(card: MethodCard) -> tuple[Any, ...]:
    return (card.name.partition(":")[0], card.track, card.k)
