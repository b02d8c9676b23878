"""What happens to each method on each target: drop, oracle gap, recovered share, harm, audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS, ORACLE, SOURCE_ONLY
from shiftbench.robustness.patients import (
    ENTRY,
    RUN,
    Entry,
    bounds,
    entries_of,
    is_negative,
    limits,
    matched,
    patient_table,
    plain,
    rows_of,
)
from shiftbench.stats import holm, mean_interval, paired_difference, share_interval, unpaired_difference
from shiftbench.types import FAILURES, Family, Status

_COUNTED = (Status.OK, Status.MISSED, Status.FP_ON_NEGATIVE, Status.BOTH_EMPTY, Status.NOT_APPLICABLE)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target: mean DSC, drop, oracle gap, recovered share, harm and status counts.

    `drop` is source-only on the source test minus the method on the target: paired where these are the same patients,
    Welch's where they are not. `gap` is oracle minus source-only on the target; `recovered_percent` is
    (method - source-only) / (oracle - source-only) as a ratio of means, given only where the lower bound of the gap
    exceeds `CONSTANTS.gap_floor` (`gap_status` says "ok", "no gap" or "no oracle"). `harmed_percent` is the share of
    patients who lose more than `CONSTANTS.harm` against source-only of the same seed; `harmed_by_reseeding_percent` is
    that share for source-only against source-only of another seed. `audit` marks a method above the oracle.
    `negative_cases` counts the structures of the cases whose reference is empty, each prediction once, and
    `false_positives` those of them with a prediction that is not empty or failed; they enter no mean.

    Raises:
        OutputError: see `patient_table`.
    """
    entries = entries_of(patient_table(rows))
    nsd = _nsd_means(rows)
    counts = _status_counts(rows)
    peers = {(e.backbone, e.budget, *e.place, e.method): e for e in entries}
    sources = {(e.backbone, e.budget, e.scenario, e.source): e for e in entries if _is_source_reference(e)}
    records, above = [], []
    for entry in entries:
        place = (entry.backbone, entry.budget, *entry.place)
        source_only, oracle = peers.get((*place, SOURCE_ONLY)), peers.get((*place, ORACLE))
        record = _described(entry) | limits("dsc", mean_interval(entry.scores))
        record |= {"nsd": nsd.get(entry.identity), "ranked": entry.ranked}
        record |= _drop(entry, sources.get((entry.backbone, entry.budget, entry.scenario, entry.source)))
        record |= _recovery(entry, source_only, oracle) | _harm(entry, source_only)
        records.append(record | counts.pop(entry.identity, {}))
        above.append(_above_oracle(entry, oracle))
    records += [dict(zip(ENTRY, key, strict=True)) | {"ranked": False} | found for key, found in counts.items()]
    table = _audited(pd.DataFrame(records), above).astype({"k": "Int64"})
    return table.sort_values(ENTRY, kind="stable", ignore_index=True)


def _nsd_means(rows: pd.DataFrame) -> dict[tuple, float]:
    if not (rows["metric"] == "nsd").any():
        return {}
    return {e.identity: float(np.nanmean(e.scores.to_numpy())) for e in entries_of(patient_table(rows, "nsd"))}


def _is_source_reference(entry: Entry) -> bool:
    return entry.method == SOURCE_ONLY and entry.is_source_test


def _described(entry: Entry) -> dict:
    return dict(zip(ENTRY, entry.identity, strict=True)) | {"level_value": entry.value, "level_unit": entry.unit}


def _drop(entry: Entry, source: Entry | None) -> dict:
    if source is None:
        return bounds("drop", None) | {"drop_paired": None}
    patients = entry.scores.columns
    # A level may be beyond the reach of some patients: the others are compared with themselves.
    within = entry.family != Family.REAL and patients.isin(source.scores.columns).all()
    pair = matched(source.scores[patients], entry.scores) if within else None
    interval = paired_difference(*pair) if pair else unpaired_difference(source.scores, entry.scores)
    return bounds("drop", interval) | {"drop_paired": pair is not None}


def _recovery(entry: Entry, source_only: Entry | None, oracle: Entry | None) -> dict:
    """Oracle gap and recovered share; the interval of the ratio is that of its linearisation."""
    blank = bounds("gap", None) | bounds("recovered_percent", None)
    pair = matched(oracle.scores, source_only.scores) if oracle and source_only else None
    if pair is None:
        return blank | {"gap_status": "no oracle"}
    best, base = pair
    gap = paired_difference(best, base)
    if gap.low is None or gap.low <= CONSTANTS.gap_floor:
        return blank | bounds("gap", gap) | {"gap_status": "no gap"}
    record = blank | bounds("gap", gap) | {"gap_status": "ok"}
    pair = matched(entry.scores, base)
    if pair is None:
        return record
    own, base = pair
    gain, width = own - base, best.loc[own.index, own.columns] - base
    mean_width = float(np.nanmean(width.to_numpy()))
    ratio = float(np.nanmean(gain.to_numpy())) / mean_width
    interval = mean_interval(ratio + (gain - ratio * width) / mean_width)
    return record | bounds("recovered_percent", interval, 100.0)


def _harm(entry: Entry, source_only: Entry | None) -> dict:
    pair = matched(entry.scores, source_only.scores) if source_only else None
    if source_only is None or pair is None:
        return bounds("harmed_percent", None) | {"harmed_small_percent": None, "harmed_by_reseeding_percent": None}
    own, base = pair
    loss = (base - own).to_numpy()
    n = int((~np.isnan(loss)).any(axis=0).sum())
    share = share_interval(n * _share_above(loss, CONSTANTS.harm), n)
    scores = source_only.scores.to_numpy()
    n_seeds = len(scores)
    reseeded = [scores[i] - scores[j] for i in range(n_seeds) for j in range(n_seeds) if i != j]
    return bounds("harmed_percent", share, 100.0) | {
        "harmed_small_percent": 100.0 * _share_above(loss, CONSTANTS.harm_small),
        "harmed_by_reseeding_percent": 100.0 * _share_above(np.array(reseeded), CONSTANTS.harm) if reseeded else None,
    }


def _share_above(loss: np.ndarray, limit: float) -> float:
    """Share of the known losses above `limit`; a table whose seeds have different patients holds NaN."""
    known = loss[~np.isnan(loss)]
    return float((known > limit).mean()) if known.size else float("nan")


def _above_oracle(entry: Entry, oracle: Entry | None) -> float | None:
    """One-sided p of "not above the oracle", or None where that is no question."""
    if oracle is None or entry.method in (ORACLE, SOURCE_ONLY):
        return None
    pair = matched(entry.scores, oracle.scores)
    return paired_difference(*pair).p_above() if pair else None


def _audited(table: pd.DataFrame, above: Sequence[float | None]) -> pd.DataFrame:
    """Adds `audit`: above the oracle (Holm within track, backbone and budget) and past the limit of recovery."""
    p = pd.Series([np.nan if value is None else value for value in above], dtype=float).reindex(table.index)
    for _, index in table.groupby(["track", *RUN]).groups.items():
        asked = p.loc[index].dropna().index
        if len(asked):
            p.loc[asked] = holm(p.loc[asked].to_numpy())
    recovered = table.get("recovered_percent", p).astype(float) > CONSTANTS.audit_recovered_percent
    return table.assign(audit=(p < CONSTANTS.audit_p) & recovered)


def _status_counts(rows: pd.DataFrame) -> dict[tuple, dict[str, int]]:
    """Number of DSC rows of each status per entry, all failures together as `n_failed`; and the negative cases."""
    chosen = rows_of(rows, "dsc")
    chosen = chosen.assign(negative=is_negative(chosen))
    counts = {}
    for key, own in chosen.groupby(ENTRY, dropna=False):
        status, negative = own["status"], own["negative"]
        found = {f"n_{name}": int((status == name).sum()) for name in _COUNTED}
        found |= {"negative_cases": int(negative.sum())}
        found |= {"false_positives": int((negative & (status != Status.BOTH_EMPTY)).sum())}
        counts[plain(key)] = found | {"n_failed": int(status.isin(FAILURES).sum())}
    return counts
