"""Re-selection: another population of real patients, by choosing or weighting cases. No pixel is touched.

The cases, their images and their references stay as they are; what differs is who is scanned. What a selection is worth
is said by its effective sample size (Kish), how far the population moved by the Wasserstein distance.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shiftbench.errors import SpecError, nearest
from shiftbench.shifts.distances import pieces
from shiftbench.shifts.weights import distribution_shift, effective_sample_size, is_number, tilted
from shiftbench.types import CaseInfo

LEVELS = (0.25, 0.5, 1.0, 1.5, 2.0)  # strength of a tilt at severity 1 to 5, in units of one standard deviation
MIN_ESS = 10.0  # patients below which a mean says too little
OPERATOR = "reselect"


@dataclass(frozen=True)
class Reselection:
    """What a re-selected population is to be. Exactly one of `tilt`, `share` and `shares` is given.

    Attributes:
        attribute: of the cases: a number (age, volume, lesion count) or a category (sex, site, group).
        tilt: strength t of an exponential tilt: weights proportional to exp(t z), z the attribute in standard
            deviations; positive towards large values, 0 is the source population.
        share: share of the cases with a number of at least `above`.
        above: the number that divides the cases, for `share`.
        shares: category -> its share, for a categorical attribute; the rest get 0.
        cases: how many cases are drawn without replacement, or None: all of them, weighted.
        min_ess: smallest effective sample size that is accepted.
    """

    attribute: str
    tilt: float | None = None
    share: float | None = None
    above: float | None = None
    shares: Mapping[str, float] | None = None
    cases: int | None = None
    min_ess: float = MIN_ESS

    def __post_init__(self) -> None:
        where = f"{OPERATOR} '{self.attribute}'"
        given = [name for name in ("tilt", "share", "shares") if getattr(self, name) is not None]
        if len(given) != 1:
            raise SpecError("one of tilt, share and shares is needed", where=where, remedy="give exactly one")
        if (self.share is None) != (self.above is None):
            raise SpecError("'share' and 'above' belong together", where=where, remedy="give both")
        if self.tilt is not None and not -5 <= self.tilt <= 5:
            raise SpecError(f"tilt = {self.tilt}", where=where, remedy="use -5 to 5 standard deviations")
        if self.share is not None and not 0 <= self.share <= 1:
            raise SpecError(f"share = {self.share}", where=where, remedy="use 0 to 1")
        if self.shares is not None:
            total = sum(self.shares.values())
            if min(self.shares.values(), default=-1.0) < 0 or abs(total - 1) > 1e-6:
                raise SpecError(
                    f"the shares add up to {total:g}", where=where, remedy="use shares of 0 to 1 with sum 1"
                )
        if self.cases is not None and self.cases < 1:
            raise SpecError(f"cases = {self.cases}", where=where, remedy="ask for at least one")


@dataclass(frozen=True)
class Selection:
    """Who is in a re-selected population.

    Attributes:
        cases: ids in the order of the dataset.
        weights: of each, with sum 1.
        ess: effective sample size in patients, 1 / sum w^2 over patients.
        wasserstein: distance of the attribute's distribution from that of all cases, in its unit (a category: share of
            the cases that would have to change theirs).
        without: cases that were left out because they lack the attribute.
    """

    cases: tuple[str, ...]
    weights: tuple[float, ...]
    ess: float
    wasserstein: float
    without: tuple[str, ...] = ()


def reselect(cases: Sequence[CaseInfo], rule: Reselection, rng: np.random.Generator) -> Selection:
    """The population that a rule asks for, out of real cases.

    Args:
        cases: of the source; those without the attribute are left out and named in the result.
        rule: what is asked for.
        rng: used only where cases are drawn; keyed by dataset and attribute, never by the strength, so that the
            selections of two strengths share their chances.

    Raises:
        SpecError: no case has the attribute (with the known ones), it is constant, of the wrong kind, a category or a
            side of `above` has no case, too few cases are left, or the effective sample size is too small.
    """
    known = {name for case in cases for name in _attributes(case)}
    if rule.attribute not in known:
        raise SpecError(f"no case has the attribute '{rule.attribute}'", where=OPERATOR, remedy=_known(rule, known))
    held = [case for case in cases if rule.attribute in _attributes(case)]
    values = [_attributes(case)[rule.attribute] for case in held]
    weights = _weights(rule, values)
    if rule.cases is not None:
        chosen = _draw(weights, rule.cases, rng, rule)
        held, values = [held[i] for i in chosen], [values[i] for i in chosen]
        moved = distribution_shift(values, np.full(len(values), 1 / len(values)), _all_values(cases, rule))
        weights = np.full(len(values), 1 / len(values))
    else:
        moved = distribution_shift(values, weights, values)
        kept = np.flatnonzero(weights > 0)
        held, weights = [held[i] for i in kept], weights[kept]
    ess = effective_sample_size(_per_patient(held, weights))
    if ess < rule.min_ess:
        raise SpecError(
            f"only {ess:.1f} effective patients are left of {len({case.patient_id for case in cases})}",
            where=f"{OPERATOR} '{rule.attribute}'",
            remedy=f"ask for a weaker change, or set min_ess below {rule.min_ess:g}",
        )
    without = tuple(case.case_id for case in cases if rule.attribute not in _attributes(case))
    return Selection(tuple(case.case_id for case in held), tuple(weights.tolist()), ess, moved, without)


def reference_attributes(
    reference: np.ndarray, structures: Sequence[str], spacing: Sequence[float] | None, things: Collection[str] = ()
) -> dict[str, float]:
    """What a reference tells: `<structure>_ml` (`_px` without a spacing), and `<structure>_count` of lesions.

    Args:
        reference: labels (*s), i + 1 for `structures[i]`.
        structures: names in label order.
        spacing: per axis in mm, or None.
        things: structures that are counted: their connected pieces.
    """
    sizes = np.bincount(reference.ravel(), minlength=len(structures) + 1)[1:]
    unit, scale = ("px", 1.0) if spacing is None else ("ml", float(np.prod(spacing)) / 1000)
    measured = {f"{name}_{unit}": float(size) * scale for name, size in zip(structures, sizes, strict=True)}
    counted = {
        f"{name}_count": float(pieces(reference == i).max()) for i, name in enumerate(structures, 1) if name in things
    }
    return {**measured, **counted}


def _attributes(case: CaseInfo) -> dict[str, str | float]:
    """What is known of a case, its site included; an empty text or NaN is not known."""
    every = {**case.attributes, **({"site": case.site} if case.site else {})}
    return {name: value for name, value in every.items() if value != "" and value == value}


def _all_values(cases: Sequence[CaseInfo], rule: Reselection) -> list[str | float]:
    return [_attributes(case)[rule.attribute] for case in cases if rule.attribute in _attributes(case)]


def _known(rule: Reselection, known: set[str]) -> str:
    return nearest(rule.attribute, known) if known else "add 'attributes' to the dataset's description"


def _numbers(values: Sequence[str | float], attribute: str) -> np.ndarray:
    """The values as numbers; a manifest's columns are texts."""
    try:
        return np.array([float(value) for value in values])
    except ValueError:
        odd = next(value for value in values if not is_number(value))
        raise SpecError(
            f"the attribute '{attribute}' is no number ('{odd}')", where=OPERATOR, remedy="use 'shares' for categories"
        ) from None


def _weights(rule: Reselection, values: Sequence[str | float]) -> np.ndarray:
    """Weight of every case, with sum 1."""
    if rule.shares is not None:
        return _to_shares([str(value) for value in values], rule.shares, rule.attribute)
    numbers = _numbers(values, rule.attribute)
    if rule.tilt is not None:
        return tilted(numbers, rule.tilt, rule.attribute)
    sides = ["above" if number >= rule.above else "below" for number in numbers]  # type: ignore[operator]
    share = float(rule.share)  # type: ignore[arg-type]
    return _to_shares(sides, {"above": share, "below": 1 - share}, rule.attribute)


def _to_shares(categories: Sequence[str], shares: Mapping[str, float], attribute: str) -> np.ndarray:
    """Weights with which each category has its share, alike within a category, with sum 1."""
    counts = {name: categories.count(name) for name in set(categories)}
    missing = [name for name, share in shares.items() if share > 0 and name not in counts]
    if missing:
        raise SpecError(f"no case has {attribute} = '{missing[0]}'", where=OPERATOR, remedy=nearest(missing[0], counts))
    return np.array([shares.get(name, 0.0) / counts[name] for name in categories])


def _draw(weights: np.ndarray, n: int, rng: np.random.Generator, rule: Reselection) -> np.ndarray:
    """Indices of n cases drawn without replacement, in their order; the same chances whatever the weights.

    Exponential races (Efraimidis and Spirakis 2006): the n smallest of E / w, with E standard exponential.
    """
    possible = int((weights > 0).sum())
    if n > possible:
        raise SpecError(
            f"{n} cases are asked for, {possible} can be chosen",
            where=f"{OPERATOR} '{rule.attribute}'",
            remedy=f"ask for at most {possible}",
        )
    race = rng.standard_exponential(len(weights))
    times = np.divide(race, weights, out=np.full(len(weights), np.inf), where=weights > 0)
    return np.sort(np.argsort(times, kind="stable")[:n])


def _per_patient(cases: Sequence[CaseInfo], weights: np.ndarray) -> np.ndarray:
    """Sum of the weights of every patient's cases."""
    _, patient = np.unique([case.patient_id for case in cases], return_inverse=True)
    return np.bincount(patient, weights=weights)


def stratified_sample(
    attributes: Sequence[str], target_distribution: Mapping[str, float], n: int, rng: np.random.Generator
) -> np.ndarray:
    """Indices of n cases, in order, in which every category has its share as nearly as whole cases allow.

    Whole numbers are shared out by largest remainder. The chances do not depend on shares or n: a category that needs
    more cases keeps those that it had.

    Raises:
        SpecError: shares that do not add up to 1, or a category with too few cases.
    """
    total = sum(target_distribution.values())
    if abs(total - 1) > 1e-6 or min(target_distribution.values(), default=-1.0) < 0:
        raise SpecError(f"the shares add up to {total:g}", where=OPERATOR, remedy="use shares of 0 to 1 with sum 1")
    names = sorted(target_distribution)
    exact = np.array([n * target_distribution[name] for name in names])
    wanted = np.floor(exact + 1e-9).astype(int)
    wanted[np.argsort(wanted - exact, kind="stable")[: n - int(wanted.sum())]] += 1
    order = rng.permutation(len(attributes))
    chosen: list[int] = []
    for name, count in zip(names, wanted.tolist(), strict=True):
        have = [int(i) for i in order if attributes[i] == name]
        if len(have) < count:
            raise SpecError(
                f"{count} cases of '{name}' are asked for, there are {len(have)}",
                where=OPERATOR,
                remedy="ask for fewer",
            )
        chosen += have[:count]
    return np.sort(np.array(chosen, int))
