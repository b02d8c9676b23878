"""Whether a method knows which cases it fails on: confidence against risk, and confidence against the domain."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from shiftbench.metrics.scorers import METRICS
from shiftbench.metrics.selective import fpr_at_tpr, generalised_risk, ood_auroc, resampled_areas
from shiftbench.rng import generator
from shiftbench.robustness.patients import ENTRY, METHOD, RUN, is_negative, plain, rows_of
from shiftbench.robustness.streams import outside_streams
from shiftbench.types import FAILURES, Family, Status, Track

CONFIDENCE = "confidence"
RISKS = {"1-dsc": "dsc", "1-nsd": "nsd"}
POOLED_WITHOUT = (Family.CONTROL, Family.FAULT)  # not among the targets that are pooled
RESAMPLES = 1_000
LEVEL = 0.95
COLUMNS = (
    *("track", *RUN, "scenario", "source", "scope", "family", "target", "method", "k", "definition", "risk"),
    *("augrc", "augrc_low", "augrc_high", "augrc_random", "augrc_optimal"),
    *("aurc", "aurc_low", "aurc_high", "e_aurc", "e_aurc_low", "e_aurc_high", "mean_risk"),
    *("ood_auroc", "ood_auroc_low", "ood_auroc_high", "fpr95"),
    *("n_cases", "n_patients", "n_seeds", "conditional"),
)
_CASE = [*ENTRY, "seed", "draw", "patient", "case"]
_ANSWER = [*ENTRY, "seed", "draw", "case", "structure"]
_MODEL = ["seed", "draw"]


def failure_detection(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method, risk and set of cases: AUGRC, AURC and E-AURC; and per target AUROC and FPR95.

    The risk of a case is 1 - DSC (or 1 - NSD) and its confidence the mean confidence, both over the structures that
    its reference holds. A failure has the risk 1 and is less confident than any prediction. `scope` is "all" (the
    source test and all targets but controls and faults), "family" (the source test and the targets of a family) or
    "target": there the source test's cases are told from the target's by confidence alone. Figures are computed per
    trained model and averaged; `augrc_random` is that of a confidence that says nothing.

    The 95 % intervals are percentiles of a bootstrap that draws seeds and patients independently of each other, a
    patient with all of its cases on all targets; patients that occur in different sets of domains are drawn apart.

    Left out are reference methods, which have a model per target; a method that gives labels alone; one that lacks
    cases which others have in that set; and one whose confidences come from two definitions.

    Args:
        rows: the columns of `shiftbench.types.Row`; those of streams are not looked at.

    Raises:
        OutputError: two rows for the same thing.
    """
    records = [record for cases in _scenarios(rows) for record in _of_scenario(cases)]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    keys = [*RUN, "scenario", "scope", "family", "target", *METHOD, "risk"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def risk_curves(rows: pd.DataFrame) -> pd.DataFrame:
    """Selective and generalised risk (1 - DSC) at every coverage: the curves behind "all" of `failure_detection`.

    One row per method, scenario and number of kept cases; a mean over trained models.
    """
    lines: list[pd.DataFrame] = []
    for cases in _scenarios(rows):
        for scope in _scopes(cases):
            if scope.name == "all" and scope.risk == "1-dsc":
                lines += [_curve(group, models) for group, models in _complete(cases, scope)]
    columns = [*RUN, "scenario", "source", *METHOD, "coverage", "selective_risk", "generalised_risk"]
    table = pd.concat(lines, ignore_index=True) if lines else pd.DataFrame(columns=columns)
    return table[columns].astype({"k": "Int64"})


def _curve(group: pd.DataFrame, models: Sequence[pd.DataFrame]) -> pd.DataFrame:
    made = [generalised_risk(model["confidence"], 1.0 - model["dsc"]) for model in models]
    coverage, risk = made[0][0][1:], np.mean([risk for _, risk in made], axis=0)[1:]
    first = group.iloc[0]
    head = {name: first[name] for name in (*RUN, "scenario", "source", *METHOD)}
    return pd.DataFrame({**head, "coverage": coverage, "selective_risk": risk / coverage, "generalised_risk": risk})


def _scenarios(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The cases of every run, scenario and source."""
    chosen = outside_streams(rows)
    chosen = chosen[chosen["track"] != Track.REFERENCE]
    if not (chosen["metric"] == CONFIDENCE).any():
        return []
    return [own for _, own in _cases(chosen).groupby([*RUN, "scenario", "source"], sort=True)]


@dataclass(frozen=True)
class _Scope:
    """A set of cases: the source test's and those of some targets; `risk` is None where domains are told apart."""

    name: str
    family: str | None
    target: str | None
    domains: tuple[str, ...]
    risk: str | None


def _scopes(cases: pd.DataFrame) -> Iterator[_Scope]:
    source = str(cases["source"].iloc[0])
    family_of = {str(t): str(f) for t, f in zip(cases["target"], cases["family"], strict=True) if t != source}
    pooled = tuple(t for t, family in family_of.items() if family not in POOLED_WITHOUT)
    families = sorted({family for family in family_of.values() if family != Family.CONTROL})
    for risk, metric in RISKS.items():
        if cases[metric].notna().any():
            if pooled:
                yield _Scope("all", None, None, (source, *pooled), risk)
            for family in families:
                yield _Scope("family", family, None, (source, *(t for t in family_of if family_of[t] == family)), risk)
    for target, family in family_of.items():
        yield _Scope("target", family, target, (source, target), None)


def _cases(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per case and trained model: mean DSC and NSD, mean confidence (NaN where there is none), definition."""
    quality = _scored(rows, "dsc")
    if (rows["metric"] == "nsd").any():
        quality = quality.merge(_scored(rows, "nsd")[[*_ANSWER, "nsd"]], on=_ANSWER, how="left")
    else:
        quality["nsd"] = np.nan
    sure = rows[rows["metric"] == CONFIDENCE].astype({"level": float, "k": float, "value": float})
    failed = sure["status"].isin(FAILURES)
    sure = sure.assign(
        confidence=sure["value"].mask(failed, -np.inf),
        definition=sure["definition"].mask(sure["status"] != Status.OK),
    )
    both = quality.merge(sure[[*_ANSWER, "confidence", "definition"]], on=_ANSWER, how="left")
    both["unknown"] = both["confidence"].isna()
    means = {"dsc": "mean", "nsd": "mean", "confidence": "mean", "definition": "first", "unknown": "any"}
    cases = both.groupby(_CASE, dropna=False, sort=False).agg(means).reset_index()
    return cases.assign(confidence=cases["confidence"].mask(cases["unknown"]))


def _scored(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of the structures that the references hold, with the column `metric`: the score by status."""
    found = rows_of(rows, metric)
    worst = found["status"].isin(FAILURES) | (found["status"] == Status.MISSED)
    found = found.assign(**{metric: found["value"].mask(worst, METRICS[metric].worst)})
    out = found["status"].isin([Status.NOT_APPLICABLE, Status.CLASS_NOT_ANNOTATED]) | is_negative(found)
    return found[~out][[*_ANSWER, "patient", metric]]


def _of_scenario(cases: pd.DataFrame) -> list[dict]:
    """The records of every scope; two scopes of the same domains have the same figures."""
    made: dict[tuple, list[dict]] = {}
    records: list[dict] = []
    for scope in _scopes(cases):
        same = (scope.domains, scope.risk)
        made[same] = made[same] if same in made else _of_scope(cases, scope)
        named = {"scope": scope.name, "family": scope.family, "target": scope.target, "risk": scope.risk}
        records += [record | named for record in made[same]]
    return records


def _of_scope(cases: pd.DataFrame, scope: _Scope) -> list[dict]:
    """A record for every method that has something to say of the scope."""
    records = []
    for group, models in _complete(cases, scope):
        first = group.iloc[0]
        head = {name: first[name] for name in (*RUN, "scenario", "source")}
        head |= dict(zip(METHOD, plain([first[name] for name in METHOD]), strict=True))
        definitions = group["definition"].dropna()
        head |= {"definition": definitions.iloc[0] if len(definitions) else None}
        name = str((*plain([first[column] for column in METHOD]), scope.domains, scope.risk))
        records.append(head | _measured(group, models, scope, first["source"], name))
    return records


def _complete(cases: pd.DataFrame, scope: _Scope) -> Iterator[tuple[pd.DataFrame, list[pd.DataFrame]]]:
    """Cases of each method, and of each of its trained models, if it has all of the scope with confidences alike."""
    own = cases[cases["target"].isin(scope.domains)]
    wanted = {seed: len(group[["target", "case"]].drop_duplicates()) for seed, group in own.groupby("seed")}
    for _, group in own.groupby(METHOD, dropna=False, sort=True):
        models = [model for _, model in group.groupby(_MODEL, sort=True)]
        complete = all(
            len(model) == wanted[model["seed"].iloc[0]] and model["target"].nunique() == len(scope.domains)
            for model in models
        )
        if complete and group["confidence"].notna().all() and group["definition"].nunique() <= 1:
            yield group, models


def _measured(group: pd.DataFrame, models: Sequence[pd.DataFrame], scope: _Scope, source: str, name: str) -> dict:
    """The figures of one method in one scope, with their intervals."""
    patients = np.sort(group["patient"].unique())
    seeds = np.sort(group["seed"].unique())
    rng = generator(0, "failure detection", name)
    draws = _patients_drawn(group, patients, rng)
    weights = rng.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=RESAMPLES) / len(seeds)
    figures = _domains_told_apart(source) if scope.risk is None else _areas(RISKS[scope.risk])
    points: dict[str, list[float]] = {}
    samples: dict[str, list[np.ndarray]] = {}
    for seed in seeds:
        made = [figures(model, _of_cases(model, patients, draws)) for model in models if model["seed"].iloc[0] == seed]
        for figure in made[0]:
            points.setdefault(figure, []).append(float(np.mean([each[figure][0] for each in made])))
            samples.setdefault(figure, []).append(np.mean([each[figure][1] for each in made], axis=0))
    record: dict = {"n_cases": len(models[0]), "n_patients": len(patients), "n_seeds": len(seeds)}
    record |= {"conditional": len(seeds) == 1}
    for figure, values in points.items():
        sample = (np.stack(samples[figure], axis=1) * weights).sum(axis=1)
        record[figure] = float(np.mean(values))
        if len(patients) > 1 and f"{figure}_low" in COLUMNS:
            tail = (1 - LEVEL) / 2
            record[f"{figure}_low"], record[f"{figure}_high"] = map(float, np.quantile(sample, [tail, 1 - tail]))
    return record


def _patients_drawn(group: pd.DataFrame, patients: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """How often each patient is in each resample, (b, patients)."""
    domains = group.groupby("patient")["target"].agg(lambda names: tuple(sorted(set(names))))
    strata: dict[tuple, list[int]] = {}
    for i, patient in enumerate(patients):
        strata.setdefault(domains[patient], []).append(i)
    drawn = np.zeros((RESAMPLES, len(patients)), np.int64)
    for _, members in sorted(strata.items()):
        n = len(members)
        drawn[:, members] = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    return drawn


def _of_cases(model: pd.DataFrame, patients: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """How often each case of a model is in each resample, (b, cases)."""
    return draws[:, np.searchsorted(patients, model["patient"].to_numpy())]


Figures = Callable[[pd.DataFrame, np.ndarray], dict[str, tuple[float, np.ndarray]]]


def _areas(metric: str) -> Figures:
    """The areas under the curves of risk, each with its values in the resamples."""

    def figures(model: pd.DataFrame, counts: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
        sure, risk = model["confidence"].to_numpy(float), 1.0 - model[metric].to_numpy(float)
        times = np.concatenate([np.ones((1, len(model)), np.int64), counts])  # the cases themselves come first
        area, joint = resampled_areas(sure, risk, times)
        best_area, best_joint = resampled_areas(-risk, risk, times)
        mean = times @ risk / times.sum(axis=1)
        found = {"augrc": joint, "augrc_random": mean / 2, "augrc_optimal": best_joint}
        found |= {"aurc": area, "e_aurc": area - best_area, "mean_risk": mean}
        return {name: (float(values[0]), values[1:]) for name, values in found.items()}

    return figures


def _domains_told_apart(source: str) -> Figures:
    """AUROC, with its values in the resamples, and FPR95 of the cases of the other domain against the source's."""

    def figures(model: pd.DataFrame, counts: np.ndarray) -> dict[str, tuple[float, np.ndarray]]:
        home, sure = (model["target"] == source).to_numpy(), model["confidence"].to_numpy(float)
        one, other = sure[home], sure[~home]
        wins = (one[:, None] > other[None, :]) + 0.5 * (one[:, None] == other[None, :])
        at_home, away = counts[:, home], counts[:, ~home]
        pairs = at_home.sum(axis=1) * away.sum(axis=1)
        sample = np.einsum("bi,bi->b", at_home @ wins, away) / np.maximum(pairs, 1)
        rate = fpr_at_tpr(one, other)
        return {"ood_auroc": (ood_auroc(one, other), sample), "fpr95": (rate, np.full(len(counts), rate))}

    return figures
