"""Which cause a drop is due to: effects, interactions and Shapley shares of the causes of a factorial scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from shiftbench.rng import generator
from shiftbench.robustness.constants import CONSTANTS
from shiftbench.robustness.patients import Entry, bounds, entries_of, is_negative, patient_table, rows_of
from shiftbench.robustness.streams import outside_streams
from shiftbench.spec import CELL_SIGN
from shiftbench.spec.target import RESELECT
from shiftbench.stats import crossed_bootstrap, mean_interval, unpaired_difference
from shiftbench.types import Status, Track

ALL = "all"  # the mean over the structures of a case
COLUMNS = (
    *("track", "backbone", "budget", "scenario", "method", "k", "structure", "kind", "causes", "family"),
    *("drop", "drop_low", "drop_high", "share_percent", "share_percent_low", "share_percent_high"),
    *("n_patients", "n_seeds", "interval"),
)
RESAMPLES = 10_000
GROUP_DIFFERENCE = "group difference"
_WHO = ("track", "backbone", "budget", "scenario", "method", "k")
Cell = frozenset[str]


def attribution(rows: pd.DataFrame) -> pd.DataFrame:
    """What each cause and each interaction of a factorial scenario takes from the DSC of every method.

    With y(S) the mean DSC where the causes S are present, on the same patients, and d(S) = y() - y(S) the drop:

    - `effect` of one cause: d({i}), the cause alone;
    - `interaction` of several: the part of d(S) that no smaller set of causes explains (inclusion and exclusion);
    - `shapley` of one cause: its effect and an equal part of every interaction that it is in, which is its marginal
      drop averaged over all orders of the causes;
    - `total`: d(all causes). Effects and interactions add up to it exactly, and so do the Shapley values.

    A structure enters where it is in the reference of a case in every cell, so that no contrast compares other
    structures or patients; cases are averaged to patients. Intervals are 95 % percentiles of a bootstrap of patients
    crossed with seeds, which all contrasts share; with fewer than five seeds (`interval` is "t") those of a drop are
    two-way t intervals, for so few seeds cannot be resampled. `share_percent` is given where the lower limit of the
    total exceeds the floor of a gap. Methods that are trained on each target anew are left out.

    A cause that brings other patients (a population that is selected from real cases, or scans of other people) has no
    counterfactual patient: nobody was seen with it and without. Such a cause enters none of the above. Each cell that
    it is in has a line `group difference` instead, the mean of the source's patients minus that of the cell's, with
    Welch's interval, and no share.

    Args:
        rows: the columns of `shiftbench.types.Row`; factorial cells are known by the "+" in a target's name.

    Raises:
        OutputError: see `patient_table`.
    """
    alone = outside_streams(rows)
    records: list[dict] = []
    for scenario, causes in factorials(alone).items():
        own = alone[(alone["scenario"] == scenario) & (alone["track"] != Track.REFERENCE)]
        same = tuple(cause for cause in causes if not _brings_others(own, cause))
        kept = _in_every_cell(own, same)
        others = [CELL_SIGN.join(cell) for cell in _cells(causes) if not set(cell) <= set(same)]
        apart = _of_groups(own, others)
        for structure in (*dict.fromkeys([*kept["structure"], *apart["structure"]]), ALL):
            chosen = kept if structure == ALL else kept[kept["structure"] == structure]
            group = apart if structure == ALL else apart[apart["structure"] == structure]
            made = _contrasts(chosen, same) if same else []
            if len(same) == 1:  # alone it has an effect, and nothing to share
                made = [record for record in made if record["kind"] == "effect"]
            records += [{"structure": structure} | record for record in (*made, *_group_differences(group, others))]
    table = pd.DataFrame(records, columns=COLUMNS).astype({"k": "Int64"})
    keys = ["backbone", "budget", "scenario", "track", "method", "k", "structure"]
    return table.sort_values(keys, kind="stable", ignore_index=True)


def factorials(rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Scenario to the causes of its largest cell, where every combination of them was run."""
    found: dict[str, tuple[str, ...]] = {}
    for scenario, own in rows.groupby("scenario", sort=True):
        targets = set(own["target"])
        joint = sorted((t for t in targets if CELL_SIGN in t), key=lambda t: (-t.count(CELL_SIGN), t))
        for name in joint:
            causes = tuple(name.split(CELL_SIGN))
            if targets >= {CELL_SIGN.join(cell) for cell in _cells(causes) if cell}:
                found[str(scenario)] = causes
                break
    return found


def _cells(causes: Sequence[str]) -> list[tuple[str, ...]]:
    """All subsets of the causes, the empty one first and smaller ones before larger."""
    return [cell for n in range(len(causes) + 1) for cell in combinations(causes, n)]


def contrast_matrix(causes: Sequence[str]) -> dict[tuple[str, tuple[str, ...]], np.ndarray]:
    """(kind, causes) to the weights of the cells (in the order of `_cells`) whose sum of DSC is that contrast."""
    cells = _cells(causes)
    dividends = {
        cell: np.array([-((-1.0) ** (len(cell) - len(t))) if set(t) <= set(cell) else 0.0 for t in cells])
        for cell in cells
        if cell
    }
    rows = {("effect" if len(cell) == 1 else "interaction", cell): weights for cell, weights in dividends.items()}
    for cause in causes:
        shares = [weights / len(cell) for cell, weights in dividends.items() if cause in cell]
        rows["shapley", (cause,)] = np.sum(shares, axis=0)
    rows["total", tuple(causes)] = np.sum(list(dividends.values()), axis=0)
    return rows


def _in_every_cell(rows: pd.DataFrame, causes: Sequence[str]) -> pd.DataFrame:
    """DSC rows of the cells, of the cases and structures that can be scored in all of them."""
    names = {CELL_SIGN.join(cell) for cell in _cells(causes) if cell}
    chosen = rows_of(rows[rows["target"].isin(names) | (rows["target"] == rows["source"])], "dsc")
    out = (Status.NOT_APPLICABLE, Status.CLASS_NOT_ANNOTATED)
    scored = chosen[~is_negative(chosen) & ~chosen["status"].isin(out)]
    keys = ["backbone", "budget", "case", "structure"]
    n_cells = scored.groupby(keys)["target"].nunique()
    complete = n_cells[n_cells == len(names) + 1].index
    return chosen[pd.MultiIndex.from_frame(chosen[keys]).isin(complete)]


def _brings_others(rows: pd.DataFrame, cause: str) -> bool:
    """Whether the patients of a cause are others than the source's, or some of them that were selected."""
    of_cause, of_source = rows[rows["target"] == cause], rows[rows["target"] == rows["source"]]
    return bool((of_cause["operator"] == RESELECT).any() or not of_cause["patient"].isin(of_source["patient"]).all())


def _of_groups(rows: pd.DataFrame, cells: Sequence[str]) -> pd.DataFrame:
    """DSC rows of the source and of the cells with other patients; none without such cells."""
    own = rows[rows["target"].isin(cells) | (rows["target"] == rows["source"])]
    return rows_of(own if cells else own.iloc[:0], "dsc")


def _group_differences(rows: pd.DataFrame, cells: Sequence[str]) -> list[dict]:
    """Source minus each cell with other patients, for every method."""
    entries = entries_of(patient_table(rows)) if len(rows) else []
    sources = {_who(entry): entry for entry in entries if entry.is_source_test}
    records = []
    for entry in entries:
        source = sources.get(_who(entry))
        if entry.target not in cells or source is None:
            continue
        found = unpaired_difference(source.scores, entry.scores)
        line = {"kind": GROUP_DIFFERENCE, "causes": entry.target, "family": entry.family, "interval": "Welch"}
        line |= bounds("drop", found) | {"n_patients": found.n_patients, "n_seeds": found.n_seeds}
        records.append(dict(zip(_WHO, _who(entry), strict=True)) | line)
    return records


def _who(entry: Entry) -> tuple:
    return tuple(getattr(entry, name) for name in _WHO)


def _contrasts(rows: pd.DataFrame, causes: Sequence[str]) -> list[dict]:
    """The contrasts of every method on these rows."""
    by_method: dict[tuple, dict[Cell, Entry]] = {}
    for entry in entries_of(patient_table(rows)) if len(rows) else []:
        cell: Cell = frozenset() if entry.is_source_test else frozenset(entry.target.split(CELL_SIGN))
        by_method.setdefault(_who(entry), {})[cell] = entry
    records = []
    for who, cells in by_method.items():
        table = _paired([cells.get(frozenset(cell)) for cell in _cells(causes)])
        if table is not None:
            families = {cause: cells[frozenset([cause])].family for cause in causes}
            head = dict(zip(_WHO, who, strict=True))
            records += [head | line for line in _lines(table, causes, families, str(who))]
    return records


def _paired(entries: Sequence[Entry | None]) -> np.ndarray | None:
    """Scores (cells, seeds, patients) on the seeds and patients of all cells; None where a cell or a patient lacks."""
    tables = [entry.scores for entry in entries if entry is not None]
    if len(tables) < len(entries):
        return None
    seeds, patients = tables[0].index, tables[0].columns
    for table in tables[1:]:
        seeds, patients = seeds.intersection(table.index), patients.intersection(table.columns)
    values = np.stack([table.loc[seeds, patients].to_numpy(float) for table in tables])
    values = values[:, :, np.isfinite(values).all(axis=(0, 1))]
    return values if values.size else None


def _lines(values: np.ndarray, causes: Sequence[str], families: Mapping[str, str], name: str) -> list[dict]:
    """One record per contrast of the scores (cells, seeds, patients)."""
    contrasts = contrast_matrix(causes)
    weights = np.stack(list(contrasts.values()))  # (contrasts, cells); the last one is the total

    def both(means: np.ndarray) -> np.ndarray:
        drops = means @ weights.T
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = 100 * drops / drops[:, -1:]
        return np.stack([drops, np.where(np.isfinite(shares), shares, 0.0)], axis=-1)  # (b, contrasts, 2)

    found = crossed_bootstrap(values, both, resamples=RESAMPLES, rng=generator(0, "attribution", name))
    low, high = found.low[:, 0], found.high[:, 0]
    n_seeds, n = values.shape[1:]
    if found.seed_limited:
        exact = [mean_interval(np.tensordot(w, values, axes=1)) for w in weights]
        low, high = (np.array([getattr(e, end) for e in exact], float) for end in ("low", "high"))
    has_gap = bool(n > 1 and low[-1] > CONSTANTS.gap_floor)
    lines = []
    for i, (kind, cell) in enumerate(contrasts):
        known = families[cell[0]] if len(cell) == 1 else "combined"
        line: dict[str, Any] = {"kind": kind, "causes": CELL_SIGN.join(cell), "family": known}
        line |= {"n_patients": n, "n_seeds": n_seeds, "interval": "t" if found.seed_limited else "bootstrap"}
        line["drop"] = float(found.estimate[i, 0])
        if n > 1:
            line |= {"drop_low": float(low[i]), "drop_high": float(high[i])}
        if has_gap:
            share = (found.estimate[i, 1], found.low[i, 1], found.high[i, 1])
            line |= dict(
                zip(("share_percent", "share_percent_low", "share_percent_high"), map(float, share), strict=True)
            )
        lines.append(line)
    return lines
