"""Methods by name, path or entry point: finding, loading and identity.

Nothing here imports torch; loading a method's file does.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from shiftbench.errors import MethodError, nearest
from shiftbench.loading import BASE as BASE
from shiftbench.loading import HASHED, MethodSource, module_of, variants_of
from shiftbench.overrides import overridden, split_overrides
from shiftbench.spec import content_root
from shiftbench.types import Episode, Method, Track

ENTRY_POINTS = "shiftbench.methods"


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


class MethodFile(NamedTuple):
    """What a method's name stands for, found without running anything.

    Attributes:
        path: the file.
        module: dotted name, where an installed package offers the method.
        variant: key in the file's VARIANTS; None for all of them.
        overrides: field and value as text.
    """

    path: Path
    module: str | None
    variant: str | None
    overrides: Mapping[str, str]

    @property
    def shipped(self) -> bool:
        """Whether the file comes with the package: such a file declares its version."""
        return self.module is None and self.path.resolve().parent == (content_root() / "baselines").resolve()

    def source(self) -> MethodSource:
        """The code, for a guest.

        Raises:
            MethodError: no such file, or not one of text.
        """
        return MethodSource(self.path.stem, _text(self.path), self.module, self.variant, self.overrides)


def payload_of(file: MethodFile, variant: str, version: str) -> dict[str, Any]:
    """What a worker finds the variant's code by (`source_of`), as JSON values."""
    overrides = dict(sorted(file.overrides.items()))
    path, module = str(file.path), file.module
    return {"path": path, "module": module, "variant": variant, "overrides": overrides, "version": version}


def source_of(payload: Mapping[str, Any]) -> MethodSource:
    """The code that `payload_of` described.

    Raises:
        MethodError: the file is gone, or no longer the same.
    """
    path, version = Path(payload["path"]), payload["version"]
    source = MethodFile(path, payload["module"], payload["variant"], dict(payload["overrides"])).source()
    if version.startswith(HASHED) and content_version(source.text) != version:
        raise MethodError("the file changed while the run was under way", where=path, remedy="start the run again")
    return source


def content_version(text: str) -> str:
    """The version of a file that is not shipped."""
    return HASHED + sha256(text.encode()).hexdigest()[:16]


def declared_version(declared: object, path: Path) -> str:
    """The version of a shipped file from its VERSION.

    Raises:
        MethodError: it is not an integer.
    """
    if type(declared) is not int:
        raise MethodError("the key 'VERSION' is missing or not an integer", where=path, remedy="add 'VERSION = 1'")
    return str(declared)


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
    file = find_method(spec)
    variants = variants_of(file.path, file.module)
    chosen = variants if file.variant is None else {file.variant: variants[file.variant]}
    loaded = [_loaded(name, method, file) for name, method in chosen.items()]
    return {m.name: m for m in loaded}


def find_method(spec: str) -> MethodFile:
    """The file that `spec` (as for `load_methods`) names, found without importing it.

    Raises:
        MethodError: unknown name, or no such file.
    """
    base, overrides = split_overrides(spec)
    path, module, variant = _located(base)
    if not path.is_file():
        raise MethodError("no such file", where=path, remedy="check the path")
    return MethodFile(path, module, variant, overrides)


def locate_method(spec: str) -> Path:
    """The file that `spec` (as for `load_methods`) names, found without importing it.

    Raises:
        MethodError: unknown name, or no such file.
    """
    return find_method(spec).path


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
    """File of a module; only its top-level package is looked up, and nothing of it is run."""
    top, *rest = module.split(".")
    found = importlib.util.find_spec(top)
    if found is None or found.origin is None:
        raise MethodError(f"the entry point's module '{module}' is not installed", remedy="install its package again")
    if not rest:
        return Path(found.origin)
    inside = Path(found.origin).parent.joinpath(*rest)
    return inside / "__init__.py" if inside.is_dir() else inside.with_suffix(".py")


def _text(path: Path) -> str:
    if not path.is_file():
        raise MethodError("no such file", where=path, remedy="check the path")
    try:
        return path.read_bytes().decode()  # line ends as they are: the content is the version
    except UnicodeDecodeError:
        raise MethodError("the file is not UTF-8 text", where=path, remedy="save it as UTF-8") from None


def _loaded(variant: str, method: Method, file: MethodFile) -> LoadedMethod:
    """`method` with the overrides set, under its leaderboard key."""
    method, suffix = overridden(method, file.overrides, file.path)
    if file.shipped:
        version = declared_version(getattr(module_of(file.path, None), "VERSION", None), file.path)
    else:
        version = content_version(_text(file.path))
    pairs = tuple(sorted(file.overrides.items()))
    return LoadedMethod(variant + suffix, method, file.path, version, variant, pairs, file.module)


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
