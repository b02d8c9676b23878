"""Results as CSV files, the Markdown table made from them, and the figure of DSC over time."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot as plt

from training.equal_time import Score
from training.speed import Turn, median_rate, median_ratio

NAMES = {"bare": "bare loop", "shiftbench": "ShiftBench", "monai": "MONAI", "nnunet": "nnU-Net", "torchio": "TorchIO"}
AIMS = {"cpu": {"none": 0.95, "nnunet": 0.8}, "cuda": {"none": 0.95, "nnunet": 0.9}}  # of the bare loop
AIMS_OVER = {"cpu": {"monai": 1.3}, "cuda": {"monai": 1.5, "nnunet": 1.2}}  # times as fast, with augmentation


def write(path: Path, rows: Iterable[Any], kind: type) -> None:
    """Writes dataclasses as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(kind)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def read(path: Path, kind: type) -> list[Any]:
    """Reads what `write` wrote; nothing where there is no file."""
    if not path.exists():
        return []
    types = {"str": str, "int": int, "float": float}
    cast = {field.name: types[str(field.type)] for field in fields(kind)}
    with path.open(newline="") as file:
        return [kind(**{key: cast[key](value) for key, value in row.items()}) for row in csv.DictReader(file)]


def speed_table(turns: Sequence[Turn]) -> str:
    """Steps per second of every section: bare, ours as a share of it, and each competitor beside ours."""
    others = [name for name in NAMES if name not in ("bare", "shiftbench") and any(t.pipeline == name for t in turns)]
    head = ["network", "augmentation", "bare steps/s", "ShiftBench steps/s", "of the bare loop", "of peak FLOP/s"]
    head += [f"{NAMES[name]} steps/s (loader), ShiftBench / {NAMES[name]}" for name in others]
    lines = [_row(head), _row(["---"] * len(head))]
    for section in sections(turns):
        rows = _of_section(turns, section)
        own, bare = rows.get("shiftbench"), rows.get("bare")
        cells = [section[0], section[1], f"{median_rate(bare):.2f}" if bare else ""]
        if own and bare:
            used = median_rate(own) * own[0].gflop_per_step / own[0].peak_gflops
            cells += [f"{median_rate(own):.2f}", f"{median_ratio(own, bare):.0%}", f"{used:.0%}"]
        else:
            cells += [""] * 3
        for name in others:
            cells.append(_beside(rows[name], own) if name in rows else "")
        lines.append(_row(cells))
    return "\n".join(lines)


def _beside(theirs: Sequence[Turn], own: Sequence[Turn] | None) -> str:
    ratio = f", {median_ratio(own, theirs):.2f}x" if own else ""
    return f"{median_rate(theirs):.2f} ({theirs[0].loader}){ratio}"


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def sections(turns: Iterable[Turn]) -> list[tuple[str, str]]:
    """(setting, augmentation) in the order in which they come."""
    return list(dict.fromkeys((turn.setting, turn.augmentation) for turn in turns))


def _of_section(turns: Iterable[Turn], section: tuple[str, str]) -> dict[str, list[Turn]]:
    """Pipeline -> turns of the loader that was kept, those of round 0 left out."""
    rows: dict[str, list[Turn]] = {}
    for turn in turns:
        if (turn.setting, turn.augmentation) == section and turn.round:
            rows.setdefault(turn.pipeline, []).append(turn)
    return rows


def loss_table(turns: Sequence[Turn]) -> str:
    """Loss on a fixed batch before, and after the steps of a section: the pipelines train the same task."""
    present = [name for name in NAMES if name != "bare" and any(t.pipeline == name for t in turns)]
    lines = [_row(["network", "augmentation", "before", *(NAMES[name] for name in present)])]
    lines.append(_row(["---"] * (3 + len(present))))
    for section in sections(turns):
        rows = _of_section(turns, section)
        before = next(iter(rows.values()))[0].loss_before
        after = [f"{rows[name][0].loss:.3f}" if name in rows else "" for name in present]
        lines.append(_row([*section, f"{before:.3f}", *after]))
    return "\n".join(lines)


def aims(turns: Sequence[Turn], device: str) -> str:
    """Each aim with the sections that meet it and those that miss it."""
    lines = []
    for augmentation, least in AIMS[device].items():
        lines.append(_aim(turns, augmentation, "bare", least, f"at least {least:.0%} of the bare loop"))
    for other, least in AIMS_OVER[device].items():
        lines.append(_aim(turns, "nnunet", other, least, f"at least {least}x {NAMES[other]}"))
    return "\n".join(lines)


def _aim(turns: Sequence[Turn], augmentation: str, other: str, least: float, words: str) -> str:
    met, missed = [], []
    for section in sections(turns):
        rows = _of_section(turns, section)
        if section[1] == augmentation and "shiftbench" in rows and other in rows:
            ratio = median_ratio(rows["shiftbench"], rows[other])
            (met if ratio >= least else missed).append(f"{section[0]} ({ratio:.2f})")
    said = "with augmentation" if augmentation != "none" else "without augmentation"
    return f"- {said}, {words}: met by {', '.join(met) or 'none'}; missed by {', '.join(missed) or 'none'}"


def score_table(scores: Sequence[Score]) -> str:
    """Mean DSC over time, one row per pipeline."""
    names = list(dict.fromkeys(score.pipeline for score in scores))
    curves = {name: _curve(scores, name) for name in names}
    longest = max(map(len, curves.values()))
    lines = [_row(["pipeline", "loader", "steps", *[""] * longest]), _row(["---"] * (3 + longest))]
    for name, points in curves.items():
        loader = next(score.loader for score in scores if score.pipeline == name)
        cells = [f"{dsc:.3f} ({at:.0f} s)" for at, _, dsc in points]
        lines.append(_row([name, loader, str(points[-1][1]), *cells, *[""] * (longest - len(cells))]))
    return "\n".join(lines)


def _curve(scores: Iterable[Score], name: str) -> list[tuple[float, int, float]]:
    """(seconds, step, DSC averaged over structures) of a pipeline."""
    values: dict[tuple[float, int], list[float]] = {}
    for score in scores:
        if score.pipeline == name:
            values.setdefault((score.seconds, score.step), []).append(score.dsc)
    return [(*at, statistics.mean(dsc)) for at, dsc in sorted(values.items())]


def score_figure(scores: Sequence[Score], path: Path) -> None:
    """Mean DSC of the held-out patients over seconds of training."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in dict.fromkeys(score.pipeline for score in scores):
        curve = _curve(scores, name)
        axes.plot([at for at, _, _ in curve], [dsc for _, _, dsc in curve], marker="o", label=name)
    axes.set(xlabel="seconds of training", ylabel="mean DSC of held-out patients", xlim=(0, None), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)
    plt.close(figure)
