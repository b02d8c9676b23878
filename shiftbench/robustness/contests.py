"""Who is ranked against whom: one contest per leaderboard and shift family, and one for all families together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS, SOURCE_ONLY
from shiftbench.robustness.patients import Entry, matched
from shiftbench.stats import Interval, pooled_interval
from shiftbench.types import Family, Track

OVERALL = "overall"
UNRANKED_FAMILIES = frozenset({Family.CONTROL, Family.FAULT})
LABELLED_TRACKS = frozenset({Track.FEWSHOT, Track.REFERENCE})  # only these are ranked on annotation shifts
Name = tuple[str, float | None]  # method and k


@dataclass(frozen=True)
class Aligned:
    """Scores of the ranked methods on the seeds that all of them have, per target or per group of targets.

    Attributes:
        scores: shape (M, S, N), methods in the order of `Contest.ranked`.
        patients: N names each.
        weights: sum to 1.
    """

    scores: list[np.ndarray]
    patients: list[tuple]
    weights: list[float]


@dataclass(frozen=True)
class Contest:
    """One family, or all of them, of one leaderboard.

    Attributes:
        board: track, backbone and budget.
        family: or `OVERALL`.
        entries: of each method, by place; a place begins with its family.
        weights: of the places.
        reasons: why a method is not ranked, or an empty string.
    """

    board: tuple[str, str, str]
    family: str
    entries: Mapping[Name, Mapping[tuple, Entry]]
    weights: Mapping[tuple, float]
    reasons: Mapping[Name, str]

    @property
    def ranked(self) -> list[Name]:
        """Methods that may be ranked, by name."""
        return sorted((name for name in self.entries if not self.reasons[name]), key=str)

    @property
    def places(self) -> list[tuple]:
        """Targets of the contest."""
        return sorted(self.weights, key=str)

    def interval(self, name: Name) -> Interval:
        """Macro mean of a method over the targets that it has."""
        tables = self._tables[name].values()
        return pooled_interval([table for table, _ in tables], [weight for _, weight in tables])

    def difference(self, one: Name, other: Name) -> Interval | None:
        """Paired difference of two ranked methods; None where they share no seed."""
        first, second = self._tables[one], self._tables[other]
        if list(first) != list(second):  # other seeds: target by target
            first, second = self._by_place(one), self._by_place(other)
        tables, weights = [], []
        for key, (table, weight) in first.items():
            pair = matched(table, second[key][0])
            if pair is None:
                return None
            tables.append(pair[0] - pair[1])
            weights.append(weight)
        return pooled_interval(tables, weights)

    def patient_means(self, name: Name) -> pd.Series:
        """Mean of each patient over seeds and over the targets that have it, by their weights."""
        tables = self._tables[name].values()
        sums = pd.concat([weight * table.mean() for table, weight in tables])
        weights = pd.concat([pd.Series(weight, index=table.columns) for table, weight in tables])
        return sums.groupby(level=0).sum() / weights.groupby(level=0).sum()

    def aligned(self, *, merged: bool) -> Aligned | None:
        """Scores of the ranked methods side by side; None where they share no seed, or a seed lacks patients.

        Args:
            merged: targets with the same patients as one, their weighted mean.
        """
        tables = [self._tables[name] if merged else self._by_place(name) for name in self.ranked]
        if any(list(own) != list(tables[0]) for own in tables):
            tables = [self._by_place(name) for name in self.ranked]
        seeds = sorted(set.intersection(*(set(table.index) for own in tables for table, _ in own.values())))
        if not seeds:
            return None
        found = Aligned([], [], [])
        for key, (first, weight) in tables[0].items():
            stack = np.stack([own[key][0].loc[seeds, first.columns].to_numpy(float) for own in tables])
            if np.isnan(stack).any():
                return None
            found.scores.append(stack)
            found.patients.append(tuple(first.columns))
            found.weights.append(weight)
        return found

    def _by_place(self, name: Name) -> dict[Hashable, tuple[pd.DataFrame, float]]:
        own = self.entries[name]
        return {place: (own[place].scores, self.weights[place]) for place in self.places if place in own}

    @cached_property
    def _tables(self) -> dict[Name, dict[Hashable, tuple[pd.DataFrame, float]]]:
        """Tables of each method with their weights, targets with the same seeds and patients summed into one."""
        return {name: _merged(self._by_place(name)) for name in self.entries}


def contests(entries: Sequence[Entry]) -> list[Contest]:
    """The contests of all leaderboards; controls and faults are in none.

    Annotation targets make a contest of their own, and enter the overall one of methods with target labels alone. A
    target on which source-only was scored and no method of a board was makes all of them unranked: they would be
    ranked by their easier targets. Oracles are exempt, since a scenario chooses which targets have one.
    """
    boards: dict[tuple[str, str, str], list[Entry]] = {}
    scored: dict[tuple[str, str], set[tuple]] = {}
    for entry in entries:
        if entry.family in UNRANKED_FAMILIES:
            continue
        boards.setdefault((entry.track, entry.backbone, entry.budget), []).append(entry)
        if entry.method == SOURCE_ONLY:
            scored.setdefault((entry.backbone, entry.budget), set()).add(_place(entry))
    found = []
    for board, own in sorted(boards.items()):
        families = sorted({entry.family for entry in own})
        pooled = [family for family in families if board[0] in LABELLED_TRACKS or family != Family.ANNOTATION]
        sections = [([f], f, "" if f in pooled else "not ranked: no target labels") for f in families]
        if pooled:
            sections.append((pooled, OVERALL, ""))
        base = set() if board[0] == Track.REFERENCE else scored.get(board[1:], set())
        for members, family, note in sections:
            ranked_on = {place for place in base if place[0] in members}
            if family == OVERALL:
                ranked_on = {p for p in base if board[0] in LABELLED_TRACKS or p[0] != Family.ANNOTATION}
            found.append(_contest(board, family, [e for e in own if e.family in members], ranked_on, note))
    return found


def target_weights(places: Sequence[tuple]) -> dict[tuple, float]:
    """Families weigh the same, and so do the targets within one; a place begins with its family."""
    families = [place[0] for place in places]
    return {place: 1.0 / (len(set(families)) * families.count(place[0])) for place in places}


def _contest(board: tuple[str, str, str], family: str, own: Sequence[Entry], base: set[tuple], note: str) -> Contest:
    methods: dict[Name, dict[tuple, Entry]] = {}
    for entry in own:
        methods.setdefault((entry.method, entry.k), {})[_place(entry)] = entry
    places = {_place(entry) for entry in own}
    reasons = {name: note or _unranked(found, places | base) for name, found in methods.items()}
    return Contest(board, family, methods, target_weights(sorted(places, key=str)), reasons)


def _place(entry: Entry) -> tuple:
    return (entry.family, *entry.place)


def _unranked(own: Mapping[tuple, Entry], places: set[tuple]) -> str:
    """Why a method has no rank on this board, or an empty string."""
    lacking = len(places) - sum(entry.ranked for entry in own.values())
    if lacking:
        return f"not ranked: not applicable or not scored on {lacking} of {len(places)} targets"
    for family in sorted({entry.family for entry in own.values()}):
        n = len({patient for e in own.values() if e.family == family for patient in e.scores.columns})
        if n < CONSTANTS.min_patients:
            return f"not ranked: {n} patients in family {family}, fewer than {CONSTANTS.min_patients}"
    return ""


def _merged(tables: Mapping[Hashable, tuple[pd.DataFrame, float]]) -> dict[Hashable, tuple[pd.DataFrame, float]]:
    groups: dict[Hashable, list[tuple[pd.DataFrame, float]]] = {}
    for place, (table, weight) in tables.items():
        complete = not np.isnan(table.to_numpy()).any()
        key = (tuple(table.index), tuple(table.columns)) if complete else place
        groups.setdefault(key, []).append((table, weight))
    merged = {}
    for key, group in groups.items():
        first, weight = group[0][0], sum(weight for _, weight in group)
        if len(group) == 1:
            merged[key] = group[0]
            continue
        values = sum(own * table.to_numpy(float) for table, own in group) / weight
        merged[key] = (pd.DataFrame(values, index=first.index, columns=first.columns), weight)
    return merged
