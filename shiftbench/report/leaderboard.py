"""The leaderboard: one tidy table from the rows of a run, for the terminal, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from shiftbench import robustness
from shiftbench.errors import OutputError
from shiftbench.report.cells import label
from shiftbench.report.sections.audit import marks
from shiftbench.report.tables import markdown
from shiftbench.report.terminal import print_leaderboard
from shiftbench.report.words import UNCOMPARABLE
from shiftbench.robustness.headline import LABELLED_TRACKS, OVERALL, UNRANKED_FAMILIES
from shiftbench.robustness.streams import outside_streams
from shiftbench.types import FAILURES, Family, Status

__all__ = ["COLUMNS", "leaderboard", "markdown", "print_leaderboard", "read_csv", "write_csv", "write_markdown"]

BOARD = ["track", "backbone", "budget"]
METHOD = [*BOARD, "method", "k"]
PLACE = ["scenario", "source", "target", "operator", "level"]
COLUMNS = [
    *METHOD,
    "label",
    "scope",
    "family",
    *PLACE,
    "level_value",
    "level_unit",
    "rank",
    "tie_group",
    "n_ranked",
    "rank_low",
    "rank_high",
    "p_rank_1",
    "tied_with_leader",
    "dsc",
    "dsc_low",
    "dsc_high",
    "drop",
    "drop_low",
    "drop_high",
    "recovered_percent",
    "recovered_percent_low",
    "recovered_percent_high",
    "gap_status",
    "negative_transfer_percent",
    "harmed_percent",
    "harmed_percent_low",
    "harmed_percent_high",
    "harmed_by_reseeding_percent",
    "harm_excess_percent",
    "harm_excess_percent_low",
    "harm_excess_percent_high",
    "harm_claimed",
    "nsd",
    "seconds_per_case",
    "failed_cases",
    "n_cases",
    "negative_cases",
    "false_positives",
    "n_patients",
    "n_seeds",
    "n_targets",
    "conditional",
    "audit",
    "failed_audits",
    "note",
]

COUNTS = (
    *("k", "rank", "tie_group", "n_ranked", "rank_low", "rank_high", "failed_cases", "n_cases", "negative_cases"),
    *("false_positives", "n_patients", "n_seeds", "n_targets"),
)
RECOVERED = (
    *("recovered_percent", "recovered_percent_low", "recovered_percent_high", "gap_status"),
    *("negative_transfer_percent", "audit"),
)
SHOWN = ("dsc", "nsd")  # metrics; every prediction has a row of the first for each structure


def leaderboard(rows: pd.DataFrame, audits: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row per method and target, per method and family, and per method overall (`scope` says which).

    Means, intervals and all about ranks are those of `shiftbench.robustness`. Of a family and overall, `drop` and
    `harmed_percent` are means over targets, and `recovered_percent` is a ratio of sums over the targets that have a
    gap; these have no interval. `seconds_per_case`, `failed_cases` and, of the structures whose reference is empty
    (`negative_cases`), `false_positives` count every prediction once. A method that is not applicable on any target has
    one row, without a score and with the reason as its `note`.

    Rows of streams, and what the impossible control is compared with, have tables of their own (`report.sections`).

    Args:
        rows: the columns of `shiftbench.types.Row`.
        audits: what `shiftbench audit` found, where it was asked: a method's label names those that it failed.

    Raises:
        OutputError: no rows, or rows that cannot be compared (see `robustness.patient_table`).
    """
    if rows.empty:
        raise OutputError("there are no rows to rank", remedy="run at least one scenario first")
    rows = outside_streams(rows)
    rows = rows[rows["metric"].isin(SHOWN)]
    kinds = {"k": float, "level": float, "operator": object}  # all empty in a run without operators
    rows = rows.astype(kinds)
    predictions = rows[rows["metric"] == SHOWN[0]].sort_values(["seed", "draw", "case", "structure"], kind="stable")
    targets = (
        robustness.summary(rows)
        .astype(kinds)
        .merge(_costs(predictions).astype(kinds), on=[*METHOD, *PLACE], how="left")
    )
    reasons = _reasons(predictions)
    scored = targets[targets["dsc"].notna()]
    own = {_key(name): group for name, group in scored.groupby(METHOD, dropna=False)}
    lines = [(_key(line[name] for name in METHOD), line) for line in robustness.headline(rows).to_dict("records")]
    recovered = _recovered(rows)
    pooled = [
        _pooled(line, own[key], reasons.get(key, ""), recovered.get((*key, line["family"]), {})) for key, line in lines
    ]
    absent = _without_overall(targets, pooled, reasons)
    single = scored.assign(scope="target", n_targets=1, note="").to_dict("records")
    table = pd.DataFrame([*pooled, *absent, *single]).reindex(columns=COLUMNS)
    table["n_ranked"] = table.groupby([*BOARD, "scope", "family"], dropna=False)["rank"].transform("count")
    table["failed_audits"] = marks(table, audits)
    facts = zip(table["method"], table["k"], table["failed_audits"], strict=True)
    table["label"] = [label(method, k) + (f" [audit failed: {bad}]" if bad else "") for method, k, bad in facts]
    for name in COUNTS:
        table[name] = pd.array([None if pd.isna(v) else int(v) for v in table[name]], dtype="Int64")
    return table.sort_values(
        ["backbone", "budget", "track", "scope", "family", *PLACE, "rank", "dsc", "method", "k"],
        key=_sort_key,
        kind="stable",
        ignore_index=True,
    )


def _sort_key(column: pd.Series) -> pd.Series:
    if column.name == "scope":
        return column.map({"overall": 0, "family": 1, "target": 2})
    return -column.astype(float) if column.name == "dsc" else column


def _costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Seconds per case and cases without a usable prediction, each prediction counted once."""
    one = rows[rows["status"] != Status.NOT_APPLICABLE]
    one = one.assign(failed=one["status"].isin(FAILURES))
    case = one.groupby([*METHOD, *PLACE, "seed", "draw", "case"], dropna=False, sort=False)
    case = case.agg(seconds=("seconds", "first"), failed=("failed", "any")).reset_index()
    costs = case.groupby([*METHOD, *PLACE], dropna=False, sort=False).agg(
        seconds_per_case=("seconds", "mean"), failed_cases=("failed", "sum"), n_cases=("failed", "size")
    )
    return costs.reset_index()


def _reasons(rows: pd.DataFrame) -> dict[tuple, str]:
    """Method of a board to the reasons of its `not_applicable` rows."""
    without = rows[rows["status"] == Status.NOT_APPLICABLE]
    grouped = without.groupby(METHOD, dropna=False)["detail"]
    return {_key(name): "; ".join(sorted({str(v) for v in details.dropna() if v})) for name, details in grouped}


def _key(values: Iterable) -> tuple:
    return tuple(None if pd.isna(value) else value for value in values)


def _pooled(line: dict, own: pd.DataFrame, reason: str, recovered: dict) -> dict:
    """A line of the headline (a family or overall) with the means of what the method's `own` targets say."""
    overall = line["family"] == OVERALL
    chosen = own[own["family"].isin(_families(line["track"]))] if overall else own[own["family"] == line["family"]]
    weights = 1.0 / chosen.groupby("family")["family"].transform("size").to_numpy()
    incomplete = line["note"].startswith(UNCOMPARABLE) and reason
    return {
        **line,
        "scope": "overall" if overall else "family",
        "family": None if overall else line["family"],
        "note": f"{line['note']} ({reason})" if incomplete else line["note"],
        "drop": _mean(chosen["drop"], weights),
        **recovered,
        "harmed_percent": _mean(chosen["harmed_percent"], weights),
        "harmed_by_reseeding_percent": _mean(chosen["harmed_by_reseeding_percent"], weights),
        "nsd": _mean(chosen["nsd"], weights),
        "seconds_per_case": _mean(chosen["seconds_per_case"], chosen["n_cases"].to_numpy(float)),
        "failed_cases": chosen["failed_cases"].sum(),
        "n_cases": chosen["n_cases"].sum(),
        "negative_cases": chosen["negative_cases"].sum(),
        "false_positives": chosen["false_positives"].sum(),
        "audit": bool(chosen["audit"].any() or recovered.get("audit")),
    }


def _families(track: str) -> set[Family]:
    """Families that enter the overall score of a track."""
    out = UNRANKED_FAMILIES if track in LABELLED_TRACKS else UNRANKED_FAMILIES | {Family.ANNOTATION}
    return set(Family) - set(out)


def _mean(values: pd.Series, weights: np.ndarray) -> float | None:
    """Weighted mean of the values that are there, None where there is none."""
    numbers = values.to_numpy(float)
    known = np.isfinite(numbers)
    return float(np.average(numbers[known], weights=weights[known])) if known.any() else None


def _recovered(rows: pd.DataFrame) -> dict[tuple, dict]:
    """Method and family (or "overall") to the columns `RECOVERED` of `robustness.recovery`."""
    table = robustness.recovery(rows).astype({"k": float})
    keys = table[[*METHOD, "family"]].itertuples(index=False, name=None)
    return dict(zip(map(_key, keys), table[list(RECOVERED)].to_dict("records"), strict=True))


def _without_overall(targets: pd.DataFrame, pooled: list[dict], reasons: dict[tuple, str]) -> list[dict]:
    """An unranked line for each method that has no overall score, with the reason."""
    known = {_key(line[name] for name in METHOD) for line in pooled if line["scope"] == "overall"}
    lines = []
    for name, group in targets.groupby(METHOD, dropna=False):
        key = _key(name)
        if key in known:
            continue
        if group["dsc"].isna().all():
            note = f"not applicable: {reasons.get(key) or 'it has no scores'}"
        elif (group["family"] == Family.ANNOTATION).any():
            note = "not ranked: there are annotation targets alone, and it has no target labels"
        else:
            note = "not ranked: there are no targets of a family that is ranked"
        lines.append({**dict(zip(METHOD, key, strict=True)), "scope": "overall", "note": note})
    return lines


def write_csv(table: pd.DataFrame, path: str | Path) -> Path:
    """Writes the leaderboard, or another table, as CSV, numbers in full precision.

    Raises:
        OutputError: the file cannot be written.
    """
    return _write(path, table.to_csv(index=False, lineterminator="\n"))


def read_csv(path: str | Path) -> pd.DataFrame:
    """The leaderboard that `write_csv` wrote.

    Raises:
        OutputError: the file is missing or is no leaderboard.
    """
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(COUNTS, "Int64"), keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        remedy = "run `shiftbench run` into this folder first"
        raise OutputError("there is no leaderboard that can be read", where=path, remedy=remedy) from error
    if list(table.columns) != COLUMNS:
        raise OutputError(
            "the columns are not those of a leaderboard", where=path, remedy="make it again from the rows"
        )
    return table.fillna({"note": "", "failed_audits": ""})


def write_markdown(table: pd.DataFrame, path: str | Path, **parts: Any) -> Path:
    """Writes the leaderboard as Markdown, one section per track, backbone and budget.

    `parts` are title, agreement and sections of `tables.markdown`.

    Raises:
        OutputError: the file cannot be written.
    """
    return _write(path, markdown(table, **parts))


def _write(path: str | Path, text: str) -> Path:
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        remedy = "give another folder with --out, or free space"
        raise OutputError(f"cannot be written: {error.strerror}", where=path, remedy=remedy) from error
    return path
