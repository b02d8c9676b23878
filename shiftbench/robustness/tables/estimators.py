"""How well estimators without labels foretell the DSC of the source-only model, and rank its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.robustness.correlation import KINDS, Pair, over_cases, over_targets
from shiftbench.robustness.patients import RUN, bounds, is_negative, limits, rows_of
from shiftbench.robustness.scopes import TARGET, pooled
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import BootstrapInterval, Interval, mean_interval, pooled_interval
from shiftbench.types import FAILURES, Family, Status

ALL = "all"  # the mean over the structures of a case
METRIC = "dsc_estimate"
UNSEEN_NOTE = "concept shift: no estimator can see it"
CORRELATIONS = [f"{over}{kind}{end}" for over in ("", "target_") for kind in KINDS for end in ("", "_low", "_high")]
COLUMNS = (
    *(*RUN, "scenario", "scope", "family", "target", "method", "structure", "dsc", "estimate"),
    *("mae", "mae_low", "mae_high", "error_of_mean", "bias", "bias_low", "bias_high", *CORRELATIONS),
    *("n_targets", "n_failed", "n_patients", "n_seeds", "conditional", "note"),
)
_CASE = [*RUN, "scenario", "target", "seed", "case", "structure"]


def estimators(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per estimator, structure and scope: each target, each family of a scenario, and overall.

    An estimate stands beside the DSC of source-only of the same backbone, target, seed, case and structure, where the
    reference holds the structure. A failed estimate is as wrong as it can be: it counts as the end of [0, 1] that is
    further from the truth (`n_failed` says how many). Cases are averaged to patients.

    - `mae`: mean absolute error per case and structure; `bias`: mean of estimate - DSC; `error_of_mean`: |mean estimate
      - mean DSC| of a target, averaged over the targets of a scope;
    - `pearson`, `spearman`: over cases, within each seed, pooled over the targets of the scope;
    - `target_pearson`, `target_spearman`: over the targets' means, with three targets or more.

    The structure "all" has the mean error over structures, and correlations of the means over structures. Intervals of
    means are two-way t intervals, those of correlations percentiles of a bootstrap, both over patients crossed with
    seeds. Overall is without controls, faults and annotation shifts, which no image shows.

    Args:
        rows: the columns of `shiftbench.types.Row`.

    Raises:
        OutputError: two rows for the same thing.
    """
    alone = outside_streams(rows)
    found = _joined(alone) if (alone["metric"] == METRIC).any() else pd.DataFrame()
    records: list[dict] = []
    if len(found):
        for key, own in found.groupby([*RUN, "scenario", "method"], sort=True):
            head = dict(zip([*RUN, "scenario", "method"], key, strict=True))
            records += [head | record for record in _of_estimator(own, str(key))]
    return pd.DataFrame(records, columns=COLUMNS)


def _joined(rows: pd.DataFrame) -> pd.DataFrame:
    """Per estimator, case and structure: `dsc` of source-only, `estimate`, and whether it `failed` or is `absent`."""
    base = rows_of(rows, "dsc")
    out = [*FAILURES, Status.NOT_APPLICABLE, Status.CLASS_NOT_ANNOTATED]
    base = base[~is_negative(base) & ~base["status"].isin(out) & (base["method"] == SOURCE_ONLY)]
    base = base.assign(dsc=base["value"].mask(base["status"] == Status.MISSED, 0.0))
    base = base[[*_CASE, "family", "patient", "dsc"]]
    given = rows_of(rows, METRIC)
    given = given.assign(absent=given["status"] == Status.NOT_APPLICABLE, reason=given["detail"])
    given = given.assign(value=given["value"].where(given["status"] == Status.OK))
    found = base.merge(given[[*_CASE, "method", "value", "absent", "reason"]], on=_CASE)
    where = [*RUN, "scenario", "target", "method"]
    whole = found.groupby(where)["absent"].transform("all")
    failed = found["value"].isna() & ~whole
    furthest = (found["dsc"] < 0.5).astype(float)
    return found.assign(absent=whole, failed=failed, estimate=found["value"].mask(failed, furthest))


@dataclass(frozen=True)
class _OnTarget:
    """Tables (seeds, patients) of one estimator on one target: means over the cases and structures of a patient."""

    dsc: pd.DataFrame
    estimate: pd.DataFrame
    error: pd.DataFrame
    failed: int

    @property
    def pair(self) -> Pair:
        return self.estimate, self.dsc

    @property
    def bias(self) -> pd.DataFrame:
        return self.estimate - self.dsc


def _of_estimator(cases: pd.DataFrame, name: str) -> list[dict]:
    """Lines of one estimator in one scenario."""
    families = dict(cases[["target", "family"]].drop_duplicates().to_numpy())
    records: list[dict] = []
    for structure in (*dict.fromkeys(cases["structure"]), ALL):
        own = cases if structure == ALL else cases[cases["structure"] == structure]
        by_target = {str(target): _tables(group) for target, group in own.groupby("target", sort=False)}
        lines = [({"scope": TARGET, "target": t, "family": families[t]}, {t: on}) for t, on in by_target.items()]
        lines += [({"scope": s, "family": family}, part) for s, family, part in pooled(by_target, families)]
        for head, part in lines:
            names = f"{name} {structure} {sorted(head.items(), key=str)}"
            records.append({**head, "structure": structure, **_line(part, own, head, names)})
    return records


def _tables(cases: pd.DataFrame) -> _OnTarget | None:
    """None where the estimator is not applicable."""
    if cases["absent"].all():
        return None
    values = cases.assign(error=(cases["estimate"] - cases["dsc"]).abs())
    names = ["dsc", "estimate", "error"]
    by_case = values.groupby(["seed", "patient", "case"])[names].mean()
    by_patient = by_case.groupby(["seed", "patient"]).mean()
    dsc, estimate, error = (by_patient[name].unstack() for name in names)
    return _OnTarget(dsc, estimate, error, int(cases["failed"].sum()))


def _line(part: Mapping[str, _OnTarget | None], cases: pd.DataFrame, head: Mapping[str, str | None], name: str) -> dict:
    """Error, bias and correlations over the targets of one scope."""
    known = [on for on in part.values() if on is not None]
    notes = [UNSEEN_NOTE] if head["family"] == Family.ANNOTATION else []
    if len(known) < len(part):
        reason = cases.loc[cases["absent"] & cases["target"].isin(part), "reason"].iloc[0]
        notes.append(f"not applicable on {len(part) - len(known)} of {len(part)} targets: {reason}")
    record: dict = {"n_targets": len(known), "note": "; ".join(notes)}
    if not known:
        return record
    record |= {name: float(np.mean([_mean(getattr(on, name)) for on in known])) for name in ("dsc", "estimate")}
    record |= limits("mae", _interval([on.error for on in known]))
    record |= bounds("bias", _interval([on.bias for on in known]))
    record["error_of_mean"] = float(np.mean([abs(_mean(on.bias)) for on in known]))
    record["n_failed"] = sum(on.failed for on in known)
    pairs = [on.pair for on in known]
    record |= _correlations("", over_cases(pairs, name))
    if head["scope"] != TARGET:
        record |= _correlations("target_", over_targets(pairs, name))
    return record


def _mean(table: pd.DataFrame) -> float:
    return float(np.nanmean(table.to_numpy(float)))


def _interval(tables: Sequence[pd.DataFrame]) -> Interval:
    return mean_interval(tables[0]) if len(tables) == 1 else pooled_interval(tables)


def _correlations(prefix: str, found: BootstrapInterval | None) -> dict:
    if found is None:
        return {}
    ends = {"": found.estimate, "_low": found.low, "_high": found.high}
    return {f"{prefix}{kind}{end}": float(v[i]) for i, kind in enumerate(KINDS) for end, v in ends.items()}
