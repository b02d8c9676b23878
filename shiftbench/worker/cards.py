"""From what a guest says of a method's file to the cards that a plan needs; the file itself is not run here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from shiftbench.contract import GRANTS, REQUIREMENTS
from shiftbench.errors import MethodError
from shiftbench.graph import MethodCard
from shiftbench.isolation.look import look
from shiftbench.isolation.talk import GuestError, Starter
from shiftbench.loading import NAME
from shiftbench.methods import MethodFile, content_version, declared_version, payload_of
from shiftbench.types import Episode, Track

OPTIONAL_VERBS = ("prepare", "summarise")
Facts = Mapping[str, Any]


def facts_of(launcher: Starter, files: Sequence[MethodFile]) -> list[list[Facts]]:
    """Per file, what its variants say of themselves, from one guest for all.

    Raises:
        MethodError: a file cannot be used, or says something that cannot be.
    """
    try:
        found = look(launcher, [(file.source(), file.path) for file in files])
    except GuestError as error:
        if error.error is not None:
            raise error.error from None
        where = files[0].path if len(files) == 1 else None
        raise MethodError(f"the methods could not be looked at: {error}", where=where, remedy="mend the file") from None
    for file, cards in zip(files, found, strict=True):
        if not cards or not all(_sound(facts) for facts in cards):
            raise MethodError(
                "what it says of itself cannot be", where=file.path, remedy="run `shiftbench check` on it"
            )
    return [list(cards) for cards in found]


def card(file: MethodFile, facts: Facts) -> MethodCard:
    """The method as a plan knows it."""
    declared = facts["declared"]
    version = declared_version(declared, file.path) if file.shipped else content_version(file.source().text)
    return MethodCard(
        name=facts["name"],
        stem=file.path.stem,
        version=version,
        track=Track(facts["track"]),
        episode=facts["episode"],
        parameters=facts["parameters"],
        prepares=tuple(facts["prepares"]),
        payload=payload_of(file, facts["variant"], version),
    )


def _sound(facts: Any) -> bool:
    """Whether facts are of the right kinds: a guest may say anything."""
    if not isinstance(facts, dict) or not all(isinstance(facts.get(n), str) for n in ("variant", "name")):
        return False
    parameters, prepares = facts.get("parameters"), facts.get("prepares")
    if not isinstance(parameters, dict) or not isinstance(prepares, list):
        return False
    k, requires = parameters.get("k"), parameters.get("requires")
    return (
        re.fullmatch(NAME, facts["variant"]) is not None
        and facts["name"].startswith(facts["variant"])
        and facts.get("track") in [str(track) for track in GRANTS]
        and facts.get("episode") in [str(episode) for episode in Episode]
        and all(verb in OPTIONAL_VERBS for verb in prepares)
        and isinstance(requires, list)
        and all(name in REQUIREMENTS for name in requires)
        and (k is None or type(k) is int)
        and (facts.get("declared") is None or type(facts["declared"]) is int)
    )
