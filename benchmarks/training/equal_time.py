"""DSC of held-out patients after the same wall time: the same network, patch and batch in each pipeline."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from shiftbench.backbones import Backbone
from shiftbench.inference import forward
from shiftbench.rng import generator
from training.catalogue import OWN_OPTIMISER
from training.pipelines import Pipeline
from training.remote import Remote
from training.study import Setting, Training, folder_training, read_case

SETTING = Setting(
    "hippocampus", Backbone(norm="instance", widths=(16, 32, 64, 128), convolutions=1), (32, 48, 32), batch=2
)
TRAINED_ON, HELD_OUT = 60, 20  # patients
SNAPSHOTS = 6
TRIAL = 1 / 40  # of the time, for each loader
PLANNED = 0.97  # of the steps that fit into the time, so that the schedule comes to its end

PIPELINES = ("shiftbench", "monai", "nnunet", OWN_OPTIMISER)
LIKE = {OWN_OPTIMISER: "nnunet"}  # whose loader and speed are known from another


@dataclass(frozen=True)
class Score:
    """DSC, averaged over the held-out patients, of one structure after `seconds` of training."""

    pipeline: str
    loader: str
    seconds: float
    step: int
    structure: int
    dsc: float


def split(folder: Path) -> tuple[list[str], list[str]]:
    """File names of the patients to train on, and of those held out."""
    names = sorted(path.name for path in (folder / "imagesTr").glob("*.nii.gz"))
    generator(0, "split").shuffle(names)
    return names[:TRAINED_ON], names[TRAINED_ON : TRAINED_ON + HELD_OUT]


def scores(folder: Path, made: Mapping[str, Iterable[str]], *, seconds: float, device: torch.device) -> list[Score]:
    """Scores of pipelines, given as family -> loaders."""
    trained_on, held_out = split(folder)
    training = folder_training(SETTING, folder, trained_on, "nnunet", 1, device)
    cases = [read_case(folder, name) for name in held_out]
    found: list[Score] = []
    fastest: dict[str, tuple[str, float]] = {}
    for name, loaders in made.items():
        known = fastest.get(LIKE.get(name, name))
        loader, rate = fastest[name] = known or _fastest(name, loaders, training, seconds * TRIAL)
        planned = replace(training, steps=math.ceil(PLANNED * rate * seconds))
        pipeline = Remote(name, loader, planned)
        try:
            snapshots = _train(pipeline, planned.steps, rate, seconds)
        finally:
            pipeline.close()
        for taken, step, weights in snapshots:
            dsc = evaluate(planned, weights, cases)
            found += [Score(name, loader, taken, step, k, value) for k, value in enumerate(dsc, 1)]
        print(f"{name} ({loader}): DSC {sum(dsc) / len(dsc):.3f} after {step} steps", flush=True)
    return found


def _fastest(family: str, loaders: Iterable[str], training: Training, seconds: float) -> tuple[str, float]:
    """The loader that is fastest in a short trial, and its steps per second."""
    rates = {}
    for loader in loaders:
        pipeline = Remote(family, loader, replace(training, steps=10**6))
        try:
            pipeline.run(2 + pipeline.ahead)
            start, taken = time.perf_counter(), 0
            while time.perf_counter() - start < seconds:
                pipeline.run(4)
                taken += 4
            rates[loader] = taken / (time.perf_counter() - start)
        finally:
            pipeline.close()
    best = max(rates, key=rates.__getitem__)
    return best, rates[best]


def _train(pipeline: Pipeline, steps: int, rate: float, seconds: float) -> list[tuple[float, int, dict[str, Tensor]]]:
    """Seconds, step and weights at SNAPSHOTS times, the last when time or steps run out; copying is not counted."""
    turn = max(1, round(rate * seconds / 100))
    taken, spent, kept = 0, 0.0, []
    while taken < steps and spent < seconds:
        start = time.perf_counter()
        now = min(turn, steps - taken)
        pipeline.run(now)
        taken += now
        spent += time.perf_counter() - start
        ended = taken == steps or spent >= seconds
        if ended or spent >= seconds * (len(kept) + 1) / SNAPSHOTS:
            kept.append((spent, taken, {k: v.detach().clone() for k, v in pipeline.model.state_dict().items()}))
    return kept


@torch.no_grad()
def evaluate(training: Training, weights: Mapping[str, Tensor], cases: Sequence[tuple[Tensor, Tensor]]) -> list[float]:
    """Mean DSC of each structure over raw cases."""
    model = training.network()
    model.load_state_dict(weights)
    model.eval()
    values = torch.tensor([_dsc(model, image, reference, training.classes) for image, reference in cases])
    return values.mean(0).tolist()


def _dsc(model: nn.Module, image: Tensor, reference: Tensor, classes: int) -> list[float]:
    """DSC of each structure of one case; 1 where it is absent and not predicted."""
    device = next(model.parameters()).device
    labels = forward(model, image.to(device)).argmax(0).cpu()
    values = []
    for k in range(1, classes):
        predicted, drawn = labels == k, reference == k
        total = int(predicted.sum() + drawn.sum())
        values.append(2 * int((predicted & drawn).sum()) / total if total else 1.0)
    return values
