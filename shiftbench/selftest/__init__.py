"""Golden cases against every library that scores are computed with: one that disagrees is refused."""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache

from shiftbench.errors import OutputError
from shiftbench.selftest.check import Check, Golden, checked


class BackendError(OutputError):
    """A library that computes wrong values: no result may be written with it."""


def selftest() -> list[Check]:
    """Every check, of the libraries first and then of our functions on top of them."""
    masks, lesions, tubes, rest = _backends()
    from shiftbench.selftest.golden import CASES

    return checked((*masks, *lesions, *tubes, *rest, *CASES))


def refuse_broken_backends(forms: Collection[str] = ()) -> None:
    """Checks the libraries that structures of these forms are scored with, once per process.

    Raises:
        BackendError: one of them does not give what it must.
    """
    problem = _first_problem("lesions" in forms, "tube" in forms)
    if problem is not None:
        raise refusal(problem)


def refusal(check: Check) -> BackendError:
    """The error that a failed check is."""
    what = f"{check.package} {check.version} fails the check '{check.name}'"
    remedy = f"pip install '{check.package}' in the version of constraints.txt, then run shiftbench selftest"
    if check.package == "shiftbench":
        remedy = "a library below it may have changed: pip install -c constraints.txt shiftbench, or report it"
    return BackendError(f"{what}: it gives {check.found} instead of {check.expected}", remedy=remedy)


@lru_cache(maxsize=4)
def _first_problem(lesions: bool, tubes: bool) -> Check | None:
    of_all, of_lesions, of_tubes, _ = _backends()
    goldens = (*of_all, *(of_lesions if lesions else ()), *(of_tubes if tubes else ()))
    return next((check for check in checked(goldens) if not check.ok), None)


def _backends() -> tuple[tuple[Golden, ...], ...]:
    """Checks of what all structures, lesions, tubes and the rest are scored with."""
    try:
        from shiftbench.selftest import backends
    except ImportError as error:
        what = f"a library that scores are computed with cannot be imported ({error})"
        raise BackendError(what, remedy="pip install -c constraints.txt shiftbench") from None
    return backends.MASKS, backends.LESIONS, backends.TUBES, (*backends.INSTANCES, *backends.REST)
