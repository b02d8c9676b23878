"""Backbones beside each other: cost of a training step, and what they learn of the abdominal phantom.

Step times alternate between the networks in one run, so that a busy machine slows all of them alike; the median counts.
A step is forward pass, backward pass and AdamW on a fixed batch of the quick budget. The DSC is that of the quick
budget's training (2-D) on the source of the scenario abdomen-scanner, on other patients of the same source; NSD has the
scenario's tolerance of 4 mm.

    python benchmarks/backbones.py --write                  # all tables, into benchmarks/results/backbones.md
    python benchmarks/backbones.py --only steps --networks unet_bn monai_unet_bn
    python benchmarks/backbones.py --only sizes             # receptive fields and activation memory, in seconds
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from shiftbench.backbones import BACKBONES, Backbone
from shiftbench.data.phantoms import AbdomenPhantom
from shiftbench.errors import NotApplicable
from shiftbench.inference import forward
from shiftbench.materialise import acquired, drawn
from shiftbench.metrics import dsc, hd95_mm, nsd
from shiftbench.networks import (
    Normalise,
    Normalised,
    activation_memory,
    build,
    in_mm,
    receptive_field,
    total_bytes,
)
from shiftbench.rng import generator
from shiftbench.shifts.settings import check_acquisition
from shiftbench.spec import BUDGETS
from shiftbench.tasks import Task
from shiftbench.train import fit_supervised
from shiftbench.types import LabelledSet

RESULTS = Path(__file__).parent / "results" / "backbones.md"
STRUCTURES = ("liver", "tumour", "spleen", "kidney")
TOLERANCE_MM = 4.0
CLASS_WEIGHTS = (1.0, 1.0, 3.0, 2.0, 2.0)
ACQUISITION = {"sequence": "spgr", "field_t": 1.5, "tr_ms": 100, "te_ms": 4, "flip_deg": 80, "snr": 35}
PROTOCOL = {"hilum": "excluded", "vessels": "included"}
SPACING_MM, SHAPE = (3.0, 1.0, 1.0), (128, 256, 256)  # of the receptive fields in mm, of the activation memory
TASK = Task(classes=len(STRUCTURES) + 1)

LIGHT = BACKBONES["unet_bn"]
CANDIDATES: dict[str, Backbone] = {  # that the light default was chosen among, beside entries of the table
    "stride 8: 16-32-64": replace(LIGHT, widths=(16, 32, 64)),
    "stride 8: 16-48-96": replace(LIGHT, widths=(16, 48, 96)),
    "stride 8: 16-32-64, twice": replace(LIGHT, widths=(16, 32, 64), convolutions=2),
    "12-24-48-96": replace(LIGHT, widths=(12, 24, 48, 96)),
    "stride 32: 16-32-64-128-128": replace(LIGHT, widths=(16, 32, 64, 128, 128)),
}
SLOW = ("unet_bn_wide", "unet_in_wide", "swinunetr")
DEFAULT = [n for n in BACKBONES if n not in SLOW]


def built(name: str, dimension: int, seed: int = 0) -> Normalised:
    recipe = BUDGETS["quick", f"{dimension}d"]  # type: ignore[index]
    spec = CANDIDATES.get(name) or BACKBONES[name]
    rng = generator(seed, "benchmark", name)
    return build(spec, dimension=dimension, channels=1, task=TASK, normalise=Normalise(), patch=recipe.patch, rng=rng)


def training_step(model: Normalised, batch: Tensor) -> Callable[[], None]:
    """A step on `batch`, with labels of zeros."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    labels = torch.zeros((len(batch), *batch.shape[2:]), dtype=torch.long, device=batch.device)

    def step() -> None:
        loss = nn.functional.cross_entropy(model(batch), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if batch.is_cuda:
            torch.cuda.synchronize()

    return step


def step_times(names: Sequence[str], dimension: int, repeats: int, device: str) -> dict[str, float]:
    """Median milliseconds of a training step."""
    recipe = BUDGETS["quick", f"{dimension}d"]  # type: ignore[index]
    batch = torch.randn(recipe.batch, 1, *recipe.patch, generator=torch.Generator().manual_seed(0)).to(device)
    steps = {name: training_step(built(name, dimension).to(device).train(), batch) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats + 1):  # the first round allocates
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(values[1:]) for name, values in seconds.items()}


@dataclass(frozen=True)
class Cohort:
    """Training cases and test patients of one source."""

    phantom: AbdomenPhantom
    training: LabelledSet
    test: LabelledSet


def cohort(training: int, test: int, device: str) -> Cohort:
    phantom = AbdomenPhantom(patients=training + test, shape=(16, 128, 128), spacing_mm=(5.0, 3.125, 3.125))
    table = check_acquisition({"modality": "mr", **ACQUISITION})
    images, references = [], []
    for i in range(training + test):
        anatomy = phantom.anatomy(f"p{i:04d}", {})
        images.append(
            torch.from_numpy(acquired(anatomy, phantom.digest, table, [], 0)[0].astype(np.float32)).to(device)
        )
        references.append(torch.from_numpy(drawn(anatomy, phantom, STRUCTURES, PROTOCOL).astype(np.int64)).to(device))
    names = [f"p{i}" for i in range(training + test)]
    parts = (slice(0, training), slice(training, None))
    return Cohort(phantom, *(LabelledSet(images[p], references[p], names[p]) for p in parts))


def learnt(name: str, cases: Cohort, steps: int, seed: int, device: str) -> np.ndarray:
    """Means over patients of DSC per structure, then of DSC, NSD and HD95 in mm over structures."""
    recipe = replace(BUDGETS["quick", "2d"], class_weights=CLASS_WEIGHTS)
    model = built(name, 2, seed).to(device)
    fit_supervised(model, cases.training, recipe, rng=generator(seed, "benchmark", "train"), steps=steps)
    overlap, surface, far = (np.full((len(cases.test), len(STRUCTURES)), np.nan) for _ in range(3))
    for i, (image, reference) in enumerate(zip(cases.test.images, cases.test.references, strict=True)):
        with torch.no_grad():
            labels = forward(model, image).argmax(0).cpu()
        for j in range(len(STRUCTURES)):
            p, r = (labels == j + 1).numpy(), (reference.cpu() == j + 1).numpy()
            if r.any():
                overlap[i, j] = dsc(p, r)
                surface[i, j] = nsd(p, r, cases.phantom.spacing_mm, TOLERANCE_MM)
                far[i, j] = hd95_mm(p, r, cases.phantom.spacing_mm) if p.any() else np.nan
    per_structure = np.nanmean(overlap, 0)
    return np.array([*per_structure, per_structure.mean(), *(np.nanmean(np.nanmean(t, 0)) for t in (surface, far))])


def steps_table(names: Sequence[str], options: argparse.Namespace) -> list[str]:
    times = {d: step_times(names, d, options.repeats, options.device) for d in (2, 3)}
    yardstick = "monai_unet_bn" if "monai_unet_bn" in names else names[0]
    rows = [
        f"| backbone | parameters 2-D | 2-D ms | against {yardstick} | parameters 3-D | 3-D ms | against {yardstick} |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in names:
        cells = [name]
        for d, found in times.items():
            size = sum(p.numel() for p in built(name, d).parameters())
            cells += [f"{size:,}", f"{found[name]:.1f}", f"{found[name] / found[yardstick]:.2f}"]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def learnt_table(names: Sequence[str], options: argparse.Namespace) -> list[str]:
    cases = cohort(options.train, options.test, options.device)
    rows = [
        f"| backbone | {' | '.join(STRUCTURES)} | mean DSC | SD over seeds | NSD | HD95 mm |",
        "|---" * (len(STRUCTURES) + 5) + "|",
    ]
    for name in names:
        found = np.array([learnt(name, cases, options.steps, seed, options.device) for seed in range(options.seeds)])
        *overlap, surface, far = found.mean(0)
        spread = found[:, len(STRUCTURES)].std(ddof=1) if options.seeds > 1 else float("nan")
        cells = [name, *(f"{v:.3f}" for v in overlap), f"{spread:.3f}", f"{surface:.3f}", f"{far:.1f}"]
        rows.append("| " + " | ".join(cells) + " |")
        print(rows[-1], file=sys.stderr, flush=True)
    return rows


def fields_table(names: Sequence[str]) -> list[str]:
    """Receptive fields (z, y, x) in voxels, and in mm for voxels of SPACING_MM."""
    rows = [
        "| backbone | 2-D output | 2-D bottleneck | 3-D output | 3-D bottleneck | 3-D bottleneck, mm |",
        "|---|---|---|---|---|---|",
    ]
    for name in names:
        cells, bottleneck = [name], (0, 0, 0)
        for dimension in (2, 3):
            model = built(name, dimension)
            for at in ("output", "bottleneck"):
                try:
                    bottleneck = receptive_field(model, at)
                except NotApplicable:
                    cells.append("not known")
                else:
                    cells.append(" x ".join(map(str, bottleneck)))
        known = cells[-1] != "not known"
        cells.append(" x ".join(f"{mm:.0f}" for mm in in_mm(bottleneck, SPACING_MM)) if known else "not known")
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def memory_table(names: Sequence[str]) -> list[str]:
    """Activation memory of a training step on one slice of 256 x 256 and one volume of 128 x 256 x 256."""
    rows = [
        "| backbone | one slice, MiB | one volume, GiB | ratio | ratio of the first layer |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        plane, volume = (activation_memory(built(name, d).network, (1, 1, *SHAPE[-d:])) for d in (2, 3))
        a, b = total_bytes(plane), total_bytes(volume)
        first = volume[0].bytes / plane[0].bytes
        rows.append(f"| {name} | {a / 2**20:.1f} | {b / 2**30:.2f} | {b / a:.1f} | {first:.1f} |")
    return rows


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*BACKBONES, *CANDIDATES]
    parser.add_argument("--networks", nargs="+", choices=known, metavar="NAME", default=[*DEFAULT, *CANDIDATES])
    parser.add_argument("--only", choices=("steps", "learnt", "sizes"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=BUDGETS["quick", "2d"].steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--train", type=int, default=50, help="training patients")
    parser.add_argument("--test", type=int, default=20, help="test patients")
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.name} too")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    torch.set_num_threads(1)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu, 1 thread"
    lines = [" ".join(["python benchmarks/backbones.py", *sys.argv[1:]]), f"torch {torch.__version__}, {where}", ""]
    if options.only in (None, "steps"):
        lines += ["## A training step (2-D 12 x 128 x 128, 3-D 4 x 32 x 64 x 64)", ""]
        lines += [*steps_table(options.networks, options), ""]
    if options.only in (None, "learnt"):
        size = f"{options.train} training and {options.test} test patients, {options.seeds} seeds"
        lines += [f"## After {options.steps} steps of the quick budget (2-D; {size})", ""]
        lines += [*learnt_table(options.networks, options), ""]
    if options.only in (None, "sizes"):
        lines += [f"## Receptive fields, z x y x x in voxels, and in mm for voxels of {SPACING_MM}", ""]
        lines += [*fields_table(options.networks), ""]
        lines += [f"## Activations kept for the backward pass, volume {SHAPE}, float32", ""]
        lines += [*memory_table(options.networks), ""]
    text = "\n".join(lines)
    print(text)
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
