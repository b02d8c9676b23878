"""From rows to one score per patient, with the rules on what a status counts as and who may be ranked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shiftbench.errors import OutputError
from shiftbench.metrics.case import REFERENCE_EMPTY
from shiftbench.metrics.scorers import CALIBRATION_SCORERS, METRICS
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.stats import Interval, paired_difference
from shiftbench.types import FAILURES, Status

RUN = ["backbone", "budget"]
TARGET = ["scenario", "source", "target", "family", "operator", "level"]
METHOD = ["track", "method", "k"]
ENTRY = [*RUN, *TARGET, *METHOD]
_SHIFT = ["level_value", "level_unit"]
_NEEDED = [*ENTRY, *_SHIFT, "seed", "draw", "case", "patient", "structure", "metric", "definition", "value", "status"]
_CASE = ["scenario", "source", "target", "operator", "level", "case", "structure"]
_NEGATIVE = (Status.BOTH_EMPTY, Status.FP_ON_NEGATIVE)


@dataclass(frozen=True)
class Entry:
    """One method on one target: `scores` has seeds as index and patients as columns."""

    backbone: str
    budget: str
    scenario: str
    source: str
    target: str
    family: str
    operator: str | None
    level: float | None
    track: str
    method: str
    k: float | None
    scores: pd.DataFrame
    ranked: bool
    value: float | None
    unit: str | None

    @property
    def place(self) -> tuple:
        """Key of the target, within a backbone and budget."""
        return (self.scenario, self.source, self.target, self.operator, self.level)

    @property
    def identity(self) -> tuple:
        """The values of the columns `ENTRY`."""
        return tuple(getattr(self, name) for name in ENTRY)

    @property
    def is_source_test(self) -> bool:
        """Whether the target is the source's own test set."""
        return self.target == self.source


def patient_table(rows: pd.DataFrame, metric: str = "dsc", definition: str | None = None) -> pd.DataFrame:
    """Score of each patient: mean over the structures of a case, then over the cases of the patient.

    Only structures with a non-empty reference enter. The status decides the value: a failure has the metric's worst
    value, whatever is written beside it, and so has a missed structure in a metric of masks. A method with
    `not_applicable` rows for cases that others have is `ranked` False.

    Args:
        rows: the columns of `shiftbench.types.Row`.
        metric: one whose worst value is finite, as of "dsc", "nsd", "pq" or "brier".
        definition: of the metric; the primary one if None.

    Returns:
        One row per backbone, budget, target, method, seed, draw and patient, with `score` and `ranked`.

    Raises:
        ValueError: the metric is not bounded, so that a failure has no value in a mean.
        OutputError: two rows for the same thing, a row without a value, or methods with unequal case sets.
    """
    worst = METRICS[metric].worst
    if worst is None or not math.isfinite(worst):
        raise ValueError(f"'{metric}' has no worst value that a mean can hold; use dsc, nsd or pq")
    scored = _positive(rows_of(rows, metric, definition), worst, of_masks=metric not in CALIBRATION_SCORERS)
    _refuse_unequal_case_sets(scored[scored["ranked"]])
    keys = [*ENTRY, "seed", "draw", "patient"]
    mean_of = {"score": "mean", "ranked": "first", **dict.fromkeys(_SHIFT, "first")}
    cases = scored.groupby([*keys, "case"], dropna=False, sort=False).agg(mean_of).reset_index()
    return cases.groupby(keys, dropna=False).agg(mean_of).reset_index()


def rows_of(rows: pd.DataFrame, metric: str, definition: str | None = None) -> pd.DataFrame:
    """Rows of one metric in one definition (the primary one if None), one per thing scored, in an order of its own."""
    missing = set(_NEEDED) - set(rows.columns)
    if missing:
        raise OutputError(f"rows without the columns {', '.join(sorted(missing))}", remedy="give the rows of a run")
    chosen = rows[(rows["metric"] == metric) & (rows["definition"] == (definition or METRICS[metric].definition))]
    chosen = chosen.astype({"level": float, "k": float, "value": float})
    chosen = chosen.sort_values(["draw", "case", "structure"], kind="stable")  # sums that do not depend on the order
    key = [*ENTRY, "seed", "draw", "case", "structure"]
    twice = chosen.duplicated(key)
    if twice.any():
        first = chosen[twice].iloc[0]
        where = ", ".join(f"{name} {first[name]}" for name in ("scenario", "target", "method", "seed", "case"))
        raise OutputError(f"two rows of {metric} for {where}", remedy="score each result once")
    return chosen


def _positive(rows: pd.DataFrame, worst: float, *, of_masks: bool) -> pd.DataFrame:
    """Rows whose reference is non-empty, with `score` by status and `ranked`."""
    status, failed = rows["status"], rows["status"].isin(FAILURES)
    applicable = status != Status.NOT_APPLICABLE
    by_case = [rows[name] for name in (*RUN, *_CASE, "seed")]
    by_method = [rows[name] for name in ENTRY]
    others_have_it = applicable.groupby(by_case, dropna=False).transform("any")
    lacking = (~applicable & others_have_it).groupby(by_method, dropna=False).transform("any")
    nothing = failed | (status == Status.MISSED) if of_masks else failed
    scored = rows.assign(score=rows["value"].mask(nothing, worst), ranked=~lacking)
    scored = scored[~is_negative(rows) & applicable & (status != Status.CLASS_NOT_ANNOTATED)]
    if scored["score"].isna().any():
        first = scored[scored["score"].isna()].iloc[0]
        raise OutputError(
            f"status '{first['status']}' without a value: method '{first['method']}', case {first['case']}"
        )
    return scored


def is_negative(rows: pd.DataFrame) -> pd.Series:
    """Whether a scored row's reference is empty, so that it enters no mean.

    A failure says nothing about the reference, but its detail does, and so do the rows of the same case.
    """
    shown_empty = rows["status"].isin(_NEGATIVE)
    known_empty = shown_empty.groupby([rows[name] for name in _CASE], dropna=False).transform("any")
    failed = rows["status"].isin(FAILURES)
    return shown_empty | (failed & (known_empty | _detail(rows).str.contains(REFERENCE_EMPTY)))


def _detail(rows: pd.DataFrame) -> pd.Series:
    return rows["detail"].fillna("").astype(str) if "detail" in rows else pd.Series("", index=rows.index)


def _refuse_unequal_case_sets(scored: pd.DataFrame) -> None:
    group = [*RUN, *TARGET, "seed"]
    own = scored.groupby([*group, *METHOD, "draw"], dropna=False).size().reset_index(name="own")
    scores = scored[[*group, "case", "structure"]].drop_duplicates()
    short = own.merge(scores.groupby(group, dropna=False).size().reset_index(name="all"), on=group)
    short = short[short["own"] < short["all"]]
    if len(short):
        first = short.iloc[0]
        raise OutputError(
            f"unequal case sets: method '{first['method']}' has {first['own']} of {first['all']} case and structure"
            f" pairs of target '{first['target']}' in scenario '{first['scenario']}', seed {first['seed']}",
            remedy="finish the run; methods are ranked on the same cases only",
        )


def entries_of(patients: pd.DataFrame) -> list[Entry]:
    """Entries in the order of their keys; the draws of a few-shot method are averaged within each seed."""
    grouped = patients.groupby(ENTRY, dropna=False, sort=True)
    score = patients["score"].to_numpy(float)
    seeds, seed_names = pd.factorize(patients["seed"], sort=True)
    people, people_names = pd.factorize(patients["patient"], sort=True)
    ranked, value, unit = (patients[name].to_numpy() for name in ("ranked", *_SHIFT))
    entries = []
    for key, index in grouped.indices.items():
        first = index[0]
        rows, row = np.unique(seeds[index], return_inverse=True)
        columns, column = np.unique(people[index], return_inverse=True)
        cell, size = row * len(columns) + column, (len(rows), len(columns))
        count = np.bincount(cell, minlength=size[0] * size[1])
        total = np.bincount(cell, score[index], minlength=size[0] * size[1])
        with np.errstate(invalid="ignore"):  # a seed that has not a patient: 0 / 0
            table = (total / count).reshape(size)
        entries.append(
            Entry(
                **dict(zip(ENTRY, plain(key), strict=True)),
                scores=pd.DataFrame(
                    table, pd.Index(seed_names[rows], name="seed"), pd.Index(people_names[columns], name="patient")
                ),
                ranked=bool(ranked[first]),
                value=plain([value[first]])[0],
                unit=plain([unit[first]])[0],
            )
        )
    return entries


def plain(values: Sequence) -> tuple:
    """NaN, which equals nothing, as None, so that keys can be compared."""
    return tuple(None if pd.isna(value) else value for value in values)


def matched(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Both tables on the seeds that they share, or None where they share no seed or have other patients."""
    if a.index.equals(b.index) and a.columns.equals(b.columns):
        return a, b
    seeds = a.index.intersection(b.index)
    if not len(seeds) or set(a.columns) != set(b.columns):
        return None
    return a.loc[seeds], b.loc[seeds, a.columns]


def gains_of(entries: Sequence[Entry]) -> dict[tuple, Interval]:
    """Identity of each entry to its paired difference to source-only; none for itself and where the patients differ."""
    source_only = {(e.backbone, e.budget, *e.place): e for e in entries if e.method == SOURCE_ONLY}
    gains: dict[tuple, Interval] = {}
    for entry in entries:
        base = source_only.get((entry.backbone, entry.budget, *entry.place))
        pair = matched(entry.scores, base.scores) if base is not None and entry.method != SOURCE_ONLY else None
        if pair is not None:
            gains[entry.identity] = paired_difference(*pair)
    return gains


def known_means(rows: pd.DataFrame, metric: str, definition: str | None = None) -> dict[tuple, float]:
    """Identity of each entry to the mean over patients of the values that there are."""
    chosen = rows_of(rows, metric, definition).dropna(subset="value")
    if chosen.empty:
        return {}
    by_patient = chosen.assign(score=chosen["value"], ranked=True).groupby(
        [*ENTRY, "seed", "patient"], dropna=False, sort=False
    )
    patients = by_patient.agg({"score": "mean", "ranked": "first", "level_value": "first", "level_unit": "first"})
    return {e.identity: float(e.scores.mean(axis=None)) for e in entries_of(patients.reset_index())}


def limits(name: str, interval: Interval) -> dict:
    """The columns of an interval: the mean as `name`, its limits, and what they rest on."""
    return bounds(name, interval) | {
        "n_patients": interval.n_patients,
        "n_seeds": interval.n_seeds,
        "conditional": interval.conditional,
    }


def bounds(name: str, interval: Interval | None, factor: float = 1.0) -> dict:
    """The columns `name`, `name_low` and `name_high`, empty where there is no interval."""
    values = (None, None, None) if interval is None else (interval.mean, interval.low, interval.high)
    scaled = [None if value is None else value * factor for value in values]
    return dict(zip((name, f"{name}_low", f"{name}_high"), scaled, strict=True))
