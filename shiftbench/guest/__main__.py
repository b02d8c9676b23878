"""Entry of a guest: `python -m shiftbench.guest` answers frames on standard input with frames on standard output."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    """Takes both ends of the wire away from whatever prints or reads, and serves until the host hangs up."""
    inlet, outlet = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    folder = Path.cwd()
    # Python looks into the folder it is started in; a method's file there must not stand in for a library.
    sys.path[:] = [place for place in sys.path if place and Path(place) != folder]
    from shiftbench.guest.desk import Desk  # imports torch, which may print

    Desk(inlet, outlet, folder).serve()


if __name__ == "__main__":
    main()
