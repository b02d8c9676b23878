"""How a leaderboard is put into words and columns: Markdown for a file, rich tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shiftbench.robustness.constants import CONSTANTS, ORACLE, SOURCE_ONLY
from shiftbench.robustness.headline import LABELLED_TRACKS
from shiftbench.types import Family, Track

TRACK_NAMES = {
    "dg": "Domain generalisation and source-only",
    "harmonise": "Harmonisation",
    "uda": "Unsupervised domain adaptation",
    "sfda": "Source-free domain adaptation",
    "tta": "Test-time adaptation",
    "fewshot": "Few-shot",
    "posthoc": "Post-hoc",
    "estimate": "Estimators",
    "reference": "Reference",
}
FAMILY_NAMES = {
    "acquisition": "Acquisition",
    "population": "Population",
    "combined": "Combined",
    "real": "Real",
    "annotation": "Annotation",
    "control": "Control",
    "fault": "Fault",
}
_SHORT = {"acquisition": "acq.", "population": "pop.", "combined": "comb.", "real": "real", "annotation": "ann."}
UNCOMPARABLE = "not ranked: not applicable"  # how the note of a method begins that lacks some targets
_DASH = "–"
_ORACLE = (
    "The oracle is trained from scratch on the target's adapt patients alone; with few of them it is no upper bound."
)

READING = f"""\
- **Score.** Mean Dice similarity coefficient (DSC): the structures of a case are averaged first, then the cases of a
  patient, then the patients of a target. A family is the macro mean of its targets; *overall* weighs families equally.
  Controls and faults never enter.
- **Interval.** In brackets, the 95 % interval of the mean. With several seeds it covers patients crossed with seeds
  (two-way random effects). With one seed it covers patients only and is *conditional on this trained model*: it does
  not say how the method would do if it were trained again.
- **Drop** is source-only on the source's test patients minus the method on the target. **Recovered** is the share of
  the gap between source-only and the oracle that the method closes (a ratio of sums over targets); where the lower 95 %
  limit of the gap is not above {CONSTANTS.gap_floor:.2f} DSC, the table says "no gap". **Harmed** is the share of
  patients who lose more than {CONSTANTS.harm:.2f} DSC against source-only of the same seed; with several seeds, the
  share that source-only loses against its own other seeds stands behind it in parentheses.
- **Rank.** Place by the overall mean of those ranked on this board. Methods with the same letter are not told apart
  from the best of their letter (paired t test, Holm over all pairs). With fewer than {CONSTANTS.min_patients} patients
  in a family there are intervals but no rank. Rows marked "ref." are for comparison and have no rank. A score with a
  star leaves out the targets on which the method is not applicable; it is not to be compared.
- **Undefined cases.** What the reference shows decides. Where a structure is in the reference, a missed structure and a
  failed, missing or invalid prediction score 0 and stay in the mean. Where it is absent, the case enters no mean of DSC
  or NSD (both empty: true negative; a prediction: false positive). Structures that were not annotated are left out for
  every method alike.
- **FP on negatives.** Of the structures that are not in the reference of their case, how many the method drew all the
  same; a failed prediction counts as drawn. The count is over the predictions on the targets of the overall score.
- **Oracle.** {_ORACLE}
- **Annotation targets** differ from the source in what the annotators drew. They do not rank methods without target
  labels, and do not enter their overall score: such a method predicts the same whatever the hidden protocol is. Its
  score there is to be read beside the *protocol agreement*, the DSC between the two protocols on the same patients,
  which the table of targets gives wherever source and target have the same patients. That is the score of a perfect
  source model and not a bound: a biased model may exceed it.
"""

FOOTNOTE = (
    "DSC with its 95 % interval; families: mean DSC. Same letter: not told apart (paired t, Holm). recov.: share of the"
    " gap to the oracle that is closed. harm: share of patients who lose more than"
    f" {CONSTANTS.harm:.2f} DSC against source-only. FP: share of the structures absent from the reference that were"
    " drawn all the same. sec: seconds per case. fail: cases without a usable prediction, scored 0. Annotation targets"
    f" do not rank methods without target labels. {_ORACLE}"
)


def label(method: str, k: float | None) -> str:
    """A method's name in tables and pictures, with K where the name does not say it."""
    return method if k is None or pd.isna(k) or method.endswith(f"_{k:g}") else f"{method} (K={k:g})"


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


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits, or a dash; minus is a minus sign."""
    return _DASH if value is None or pd.isna(value) else f"{value:.{digits}f}".replace("-", "−")


def seconds(value: float | None) -> str:
    """A time with two significant digits."""
    return _DASH if value is None or pd.isna(value) else f"{value:.2f}" if value < 1 else f"{value:.3g}"


def with_interval(row: pd.Series, digits: int = 3) -> str:
    """Mean and limits, "0.812 [0.790, 0.834]"; the mean alone where there are no limits."""
    if pd.isna(row["dsc_low"]):
        return number(row["dsc"], digits)
    return f"{number(row['dsc'], digits)} [{number(row['dsc_low'], digits)}, {number(row['dsc_high'], digits)}]"


def rank(row: pd.Series) -> str:
    """Place, number of ranked methods and letter of the tie group, "1/4 A"."""
    if row["track"] == Track.REFERENCE:
        return "ref."
    if pd.isna(row["rank"]):
        return _DASH
    return f"{row['rank']}/{row['n_ranked']} {chr(ord('A') + min(row['tie_group'], 26) - 1)}"


def recovered(row: pd.Series) -> str:
    """Recovered share in percent, or why there is none."""
    if row["method"] in (SOURCE_ONLY, ORACLE):
        return _DASH
    if row["gap_status"] != "ok" or pd.isna(row["recovered_percent"]):
        return row["gap_status"] if row["gap_status"] in ("no gap", "no oracle") else _DASH
    return f"{number(row['recovered_percent'], 0)} %" + (
        " (audit)" if row["audit"] is True or row["audit"] == 1 else ""
    )


def harmed(row: pd.Series) -> str:
    """Share of patients harmed in percent, behind it that of source-only against itself with other seeds."""
    if row["method"] == SOURCE_ONLY or pd.isna(row["harmed_percent"]):
        return _DASH if pd.isna(row["harmed_by_reseeding_percent"]) else f"({row['harmed_by_reseeding_percent']:.0f} %)"
    text = f"{row['harmed_percent']:.0f} %"
    return (
        text if pd.isna(row["harmed_by_reseeding_percent"]) else f"{text} ({row['harmed_by_reseeding_percent']:.0f} %)"
    )


def of(row: pd.Series, part: str, whole: str) -> str:
    """Two counts, "34 of 36", or a dash where there is nothing to count."""
    return _DASH if pd.isna(row[whole]) or row[whole] == 0 else f"{row[part]} of {row[whole]}"


def false_positives(row: pd.Series) -> str:
    """Share of the negative cases with a false positive in percent, or a dash where there are none."""
    n = row["negative_cases"]
    return _DASH if pd.isna(n) or n == 0 else f"{100 * row['false_positives'] / n:.0f}%"


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


def markdown(table: pd.DataFrame, *, title: str = "Leaderboard", agreement: pd.DataFrame | None = None) -> str:
    """The leaderboard as Markdown: how to read it, then one section per track, backbone and budget.

    Args:
        table: see `leaderboard.leaderboard`.
        title: heading of the page.
        agreement: of the label protocols (see `shiftbench.agreement`), shown beside the scores of the targets.
    """
    agreements = _agreements(agreement)
    parts = [f"# {title}", "## How to read it", READING.rstrip()]
    for board in boards(table):
        parts += [f"## {board.name}", design(board)]
        if len(board.lines):
            parts.append(_markdown_scores(board))
        reasons = unranked(board)
        if reasons:
            parts.append("Not ranked:\n\n" + "\n".join(f"- `{name}`: {reason}" for name, reason in reasons))
        if len(board.lines):
            parts += ["### Each target: DSC with its 95 % interval, and drop", _markdown_targets(board, agreements)]
    return "\n\n".join(parts) + "\n"


def _grid(head: list[str], body: list[list[str]], left: int) -> str:
    ruler = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [head, ruler, *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _lines(board: Board) -> list[tuple[pd.Series, bool]]:
    """Rows to print, with whether they are references: source-only first, oracle last, the board's own between."""
    references = {row["method"]: row for _, row in board.references.iterrows()}
    own = board.lines.sort_values(["rank", "dsc"], ascending=[True, False], kind="stable", na_position="last")
    first = [(references[SOURCE_ONLY], True)] if SOURCE_ONLY in references else []
    last = [(references[ORACLE], True)] if ORACLE in references else []
    return [*first, *((row, False) for _, row in own.iterrows()), *last]


def _family_row(board: Board, line: pd.Series, family: str) -> pd.Series | None:
    means = board.means
    found = means[(means["track"] == line["track"]) & (means["label"] == line["label"]) & (means["family"] == family)]
    return None if found.empty else found.iloc[0]


def _overall(board: Board, line: pd.Series, is_reference: bool) -> str:
    """Overall mean with interval; of a reference whose own track pools other families, the mean of this board's."""
    labelled = board.track in LABELLED_TRACKS
    if line["note"].startswith(UNCOMPARABLE):
        return f"{with_interval(line)}*"
    if not is_reference or labelled == (line["track"] in LABELLED_TRACKS) or Family.ANNOTATION not in board.families:
        return with_interval(line)
    pooled = [name for name in board.families if labelled or name != Family.ANNOTATION]
    means = [row["dsc"] for row in (_family_row(board, line, name) for name in pooled) if row is not None]
    return number(sum(means) / len(means)) if means else _DASH


def _markdown_scores(board: Board) -> str:
    head = ["Rank", "Method", "Overall DSC [95 %]", *(FAMILY_NAMES[name] for name in board.families)]
    head += ["Drop", "Recovered", "Harmed", "NSD", "FP on negatives", "s / case", "Failed cases"]
    body = []
    for line, is_reference in _lines(board):
        families = [_family_row(board, line, name) for name in board.families]
        name = f"`{line['label']}`"
        body.append(
            [
                "ref." if is_reference else rank(line),
                f"*{name}*" if is_reference else name,
                _overall(board, line, is_reference),
                *(_DASH if row is None else with_interval(row) for row in families),
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
    lines = [line for line, _ in _lines(board)]
    scores = {(row["track"], row["label"], row["scenario"], row["target"]): row for _, row in board.targets.iterrows()}
    shown = any((scenario, target) in agreements for _, scenario, target, _ in keys)
    body: list[list[str]] = []
    for family, scenario, target, source in sorted(keys, key=lambda key: (key[2] != key[3], order[key[0]], key[1:3])):
        found = [scores.get((line["track"], line["label"], scenario, target)) for line in lines]
        agreed = [agreements.get((scenario, target), _DASH)] if shown else []
        cells = agreed + [_DASH if row is None else _target_cell(row, target == source) for row in found]
        if target != source:
            body.append([FAMILY_NAMES[family].lower(), f"{scenario}: {target}", *cells])
        elif not any(earlier[0] == "source" and earlier[2:] == cells for earlier in body):
            body.append(["source", f"{scenario}: {target}", *cells])  # once for scenarios that share source and scores
    head = ["Family", "Target", *(["Protocol agreement"] if shown else [])]
    return _grid([*head, *(f"`{line['label']}`" for line in lines)], body, left=2)


def _target_cell(row: pd.Series, is_source: bool) -> str:
    score = with_interval(row)
    return score if is_source or pd.isna(row["drop"]) else f"{score}, drop {number(row['drop'])}"


def print_leaderboard(console: Console, table: pd.DataFrame) -> None:
    """Prints one table per track, backbone and budget; 118 columns are enough for five families."""
    for board in boards(table):
        console.print(f"\n[bold]{escape(board.name)}[/bold]")
        console.print(f"[dim]{escape(design(board))}[/dim]")
        if len(board.lines):
            console.print(_rich_scores(board))
        for name, reason in unranked(board):
            console.print(f"[dim]not ranked:[/dim] {escape(name)}: {escape(reason)}")
    console.print(f"\n[dim]{FOOTNOTE}[/dim]")


def _rich_scores(board: Board) -> Table:
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    grid.add_column("rank", no_wrap=True)
    grid.add_column("method", overflow="fold", min_width=13)
    grid.add_column("overall DSC [95 %]", no_wrap=True)
    lines = _lines(board)
    negatives = any(false_positives(line) != _DASH for line, _ in lines)
    scores = ["drop", "recov.", "harm", "NSD", *(["FP"] if negatives else []), "sec", "fail"]
    for name in [*(_SHORT[f] for f in board.families), *scores]:
        grid.add_column(name, justify="right", no_wrap=True)
    for line, is_reference in lines:
        families = [_family_row(board, line, name) for name in board.families]
        cells = [
            "ref." if is_reference else rank(line),
            line["label"],
            _overall(board, line, is_reference).replace(", ", ","),
            *(_DASH if row is None else number(row["dsc"], 2) for row in families),
            number(line["drop"], 2),
            recovered(line).replace(" %", "%").replace("no oracle", _DASH),
            harmed(line).partition("(")[0].strip().replace(" %", "%") or _DASH,
            number(line["nsd"], 2),
            *([false_positives(line)] if negatives else []),
            seconds(line["seconds_per_case"]),
            _DASH if pd.isna(line["failed_cases"]) else str(line["failed_cases"]),
        ]
        grid.add_row(*(escape(cell) for cell in cells), style="dim" if is_reference else None)
    return grid
