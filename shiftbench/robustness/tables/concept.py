"""Annotation shifts: what a method scores under both label protocols, and for whom a drop is no fault."""

from __future__ import annotations

import pandas as pd

from shiftbench.robustness.headline import LABELLED_TRACKS
from shiftbench.robustness.patients import RUN, Entry, bounds, entries_of, limits, matched, patient_table
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import Interval, mean_interval, paired_difference
from shiftbench.types import Family

ALL = "all"  # the mean over the structures of a case, as the protocol agreement calls it
COLUMNS = (
    *("track", *RUN, "scenario", "source", "target", "method", "k", "dsc", "dsc_low", "dsc_high"),
    *("source_protocol", "source_protocol_low", "source_protocol_high", "cost", "cost_low", "cost_high"),
    *("agreement", "agreement_low", "agreement_high", "below_agreement", "same_predictions", "expected_null"),
    *("n_patients", "n_seeds", "conditional"),
)
_CASE = ["backbone", "budget", "scenario", "source", "track", "method", "k", "seed", "draw", "case"]


def concept(rows: pd.DataFrame, agreement: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per method and annotation target.

    `dsc` is the score under the target's protocol. `source_protocol` is the score of the very same predictions under
    the source's protocol: the images are the same, so where the predictions of all cases are those on the source test
    (`same_predictions`: their digests agree), it is the score there. `cost` is source_protocol - dsc, paired: what the
    other protocol takes. A method whose predictions differ, since it saw labels of the target, has neither.

    `agreement` is the DSC of the two protocols' references on the same patients, the score of a perfect source model
    and no bound; `below_agreement` is agreement - dsc. `expected_null` marks methods without target labels: nothing in
    the images tells the protocol, so their predictions cannot change with it, their drop is not their fault, and a
    recovered share of such a target says nothing about them.

    Args:
        rows: the columns of `shiftbench.types.Row`.
        agreement: see `shiftbench.agreement.protocol_agreement`; without it these columns are empty.

    Raises:
        OutputError: see `patient_table`.
    """
    alone = outside_streams(rows)
    alone = alone[(alone["family"] == Family.ANNOTATION) | (alone["target"] == alone["source"])]
    alone = alone[alone["scenario"].isin(alone.loc[alone["family"] == Family.ANNOTATION, "scenario"])]
    entries = entries_of(patient_table(alone))
    sources = {_method(entry): entry for entry in entries if entry.is_source_test}
    agreed = _agreements(agreement)
    same = _same_predictions(alone)
    records = [
        _record(entry, sources.get(_method(entry)), agreed, same.get((*_method(entry), entry.target), False))
        for entry in entries
        if entry.family == Family.ANNOTATION
    ]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    order = [*RUN, "scenario", "target", "track", "method", "k"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def _method(entry: Entry) -> tuple:
    return (entry.backbone, entry.budget, entry.scenario, entry.source, entry.track, entry.method, entry.k)


def _same_predictions(rows: pd.DataFrame) -> dict[tuple, bool]:
    """Method and target to whether every case was predicted as on the source test, by the digest of the prediction."""
    known = rows.astype({"k": float}).drop_duplicates([*_CASE, "target"])[[*_CASE, "target", "prediction"]]
    known = known.assign(k=known["k"].fillna(-1.0))  # an empty k would join with nothing
    at_source = known[known["target"] == known["source"]].drop(columns="target")
    joined = known[known["target"] != known["source"]].merge(at_source, on=_CASE, how="left", suffixes=("", "_source"))
    joined = joined.assign(same=joined["prediction"] == joined["prediction_source"])
    found = {}
    for key, same in joined.groupby([*_CASE[:7], "target"])["same"]:
        *head, k, target = key
        found[(*head, None if k < 0 else k, target)] = bool(same.all())
    return found


def _agreements(table: pd.DataFrame | None) -> dict[tuple[str, str], tuple]:
    """Scenario and target to agreement with its limits, of the mean over structures."""
    if table is None or table.empty:
        return {}
    whole = table[table["structure"] == ALL]
    numbers = whole[["agreement", "low", "high"]].itertuples(index=False, name=None)
    return dict(zip(zip(whole["scenario"], whole["target"], strict=True), numbers, strict=True))


def _record(entry: Entry, source: Entry | None, agreed: dict[tuple[str, str], tuple], same: bool) -> dict:
    record = {name: getattr(entry, name) for name in COLUMNS[:8]} | {"k": entry.k}
    own = mean_interval(entry.scores)
    pair = matched(source.scores, entry.scores) if source and same else None
    under_source: Interval | None = mean_interval(pair[0]) if pair else None
    cost = paired_difference(*pair) if pair else None
    agreement = agreed.get((entry.scenario, entry.target), (None, None, None))
    return (
        record
        | limits("dsc", own)
        | bounds("source_protocol", under_source)
        | bounds("cost", cost)
        | dict(zip(("agreement", "agreement_low", "agreement_high"), agreement, strict=True))
        | {"below_agreement": None if agreement[0] is None else agreement[0] - own.mean}
        | {"same_predictions": same, "expected_null": entry.track not in LABELLED_TRACKS}
    )
