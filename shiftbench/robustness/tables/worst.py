"""The bad end: the worst target with the bias of having chosen it, the worst patients, and how often a model fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.headline import LABELLED_TRACKS, OVERALL, UNRANKED_FAMILIES
from shiftbench.robustness.patients import RUN, Entry, bounds
from shiftbench.robustness.streams import entries_alone
from shiftbench.stats import (
    RESAMPLES,
    Interval,
    drawn_shares,
    mean_interval,
    pooled_interval,
    share_interval,
    weighted_quantile,
)
from shiftbench.types import Family

Draws = dict[tuple, np.ndarray]
TARGET = "target"
COLUMNS = (
    *("track", *RUN, "scope", "method", "k", "scenario", "source", "target", "n_targets"),
    *("worst_scenario", "worst_target", "worst", "worst_low", "worst_high", "selection_bias", "chosen_again_percent"),
    *("cvar", "cvar_low", "cvar_high", "p5", "failure_percent", "failure_percent_low", "failure_percent_high"),
    *("n_patients", "n_seeds", "conditional", "seed_limited"),
)


def worst(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target (`scope` "target"), and over the targets of each shift family and overall.

    - `worst`: the lowest of the means of the targets, for scopes of several. Its limits are percentiles over patients
      crossed with seeds in which the lowest is sought anew each time. The lowest of several means is below the mean of
      the target that is truly worst even where all are equal: `selection_bias` is how far the lowest falls on average
      when it is sought again (mean of the resampled lowest minus `worst`, at most 0 but for noise), and
      `chosen_again_percent` how often the same target is the lowest. `worst` is not corrected, and nothing is ranked
      by it.
    - `cvar`: conditional value at risk, the mean of the lowest `CONSTANTS.tail` of the patients' scores of a trained
      model, averaged over seeds; with the interval of its linearisation. `p5`: the 5th percentile, likewise, without
      an interval, which bootstraps of quantiles do not give.
    - `failure_percent`: share of patients with a score below `CONSTANTS.failure`, averaged over seeds, with Wilson's
      interval for the number of different patients. The score is the mean over the structures of a patient;
      `detection` counts failures of each structure.

    Over several targets the patients of a target share its weight; targets weigh the same within a family, families
    the same overall. Controls and faults have rows of their own as targets alone, and annotation targets enter
    "overall" only with target labels.

    Raises:
        OutputError: see `patient_table`.
    """
    methods: dict[tuple, list[Entry]] = {}
    for entry in entries_alone(rows):
        who = (entry.track, entry.backbone, entry.budget, entry.method, entry.k)
        methods.setdefault(who, []).append(entry)
    draws: Draws = {}
    records = []
    for who, own in methods.items():
        head = dict(zip(("track", *RUN, "method", "k"), who, strict=True))
        for entry in own:
            place = {"scope": TARGET, "scenario": entry.scenario, "source": entry.source, "target": entry.target}
            records.append(head | place | _tail([entry], [1.0]))
        ranked = [e for e in own if e.family not in UNRANKED_FAMILIES]
        labelled = who[0] in LABELLED_TRACKS
        scopes = {str(family): [e for e in ranked if e.family == family] for family in {e.family for e in ranked}}
        scopes[OVERALL] = [e for e in ranked if labelled or e.family != Family.ANNOTATION]
        for scope, chosen in scopes.items():
            if chosen:
                records.append(head | {"scope": scope} | _tail(chosen, _weights(chosen)) | _worst(chosen, draws))
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    order = [*RUN, "track", "scope", "scenario", "target", "method", "k"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def _weights(entries: Sequence[Entry]) -> list[float]:
    families = [entry.family for entry in entries]
    return [1.0 / (len(set(families)) * families.count(family)) for family in families]


def _tail(entries: Sequence[Entry], weights: Sequence[float]) -> dict:
    """Lowest patients and failures over some targets, whose patients share the target's weight."""
    tables = [entry.scores for entry in entries]
    known = [table.to_numpy(float)[table.notna().to_numpy()] for table in tables]
    failures = [float((scores < CONSTANTS.failure).mean()) for scores in known]
    patients = len({patient for table in tables for patient in table.columns})
    share = min(1.0, float(np.average(failures, weights=weights)))
    failed = share_interval(patients * share, patients)
    cvar, quantile = _lowest(tables, weights)
    of_units = {"n_patients": patients, "n_seeds": cvar.n_seeds, "conditional": cvar.n_seeds == 1}
    return (
        {"n_targets": len(entries), "seed_limited": cvar.n_seeds < 5}
        | bounds("cvar", cvar)
        | {"p5": quantile}
        | bounds("failure_percent", failed, 100.0)
        | of_units
    )


def _lowest(tables: Sequence[pd.DataFrame], weights: Sequence[float]) -> tuple[Interval, float]:
    """CVaR with its interval, and the 5th percentile.

    With q the quantile at the share a of a seed's scores y, the mean of q - max(q - y, 0) / a is its CVaR, and moves
    with q in second order only (Rockafellar, Uryasev, J Risk 2, 2000): so these values have its variance.
    """
    parts = [pd.DataFrame(np.nan, index=table.index, columns=table.columns) for table in tables]
    fifth = []
    for seed in sorted({seed for table in tables for seed in table.index}):
        places = [(i, table.index.get_loc(seed)) for i, table in enumerate(tables) if seed in table.index]
        scores = [tables[i].to_numpy(float)[row] for i, row in places]
        mass = [np.full(y.size, weights[i] / np.isfinite(y).sum()) for (i, _), y in zip(places, scores, strict=True)]
        pooled, shares = np.concatenate(scores), np.concatenate(mass)
        at = _quantile(pooled, shares, CONSTANTS.tail)
        fifth.append(_quantile(pooled, shares, 0.05))
        for (i, row), y in zip(places, scores, strict=True):
            parts[i].iloc[row] = at - np.maximum(at - y, 0.0) / CONSTANTS.tail
    found = mean_interval(parts[0]) if len(parts) == 1 else pooled_interval(parts, weights)
    return found, float(np.mean(fifth))


def _quantile(values: np.ndarray, mass: np.ndarray, share: float) -> float:
    """The smallest of the known values (n,) whose share of the mass (n,) and of all below it reaches `share`."""
    known = np.isfinite(values)
    weights = mass[known] / mass[known].sum()
    return float(weighted_quantile(values[known], weights[None], share)[0])


def _worst(entries: Sequence[Entry], draws: Draws) -> dict:
    """The worst of several targets; without limits where one patient or no common seed leaves nothing to resample."""
    means = [float(np.nanmean(entry.scores.to_numpy())) for entry in entries]
    lowest = int(np.argmin(means))
    record: dict[str, Any] = {
        "worst_scenario": entries[lowest].scenario,
        "worst_target": entries[lowest].target,
        "worst": means[lowest],
    }
    tables = _on_common_seeds([entry.scores.dropna(axis=1) for entry in entries])
    if len(entries) < 2 or any(table.shape[0] < 1 or table.shape[1] < 2 for table in tables):
        return record
    sample = np.stack([_resampled_mean(table, draws) for table in tables], axis=1)  # (b, targets)
    again = sample.min(axis=1)
    low, high = np.quantile(again, [0.025, 0.975])
    return record | {
        "worst_low": float(low),
        "worst_high": float(high),
        "selection_bias": float(again.mean()) - min(float(table.to_numpy().mean()) for table in tables),
        "chosen_again_percent": 100.0 * float((sample.argmin(axis=1) == lowest).mean()),
    }


def _on_common_seeds(tables: Sequence[pd.DataFrame]) -> list[pd.DataFrame]:
    seeds = tables[0].index
    for table in tables[1:]:
        seeds = seeds.intersection(table.index)
    return [table.loc[seeds] for table in tables]


def _resampled_mean(table: pd.DataFrame, draws: Draws) -> np.ndarray:
    """Means (b,) of the scores over resampled patients crossed with resampled seeds."""
    seeds, patients = _draw("seeds", table.index, draws), _draw("patients", table.columns, draws)
    return ((patients @ table.to_numpy(float).T) * seeds).sum(axis=1)


def _draw(what: str, names: pd.Index, draws: Draws) -> np.ndarray:
    """Weights (b, names) of the resamples of these seeds or patients; everyone who asks gets the same draw."""
    key = (what, *names)
    if key not in draws:
        rng = generator(0, "worst", what, *map(str, names))
        draws[key] = drawn_shares(len(names), resamples=RESAMPLES, rng=rng)
    return draws[key]
