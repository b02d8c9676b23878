"""Per structure: is it found, how far off is what was found, and what is drawn where there is nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.metrics.scorers import METRICS
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import ENTRY, bounds, is_negative, plain, rows_of
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import Interval, mean_interval, share_interval
from shiftbench.types import FAILURES, Status

DISTANCES = ("hd95_mm", "assd_mm")
OVERLAPS = ("nsd",)
QUANTILES = {"median": 0.5, "p95": 0.95}
UNSCORED = (Status.NOT_APPLICABLE, Status.CLASS_NOT_ANNOTATED)
_KEYS = [*ENTRY, "structure"]
Records = dict[tuple, dict[str, Any]]


def _columns() -> tuple[str, ...]:
    parts = [*_KEYS, "n_patients", "n_seeds", "n_positive", "n_missed", "n_failed"]
    parts += _of_share("detected_percent") + _of_share("failure_percent")
    for metric in (*OVERLAPS, *DISTANCES):
        for definition in METRICS[metric].definitions:
            name = f"{metric}_{definition}"
            parts += _of_share(name) + ([f"{name}_{quantile}" for quantile in QUANTILES] if metric in DISTANCES else [])
    parts += ["distance_unit", "n_negative", *_of_share("false_positive_percent")]
    return (*parts, "false_positive_volume", "n_false_positive_volume", "volume_unit")


def _of_share(name: str) -> list[str]:
    return [name, f"{name}_low", f"{name}_high"]


def detection(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, target and structure.

    Where the structure is in the reference (`n_positive` predictions):

    - `detected_percent`: share of the structures that were neither missed nor failed, and `failure_percent`: share
      with a DSC below `CONSTANTS.failure` (a missed or failed one among them), averaged over the cases of a patient
      and over seeds, with Wilson's interval for the number of patients;
    - `nsd_S`, `nsd_V`: mean over patients, missed and failed structures 0;
    - `hd95_mm_S` and so on: mean over patients of the structures that were detected: to be read beside the detection
      rate alone, since a method that misses the hard ones looks better. `_median` and `_p95` are over all patients and
      seeds, where a missed or failed structure is infinitely far off: the upper of two neighbouring values.

    Where it is not (`n_negative` predictions): `false_positive_percent`, the share of the predictions that draw it all
    the same (or failed), and `false_positive_volume`, the mean volume drawn in the `n_false_positive_volume` of them
    whose volume was scored. Units are those of the rows (`distance_unit`, `volume_unit`).

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: two rows for the same thing, or columns are missing.
    """
    alone = outside_streams(rows)
    found: Records = {}
    _add_detected(found, alone)
    for metric in (*OVERLAPS, *DISTANCES):
        for definition in METRICS[metric].definitions:
            if ((alone["metric"] == metric) & (alone["definition"] == definition)).any():
                _add_scores(found, alone, metric, definition)
    _add_negatives(found, alone)
    table = pd.DataFrame([dict(zip(_KEYS, key, strict=True)) | record for key, record in found.items()])
    numbers = [name for name in _columns() if name not in (*_KEYS, "distance_unit", "volume_unit")]
    kinds = {name: "Int64" if name.startswith("n_") else "float" for name in numbers}
    table = table.reindex(columns=[*_columns()]).astype({"k": "Int64"} | kinds)
    return table.sort_values(_KEYS, kind="stable", ignore_index=True)


def _scored(rows: pd.DataFrame, metric: str, definition: str | None = None) -> pd.DataFrame:
    """Rows of a metric that count, with `negative`, `failed` and `lost` (missed or failed)."""
    chosen = rows_of(rows, metric, definition)
    chosen = chosen.assign(negative=is_negative(chosen))
    chosen = chosen[~chosen["status"].isin(UNSCORED)]
    failed = chosen["status"].isin(FAILURES)
    return chosen.assign(failed=failed, lost=failed | (chosen["status"] == Status.MISSED))


def _tables(rows: pd.DataFrame, value: str) -> dict[tuple, pd.DataFrame]:
    """Method, target and structure to the mean of `value` over cases, (seeds, patients)."""
    means = rows.groupby([*_KEYS, "seed", "patient"], dropna=False)[value].mean()
    by_method = means.groupby(level=list(range(len(_KEYS))), dropna=False, sort=False)
    return {plain(key): own.droplevel(list(range(len(_KEYS)))).unstack() for key, own in by_method}


def _share(table: pd.DataFrame) -> Interval:
    """Share over seeds and patients with Wilson's interval for the patients."""
    n = table.shape[1]
    return share_interval(n * min(1.0, float(np.nanmean(table.to_numpy(float)))), n)


def _add_detected(found: Records, rows: pd.DataFrame) -> None:
    scored = _scored(rows, "dsc")
    positive = scored[~scored["negative"]]
    value = positive["value"].mask(positive["lost"], 0.0)
    positive = positive.assign(detected=~positive["lost"], failure=value < CONSTANTS.failure)
    counts = positive.groupby(_KEYS, dropna=False).agg(
        n=("lost", "size"), lost=("lost", "sum"), failed=("failed", "sum")
    )
    failures = _tables(positive, "failure")
    for key, table in _tables(positive, "detected").items():
        found[key] = {"n_patients": table.shape[1], "n_seeds": table.shape[0]}
        found[key] |= bounds("detected_percent", _share(table), 100.0)
        found[key] |= bounds("failure_percent", _share(failures[key]), 100.0)
    for key, count in zip(counts.index, counts.itertuples(index=False), strict=True):
        numbers = {"n_positive": count.n, "n_missed": count.lost - count.failed, "n_failed": count.failed}
        found[plain(key)] |= {name: int(number) for name, number in numbers.items()}


def _add_scores(found: Records, rows: pd.DataFrame, metric: str, definition: str) -> None:
    """Mean and, of a distance, quantiles of a metric over the positive cases."""
    scored = _scored(rows, metric, definition)
    positive = scored[~scored["negative"]]
    worst = METRICS[metric].worst
    positive = positive.assign(value=positive["value"].mask(positive["lost"], worst))
    distance, name = metric in DISTANCES, f"{metric}_{definition}"
    entering = positive[~positive["lost"]] if distance else positive
    for key, table in _tables(entering, "value").items():
        found.setdefault(key, {}).update(bounds(name, mean_interval(table)))
    if not distance:
        return
    infinite = positive.assign(value=positive["value"].fillna(np.inf))
    units = {plain(key): str(unit) for key, unit in positive.groupby(_KEYS, dropna=False)["unit"].first().items()}
    for key, table in _tables(infinite, "value").items():
        values = table.to_numpy(float)
        values = values[~np.isnan(values)]
        quantiles = np.quantile(values, list(QUANTILES.values()), method="higher")
        found[key] |= {f"{name}_{q}": float(v) for q, v in zip(QUANTILES, quantiles, strict=True)}
        found[key] |= {"distance_unit": units[key]}


def _add_negatives(found: Records, rows: pd.DataFrame) -> None:
    scored = _scored(rows, "dsc")
    negative = scored[scored["negative"]]
    negative = negative.assign(drawn=negative["status"] != Status.BOTH_EMPTY)
    sizes = negative.groupby(_KEYS, dropna=False).size()
    n_of: Mapping[tuple, int] = {plain(key): int(n) for key, n in sizes.items()}
    for key, table in _tables(negative, "drawn").items():
        found.setdefault(key, {}).update(bounds("false_positive_percent", _share(table), 100.0))
        found[key] |= {"n_negative": n_of[key]}
    volumes = _scored(rows, "volume_error_ml")
    drawn = volumes[volumes["negative"] & (volumes["status"] == Status.FP_ON_NEGATIVE) & volumes["value"].notna()]
    for key, own in drawn.groupby(_KEYS, dropna=False):
        found[plain(key)] |= {"false_positive_volume": float(own["value"].mean()), "volume_unit": own["unit"].iloc[0]}
        found[plain(key)] |= {"n_false_positive_volume": len(own)}
