"""One number per method and shift family, with ranks and ties."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import RUN, Entry, entries_of, limits, matched, patient_table
from shiftbench.stats import holm, pooled_interval
from shiftbench.types import Family, Track

OVERALL = "overall"
UNRANKED_FAMILIES = frozenset({Family.CONTROL, Family.FAULT})
COLUMNS = (
    *("track", "backbone", "budget", "family", "method", "k", "dsc", "dsc_low", "dsc_high"),
    *("n_patients", "n_seeds", "conditional", "n_targets", "rank", "tie_group", "note"),
)
LABELLED_TRACKS = frozenset({Track.FEWSHOT, Track.REFERENCE})  # only these are ranked on annotation shifts


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per (track, backbone, budget), family and method: macro mean DSC over the targets of the family, rank.

    The family "overall" weighs the families equally. Controls and faults never enter; annotation targets are reported,
    but enter neither rank nor "overall" of methods without target labels. Methods that do not differ from the leader
    of their group (paired t, Holm over all pairs of the board) share `tie_group`. `note` says why a rank is missing.

    Args:
        rows: the columns of `shiftbench.types.Row`; the patients are needed to compare methods with each other.

    Raises:
        OutputError: see `patient_table`.
    """
    boards: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in entries_of(patient_table(rows)):
        if entry.family not in UNRANKED_FAMILIES:
            boards.setdefault((entry.track, entry.backbone, entry.budget), []).append(entry)
    records: list[dict] = []
    for board, entries in sorted(boards.items()):
        labelled = board[0] in LABELLED_TRACKS
        families = sorted({entry.family for entry in entries})
        pooled = [family for family in families if labelled or family != Family.ANNOTATION]
        sections = [
            ([family], family, "" if family in pooled else "not ranked: no target labels") for family in families
        ]
        if pooled:
            sections.append((pooled, OVERALL, ""))
        head = dict(zip(("track", *RUN), board, strict=True))
        for members, family, note in sections:
            chosen = [entry for entry in entries if entry.family in members]
            records += [head | {"family": family} | line for line in _board(chosen, note)]
    return pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64", "rank": "Int64", "tie_group": "Int64"})


def _board(entries: Sequence[Entry], note: str) -> list[dict]:
    """Lines of one family (or of all) of one leaderboard, best first."""
    places = {(entry.family, *entry.place) for entry in entries}
    weights = _target_weights(places)
    methods: dict[tuple, dict[tuple, Entry]] = {}
    for entry in entries:
        methods.setdefault((entry.method, entry.k), {})[(entry.family, *entry.place)] = entry
    lines, ranked = [], {}
    for (method, k), own in methods.items():
        interval = pooled_interval([e.scores for e in own.values()], [weights[place] for place in own])
        reason = note or _unranked(own, places)
        if not reason:
            ranked[method, k] = own
        line = {"method": method, "k": k} | limits("dsc", interval) | {"n_targets": len(own), "note": reason}
        lines.append(line | {"rank": None, "tie_group": None})
    lines.sort(key=lambda line: (-line["dsc"], line["method"], line["k"] or 0))
    contenders = [line for line in lines if (line["method"], line["k"]) in ranked]
    p = _pairwise_p(ranked, weights)
    for line, group in zip(contenders, _tie_groups([(c["method"], c["k"]) for c in contenders], p), strict=True):
        line["rank"] = 1 + sum(other["dsc"] > line["dsc"] for other in contenders)
        line["tie_group"] = group
    return lines


def _target_weights(places: set[tuple]) -> dict[tuple, float]:
    """Families weigh the same, and so do the targets within one; a place begins with its family."""
    families = [place[0] for place in places]
    return {place: 1.0 / (len(set(families)) * families.count(place[0])) for place in places}


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


def _pairwise_p(methods: Mapping[tuple, Mapping[tuple, Entry]], weights: Mapping[tuple, float]) -> dict:
    """Holm-adjusted two-sided p of each pair of methods (1 where two share no seed)."""
    names = sorted(methods, key=str)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    p = [_difference_p(methods[a], methods[b], weights) for a, b in pairs]
    return {frozenset(pair): value for pair, value in zip(pairs, holm(p), strict=True)}


def _difference_p(a: Mapping[tuple, Entry], b: Mapping[tuple, Entry], weights: Mapping[tuple, float]) -> float:
    tables, shares = [], []
    for place, entry in a.items():
        pair = matched(entry.scores, b[place].scores)
        if pair is None:
            return 1.0
        tables.append(pair[0] - pair[1])
        shares.append(weights[place])
    p = pooled_interval(tables, shares).p_differs()
    return 1.0 if p is None else p


def _tie_groups(order: Sequence[tuple], p: Mapping[frozenset, float]) -> list[int]:
    """Group of each method, best first: those that do not differ from the best one still without a group join it."""
    groups: dict[tuple, int] = {}
    for leader in order:
        if leader in groups:
            continue
        number = 1 + len(set(groups.values()))
        for name in order:
            if name not in groups and (name == leader or p[frozenset((leader, name))] >= CONSTANTS.tie_p):
                groups[name] = number
    return [groups[name] for name in order]
