"""Methods on streams: the mean over a stream, how it depends on the order, and whether it decays along the way."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.patients import METHOD, RUN, Entry, bounds, entries_of, limits, matched, patient_table
from shiftbench.stats import mean_interval, paired_difference

STREAM = ["stream", "stream_order", "order_seed", "position"]
COLUMNS = (
    *("track", *RUN, "scenario", "source", "stream", "stream_order", "method", "k", "episode"),
    *("dsc", "dsc_low", "dsc_high", "order_sd", "n_orders", "gain", "gain_low", "gain_high"),
    *("gain_first_third", "gain_last_third", "n_patients", "n_seeds", "n_targets", "conditional"),
)
THIRDS = 3
Tables = dict[tuple, pd.DataFrame]


def outside_streams(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of targets on their own; streams meet the same cases again."""
    return rows[rows["stream"].isna()] if "stream" in rows else rows


def entries_alone(rows: pd.DataFrame, metric: str = "dsc") -> list[Entry]:
    """Every method on every target on its own.

    Raises:
        OutputError: see `patient_table`.
    """
    return entries_of(patient_table(outside_streams(rows), metric))


def streams(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per stream and method: mean DSC over the stream, spread over its orders, gain above source-only.

    Scores are averaged over the structures of a case, the cases of a patient in a target, and the targets of the
    stream, which weigh equally; then over order seeds. `order_sd` is the standard deviation of the mean over order
    seeds. `gain` is the paired difference to source-only on the same cases, and `gain_first_third` and
    `gain_last_third` are that difference in the first and the last third of the stream: a method that collapses loses
    from one to the other. A method without a score on every target has no row.

    Args:
        rows: the columns of `shiftbench.types.Row`; those outside streams are not looked at.

    Raises:
        OutputError: see `patient_table`.
    """
    inside = rows[rows["stream"].notna()] if "stream" in rows else rows.iloc[:0]
    records = [
        record
        for (scenario, stream, order), own in inside.groupby(["scenario", "stream", "stream_order"], sort=True)
        for record in _stream(own, {"scenario": scenario, "stream": stream, "stream_order": order})
    ]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    return table.sort_values([*RUN, "scenario", "stream", *METHOD], kind="stable", ignore_index=True)


def _stream(rows: pd.DataFrame, head: Mapping[str, str]) -> list[dict]:
    """A record per method that has scores on every target of one stream."""
    whole, episodes = _by_method(rows), dict(rows[["method", "episode"]].drop_duplicates().to_numpy())
    ends = [_by_method(rows[_third(rows) == part]) for part in (0, THIRDS - 1)]
    n_targets = rows["target"].nunique()
    records = []
    for who, orders in whole.items():
        if any(n < n_targets for n, _ in orders.values()):
            continue
        track, backbone, budget, method, k = who
        base = next((tables for other, tables in whole.items() if other[1:4] == (backbone, budget, SOURCE_ONLY)), {})
        means = [float(np.nanmean(table.to_numpy())) for _, table in orders.values()]
        record = {**head, "track": track, "backbone": backbone, "budget": budget, "method": method, "k": k}
        record |= {"source": rows["source"].iloc[0], "episode": episodes[method], "n_targets": n_targets}
        record |= limits("dsc", mean_interval(_over_orders(orders)))
        record |= {"n_orders": len(means), "order_sd": float(np.std(means, ddof=1)) if len(means) > 1 else None}
        pair = matched(_over_orders(orders), _over_orders(base)) if base and method != SOURCE_ONLY else None
        record |= bounds("gain", paired_difference(*pair) if pair else None)
        for name, part in zip(("gain_first_third", "gain_last_third"), ends, strict=True):
            record[name] = _mean_gain(part, who) if pair else None
        records.append(record)
    return records


def _third(rows: pd.DataFrame) -> pd.Series:
    """Which third of its pass each row lies in: 0, 1 or 2."""
    position = rows["position"].astype(int)
    length = position.groupby(rows["order_seed"]).transform("max") + 1
    return position * THIRDS // length


def _by_method(rows: pd.DataFrame) -> dict[tuple, dict[int, tuple[int, pd.DataFrame]]]:
    """(track, backbone, budget, method, k) to, per order seed, the number of targets and the mean over them."""
    found: dict[tuple, dict[int, tuple[int, pd.DataFrame]]] = {}
    for order_seed, own in rows.groupby("order_seed", sort=True):
        own = own.assign(**dict.fromkeys(STREAM))  # as if they were alone, for the rules on what counts
        by_method: dict[tuple, list[Entry]] = {}
        for entry in entries_of(patient_table(own)):
            who = (entry.track, entry.backbone, entry.budget, entry.method, entry.k)
            by_method.setdefault(who, []).append(entry)
        for who, entries in by_method.items():
            table = pd.concat([entry.scores for entry in entries]).groupby(level=0).mean()
            found.setdefault(who, {})[int(order_seed)] = (len(entries), table)
    return found


def _over_orders(orders: Mapping[int, tuple[int, pd.DataFrame]]) -> pd.DataFrame:
    """Mean over order seeds of the scores (seeds, patients)."""
    return pd.concat([table for _, table in orders.values()]).groupby(level=0).mean()


def _mean_gain(part: Mapping[tuple, Mapping[int, tuple[int, pd.DataFrame]]], who: tuple) -> float | None:
    """Mean difference to source-only in one part of every pass, where both were scored on the same patients."""
    base = next((orders for other, orders in part.items() if other[1:4] == (*who[1:3], SOURCE_ONLY)), {})
    gains = [
        float(np.nanmean((table - base[seed][1].loc[table.index, table.columns]).to_numpy()))
        for seed, (_, table) in part.get(who, {}).items()
        if seed in base
        and set(table.columns) == set(base[seed][1].columns)
        and set(table.index) <= set(base[seed][1].index)
    ]
    return float(np.mean(gains)) if gains else None
