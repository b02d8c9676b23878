"""What happens to each method on each target: drop, oracle gap, recovered share, harm, audit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS, ORACLE, SOURCE_ONLY
from shiftbench.robustness.drops import drop
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
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.robustness.recovery import GAP, recoverable, recovered_part
from shiftbench.robustness.tables.transfer import is_source_reference
from shiftbench.stats import Interval, holm, mean_interval, paired_difference, share_interval
from shiftbench.types import FAILURES, Status

_COUNTED = (Status.OK, Status.MISSED, Status.FP_ON_NEGATIVE, Status.BOTH_EMPTY, Status.NOT_APPLICABLE)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and target: mean DSC, drop, oracle gap, recovered share, harm and status counts.

    `drop` is source-only on the source test minus the method on the target: paired where these are the same patients,
    Welch's where they are not. `gap` is oracle minus source-only on the target; `recovered_percent` is
    (method - source-only) / (oracle - source-only) as a ratio of means, given only where the lower bound of the gap
    exceeds `CONSTANTS.gap_floor` (`gap_status` says "ok", "no gap" or "no oracle"). `harmed_percent` is the share of
    patients who lose more than `CONSTANTS.harm` against source-only of the same seed; `harmed_by_reseeding_percent` is
    that share for source-only against source-only of another seed. `harm_excess_percent` is the first minus the second
    on the same seeds and patients, and harm is claimed (`harm_claimed`) where its lower limit exceeds 0; with one seed
    there is neither. `audit` marks a method above the oracle.
    `negative_cases` counts the structures of the cases whose reference is empty, each prediction once, and
    `false_positives` those of them with a prediction that is not empty or failed; they enter no mean.

    Raises:
        OutputError: see `patient_table`.
    """
    entries = entries_of(patient_table(rows))
    nsd = _nsd_means(rows)
    counts = _status_counts(rows)
    peers = {(e.backbone, e.budget, *e.place, e.method): e for e in entries}
    sources = {(e.backbone, e.budget, e.scenario, e.source): e for e in entries if is_source_reference(e)}
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


def _described(entry: Entry) -> dict:
    return dict(zip(ENTRY, entry.identity, strict=True)) | {"level_value": entry.value, "level_unit": entry.unit}


def _drop(entry: Entry, source: Entry | None) -> dict:
    if source is None:
        return bounds("drop", None) | {"drop_paired": None}
    difference, paired = drop(entry, source)
    return bounds("drop", difference) | {"drop_paired": paired}


def _recovery(entry: Entry, source_only: Entry | None, oracle: Entry | None) -> dict:
    """Oracle gap and recovered share; the interval of the ratio is that of its linearisation."""
    gap, status = recoverable(source_only, oracle)
    record = bounds("recovered_percent", None) | bounds("gap", gap) | {"gap_status": status}
    parts = recovered_part(entry, source_only, oracle) if status == GAP else None
    if parts is None:
        return record
    return record | bounds("recovered_percent", ratio_interval(*([part] for part in parts)), 100.0)


def _harm(entry: Entry, source_only: Entry | None) -> dict:
    pair = matched(entry.scores, source_only.scores) if source_only else None
    if source_only is None or pair is None:
        shares = {"harmed_small_percent": None, "harmed_by_reseeding_percent": None}
        return bounds("harmed_percent", None) | shares | bounds("harm_excess_percent", None) | {"harm_claimed": None}
    own, base = pair
    loss = (base - own).to_numpy()
    n = int((~np.isnan(loss)).any(axis=0).sum())
    share = share_interval(n * _share_above(loss, CONSTANTS.harm), n)
    scores = source_only.scores.to_numpy()
    n_seeds = len(scores)
    reseeded = [scores[i] - scores[j] for i in range(n_seeds) for j in range(n_seeds) if i != j]
    excess = _harm_excess(own, base, source_only.scores)
    return bounds("harmed_percent", share, 100.0) | {
        "harmed_small_percent": 100.0 * _share_above(loss, CONSTANTS.harm_small),
        "harmed_by_reseeding_percent": 100.0 * _share_above(np.array(reseeded), CONSTANTS.harm) if reseeded else None,
        **bounds("harm_excess_percent", excess, 100.0),
        "harm_claimed": None if excess is None or excess.low is None else excess.low > 0,
    }


def _harm_excess(own: pd.DataFrame, base: pd.DataFrame, every_seed: pd.DataFrame) -> Interval | None:
    """Share of patients harmed minus the share that another seed of source-only harms, paired by seed and patient.

    None with one seed of source-only: what training again would cost is not known then.
    """
    if len(every_seed) < 2:
        return None
    excess = []
    for seed in base.index:
        others = every_seed.drop(index=seed)[base.columns]
        reseeded = _harmed(base.loc[[seed]].to_numpy() - others.to_numpy())  # (other seeds, patients)
        seen = np.isfinite(reseeded).any(axis=0)
        by_reseeding = np.full(reseeded.shape[1], np.nan)
        by_reseeding[seen] = np.nanmean(reseeded[:, seen], axis=0)
        excess.append(_harmed((base.loc[seed] - own.loc[seed]).to_numpy()) - by_reseeding)
    values = np.array(excess)
    return mean_interval(values) if np.isfinite(values).any() else None


def _harmed(loss: np.ndarray) -> np.ndarray:
    """1 where the loss exceeds what is harm, else 0; NaN where it is not known."""
    return np.where(np.isnan(loss), np.nan, loss > CONSTANTS.harm)


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
