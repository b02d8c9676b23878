"""How a leaderboard is put into boards and columns, and into Markdown for a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from shiftbench.report.cells import (
    first,
    harmed,
    label,
    number,
    of,
    rank,
    recovered,
    seconds,
    with_interval,
)
from shiftbench.report.sections.section import Section
from shiftbench.report.words import DASH, FAMILY_NAMES, READING, TRACK_NAMES, UNCOMPARABLE
from shiftbench.robustness.constants import ORACLE, SOURCE_ONLY
from shiftbench.robustness.headline import LABELLED_TRACKS
from shiftbench.types import Family, Track

__all__ = [
    "Board",
    "board_lines",
    "boards",
    "design",
    "family_row",
    "label",
    "markdown",
    "number",
    "overall_score",
    "unranked",
]


@dataclass(frozen=True)
class Board:
    """One leaderboard: who is on it, and the source-only and oracle rows that it is read against.

    Attributes:
        lines: the "overall" rows of those with a score on some target, best first; the others are in `absent`.
        references: "overall" rows of source-only and oracle from their own tracks.
        families: of the targets, in the order of `FAMILY_NAMES`.
        means: the "family" rows of lines and references.
        targets: the "target" rows of lines and references.
    """

    track: str
    backbone: str
    budget: str
    lines: pd.DataFrame
    absent: pd.DataFrame
    references: pd.DataFrame
    families: tuple[str, ...]
    means: pd.DataFrame
    targets: pd.DataFrame

    @property
    def name(self) -> str:
        """Track, backbone and budget in words."""
        return f"{TRACK_NAMES.get(self.track, self.track)} · {self.backbone} · {self.budget}"


def boards(table: pd.DataFrame) -> Iterator[Board]:
    """The leaderboards in `table` (see `leaderboard.leaderboard`), one per track, backbone and budget."""
    order = {track: i for i, track in enumerate(TRACK_NAMES)}
    keys = table[["backbone", "budget", "track"]].drop_duplicates().itertuples(index=False, name=None)
    for backbone, budget, track in sorted(
        keys, key=lambda key: (key[0], key[1], order.get(key[2], len(order)), key[2])
    ):
        run = table[(table["backbone"] == backbone) & (table["budget"] == budget)]
        own = run["track"] == track
        reference = run["method"].isin([SOURCE_ONLY, ORACLE]) & ~own
        shown = run[own | reference]
        overall = shown[shown["scope"] == "overall"]
        on_board = overall["track"] == track
        targets = shown[shown["scope"] == "target"]
        scored = overall["label"].isin(targets.loc[targets["track"] == track, "label"])
        known = set(run.loc[run["scope"] == "family", "family"])
        yield Board(
            track,
            backbone,
            budget,
            lines=overall[on_board & scored],
            absent=overall[on_board & ~scored],
            references=overall[~on_board],
            families=tuple(name for name in FAMILY_NAMES if name in known),
            means=shown[shown["scope"] == "family"],
            targets=targets,
        )


def design(board: Board) -> str:
    """One sentence: targets, patients, seeds, and what the interval holds for."""
    places = board.targets.drop_duplicates(["scenario", "target", "family"])
    counts = [(name, int((places["family"] == name).sum())) for name in board.families]
    listed = ", ".join(f"{FAMILY_NAMES[name].lower()} {n}" for name, n in counts)
    if board.lines.empty:
        return "No method of this board could be scored."
    patients, seeds = board.targets["n_patients"].max(), board.targets["n_seeds"].max()
    n = sum(count for _, count in counts)
    text = (
        f"{n} target{'s' if n != 1 else ''} ({listed}), {patients} patients, {seeds} seed{'s' if seeds != 1 else ''}."
    )
    if board.targets["conditional"].astype(bool).any():
        text += " 95 % intervals are over patients and conditional on this trained model."
        text += " So are ranks: no method is said to beat another in general."
    else:
        text += " 95 % intervals are over patients crossed with seeds."
    if board.track in LABELLED_TRACKS and Family.ANNOTATION in board.families:
        text += " These methods see target labels, so annotation targets enter the overall score."
    return text


def unranked(board: Board) -> list[tuple[str, str]]:
    """(method, reason) of those on the board that have no rank."""
    rest = board.lines[board.lines["rank"].isna()]
    every = [*rest.itertuples(), *board.absent.itertuples()]
    seen = [row for row in every if row.track != Track.REFERENCE or pd.isna(row.dsc)]
    return sorted((row.label, row.note.removeprefix("not ranked: ")) for row in seen)


def markdown(
    table: pd.DataFrame,
    *,
    title: str = "Leaderboard",
    agreement: pd.DataFrame | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The leaderboard as Markdown: how to read it, one section per track, backbone and budget, then the others.

    Args:
        table: see `leaderboard.leaderboard`.
        title: heading of the page.
        agreement: of the label protocols (see `shiftbench.agreement`), shown beside the scores of the targets.
        sections: see `shiftbench.report.sections`; an alarm among them stands above everything else.
    """
    agreements = _agreements(agreement)
    alarms = [f"> **{section.alarm}**" for section in sections if section.alarm]
    parts = [f"# {title}", *alarms, "## How to read it", READING.rstrip()]
    for board in boards(table):
        parts += [f"## {board.name}", design(board)]
        if len(board.lines):
            parts.append(_markdown_scores(board))
        reasons = unranked(board)
        if reasons:
            parts.append("Not ranked:\n\n" + "\n".join(f"- `{name}`: {reason}" for name, reason in reasons))
        if len(board.lines):
            parts += ["### Each target: DSC with its 95 % interval, and drop", _markdown_targets(board, agreements)]
    for section in sections:
        body = [list(line) for line in section.body]
        parts += [f"## {section.title}", section.words, _grid(list(section.head), body, section.left)]
    return "\n\n".join(parts) + "\n"


def _grid(head: list[str], body: list[list[str]], left: int) -> str:
    ruler = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, ruler, *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def board_lines(board: Board) -> list[tuple[pd.Series, bool]]:
    """Rows to print, with whether they are references: source-only first, oracle last, the board's own between."""
    references = {row["method"]: row for _, row in board.references.iterrows()}
    own = board.lines.sort_values(["rank", "dsc"], ascending=[True, False], kind="stable", na_position="last")
    first = [(references[SOURCE_ONLY], True)] if SOURCE_ONLY in references else []
    last = [(references[ORACLE], True)] if ORACLE in references else []
    return [*first, *((row, False) for _, row in own.iterrows()), *last]


def family_row(board: Board, line: pd.Series, family: str) -> pd.Series | None:
    """The method's row of one family, or None where it has none."""
    means = board.means
    found = means[(means["track"] == line["track"]) & (means["label"] == line["label"]) & (means["family"] == family)]
    return None if found.empty else found.iloc[0]


def overall_score(board: Board, line: pd.Series, is_reference: bool) -> str:
    """Overall mean with interval; of a reference whose own track pools other families, the mean of this board's."""
    labelled = board.track in LABELLED_TRACKS
    if line["note"].startswith(UNCOMPARABLE):
        return f"{with_interval(line)}*"
    if not is_reference or labelled == (line["track"] in LABELLED_TRACKS) or Family.ANNOTATION not in board.families:
        return with_interval(line)
    pooled = [name for name in board.families if labelled or name != Family.ANNOTATION]
    means = [row["dsc"] for row in (family_row(board, line, name) for name in pooled) if row is not None]
    return number(sum(means) / len(means)) if means else DASH


def _markdown_scores(board: Board) -> str:
    head = ["Rank", "Method", "P(rank 1)", "Overall DSC [95 %]", *(FAMILY_NAMES[name] for name in board.families)]
    head += ["Drop", "Recovered", "Harmed", "NSD", "FP on negatives", "s / case", "Failed cases"]
    body = []
    for line, is_reference in board_lines(board):
        families = [family_row(board, line, name) for name in board.families]
        name = f"`{line['label']}`"
        body.append(
            [
                "ref." if is_reference else rank(line),
                f"*{name}*" if is_reference else name,
                DASH if is_reference else first(line),
                overall_score(board, line, is_reference),
                *(DASH if row is None else with_interval(row) for row in families),
                number(line["drop"]),
                recovered(line),
                harmed(line),
                number(line["nsd"]),
                of(line, "false_positives", "negative_cases"),
                seconds(line["seconds_per_case"]),
                of(line, "failed_cases", "n_cases"),
            ]
        )
    return _grid(head, body, left=2)


def _agreements(table: pd.DataFrame | None) -> dict[tuple[str, str], str]:
    """(scenario, target) to the mean over structures with its interval, in words."""
    if table is None:
        return {}
    whole = table[table["structure"] == "all"]
    named = whole.rename(columns={"agreement": "dsc", "low": "dsc_low", "high": "dsc_high"})
    return {(row["scenario"], row["target"]): with_interval(row) for _, row in named.iterrows()}


def _markdown_targets(board: Board, agreements: Mapping[tuple[str, str], str]) -> str:
    order = {name: i for i, name in enumerate(FAMILY_NAMES)}
    places = board.targets[["family", "scenario", "target", "source"]].drop_duplicates()
    keys = list(places.itertuples(index=False, name=None))
    lines = [line for line, _ in board_lines(board)]
    scores = {(row["track"], row["label"], row["scenario"], row["target"]): row for _, row in board.targets.iterrows()}
    shown = any((scenario, target) in agreements for _, scenario, target, _ in keys)
    body: list[list[str]] = []
    for family, scenario, target, source in sorted(keys, key=lambda key: (key[2] != key[3], order[key[0]], key[1:3])):
        found = [scores.get((line["track"], line["label"], scenario, target)) for line in lines]
        agreed = [agreements.get((scenario, target), DASH)] if shown else []
        cells = agreed + [DASH if row is None else _target_cell(row, target == source) for row in found]
        if target != source:
            body.append([FAMILY_NAMES[family].lower(), f"{scenario}: {target}", *cells])
        elif not any(earlier[0] == "source" and earlier[2:] == cells for earlier in body):
            body.append(["source", f"{scenario}: {target}", *cells])  # once for scenarios that share source and scores
    head = ["Family", "Target", *(["Protocol agreement"] if shown else [])]
    return _grid([*head, *(f"`{line['label']}`" for line in lines)], body, left=2)


def _target_cell(row: pd.Series, is_source: bool) -> str:
    score = with_interval(row)
    return score if is_source or pd.isna(row["drop"]) else f"{score}, drop {number(row['drop'])}"
