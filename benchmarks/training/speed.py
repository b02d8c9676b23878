"""Steps per second of the pipelines, in turns, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.catalogue import Maker
from training.pipelines import Pipeline, bare, fixed_loss
from training.remote import Remote
from training.study import Training

PEAK_TFLOPS = {  # dense bf16, as the makers state
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.0,
    "V100": 125.0,
}
WARM_UP = 0.34  # untimed steps at the start of a turn, per timed one


@dataclass(frozen=True)
class Turn:
    """One turn of one pipeline.

    Attributes:
        round: 0 is the one in which the loaders of a family are compared.
        loss: on the fixed batch after the last round.
    """

    setting: str
    augmentation: str
    pipeline: str
    loader: str
    round: int
    steps: int
    seconds: float
    gflop_per_step: float
    peak_gflops: float
    loss_before: float
    loss: float = math.nan
    date: str = ""


def measure(
    training: Training,
    makers: Mapping[str, Mapping[str, Maker]],
    *,
    rounds: int,
    seconds: float = 3.0,
    steps: int | None = None,
    loaders: Mapping[str, str] | None = None,
    apart: bool = False,
) -> list[Turn]:
    """Turns of all pipelines: a round 0 that settles the loaders unless they are known, then `rounds` rounds.

    Args:
        training: its `steps` are replaced by those that are taken.
        makers: see `families`.
        rounds: that count.
        seconds: how long a turn of the bare loop lasts, about.
        steps: timed steps of a turn, instead of `seconds`.
        loaders: family -> loader.
        apart: each pipeline in a process of its own (`Remote`).
    """
    steps = steps or _steps_per_turn(training, seconds)
    warm_up = max(1, round(WARM_UP * steps))
    training = replace(training, steps=(rounds + 1) * (steps + warm_up))
    chosen = {(f, name): maker for f, known in makers.items() for name, maker in _candidates(f, known, loaders)}
    before = fixed_loss(training, training.network())
    base = {"setting": training.setting.name, "augmentation": training.augmentation, "loss_before": before}
    base |= {"gflop_per_step": gflop_per_step(training), "peak_gflops": math.nan, "date": str(date.today())}
    pipelines: dict[tuple[str, str], Pipeline] = {}
    turns: list[Turn] = []
    peak = 0.0
    try:
        # In one process the thread of ShiftBench must follow the forks of the loaders.
        for key in sorted(chosen, key=lambda key: key[0] == "shiftbench"):
            pipelines[key] = Remote(*key, training) if apart else chosen[key](training)
        for pipeline in pipelines.values():
            if isinstance(pipeline, Remote):  # all are ready before the first turn
                pipeline.wait()
        contest = len(pipelines) > len({family for family, _ in pipelines})
        for number in range(0 if contest else 1, rounds + 1):
            peak = max(peak, peak_gflops(training.device))
            for (family, loader), pipeline in pipelines.items():
                taken = _timed(pipeline, steps, warm_up, training.device)
                turns.append(Turn(**base, pipeline=family, loader=loader, round=number, steps=steps, seconds=taken))
            if number == 0:
                _keep_fastest_(pipelines, turns)
        losses = {key: fixed_loss(training, pipeline.model) for key, pipeline in pipelines.items()}
    finally:
        for pipeline in pipelines.values():
            pipeline.close()
        gc.collect()
    return [replace(t, peak_gflops=peak, loss=losses.get((t.pipeline, t.loader), math.nan)) for t in turns]


def _candidates(
    family: str, makers: Mapping[str, Maker], loaders: Mapping[str, str] | None
) -> Iterable[tuple[str, Maker]]:
    """The loader that is known to be the fastest, or all."""
    known = (loaders or {}).get(family)
    return [(known, makers[known])] if known in makers else makers.items()


def _keep_fastest_(pipelines: dict[tuple[str, str], Pipeline], turns: Iterable[Turn]) -> None:
    """Closes all but the fastest loader of each family."""
    seconds = {(turn.pipeline, turn.loader): turn.seconds for turn in turns}
    for key in list(pipelines):
        if any(other[0] == key[0] and taken < seconds[key] for other, taken in seconds.items()):
            pipelines.pop(key).close()


def _steps_per_turn(training: Training, seconds: float) -> int:
    """Even, so that a queue that is filled every other step is caught in full."""
    pipeline = bare(training)
    pipeline.run(1)
    step = _timed(pipeline, 1, 1, training.device)
    return 2 * max(1, min(100, round(seconds / step / 2)))


def _timed(pipeline: Pipeline, steps: int, warm_up: int, device: torch.device) -> float:
    """Seconds of `steps` steps after an untimed warm-up."""
    pipeline.run(warm_up)
    _wait(device)
    start = time.perf_counter()
    pipeline.run(steps)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def gflop_per_step(training: Training) -> float:
    """Of the matrix products and convolutions of one forward and backward pass, a multiply-add counted as two."""
    model: nn.Module = training.network().train()
    images, references = training.fixed_batch()
    with FlopCounterMode(display=False) as counter:
        training.loss(model, images, references).backward()
    return counter.get_total_flops() / 1e9


def peak_gflops(device: torch.device, *, size: int = 2048, repeats: int = 5) -> float:
    """Of a GPU as its maker states; of a CPU as its fastest float32 matrix product of `size` shows."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((1e3 * peak for key, peak in PEAK_TFLOPS.items() if key in name), math.nan)
    a, b = torch.rand(size, size), torch.rand(size, size)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - start)
    return 2 * size**3 / min(taken) / 1e9


def median_rate(turns: Iterable[Turn]) -> float:
    """Median steps per second of the rounds that count."""
    return statistics.median(turn.steps / turn.seconds for turn in turns if turn.round)


def median_ratio(turns: Iterable[Turn], others: Iterable[Turn]) -> float:
    """Median over the rounds of how many times as fast `turns` are as `others` in the same round."""
    theirs = {turn.round: turn.steps / turn.seconds for turn in others}
    return statistics.median(turn.steps / turn.seconds / theirs[turn.round] for turn in turns if turn.round)
