"""Sealed scenarios: levels, patients and draws that depend on a secret salt which nobody can tune to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from functools import lru_cache

from shiftbench.errors import SpecError
from shiftbench.rng import digest, generator
from shiftbench.spec.scenario import Scenario
from shiftbench.spec.target import Step, Target

SALT_VARIABLE = "SHIFTBENCH_SALT"
MIN_SALT = 16  # characters; a shorter one could be found by trying
ROUNDS = 200_000  # of the key derivation: what is published tells the salt only to who tries that often per guess
DIGITS = 3  # of a drawn level


def unsealed(scenario: Scenario, salt: str | None, *, whole: Callable[[str], bool]) -> Scenario:
    """The scenario with its levels drawn from the salt, and with other patients and draws than the public seeds give.

    Args:
        scenario: one that is not sealed comes back as it is.
        salt: the organiser's secret; it is never stored.
        whole: whether an operator has whole severities only (categorical ones).

    Raises:
        SpecError: the scenario is sealed and there is no salt, or a short one; or a range holds no whole severity.
    """
    if not scenario.sealed:
        return scenario
    secret = _secret(scenario, salt)
    target = tuple(_opened(t, secret, scenario, whole) for t in scenario.target)
    phantom = scenario.phantom.model_copy(update={"seed": _seed(secret, "population", scenario.phantom.seed)})
    seed = _seed(secret, "domain", scenario.domain_seed)
    return scenario.model_copy(update={"target": target, "phantom": phantom, "domain_seed": seed})


def commitment(scenario: Scenario, salt: str | None) -> str:
    """What may be stored of a salt: 16 hex digits that only the same salt and scenario give."""
    return digest("commitment", _secret(scenario, salt))[:16]


def _secret(scenario: Scenario, salt: str | None) -> str:
    where = scenario.name
    if not salt:
        remedy = f"give the organiser's salt with --salt or in {SALT_VARIABLE}"
        raise SpecError("the scenario is sealed: its levels are drawn from a secret salt", where=where, remedy=remedy)
    if len(salt) < MIN_SALT:
        raise SpecError(f"the salt has {len(salt)} characters", where=where, remedy=f"use at least {MIN_SALT}")
    return _stretched(salt, scenario.name, scenario.version)


@lru_cache(maxsize=64)
def _stretched(salt: str, name: str, version: int) -> str:
    context = digest("sealed scenario", name, version).encode()
    return hashlib.pbkdf2_hmac("sha256", salt.encode(), context, ROUNDS).hex()


def _seed(secret: str, what: str, public: int) -> int:
    return int(digest(secret, what, public)[:12], 16)


def _opened(target: Target, secret: str, scenario: Scenario, whole: Callable[[str], bool]) -> Target:
    """The target with every range replaced by the level that the secret draws in it."""
    steps = {
        kind: tuple(
            _drawn(step, [secret, target.name, kind, i], scenario, whole)
            for i, step in enumerate(getattr(target, kind))
        )
        for kind in ("acquisition", "population")
    }
    return target.model_copy(update=steps)


def _drawn(step: Step, names: list[object], scenario: Scenario, whole: Callable[[str], bool]) -> Step:
    if step.between is None:
        return step
    low, high = step.between
    rng = generator(scenario.domain_seed, "sealed level", *names)
    if not whole(step.operator):
        level = round(float(rng.uniform(low, high)), DIGITS)
    elif math.ceil(low) > math.floor(high):
        problem = f"'{step.operator}' has whole severities only, and there is none from {low:g} to {high:g}"
        raise SpecError(problem, where=scenario.name, remedy="widen 'between'")
    else:
        level = float(rng.integers(math.ceil(low), math.floor(high), endpoint=True))
    return step.model_copy(update={"between": None, "levels": (level,)})
