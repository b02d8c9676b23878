"""How far features measured in predicted outlines can stand for those of the references: bias, limits, agreement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.errors import OutputError
from shiftbench.metrics.features import FORMULA, PREDICTED, PREFIX, REFERENCE
from shiftbench.rng import generator
from shiftbench.robustness.patients import ENTRY, limits, plain
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import Limits, ccc, icc_a1, limits_of_agreement, mean_interval, over_seeds
from shiftbench.types import BETWEEN_PATIENTS, FAILURES, Status

# The feature, the formula for it, and whether the formula gives its bias or its value.
FORMULAS: Mapping[str, tuple[str, bool]] = {"mean": ("mean_bias", True), "variance": ("variance_mixed", False)}
RESAMPLES = 1000  # of the bootstrap of several seeds, for each of many features
COLUMNS = (
    *(*ENTRY, "structure", "feature", "unit", "n_patients", "n_seeds", "conditional", "n_cases"),
    *("undetected_percent", "failed_percent", "contamination", "missed_share", "reference_mean", "reference_sd"),
    *("bias", "bias_low", "bias_high", "bias_in_sd", "predicted_bias", "residual", "correlation"),
    *("difference_sd", "lower", "lower_low", "lower_high", "upper", "upper_low", "upper_high"),
    *("ccc", "ccc_low", "ccc_high", "icc_a1", "icc_a1_low", "icc_a1_high"),
)
_CASE = [*ENTRY, "seed", "draw", "patient", "case", "structure"]
_WANTED = [*_CASE, "metric", "definition", "unit", "value", "status"]


def feature_agreement(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, target, structure and feature, from patients in whom the structure was found.

    The cases of a patient are averaged first. `bias` is the mean of predicted - reference, `bias_in_sd` is in standard
    deviations of the reference between patients, `reference_sd`, without which neither it nor `ccc` nor `icc_a1` can be
    compared between targets. `lower` and `upper` are the limits of agreement. Of the mean and the variance
    `predicted_bias` is what the contamination with background alone would make of them, `residual` what is left of the
    bias, and `correlation` that of the two over patients.

    All this is conditional on detection: `undetected_percent` and `failed_percent` of the cases have no value. With
    several seeds each statistic is the mean of those per seed. `ccc` and `icc_a1` then have bootstrap intervals over
    patients and seeds (see `stats.over_seeds`), the limits of agreement the means of their limits per seed.

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: two rows for the same thing.
    """
    table = outlines(rows)
    table = table[table[REFERENCE].notna()]
    mixed, keys = _formulas(rows), [*ENTRY, "structure", "feature"]
    counted = table.assign(missed=table["status"] == Status.MISSED, failed=table["status"].isin(FAILURES))
    counts = counted.groupby(keys, dropna=False, sort=False).agg(
        **{"n_cases": ("case", "nunique"), "missed": ("missed", "mean"), "failed": ("failed", "mean")}
    )
    paired = table.assign(paired=table[REFERENCE].where(table[PREDICTED].notna()))  # the same cases on both sides
    means = {"paired": "mean", PREDICTED: "mean", REFERENCE: "mean", "unit": "first"}
    patients = paired.groupby([*keys, "seed", "patient"], dropna=False, sort=False).agg(means).reset_index()
    numbers = {plain(key): values for key, *values in counts.itertuples(name=None)}
    records = []
    for key, own in patients.groupby(keys, dropna=False, sort=True):
        *who, feature = identity = plain(key)
        found = _Measured.of(own, *numbers[identity])
        head = dict(zip([*ENTRY, "structure"], who, strict=True))
        records.append(head | _agreement(found, mixed.get(tuple(who), {}), str(feature), str(tuple(who))))
    return pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})


def outlines(rows: pd.DataFrame, *, lesions: bool = False) -> pd.DataFrame:
    """Values of each feature in both outlines, `reference` and `predicted`, one row per seed, case and structure.

    Only where the method is applicable, outside streams and the impossible control, whose two outlines are of different
    patients. With `lesions` one row per lesion instead, with its `number` and the `detail` of its rows.

    Raises:
        OutputError: two rows for the same thing.
    """
    alone = outside_streams(rows)
    place = ["scenario", "target"]
    impossible = pd.MultiIndex.from_frame(alone.loc[alone["metric"] == BETWEEN_PATIENTS, place])
    definition = alone["definition"].astype(str)
    ours = alone["metric"].str.startswith(PREFIX) & (alone["status"] != Status.NOT_APPLICABLE)
    ours &= ~pd.MultiIndex.from_frame(alone[place]).isin(impossible)
    sides = []
    for side in (REFERENCE, PREDICTED):
        named = definition.str.startswith(f"{side}:") if lesions else definition == side
        chosen = alone.loc[ours & named, [*_WANTED, *(["detail"] if lesions else [])]]
        number = chosen["definition"].astype(str).str.removeprefix(f"{side}:") if lesions else ""
        one = chosen.assign(
            number=number, feature=chosen["metric"].str.removeprefix(PREFIX), value=chosen["value"].astype(float)
        )
        sides.append(one.rename(columns={"value": side}).drop(columns=["metric", "definition"]))
    keys = [*_CASE, "number", "feature"]
    first, second = sides
    for side in sides:
        if side.duplicated(keys).any():
            raise OutputError("two rows for the same feature of the same outline", remedy="score each result once")
    return first.merge(second[[*keys, PREDICTED]], on=keys, how="left", validate="one_to_one")


def _formulas(rows: pd.DataFrame) -> dict[tuple, dict[str, pd.DataFrame]]:
    """What the formulas say, by the identity of an entry and structure, as tables (seeds, patients) by name."""
    alone = outside_streams(rows)
    chosen = alone[alone["metric"].str.startswith(PREFIX) & (alone["definition"] == FORMULA)]
    key = [*ENTRY, "structure", "metric"]
    chosen = (
        chosen.astype({"value": float}).groupby([*key, "seed", "patient"], dropna=False, sort=False)["value"].mean()
    )
    found: dict[tuple, dict[str, pd.DataFrame]] = {}
    for who_and_what, own in chosen.reset_index().groupby(key, dropna=False, sort=False):
        *who, metric = plain(who_and_what)
        found.setdefault(tuple(who), {})[str(metric).removeprefix(PREFIX)] = _spread(own, "value")
    return found


@dataclass(frozen=True)
class _Measured:
    """A feature in both outlines: tables (seeds, patients), NaN where a patient has no pair, and what is missing."""

    predicted: pd.DataFrame
    reference: pd.DataFrame
    between: np.ndarray  # the reference's values (patients,), whether or not the structure was found
    unit: str
    n_cases: int
    undetected: float
    failed: float

    @staticmethod
    def of(rows: pd.DataFrame, n_cases: int, missed: float, failed: float) -> _Measured:
        """From one row per seed and patient, with the number of cases and the shares of them without a value."""
        return _Measured(
            predicted=_spread(rows, PREDICTED),
            reference=_spread(rows, "paired"),
            between=_spread(rows, REFERENCE).mean().to_numpy(float),
            unit=str(rows["unit"].iloc[0]),
            n_cases=int(n_cases),
            undetected=100 * float(missed),
            failed=100 * float(failed),
        )


def _spread(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """One value per seed and patient as a table (seeds, patients), NaN where there is none."""
    seeds, i = np.unique(rows["seed"], return_inverse=True)
    patients, j = np.unique(rows["patient"].astype(str), return_inverse=True)
    values = np.full((len(seeds), len(patients)), np.nan)
    values[i, j] = rows[column]
    return pd.DataFrame(values, index=seeds, columns=patients)


def _agreement(found: _Measured, formulas: Mapping[str, pd.DataFrame], feature: str, name: str) -> dict[str, Any]:
    spread = float(found.between.std(ddof=1)) if found.between.size > 1 else None
    record: dict[str, Any] = {"feature": feature, "unit": found.unit, "n_cases": found.n_cases}
    record |= {"undetected_percent": found.undetected, "failed_percent": found.failed}
    record |= {"reference_mean": float(found.between.mean()), "reference_sd": spread}
    record |= {part: _mean(formulas.get(part)) for part in ("contamination", "missed_share")}
    first, second = found.predicted.to_numpy(float), found.reference.to_numpy(float)
    if not np.isfinite(first - second).any():
        return record | {"n_patients": 0, "n_seeds": len(first), "conditional": len(first) == 1}
    bias = mean_interval(first - second)
    record |= limits("bias", bias) | _formula_columns(found, formulas, feature)
    record["n_patients"] = int(np.isfinite(first - second).any(axis=0).sum())
    record["bias_in_sd"] = bias.mean / spread if spread else None
    for column, coefficient in (("ccc", ccc), ("icc_a1", icc_a1)):
        rng = generator(0, "radiomics", column, feature, name)
        agreed = over_seeds(coefficient, first, second, rng=rng, resamples=RESAMPLES)
        ends = (None, None, None) if agreed is None else (agreed.estimate, agreed.low, agreed.high)
        record |= dict(zip((column, f"{column}_low", f"{column}_high"), ends, strict=True))
    return record | _limit_columns(first, second)


def _formula_columns(found: _Measured, formulas: Mapping[str, pd.DataFrame], feature: str) -> dict[str, float | None]:
    """What contamination alone predicts, on the patients and seeds that have it."""
    part, is_bias = FORMULAS.get(feature, ("", True))
    if part not in formulas:
        return {}
    said = formulas[part].reindex_like(found.predicted)
    predicted = said if is_bias else said - found.reference
    observed = found.predicted - found.reference
    both = np.isfinite(predicted.to_numpy(float)) & np.isfinite(observed.to_numpy(float))
    x, y = predicted.to_numpy(float)[both], observed.to_numpy(float)[both]
    if not x.size:
        return {}
    known = x.size > 2 and x.std() > 0 and y.std() > 0
    correlation = float(np.corrcoef(x, y)[0, 1]) if known else None
    return {"predicted_bias": float(x.mean()), "residual": float((y - x).mean()), "correlation": correlation}


def _limit_columns(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """Limits of agreement, means over the seeds that have two patients or more."""
    has = np.isfinite(first - second)
    per_seed = [limits_of_agreement(a[h], b[h]) for a, b, h in zip(first, second, has, strict=True) if h.sum() > 1]
    known = [one for one in per_seed if isinstance(one, Limits)]
    if not known:
        return {}
    columns = {"difference_sd": float(np.mean([one.sd for one in known]))}
    for name in ("lower", "upper"):
        ends = np.mean([getattr(one, name) for one in known], axis=0)
        columns |= dict(zip((name, f"{name}_low", f"{name}_high"), map(float, ends), strict=True))
    return columns


def _mean(table: pd.DataFrame | None) -> float | None:
    values = np.array([]) if table is None else table.to_numpy(float)
    return float(np.nanmean(values)) if np.isfinite(values).any() else None
