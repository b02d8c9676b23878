"""Methods by name, path or entry point: finding, loading and identity.

Nothing here imports torch; loading a method's file does.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from shiftbench.contract import GRANTS, REQUIREMENTS
from shiftbench.errors import MethodError, nearest
from shiftbench.overrides import overridden, split_overrides
from shiftbench.spec import content_root
from shiftbench.types import Episode, Method, Track

ENTRY_POINTS = "shiftbench.methods"
METHOD_VERB = ("adapt", "(self, model, access, *, rng) -> Predictor")
ESTIMATOR_VERB = ("estimate", "(self, model, access, images) -> Tensor")
BASE = "erm"  # whose predictions estimators judge


@dataclass(frozen=True)
class MethodInfo:
    """What `list methods` shows, read without running the file."""

    name: str
    file: Path
    track: str
    episode: str
    summary: str


@dataclass(frozen=True)
class LoadedMethod:
    """A method, its leaderboard key and where it came from.

    Attributes:
        name: the variant, with overridden fields appended ("tent_bn:lr=0.0001").
        path: the file.
        version: the integer a shipped file declares; "sha256:" and 16 hex digits of any other file's content.
        variant: key in the file's VARIANTS.
        overrides: field and value as text, sorted by field.
        module: dotted name, where an installed package offers the method.
    """

    name: str
    method: Method
    path: Path
    version: str
    variant: str
    overrides: tuple[tuple[str, str], ...] = ()
    module: str | None = None

    def to_payload(self) -> dict[str, Any]:
        """What `from_payload` needs in another process, as JSON values."""
        return {
            "path": str(self.path),
            "module": self.module,
            "variant": self.variant,
            "overrides": dict(self.overrides),
            "version": self.version,
        }


def from_payload(payload: Mapping[str, Any]) -> LoadedMethod:
    """The method that `LoadedMethod.to_payload` described.

    Raises:
        MethodError: the file is gone, cannot be loaded, or is no longer the same.
    """
    path, module = Path(payload["path"]), payload["module"]
    variants = _variants(path, module)
    if payload["variant"] not in variants:
        raise MethodError(
            f"no variant '{payload['variant']}'", where=path, remedy=nearest(payload["variant"], variants)
        )
    loaded = _loaded(payload["variant"], variants[payload["variant"]], path, module, payload["overrides"])
    if loaded.version != payload["version"]:
        raise MethodError("the file changed while the run was under way", where=path, remedy="start the run again")
    return loaded


def shipped_methods(root: Path | None = None) -> dict[str, Path]:
    """Name to file of the methods in `root` (default: the folder `baselines` that comes with the package)."""
    root = content_root() / "baselines" if root is None else root
    return {p.stem: p for p in sorted(root.glob("*.py")) if not p.stem.startswith("_")}


def load_methods(spec: str) -> dict[str, LoadedMethod]:
    """The methods that `spec` names, by leaderboard key.

    Args:
        spec: a shipped file ("tent": all its variants), a variant ("tent_in"), an entry point of the group
            `shiftbench.methods`, or a path to a .py file; each with overrides where wanted ("tent:lr=1e-4,steps=5").

    Raises:
        MethodError: unknown name, or a file, variant or override that cannot be used.
    """
    base, overrides = split_overrides(spec)
    path, module, wanted = _located(base)
    variants = _variants(path, module)
    chosen = variants if wanted is None else {wanted: variants[wanted]}
    loaded = [_loaded(name, method, path, module, overrides) for name, method in chosen.items()]
    return {m.name: m for m in loaded}


def locate_method(spec: str) -> Path:
    """The file that `spec` (as for `load_methods`) names, found without importing it.

    Raises:
        MethodError: unknown name, or no such file.
    """
    path, _, _ = _located(split_overrides(spec)[0])
    if not path.is_file():
        raise MethodError("no such file", where=path, remedy="check the path")
    return path


def describe_methods(root: Path | None = None) -> list[MethodInfo]:
    """Name, track, episode and first line of every shipped variant, read from the source without importing it."""
    return [info for path in shipped_methods(root).values() for info in _described(path)]


def _located(base: str) -> tuple[Path, str | None, str | None]:
    """File, module of an installed package or None, and variant or None for all of them."""
    if base.endswith(".py") or Path(base).is_file():
        return Path(base), None, None
    files = shipped_methods()
    if base in files:
        return files[base], None, None
    variants = {info.name: info.file for info in describe_methods()}
    if base in variants:
        return variants[base], None, base
    points = {point.name: point.module for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if base in points:
        return _module_file(points[base]), points[base], None
    raise MethodError(
        f"unknown method '{base}'",
        remedy=f"{nearest(base, {*files, *variants, *points})}; or give the path of a .py file",
    )


def _module_file(module: str) -> Path:
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None or found.origin is None:
        raise MethodError(f"the entry point's module '{module}' is not installed", remedy="install its package again")
    return Path(found.origin)


def _loaded(variant: str, method: Method, path: Path, module: str | None, overrides: Mapping[str, str]) -> LoadedMethod:
    """`method` with `overrides` set, under its leaderboard key."""
    method, suffix = overridden(method, overrides, path)
    pairs = tuple(sorted(overrides.items()))
    return LoadedMethod(variant + suffix, method, path, _version(path, module), variant, pairs, module)


def _version(path: Path, module: str | None) -> str:
    """The declared integer of a shipped file, the content hash of any other."""
    shipped = module is None and path.resolve().parent == (content_root() / "baselines").resolve()
    if not shipped:
        return "sha256:" + sha256(path.read_bytes()).hexdigest()[:16]
    declared = getattr(_module(path, module), "VERSION", None)
    if type(declared) is not int:
        raise MethodError("the key 'VERSION' is missing or not an integer", where=path, remedy="add 'VERSION = 1'")
    return str(declared)


def _module(path: Path, module: str | None) -> ModuleType:
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
        raise MethodError(
            f"raised {type(error).__name__} on import{_line_of(error, path)}: {error}",
            where=path,
            remedy="mend this line",
        ) from error


def _executed(name: str, path: Path) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None  # a .py file always has both
    made = importlib.util.module_from_spec(found)
    sys.modules[name] = made  # dataclasses look their module up there
    found.loader.exec_module(made)
    return made


def _line_of(error: Exception, path: Path) -> str:
    """The clause "in line N" of the method's own file, where the error passed through it."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename) == path:
        return f" in line {error.lineno}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == path]
    return f" in line {lines[-1]}" if lines else ""


def _variants(path: Path, module: str | None) -> dict[str, Method]:
    """The file's VARIANTS, or its `Method()` under the file's name; each is checked."""
    loaded = _module(path, module)
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
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
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


def _described(path: Path) -> list[MethodInfo]:
    """The variants of one file from its syntax tree: keyword arguments of VARIANTS over the class's defaults."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except SyntaxError as error:
        raise MethodError(f"line {error.lineno} is not valid Python", where=path, remedy="mend this line") from None
    summary = (ast.get_docstring(tree) or "").strip().partition("\n")[0]
    kinds = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "Method"]
    annotated = [s for kind in kinds for s in kind.body if isinstance(s, ast.AnnAssign)]
    defaults = {s.target.id: _member(s.value) for s in annotated if isinstance(s.target, ast.Name)}
    calls = _variant_calls(tree) or ({path.stem: []} if kinds else {})
    described = []
    for name, keywords in calls.items():
        given = defaults | {k.arg: _member(k.value) for k in keywords if k.arg}
        described.append(MethodInfo(name, path, given.get("track", ""), given.get("episode", ""), summary))
    return described


def _variant_calls(tree: ast.Module) -> dict[str, list[ast.keyword]]:
    """Keys of the literal VARIANTS and the keyword arguments of the calls that are its values."""
    for node in tree.body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(t, ast.Name) and t.id == "VARIANTS" for t in targets):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {
                str(k.value): v.keywords for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Call)
            }
    return {}


def _member(node: ast.expr | None) -> str:
    """The value of an enum member written as `Track.TTA`, or "" for anything else."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        kind = {"Track": Track, "Episode": Episode}.get(node.value.id)
        return str(kind[node.attr]) if kind is not None and node.attr in kind.__members__ else ""
    return ""
