"""One check of a library or of a metric: what is expected, and what comes out."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from shiftbench.version import __version__

RELATIVE, ABSOLUTE = 1e-6, 1e-9  # edt computes in single precision


@dataclass(frozen=True)
class Golden:
    """A check to be made.

    Attributes:
        name: what is looked at, in words.
        package: as it is installed; "shiftbench" for our own functions on top.
        expected: numbers of any shape, None where there is no value; inf is a number.
        measure: gives what comes out.
    """

    name: str
    package: str
    expected: Any
    measure: Callable[[], Any]


@dataclass(frozen=True)
class Check:
    """A check that was made; `found` is what came out, or the error that did."""

    name: str
    package: str
    version: str
    expected: str
    found: str
    ok: bool


def checked(goldens: Iterable[Golden]) -> list[Check]:
    """Every check, made; one that raises has failed."""
    checks = []
    for golden in goldens:
        try:
            found = golden.measure()
            ok, text = _same(golden.expected, found), _text(found)
        except Exception as error:  # whatever a broken library does is a finding
            ok, text = False, f"{type(error).__name__}: {error}"
        checks.append(Check(golden.name, golden.package, _version(golden.package), _text(golden.expected), text, ok))
    return checks


def _same(expected: Any, found: Any) -> bool:
    if isinstance(expected, tuple | list) and isinstance(found, tuple | list):
        return len(expected) == len(found) and all(map(_same, expected, found))
    if expected is None or found is None:
        return expected is found
    return np.shape(expected) == np.shape(found) and np.allclose(found, expected, rtol=RELATIVE, atol=ABSOLUTE)


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "(" + ", ".join(map(_text, value)) + ")"
    if isinstance(value, np.ndarray):
        return _text(value.tolist())
    return "none" if value is None else f"{value:.6g}"


@lru_cache(maxsize=64)
def _version(package: str) -> str:
    if package == "shiftbench":
        return __version__
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
