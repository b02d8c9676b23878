"""The errors a user can meet, each one clear sentence with a remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShiftBenchError(Exception):
    """An error the user can mend; its text is shown without a traceback.

    Args:
        problem: what is wrong, as one clause ("unknown key 'flip_angel'").
        where: the file, and the key in it where there is one.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, *, where: object = None, remedy: str = "") -> None:
        text = f"{where}: {problem}" if where is not None else problem
        super().__init__(f"{text}; {remedy}." if remedy else f"{text}.")
        self.problem, self.where, self.remedy = problem, where, remedy

    def __reduce__(self):
        return _rebuild, (type(self), self.problem, None if self.where is None else str(self.where), self.remedy)


def _rebuild(kind, problem, where, remedy):
    return kind(problem, where=where, remedy=remedy)


class SpecError(ShiftBenchError):
    """A scenario, suite or dataset description that cannot be used."""


class DataError(ShiftBenchError):
    """A data folder, an image or a reference that cannot be used."""


class OperatorError(ShiftBenchError):
    """A shift that was asked for with a value or an input it is not defined for."""


class MethodError(ShiftBenchError):
    """A method file that cannot be loaded or broke the contract."""


class OutputError(ShiftBenchError):
    """A result folder that cannot be read or written."""


class IsolationError(ShiftBenchError):
    """The isolation that was asked for cannot be had on this machine."""


class NotApplicable(ShiftBenchError):
    """The thing asked for has no meaning here (a level already exceeded, nothing to adapt): a status, not a fault."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A remedy clause that names the closest known name and the rest."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(known)}"
