"""How much of the gap between source-only and the oracle a method closes: per shift family and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import CONSTANTS, ORACLE, SOURCE_ONLY
from shiftbench.robustness.headline import LABELLED_TRACKS, OVERALL, UNRANKED_FAMILIES
from shiftbench.robustness.patients import RUN, Entry, bounds, matched
from shiftbench.robustness.ratios import ratio_interval
from shiftbench.robustness.streams import entries_alone
from shiftbench.stats import Interval, holm, paired_difference, pooled_interval
from shiftbench.types import Family

GAP, NO_GAP, NO_ORACLE = "ok", "no gap", "no oracle"
COLUMNS = (
    *("track", *RUN, "family", "method", "k", "recovered_percent", "recovered_percent_low", "recovered_percent_high"),
    *("gap_status", "n_targets", "n_with_gap", "n_compared", "n_worse", "negative_transfer_percent", "p_above_oracle"),
    "audit",
)
Run = Mapping[tuple, Entry]


def recoverable(source_only: Entry | None, oracle: Entry | None) -> tuple[Interval | None, str]:
    """Oracle minus source-only, and whether there is a gap: its lower limit exceeds `CONSTANTS.gap_floor`."""
    pair = matched(oracle.scores, source_only.scores) if oracle and source_only else None
    if pair is None:
        return None, NO_ORACLE
    gap = paired_difference(*pair)
    return gap, GAP if gap.low is not None and gap.low > CONSTANTS.gap_floor else NO_GAP


def recovered_part(
    entry: Entry, source_only: Entry | None, oracle: Entry | None
) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """Gain over source-only and width of the gap, (seeds, patients) each, on the seeds that all three share."""
    pair = matched(entry.scores, source_only.scores) if source_only else None
    both = matched(pair[0], oracle.scores) if pair and oracle else None
    if pair is None or both is None:
        return None
    own, best = both
    base = pair[1].loc[own.index, own.columns]
    return own - base, best - base


def recovery(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method and shift family, and one overall: the share of the gap that is closed.

    `recovered_percent` is a ratio of sums: gain over source-only, summed over the targets that have a gap, over the gap
    summed over the same targets; targets weigh the same within a family, families the same overall. Its interval is
    that of the linearised ratio over patients crossed with seeds, both known by name over all targets. It is not cut
    off: negative is negative transfer. `n_with_gap` of `n_targets` have a gap; of the `n_compared` targets on which
    source-only was scored on the same patients, on `n_worse` the method's mean is below it, which in percent is
    `negative_transfer_percent`. `audit` marks more than `CONSTANTS.audit_recovered_percent` where the method is also
    above the oracle: one-sided p of the pooled difference, Holm over the methods of the board.

    Controls and faults never enter; annotation targets enter "overall" only with target labels.

    Raises:
        OutputError: see `patient_table`.
    """
    entries = entries_alone(rows)
    run = {(e.backbone, e.budget, *e.place, e.method): e for e in entries if e.method in (SOURCE_ONLY, ORACLE)}
    methods: dict[tuple, list[Entry]] = {}
    for entry in entries:
        if entry.family not in UNRANKED_FAMILIES and not entry.is_source_test and entry.method not in _COMPARED_WITH:
            who = (entry.track, entry.backbone, entry.budget, entry.method, entry.k)
            methods.setdefault(who, []).append(entry)
    records = []
    for who, own in methods.items():
        pooled = [e.family for e in own if who[0] in LABELLED_TRACKS or e.family != Family.ANNOTATION]
        scopes = [(family, {family}) for family in sorted({e.family for e in own})]
        for name, families in [*scopes, *([(OVERALL, set(pooled))] if pooled else [])]:
            head = dict(zip(("track", *RUN, "method", "k"), who, strict=True)) | {"family": name}
            records.append(head | _pooled([e for e in own if e.family in families], run))
    table = _audited(pd.DataFrame(records, columns=COLUMNS))
    return table.sort_values([*RUN, "track", "family", "method", "k"], kind="stable", ignore_index=True)


_COMPARED_WITH = (SOURCE_ONLY, ORACLE)


def _pooled(own: Sequence[Entry], run: Run) -> dict:
    """The record of one method over some targets."""
    families = [entry.family for entry in own]
    weights = {entry.place: 1.0 / families.count(entry.family) for entry in own}
    gains, widths, shares, worse = [], [], [], []
    states = set()
    for entry in own:
        source_only, oracle = (run.get((entry.backbone, entry.budget, *entry.place, m)) for m in _COMPARED_WITH)
        pair = matched(entry.scores, source_only.scores) if source_only else None
        worse += [bool(paired_difference(*pair).mean < 0)] if pair else []
        state = recoverable(source_only, oracle)[1]
        states.add(state)
        parts = recovered_part(entry, source_only, oracle) if state == GAP else None
        if parts is not None:
            gains.append(parts[0])
            widths.append(parts[1])
            shares.append(weights[entry.place])
    found = ratio_interval(gains, widths, shares) if gains else None
    above = pooled_interval([g - w for g, w in zip(gains, widths, strict=True)], shares).p_above() if gains else None
    return bounds("recovered_percent", found, 100.0) | {
        "gap_status": GAP if gains else NO_GAP if NO_GAP in states else NO_ORACLE,
        **{"n_targets": len(own), "n_with_gap": len(gains), "n_compared": len(worse), "n_worse": sum(worse)},
        "negative_transfer_percent": 100.0 * float(np.mean(worse)) if worse else None,
        "p_above_oracle": above,
    }


def _audited(table: pd.DataFrame) -> pd.DataFrame:
    """Adds `audit`, with Holm over the methods of each board and family."""
    p = table["p_above_oracle"].astype(float)
    for _, index in table.groupby(["track", *RUN, "family"]).groups.items():
        asked = p.loc[index].dropna().index
        if len(asked):
            p.loc[asked] = holm(p.loc[asked].to_numpy())
    too_much = table["recovered_percent"].astype(float) > CONSTANTS.audit_recovered_percent
    return table.assign(audit=(p < CONSTANTS.audit_p) & too_much, p_above_oracle=p).astype({"k": "Int64"})
