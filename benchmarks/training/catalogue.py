"""The pipelines that are compared, by family and loader."""

from __future__ import annotations

from collections.abc import Callable

from training.monai_loader import monai
from training.nnunet_trainer import NnUNet
from training.pipelines import Own, Pipeline, bare
from training.study import Training
from training.torchio_queue import torchio

Maker = Callable[[Training], Pipeline]
FAMILIES = ("bare", "shiftbench", "monai", "nnunet", "torchio")
OWN_OPTIMISER = "nnunet, own optimiser"
PROCESSES = {"cpu": (0, 2), "cuda": (0, 4, 12)}  # of loaders; on a CPU the training needs the cores itself


def families(device: str) -> dict[str, dict[str, Maker]]:
    """Family -> loader -> pipeline; the fastest loader of a family counts."""
    return {
        "bare": {"-": bare},
        "shiftbench": {"-": Own},
        "monai": _with_processes(monai, device) | {"thread": lambda training: monai(training, "thread")},
        "nnunet": _with_processes(NnUNet, device),
        "torchio": _with_processes(torchio, device),
        OWN_OPTIMISER: _with_processes(NnUNet, device, own_optimiser=True),
    }


def _with_processes(maker: Callable[..., Pipeline], device: str, **options: bool) -> dict[str, Maker]:
    """A pipeline with each number of loader processes that is worth trying."""
    return {
        f"{n} process{'es' * (n != 1)}": lambda training, n=n: maker(training, n, **options) for n in PROCESSES[device]
    }
