"""What is asked of a method's predictions: one definition for the contract's check and for the audits of a run.

A question runs a method again under a change that must not matter, and compares what comes out with its first run, bit
by bit. `check` asks on a synthetic problem in its own process, an audit asks the real tasks of a run.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from shiftbench.types import Episode

CARRIES_STATE = (Episode.ONLINE, Episode.CONTINUAL)


class Broken(AssertionError):
    """What was asked for is not kept; the text says how."""


class Skipped(Exception):
    """What is asked does not concern this method; the text says why."""


class Runnable(Protocol):
    """A method on one problem, which can be run on its cases again.

    Attributes:
        episode: when it adapts.
        first: what it predicted for every case in the order of the stream; equal values mean equal bits.
        names: of these cases, for people.
        ways: in which the references that are hidden from it can be changed; none where all are shown to it.
    """

    @property
    def episode(self) -> Episode: ...
    @property
    def first(self) -> Sequence[object]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def ways(self) -> Sequence[str]: ...

    def run(self, order: Sequence[int], *, replaced: Collection[int] = (), hidden: str = "") -> Sequence[object]:
        """What a new pass predicts.

        Args:
            order: indices of the cases to hand over, one after the other; a case may come twice.
            replaced: cases that have another image in this pass.
            hidden: the way in which hidden references are changed in this pass; none if empty.
        """
        ...


def carries_state(of: Runnable) -> bool:
    """Whether earlier cases of a pass may change the predictions of later ones."""
    return of.episode in CARRIES_STATE


def same_bits(of: Runnable) -> None:
    """METHODS.md 10.7: a new pass over the same cases predicts the same; all draws come from `rng`."""
    order = range(len(of.first))
    words = "a second run with the same rng differs; draw from rng alone and keep no state in the method"
    refuse_difference(of, of.run(order), order, words)


def forgets(of: Runnable) -> None:
    """METHODS.md E-T3: nothing of earlier cases is left where the method starts again.

    It starts again in a new pass, and where it carries no state with every case: the first case comes once more then at
    the end of the pass before.
    """
    words = "adapting again remembers an earlier stream"
    order = range(len(of.first))
    if carries_state(of):
        of.run(order[::-1])
    else:
        refuse_difference(of, of.run([*order[::-1], 0])[-1:], [0], words)
    refuse_difference(of, of.run(order), order, words)


def order_invariance(of: Runnable) -> None:
    """METHODS.md E-T1: where no state is carried, the order of the cases does not matter."""
    if carries_state(of):
        raise Skipped("online: the order may matter")
    backwards = _several(of)[::-1]
    refuse_difference(of, of.run(backwards), backwards, "a case's prediction depends on the cases before it")


def causality(of: Runnable) -> None:
    """METHODS.md E-T2: earlier cases are predicted alike where later ones are replaced, and where the stream ends."""
    if not carries_state(of):
        raise Skipped("not online")
    order = _several(of)
    earlier, later = order[: (len(order) + 1) // 2], order[(len(order) + 1) // 2 :]
    words = "a prediction depends on later cases"
    refuse_difference(of, of.run(order, replaced=later), earlier, f"{words}, which were replaced")
    refuse_difference(of, of.run(earlier), earlier, f"{words}, which were left out")


def hidden_references(of: Runnable) -> None:
    """METHODS.md E-T4 and D-T2: references that a method is not shown can be anything."""
    if not of.ways:
        raise Skipped("this track is given target labels")
    order = range(len(of.first))
    for way in of.ways:
        found = of.run(order, hidden=way)
        refuse_difference(of, found, order, f"the predictions depend on the target's references, here {way}")


def refuse_difference(of: Runnable, found: Sequence[object], order: Iterable[int], words: str) -> None:
    """Raises Broken with `words` and the first case of `order` whose prediction in `found` is not that of `of.first`.

    What `found` holds beyond `order` is not looked at.
    """
    for prediction, i in zip(found, order, strict=False):
        if prediction != of.first[i]:
            raise Broken(f"{words} (first seen in case {of.names[i]})")


def _several(of: Runnable) -> range:
    if len(of.first) < 2:
        raise Skipped("there is one case")
    return range(len(of.first))
