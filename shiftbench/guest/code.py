"""A method's code in its guest: from text to an object, what it says of itself, and where its errors come from."""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from typing import Any

import torch

from shiftbench.errors import MethodError, NotApplicable, nearest
from shiftbench.loading import MethodSource, line_in, module_of, variants_of
from shiftbench.overrides import overridden
from shiftbench.types import Status

OPTIONAL_VERBS = ("prepare", "summarise")
MESSAGE_CHARACTERS, TRACE_CHARACTERS = 4000, 20_000


@dataclass(frozen=True)
class Code:
    """A method's file, written into the guest's own folder so that tracebacks show its lines."""

    source: MethodSource
    folder: Path

    @property
    def path(self) -> Path:
        """Of the file in this guest."""
        return self.folder / self.source.file

    def methods(self) -> dict[str, Any]:
        """The variants that are asked for, with overrides set, each as (method, suffix of its leaderboard key).

        Raises:
            MethodError: the file, the variant or an override cannot be used.
        """
        self.path.write_bytes(self.source.text.encode())
        variants, wanted = variants_of(self.path, self.source.module), self.source.variant
        if wanted is not None and wanted not in variants:
            raise MethodError(f"no variant '{wanted}'", where=self.path, remedy=nearest(wanted, variants))
        chosen = variants if wanted is None else {wanted: variants[wanted]}
        return {name: overridden(method, self.source.overrides, self.path) for name, method in chosen.items()}

    def facts(self, variant: str, method: Any, suffix: str) -> dict[str, Any]:
        """What a method says of itself, as JSON values.

        Raises:
            MethodError: a field is no JSON value.
        """
        parameters = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in ("track", "episode")}
        plain = {name: value.value if isinstance(value, Enum) else value for name, value in parameters.items()}
        for name, value in plain.items():
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError):
                problem = f"the field '{name}' is a {type(value).__name__} that a record cannot hold"
                raise MethodError(problem, where=self.path, remedy="use numbers, texts and tuples of them") from None
        declared = getattr(module_of(self.path, self.source.module), "VERSION", None)
        return {
            "variant": variant,
            "name": variant + suffix,
            "declared": declared if type(declared) is int else None,
            "track": str(method.track),
            "episode": str(method.episode),
            "parameters": plain,
            "prepares": [verb for verb in OPTIONAL_VERBS if hasattr(method, verb)],
        }

    def answer(self, error: Exception) -> dict[str, Any]:
        """What the host is told of an error that a command ended with."""
        if isinstance(error, NotApplicable):
            return {"say": "not_applicable", "reason": self.without_folder(str(error))[:MESSAGE_CHARACTERS]}
        status = Status.FAILED
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            status = Status.OUT_OF_MEMORY
        elif isinstance(error, MethodError):
            status = Status.INVALID_OUTPUT
        text = f"{type(error).__name__}: {error}" if status is Status.FAILED else str(error)
        said: dict[str, Any] = {
            "say": "failed",
            "status": str(status),
            "message": self.without_folder(text)[:MESSAGE_CHARACTERS],
        }
        if isinstance(error, MethodError):
            where = None if error.where is None else self.without_folder(str(error.where))
            said |= {"problem": self.without_folder(error.problem), "where": where, "remedy": error.remedy}
        trace = "".join(traceback.format_exception(error))
        return {
            **said,
            "trace": self.without_folder(trace)[-TRACE_CHARACTERS:],
            "line": line_in(error, self._executed()),
        }

    def without_folder(self, text: str) -> str:
        """`text` with the method's file under its bare name."""
        return text.replace(f"{self.folder}/", "")

    def _executed(self) -> Path:
        """The file whose lines tracebacks name: an installed package's own, or the one that was written."""
        if self.source.module is None:
            return self.path
        try:
            return Path(module_of(self.path, self.source.module).__file__ or self.path)
        except MethodError:
            return self.path
