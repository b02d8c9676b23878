"""One task performed in this process: the way in for every engine."""

from __future__ import annotations

import errno
import os
import re
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from shiftbench.errors import MethodError, OutputError, ShiftBenchError
from shiftbench.graph import Settings
from shiftbench.store import Store
from shiftbench.types import Status

# Kind of task to the module whose HANDLERS has it: a process that scores never imports what trains.
MODULES = {
    **dict.fromkeys(("anatomy", "images", "references", "score", "card"), "shiftbench.worker.data"),
    **dict.fromkeys(("train", "prepare", "predict"), "shiftbench.worker.method"),
    "audit": "shiftbench.worker.audit",
}
Answer = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What every handler is given: where results go, how tasks are run, and whom to tell how far a task is."""

    store: Store
    settings: Settings = Settings()
    report: Callable[[str], None] = lambda words: None


Handler = Callable[[Context, str, Mapping[str, Any]], None]


def perform(
    context: Context, kind: str, key: str, payload: Mapping[str, Any], modules: Mapping[str, str] = MODULES
) -> Answer:
    """Does one task; see `attempt`. A kind that this process was not made for is a cause, not its end."""
    try:
        handler = handler_of(kind, modules)
    except Exception as error:
        return {**_failed(error), "seconds": 0.0}
    return attempt(handler, context, key, payload)


def handler_of(kind: str, modules: Mapping[str, str] = MODULES) -> Handler:
    """Who does tasks of this kind.

    Raises:
        ValueError: no module is named for it.
    """
    if kind not in modules:
        raise ValueError(f"this process has no task '{kind}'")
    return import_module(modules[kind]).HANDLERS[kind]


def attempt(handler: Handler, context: Context, key: str, payload: Mapping[str, Any]) -> Answer:
    """What an engine is told: {"ok", "seconds"}, and of a failure the fields of `_failed`."""
    started = time.perf_counter()
    try:
        handler(context, key, payload)
        answer: Answer = {"ok": True}
    except Exception as error:
        answer = _failed(error)
    return {**answer, "seconds": time.perf_counter() - started}


def _failed(error: Exception) -> Answer:
    """The answer for a task that raised; `fatal` where the result folder itself is the trouble."""
    full = _disk_is_full(error)
    expected = isinstance(error, ShiftBenchError) or hasattr(error, "record")
    cause = str(error) if expected else f"{type(error).__name__}: {error}"
    status, reason = _status(error)
    return {
        "ok": False,
        "fatal": full or isinstance(error, OutputError),
        "status": str(status),
        "reason": reason,
        "cause": "the disk is full; free some space or give --out elsewhere, then run again" if full else cause,
        "trace": traceback.format_exc(),
        "record": getattr(error, "record", {}),
    }


def _disk_is_full(error: Exception) -> bool:
    """Also where a library wraps the system's error in one of its own."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def _status(error: Exception) -> tuple[Status, str]:
    """Status of the rows, and the reason that retry rules go by: the error's own where it has them."""
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    named, reason = getattr(error, "status", None), getattr(error, "reason", None)  # of others' errors: anything
    status = Status(named) if named in list(Status) else Status.OUT_OF_MEMORY if memory else Status.FAILED
    if reason in OWN_REASONS:
        return status, str(reason)
    of_output = isinstance(error, MethodError) or status is Status.INVALID_OUTPUT
    return status, "nan" if of_output and NAN.search(str(error)) else REASONS.get(status, "exception")


OWN_REASONS = ("exception", "out_of_memory", "signal", "timeout", "nan", "lost")  # that an error may name
REASONS = {Status.OUT_OF_MEMORY: "out_of_memory", Status.TIMEOUT: "timeout"}
NAN = re.compile(r"\bNaN\b")  # in what the contract says of a prediction or an estimate
