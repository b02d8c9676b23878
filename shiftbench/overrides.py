"""Hyper-parameters set on the command line: "tent:lr=1e-4,steps=5"."""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from shiftbench.errors import MethodError, nearest

FIXED_FIELDS = ("track", "episode", "requires")  # what a leaderboard relies on is not overridden
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


def split_overrides(spec: str) -> tuple[str, dict[str, str]]:
    """Base and overrides of "base:field=value,field=value"; a path may hold colons of its own.

    Raises:
        MethodError: a pair without field or value, or a field given twice.
    """
    match = re.fullmatch(r"(?P<base>.+?):(?P<pairs>[A-Za-z_]\w*=[^:]*)", spec)
    if match is None:
        return spec, {}
    overrides: dict[str, str] = {}
    for pair in match["pairs"].split(","):
        field, equals, value = (part.strip() for part in pair.partition("="))
        if not (field and equals and value):
            raise MethodError(f"'{pair}' is not an override", where=spec, remedy="write NAME:field=value,field=value")
        if field in overrides:
            raise MethodError(f"the field '{field}' is given twice", where=spec, remedy="give it once")
        overrides[field] = value
    return match["base"], overrides


def overridden(method: Any, overrides: Mapping[str, str], where: Path) -> tuple[Any, str]:
    """`method` (a dataclass) with `overrides` set, and the suffix of its leaderboard key (":lr=0.0001,steps=5" or "").

    Raises:
        MethodError: an unknown or fixed field, or a value that is not of the field's type.
    """
    if not overrides:
        return method, ""
    values = {field: _parsed(method, field, text, where) for field, text in sorted(overrides.items())}
    suffix = ":" + ",".join(f"{k}={v.value if isinstance(v, Enum) else v}" for k, v in values.items())
    try:
        return dataclasses.replace(method, **values), suffix
    except (TypeError, ValueError) as error:
        raise MethodError(f"'{suffix[1:]}' is refused: {error}", where=where, remedy="change the override") from None


def _parsed(method: Any, field: str, text: str, where: Path) -> object:
    """`text` as a value of the dataclass field's type."""
    known = [f.name for f in dataclasses.fields(method) if f.init and f.name not in FIXED_FIELDS]
    if field in FIXED_FIELDS:
        raise MethodError(
            f"the field '{field}' cannot be overridden", where=where, remedy=f"may be: {', '.join(known)}"
        )
    if field not in known:
        raise MethodError(f"unknown field '{field}'", where=where, remedy=nearest(field, known))
    try:
        kind = typing.get_type_hints(type(method))[field]
    except NameError as error:
        raise MethodError(f"the type of '{field}' is unknown: {error}", where=where, remedy="import it") from None
    try:
        return _value_of(kind, text)
    except (KeyError, TypeError, ValueError):
        words = getattr(kind, "__name__", str(kind)).replace("typing.", "")
        raise MethodError(f"'{field}={text}' is not a value of type {words}", where=where, remedy="change it") from None


def _value_of(kind: Any, text: str) -> object:
    if get_origin(kind) in (typing.Union, types.UnionType):
        options = get_args(kind)
        if type(None) in options and text.lower() == "none":
            return None
        return _value_of(next(o for o in options if o is not type(None)), text)
    if get_origin(kind) is Literal:
        return {str(option): option for option in get_args(kind)}[text]
    if kind is bool:
        return BOOLEANS[text.lower()]
    if kind is float and not math.isfinite(float(text)):
        raise ValueError(text)
    if kind in (int, float, str) or (isinstance(kind, type) and issubclass(kind, Enum)):
        return kind(text)
    raise TypeError(kind)
