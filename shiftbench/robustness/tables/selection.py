"""The selection gap: what is lost where a method's configuration is chosen without the target's labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.rng import generator
from shiftbench.robustness.patients import ENTRY, RUN, Entry, bounds, entries_of, patient_table, plain, rows_of
from shiftbench.robustness.scopes import TARGET, pooled
from shiftbench.robustness.streams import outside_streams
from shiftbench.stats import drawn_shares, mean_interval, pooled_interval
from shiftbench.types import Episode, Family, Status, Track

SCORE, VANISHED = "selection_score", "vanished"
RESAMPLES = 2_000
ONLINE = "online: no selection"  # one pass over the stream, after which nothing can be chosen
UNSCORED = "not applicable: these rows hold no label-free score"
COLUMNS = (
    *("track", *RUN, "scenario", "scope", "family", "target", "entry", "k", "status", "candidates", "rejected"),
    *("chosen", "oracle", "default", "dsc_chosen", "dsc_oracle", "dsc_default"),
    *("gap", "gap_low", "gap_high", "default_gap", "default_gap_low", "default_gap_high"),
    *("gain", "gain_low", "gain_high", "oracle_optimism", "n_targets", "n_patients", "n_seeds", "conditional"),
)


def selection(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per method with several configurations in the run, for each target, family and overall.

    Configurations are an `entry`, the part of a method's name before its colon, with other overrides, and as many
    labelled target cases. For every seed, as for whoever has that model, and every target

    - `chosen` has the highest mean label-free score over the target's cases; a configuration without a score for a
      case, or with a structure that vanished from all its predictions though the model predicts it on source-val, is
      rejected (the default is taken where all are);
    - `oracle` has the highest mean DSC on the test patients, which nobody can choose by;
    - `default` has no overrides, and of several the name that comes first.

    `gap` is oracle - chosen, `default_gap` oracle - default, `gain` chosen - default, paired, with intervals over
    patients crossed with seeds. The oracle is the best of several on the patients that it is scored on, so its DSC and
    both gaps are too high by about `oracle_optimism`: the mean amount by which the best configuration of a bootstrap
    sample of the patients scores higher there than on all of them. A gap is never below zero, so that its interval says
    how large it is, not whether there is one. Controls have no rows; overall is without annotation shifts and faults.

    Args:
        rows: the columns of `shiftbench.types.Row`; those of streams are not looked at.

    Raises:
        OutputError: see `patient_table`.
    """
    alone = outside_streams(rows)
    alone = alone[(alone["family"] != Family.CONTROL) & ~alone["track"].isin([Track.REFERENCE, Track.ESTIMATE])]
    groups = _groups(alone)
    records: list[dict] = []
    if groups:
        named = {name for names in groups.values() for name in names}
        alone = alone[alone["method"].isin(named)]
        entries, scores = entries_of(patient_table(alone)), _scores(alone)
        for (track, backbone, budget, scenario, entry, k), names in groups.items():
            head = {
                "track": track,
                "backbone": backbone,
                "budget": budget,
                "scenario": scenario,
                "entry": entry,
                "k": k,
            }
            own = [e for e in entries if e.method in names and _same(e, head)]
            records += [head | line for line in _of_group(own, scores, _online(alone, names), str(head))]
    return pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})


def _groups(rows: pd.DataFrame) -> dict[tuple, list[str]]:
    """(track, backbone, budget, scenario, entry, k) to the names of its configurations, where there are several."""
    who = rows[["track", *RUN, "scenario", "method", "k"]].astype({"k": float}).drop_duplicates()
    who = who.assign(entry=[name.partition(":")[0] for name in who["method"]])
    grouped = who.groupby(["track", *RUN, "scenario", "entry", "k"], dropna=False, sort=True)["method"]
    return {plain(key): sorted(names) for key, names in grouped if len(names) > 1}


def _same(entry: Entry, head: Mapping[str, Any]) -> bool:
    return all(getattr(entry, name) == head[name] for name in ("track", *RUN, "scenario", "k"))


def _online(rows: pd.DataFrame, names: Sequence[str]) -> set[str]:
    carried = rows["episode"].isin([Episode.ONLINE, Episode.CONTINUAL]) & rows["method"].isin(names)
    return set(rows.loc[carried, "method"])


@dataclass(frozen=True)
class _Scores:
    """Of one configuration on one target: mean label-free score per seed, NaN where it is rejected."""

    by_seed: pd.Series
    rejected: str


def _scores(rows: pd.DataFrame) -> dict[tuple, _Scores]:
    """Identity of an entry to its label-free scores; the draws of a few-shot method are averaged."""
    found: dict[tuple, _Scores] = {}
    if not (rows["metric"] == SCORE).any():
        return found
    scored, vanished = rows_of(rows, SCORE), rows_of(rows, VANISHED)
    acquired = scored[scored.groupby([*RUN, "scenario", "target", "case"])["value"].transform("count") > 0]
    gone = _collapsed(vanished)
    for key, own in acquired.groupby(ENTRY, dropna=False):
        identity = plain(key)
        means = own.groupby("seed")["value"].agg(lambda values: values.mean() if values.notna().all() else np.nan)
        lost = {seed: structures for (*who, seed), structures in gone.items() if tuple(who) == identity}
        words = [f"{', '.join(sorted(set().union(*lost.values())))} vanished"] if lost else []
        words += ["a case has no score"] if means.isna().any() else []
        found[identity] = _Scores(means.mask(means.index.isin(list(lost))), "; ".join(words))
    return found


def _collapsed(vanished: pd.DataFrame) -> dict[tuple, set[str]]:
    """(*entry, seed) to the structures that are in no prediction of a target though source-val has them."""
    known = vanished[vanished["status"] == Status.OK]
    share = known.groupby([*ENTRY, "seed", "structure"], dropna=False)["value"].min()
    found: dict[tuple, set[str]] = {}
    for key in share.index[share == 1.0]:
        *who, structure = plain(key)
        found.setdefault(tuple(who), set()).add(structure)
    return found


@dataclass(frozen=True)
class _Choice:
    """On one target, per seed: scores (seeds, patients) of what is chosen, of the oracle and of the default."""

    chosen: pd.DataFrame
    oracle: pd.DataFrame
    default: pd.DataFrame
    optimism: float
    words: Mapping[str, str]


def _of_group(entries: Sequence[Entry], scores: Mapping[tuple, _Scores], online: set[str], name: str) -> list[dict]:
    """Lines of the configurations of one file in one scenario."""
    by_target: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.method not in online:
            by_target.setdefault(entry.target, []).append(entry)
    families = {entry.target: entry.family for entry in entries}
    several = {t: own for t, own in by_target.items() if len(own) > 1}
    if not several:
        names = ", ".join(sorted({e.method for e in entries}))
        return [{"scope": "run", "status": ONLINE, "candidates": names}] if online and entries else []
    choices: dict[str, _Choice] = {}
    records: list[dict] = []
    for target, own in several.items():
        head = {"scope": TARGET, "target": target, "family": families[target]}
        choice = _choice(own, scores, f"{name} {target}") if any(e.identity in scores for e in own) else None
        if choice is None:
            records.append(head | {"status": UNSCORED, "candidates": ", ".join(sorted(e.method for e in own))})
        else:
            choices[target] = choice
            records.append(head | {"status": "ok"} | dict(choice.words) | _line([choice]))
    for scope, family, part in pooled(choices, families):
        records.append({"scope": scope, "family": family, "status": "ok"} | _line(list(part.values())))
    return records


def _choice(entries: Sequence[Entry], scores: Mapping[tuple, _Scores], name: str) -> _Choice | None:
    """What is chosen between the configurations on one target; None where they share no seed and patient."""
    ordered = sorted(entries, key=lambda e: (":" in e.method, e.method))  # the default first
    names = [e.method for e in ordered]
    tables = [e.scores for e in ordered]
    seeds, patients = tables[0].index, tables[0].columns
    for other in tables[1:]:
        seeds, patients = seeds.intersection(other.index), patients.intersection(other.columns)
    dsc = np.stack([own.loc[seeds, patients].to_numpy(float) for own in tables])  # (candidates, S, N)
    known = np.isfinite(dsc).all(axis=(0, 1))
    patients, dsc = patients[known], dsc[:, :, known]
    if not dsc.size:
        return None
    looks = np.stack([_of_seeds(scores.get(e.identity), seeds) for e in ordered])  # (candidates, S)
    chosen = np.where(np.isnan(looks), -np.inf, looks).argmax(axis=0)  # the default where all are rejected
    best = dsc.mean(axis=-1).argmax(axis=0)

    def of_seeds(which: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(dsc[which, np.arange(len(seeds))], index=seeds, columns=patients)

    rejected = {e.method: scores[e.identity].rejected for e in ordered if e.identity in scores}
    words = {
        "candidates": ", ".join(names),
        "rejected": "; ".join(f"{method}: {why}" for method, why in rejected.items() if why),
        "chosen": _counted([names[i] for i in chosen]),
        "oracle": _counted([names[i] for i in best]),
        "default": names[0],
    }
    default = np.zeros(len(seeds), int)
    return _Choice(of_seeds(chosen), of_seeds(best), of_seeds(default), _optimism(dsc, name), words)


def _of_seeds(found: _Scores | None, seeds: pd.Index) -> np.ndarray:
    return np.full(len(seeds), np.nan) if found is None else found.by_seed.reindex(seeds).to_numpy(float)


def _counted(names: Sequence[str]) -> str:
    """One name, or each with the number of seeds in which it was chosen, most often first."""
    counts = pd.Series(list(names)).value_counts(sort=False).sort_index().sort_values(ascending=False, kind="stable")
    return names[0] if len(counts) == 1 else ", ".join(f"{name} ({n})" for name, n in counts.items())


def _optimism(dsc: np.ndarray, name: str) -> float:
    """By how much the best of the candidates (candidates, S, N) looks better than it is, mean over seeds.

    Reference:
        Efron, Tibshirani, An introduction to the bootstrap, 1993, chapter 17, on the optimism of a selection.
    """
    shares = drawn_shares(dsc.shape[-1], resamples=RESAMPLES, rng=generator(0, "selection", name))  # (b, N)
    whole = dsc.mean(axis=-1)[..., None]  # (candidates, S, 1)
    excess = dsc @ shares.T - whole  # (candidates, S, b), zero on average
    best = (excess + whole).argmax(axis=0)[None]
    usual = np.broadcast_to(whole.argmax(axis=0)[None], best.shape)  # its own excess is noise of the resamples alone
    return float((np.take_along_axis(excess, best, 0) - np.take_along_axis(excess, usual, 0)).mean())


def _line(choices: Sequence[_Choice]) -> dict:
    """Gaps of one target, or of several that weigh equally."""
    pairs = {"gap": ("oracle", "chosen"), "default_gap": ("oracle", "default"), "gain": ("chosen", "default")}
    record: dict = {"n_targets": len(choices), "oracle_optimism": float(np.mean([c.optimism for c in choices]))}
    for name in ("chosen", "oracle", "default"):
        record[f"dsc_{name}"] = float(np.mean([getattr(c, name).to_numpy().mean() for c in choices]))
    for name, (better, other) in pairs.items():
        tables = [getattr(c, better) - getattr(c, other) for c in choices]
        interval = mean_interval(tables[0]) if len(tables) == 1 else pooled_interval(tables)
        record |= bounds(name, interval)
        record |= {"n_patients": interval.n_patients, "n_seeds": interval.n_seeds, "conditional": interval.conditional}
    return record
