"""Checkerboards of up-sampling layers, before and after a short training: a table, and a picture of it.

The first column is what a layer with equal weights makes of a constant image: the overlap of the kernel alone. The
others are a decoder of two such layers that learns to reconstruct smooth images from their means over 4 x 4 voxels
(`shiftbench.networks.checkerboard`); values are shares of the energy at frequencies that alternate from voxel to voxel.

    python benchmarks/checkerboard.py --write               # docs/images/checkerboard.png, results/checkerboard.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from shiftbench.networks.checkerboard import UPSAMPLERS, overlap_energy, trained_decoders

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "checkerboard.png"
RESULTS = ROOT / "benchmarks" / "results" / "checkerboard.md"


def measured(name: str, steps: tuple[int, ...], seeds: int) -> tuple[list[float], list[Tensor]]:
    """Mean energy over seeds after each number of steps, and what the first seed's decoder made of one image."""
    energies, pictures = np.zeros(len(steps)), []
    for seed in range(seeds):
        for i, (_, images, energy) in enumerate(trained_decoders(UPSAMPLERS[name], steps, seed=seed)):
            energies[i] += energy / seeds
            if seed == 0:
                pictures.append(images[0, 0])
    return list(energies), pictures


def picture(rows: dict[str, tuple[list[float], list[Tensor]]], steps: tuple[int, ...]) -> plt.Figure:
    figure, axes = plt.subplots(len(steps), len(rows), figsize=(2 * len(rows), 2.2 * len(steps)), squeeze=False)
    for column, (name, (energies, images)) in enumerate(rows.items()):
        for row, (step, energy, image) in enumerate(zip(steps, energies, images, strict=True)):
            axis = axes[row, column]
            crop = image[:32, :32]
            axis.imshow(crop, cmap="gray", interpolation="nearest")
            axis.set_xticks([]), axis.set_yticks([])
            axis.set_xlabel(f"{energy:.1e}", fontsize=8)
            if row == 0:
                axis.set_title(name, fontsize=8)
            if column == 0:
                axis.set_ylabel(f"{step} steps", fontsize=8)
    figure.tight_layout()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 30, 300])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="write the table and the picture")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = tuple(sorted(options.steps))
    rows = {name: measured(name, steps, options.seeds) for name in UPSAMPLERS}
    head = ["up-sampling", "overlap 2-D", "overlap 3-D", *(f"{n} steps" for n in steps)]
    lines = [" ".join(["python benchmarks/checkerboard.py", *sys.argv[1:]]), ""]
    lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, (energies, _) in rows.items():
        overlap = [overlap_energy(UPSAMPLERS[name], dimension=d) for d in (2, 3)]
        lines.append(f"| {name} | " + " | ".join(f"{e:.3f}" for e in overlap) + " | ")
        lines[-1] += " | ".join(f"{e:.1e}" for e in energies) + " |"
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if options.write:
        RESULTS.write_text(text, encoding="utf-8")
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        picture(rows, steps).savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main()
