"""What methods say of themselves, asked of a guest: the code of a file runs nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shiftbench.isolation.talk import Starter, Talk
from shiftbench.loading import MethodSource

SECONDS = 120.0  # for a guest to start, and for the files to be imported


def look(launcher: Starter, sources: Sequence[tuple[MethodSource, Path]]) -> list[list[dict[str, Any]]]:
    """Per file, the facts of its variants (`guest.code.Code.facts`), from one guest for all of them.

    Args:
        launcher: gives the guest.
        sources: code and, for errors, where its file lies.

    Raises:
        GuestError: a file cannot be used; its `error` says why where the file is the cause.
    """
    talk = Talk(launcher, seconds=SECONDS)
    try:
        return [_cards(talk, source, path) for source, path in sources]
    finally:
        talk.close()


def _cards(talk: Talk, source: MethodSource, path: Path) -> list[dict[str, Any]]:
    return list(talk.ask({"do": "card", "method": source.message()}, path=path).header.get("cards") or [])
