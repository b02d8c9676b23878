"""Where tasks are computed: the protocol of an engine, and which there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import Any, Protocol

from shiftbench.errors import SpecError, nearest
from shiftbench.graph import Outcome, Task
from shiftbench.watch.events import Running

ENGINES = {"local": "shiftbench.engine.local:LocalEngine", "ray": "shiftbench.engine.ray:RayEngine"}


class Engine(Protocol):
    """Computes the tasks of a graph that are not in the store yet."""

    def run(self, tasks: Mapping[str, Task], *, tick: Callable[[], object] = ...) -> Iterator[Outcome]:
        """How attempts at tasks end, as they end; `tick` is called a few times a second.

        Raises:
            Terminated: the process was asked to end (SIGTERM); everything that was started is gone.
        """

    def running(self) -> list[Running]:
        """Tasks under way."""

    def said(self) -> list[str]:
        """What tasks have warned of, each sentence once, with the first task that said it."""

    def close(self) -> None:
        """Ends all that was started and gives back what is held; may be called again."""


class Terminated(KeyboardInterrupt):
    """The run was asked to end by SIGTERM, as by Ctrl-C: no error, and the same command goes on from here."""

    exit_code = 143


def engine_class(name: str) -> Callable[..., Any]:
    """The engine of this name; its module, and what that needs, is imported here.

    Raises:
        SpecError: there is none of this name.
        ImportError: what it needs is not installed.
    """
    if name not in ENGINES:
        raise SpecError(f"unknown engine '{name}'", remedy=nearest(name, ENGINES))
    module, attribute = ENGINES[name].split(":")
    return getattr(import_module(module), attribute)
