"""The command line. Commands import what they need, so that help and listings start without torch."""

from __future__ import annotations

import sys
from collections.abc import Callable

from shiftbench.cli import content, folders, runs
from shiftbench.cli.app import BAD_INPUT, app, warnings
from shiftbench.errors import ShiftBenchError

# In the order of the help.
COMMANDS: dict[str, Callable[..., None]] = {
    "run": runs.run,
    "plan": runs.plan,
    "status": folders.status,
    "leaderboard": folders.leaderboard,
    "plot": folders.plot,
    "audit": runs.audit,
    "rescore": runs.rescore,
    "why": folders.why,
    "verify": folders.verify,
    "gc": folders.gc,
    "export": folders.export,
    "merge": folders.merge,
    "list": content.list_,
    "show": content.show,
    "check": content.check,
    "certify": content.certify,
    "doctor": content.doctor,
    "selftest": content.selftest_,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Entry point: errors are one sentence on standard error and a non-zero exit code."""
    try:
        app()
    except ShiftBenchError as error:
        warnings.print(f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True)
        sys.exit(BAD_INPUT)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some space, change the rights, or give another folder with --out"
        warnings.print(
            f"error: {where}{error.strerror}; {remedy}.", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(BAD_INPUT)
