"""A method's file as objects: executed, its variants found, and each held against what a method must have.

This runs the file's code: in a guest, or where somebody checks a file of their own.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from shiftbench.contract import GRANTS, REQUIREMENTS
from shiftbench.errors import MethodError, nearest
from shiftbench.types import Episode, Method, Track

METHOD_VERB = ("adapt", "(self, model, access, *, rng) -> Predictor")
ESTIMATOR_VERB = ("estimate", "(self, model, access, images) -> Tensor")
BASE = "erm"  # whose predictions estimators judge
HASHED = "sha256:"  # how the version of a file begins that is known by its content
NAME = r"[A-Za-z0-9][\w.-]*"  # of a variant


@dataclass(frozen=True)
class MethodSource:
    """A method's code as text: all that a guest is told of where it came from.

    Attributes:
        stem: of the file's name.
        text: of the file.
        module: dotted name, where an installed package offers the method.
        variant: key in the file's VARIANTS; None for all of them.
        overrides: field and value as text.
    """

    stem: str
    text: str
    module: str | None = None
    variant: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """The file's name, by which tracebacks and errors call it."""
        return f"{self.stem}.py"

    def message(self) -> dict[str, Any]:
        """The fields as JSON values."""
        code = {"stem": self.stem, "text": self.text, "module": self.module}
        return {**code, "variant": self.variant, "overrides": dict(self.overrides)}


def module_of(path: Path, module: str | None) -> ModuleType:
    """The file as a module under a private name; the same content gives the same module."""
    if not path.is_file():
        raise MethodError("no such file", where=path, remedy="check the path")
    content = path.read_bytes()
    key = sha256(str(path.resolve()).encode() + b"\0" + content).hexdigest()[:16]
    name = module or f"_shiftbench_method_{key}"
    if name in sys.modules:
        return sys.modules[name]
    try:
        return importlib.import_module(name) if module else _executed(name, path)
    except Exception as error:
        sys.modules.pop(name, None)
        line = line_in(error, path)
        place = "" if line is None else f" in line {line}"
        problem = f"raised {type(error).__name__} on import{place}: {error}"
        raise MethodError(problem, where=path, remedy="mend this line") from error


def _executed(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # a .py file always has both
    made = importlib.util.module_from_spec(found)
    sys.modules[name] = made  # dataclasses look their module up there
    found.loader.exec_module(made)
    return made


def line_in(error: BaseException, path: Path) -> int | None:
    """The line of the file that the error passed through last, or that is no valid Python; None for another file."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == path:
        return error.lineno
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return lines[-1] if lines else None


def variants_of(path: Path, module: str | None) -> dict[str, Method]:
    """The file's VARIANTS, or its `Method()` under the file's name; each is checked."""
    loaded = module_of(path, module)
    variants, kind = getattr(loaded, "VARIANTS", None), getattr(loaded, "Method", None)
    if variants is None and not isinstance(kind, type):
        raise MethodError("has neither 'class Method' nor 'VARIANTS'", where=path, remedy="add a class named Method")
    if variants is None:
        try:
            variants = {path.stem: kind()}  # type: ignore[misc]
        except TypeError as error:
            raise MethodError(
                f"Method() cannot be made: {error}", where=path, remedy="give every field a default, or add VARIANTS"
            ) from None
    if not isinstance(variants, Mapping) or not variants or not all(isinstance(name, str) for name in variants):
        raise MethodError("'VARIANTS' is not a dict of names to methods", where=path, remedy="write {'name': Method()}")
    for name, method in variants.items():
        _check_contract(name, method, path)
    return dict(variants)


def _check_contract(name: str, method: Any, path: Path) -> None:
    """Raises MethodError for the first thing a method must have and has not."""
    where = f"{path}, '{name}'"
    if not re.fullmatch(NAME, name):
        raise MethodError("not a name for a leaderboard", where=where, remedy="use letters, digits, '_', '.' and '-'")
    estimates = getattr(method, "track", None) is Track.ESTIMATE
    verb, signature = ESTIMATOR_VERB if estimates else METHOD_VERB
    if not callable(getattr(method, verb, None)):
        raise MethodError(f"has no '{verb}'", where=where, remedy=f"write {verb}{signature}")
    parameters = getattr(type(method), "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise MethodError(
            "is not a frozen dataclass", where=where, remedy="write @dataclass(frozen=True) above the class"
        )
    for key, kind in (("track", Track), ("episode", Episode)):
        if not isinstance(getattr(method, key, None), kind):
            remedy = f"add '{key}: {kind.__name__} = {kind.__name__}.{next(iter(kind)).name}' or another of them"
            raise MethodError(f"has no '{key}' of type {kind.__name__}", where=where, remedy=remedy)
    if method.track not in GRANTS:
        known = sorted(GRANTS)
        raise MethodError(f"the track '{method.track}' is not run", where=where, remedy=f"run: {', '.join(known)}")
    if estimates:
        _check_estimator(method, where)
    if not isinstance(getattr(method, "requires", None), tuple):
        raise MethodError("has no tuple 'requires'", where=where, remedy="add 'requires: tuple[str, ...] = ()'")
    unknown = [str(name) for name in method.requires if name not in REQUIREMENTS]
    if unknown:
        raise MethodError(f"'requires' has '{unknown[0]}'", where=where, remedy=nearest(unknown[0], REQUIREMENTS))


def _check_estimator(method: Any, where: str) -> None:
    """Raises MethodError where an estimator asks for what estimators are not given."""
    if method.episode is not Episode.OFFLINE:
        remedy = "write 'episode: Episode = Episode.OFFLINE'"
        raise MethodError("an estimator is handed all images of a target at once", where=where, remedy=remedy)
    if getattr(method, "base", BASE) != BASE:
        raise MethodError(f"the base '{method.base}' is not run", where=where, remedy=f"write base = '{BASE}'")
    own = next((verb for verb in ("prepare", "summarise") if hasattr(method, verb)), None)
    if own is not None:
        problem = f"an estimator judges the source-only model and has no '{own}'"
        raise MethodError(problem, where=where, remedy="take what it needs from access.source_val in 'estimate'")
