"""Training speed of ShiftBench beside the bare loop, MONAI, nnU-Net v2 and TorchIO, and their DSC after equal time.

Same network, patch, batch, steps, precision and device for all of them, in turns within one run; the ratios are medians
over the rounds. Loaders (processes or a thread) are compared in a first round, and the fastest of each library counts.
Sections are written as they end, so that a run can be cut short and gone on with; nnU-Net needs the extra `nnunet`.

    python benchmarks/train.py                                         # prints the tables
    python benchmarks/train.py --write benchmarks/results/train_cpu --data DIR_OF_MSD_HIPPOCAMPUS
    python benchmarks/train.py --write benchmarks/results/train_cpu --missing   # sections not there yet
    python benchmarks/train.py --write benchmarks/results/train_cpu --only 3d-256:nnunet dsc
    python benchmarks/train.py --write benchmarks/results/train_cuda --device cuda
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from training.catalogue import FAMILIES, families
from training.equal_time import HELD_OUT, PIPELINES, SETTING, TRAINED_ON, Score, scores
from training.speed import Turn, measure
from training.study import AUGMENTATIONS, Setting, phantom_training, settings
from training.table import aims, loss_table, read, score_figure, score_table, sections, speed_table, write

PACKAGES = ("shiftbench", "torch", "monai", "torchio", "nnunetv2", "batchgeneratorsv2")
DSC = "dsc"  # the section of equal wall time


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of torch in the training process")
    parser.add_argument("--only", nargs="+", default=[], metavar="SECTION", help="network, network:augmentation or dsc")
    parser.add_argument("--missing", action="store_true", help="only sections that are not in the file of --write")
    parser.add_argument("--pipelines", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turn", type=float, default=3.0, help="seconds of the bare loop's turn")
    parser.add_argument("--steps", type=int, help="timed steps of a turn (default: as many as --turn holds)")
    parser.add_argument("--seconds", type=float, default=90.0, help="training time of each pipeline in the section dsc")
    parser.add_argument("--data", type=Path, help="folder of MSD hippocampus, for the section dsc")
    parser.add_argument("--write", type=Path, metavar="PREFIX", help="of the .csv, .md and .png files")
    return parser.parse_args()


def available(names: Sequence[str]) -> list[str]:
    """Those whose library is installed."""
    if find_spec("nnunetv2") is not None:
        return list(names)
    print("(nnU-Net is not installed: pip install 'shiftbench[nnunet]')")
    return [name for name in names if not name.startswith("nnunet")]


def wanted(options: argparse.Namespace, rows: dict[str, Setting], done: Sequence[tuple[str, str]]) -> list:
    """(setting, augmentation) of the sections to run."""
    every = [(name, augmentation) for name in rows for augmentation in AUGMENTATIONS]
    unknown = set(options.only) - {DSC, *rows, *(":".join(section) for section in every)}
    if unknown:
        raise SystemExit(f"unknown section {sorted(unknown)}; there are {DSC}, {', '.join(rows)} with :none or :nnunet")
    chosen = [s for s in every if not options.only or {s[0], ":".join(s)} & set(options.only)]
    return [s for s in chosen if not (options.missing and s in done)]


def loaders_found(turns: Sequence[Turn], setting: Setting, augmentation: str) -> dict[str, str] | None:
    """Pipeline -> loader that was fastest in the section whose loaders are the same."""
    if setting.loaders_of is None:
        return None
    like = (setting.loaders_of, augmentation)
    return {t.pipeline: t.loader for t in turns if (t.setting, t.augmentation) == like and t.round} or None


def document(turns: Sequence[Turn], found: Sequence[Score], options: argparse.Namespace) -> str:
    """The tables with what they were made with."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES if find_spec(name))
    where = torch.cuda.get_device_name() if options.device == "cuda" else f"{os.cpu_count()} CPU cores"
    when = " to ".join(sorted({turn.date for turn in turns} or {str(date.today())}))
    parts = [
        "# Training speed\n",
        f"{when}, {where}, {options.threads} threads, {'bf16' if options.device == 'cuda' else 'float32'}; "
        f"{versions}. Made by `benchmarks/train.py`; every turn is in the CSV file beside this one.\n",
    ]
    if turns:
        parts += [DESCRIPTION, speed_table(turns), "\nAims:\n", aims(turns, options.device)]
        parts += ["\n## Loss on a fixed batch before and after the steps\n", loss_table(turns)]
    if found:
        parts += [
            f"\n## DSC of {HELD_OUT} held-out patients after equal time\n",
            f"MSD hippocampus, {TRAINED_ON} patients to train on, patch {SETTING.patch}, batch {SETTING.batch}, "
            "nnU-Net's augmentation list, mean of both structures.\n",
            score_table(found),
        ]
    return "\n".join(parts) + "\n"


DESCRIPTION = """\
Every pipeline is a process of its own; they take turns, and the others wait. Medians over the rounds of one run; ratios
are taken within a round. Loaders are compared first; the widest networks take those of the narrower ones on the same
patch. The last part of a network's name is its widest level. `nnunet` is nnU-Net's augmentation
list in each library's own transforms. The bare loop repeats forward, backward and step on one batch. Peak FLOP/s:
float32 matrix product on the CPU, the maker's figure on a GPU; of the network, convolutions and matrix products alone
are counted.
"""


def run_speed(options: argparse.Namespace, turns: list[Turn]) -> list[Turn]:
    """Measures the sections that are wanted; the file is written after each."""
    device = torch.device(options.device)
    rows = settings(device)
    chosen = {name: families(options.device)[name] for name in available(options.pipelines)}
    for name, augmentation in wanted(options, rows, sections(turns)):
        training = phantom_training(rows[name], augmentation, 1, device)
        loaders = loaders_found(turns, rows[name], augmentation)
        start = time.perf_counter()
        new = measure(
            training,
            chosen,
            rounds=options.rounds,
            seconds=options.turn,
            steps=options.steps,
            loaders=loaders,
            apart=True,
        )
        order = [(n, a) for n in rows for a in AUGMENTATIONS]
        turns = [t for t in turns if (t.setting, t.augmentation) != (name, augmentation)] + new
        turns.sort(key=lambda t: order.index((t.setting, t.augmentation)))
        print(speed_table(new), f"({time.perf_counter() - start:.0f} s)\n", sep="\n", flush=True)
        if options.write:
            write(options.write.with_suffix(".csv"), turns, Turn)
    return turns


def main() -> None:
    """Runs the sections and prints or writes the tables."""
    options = arguments()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    scored = options.write.with_name(options.write.name + "_dsc.csv") if options.write else None
    turns = read(options.write.with_suffix(".csv"), Turn) if options.write else []
    found = read(scored, Score) if scored else []
    turns = run_speed(options, turns)
    if options.data and (DSC in options.only or not options.only) and not (options.missing and found):
        chosen = {name: families(options.device)[name] for name in available(PIPELINES)}
        found = scores(options.data, chosen, seconds=options.seconds, device=torch.device(options.device))
        if scored:
            write(scored, found, Score)
    text = document(turns, found, options)
    print(text)
    if options.write:
        options.write.with_suffix(".md").write_text(text)
        if found:
            score_figure(found, scored.with_suffix(".png"))


if __name__ == "__main__":
    main()
