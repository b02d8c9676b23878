"""Looks at methods in a process of its own and prints what a plan needs to know of them."""

from __future__ import annotations

import json
import sys
from dataclasses import fields
from enum import Enum
from typing import Any

from shiftbench.errors import ShiftBenchError
from shiftbench.methods import LoadedMethod, load_methods

OPTIONAL_VERBS = ("prepare", "summarise")


def card(loaded: LoadedMethod) -> dict[str, Any]:
    """The method as JSON values; see `shiftbench.graph.MethodCard`."""
    method = loaded.method
    parameters = {f.name: getattr(method, f.name) for f in fields(method) if f.name not in ("track", "episode")}  # type: ignore[arg-type]
    return {
        "name": loaded.name,
        "stem": loaded.path.stem,
        "version": loaded.version,
        "track": str(method.track),
        "episode": str(method.episode),
        "parameters": {k: v.value if isinstance(v, Enum) else v for k, v in parameters.items()},
        "prepares": [verb for verb in OPTIONAL_VERBS if hasattr(method, verb)],
        "payload": loaded.to_payload(),
    }


def main() -> int:
    """Prints the cards of the named methods as one line of JSON, or [problem, where, remedy] and exits with 2."""
    try:
        cards = [card(loaded) for spec in sys.argv[1:] for loaded in load_methods(spec).values()]
    except ShiftBenchError as error:
        print(json.dumps([error.problem, str(error.where) if error.where else None, error.remedy]))
        return 2
    print(json.dumps(cards))
    return 0


if __name__ == "__main__":
    sys.exit(main())
