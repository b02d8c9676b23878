"""From an entry of the table of backbones to an untrained network."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from shiftbench.backbones import Backbone, backbone_named
from shiftbench.networks.other import other_network
from shiftbench.networks.unet import UNet
from shiftbench.networks.wrapper import Normalise, Normalised
from shiftbench.rng import generator
from shiftbench.tasks import Task


def build(
    backbone: str | Backbone,
    *,
    dimension: int,
    channels: int,
    task: Task,
    normalise: Normalise,
    patch: tuple[int, ...],
    stack: int = 1,
    rng: np.random.Generator | None = None,
) -> Normalised:
    """An untrained backbone whose weights depend on `rng` alone (default: a fixed draw).

    Args:
        backbone: an entry of BACKBONES, or its name.
        dimension: 2 (also 2.5-D) or 3.
        channels: of the raw image.
        task: layout of the outputs.
        normalise: of the source recipe.
        patch: spatial size of a training patch.
        stack: neighbouring slices as channels (2.5-D).
        rng: draws the weights.

    Raises:
        SpecError: choices that do not fit together, or another network that cannot serve.
    """
    spec = backbone_named(backbone) if isinstance(backbone, str) else backbone
    rng = rng if rng is not None else generator(0, "build", repr(spec))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(rng.integers(2**62)))
        network = _network(spec, dimension=dimension, channels=channels * stack, outputs=task.outputs)
    if dimension == 2:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # about twice as fast on a CPU
    return Normalised(
        network,
        normalise,
        dimension=dimension,
        patch=patch,
        stride=spec.stride,
        task=task,
        stack=stack,
        features={**(network.features if isinstance(network, UNet) else {}), **dict(spec.features)},
    )


def _network(spec: Backbone, *, dimension: int, channels: int, outputs: int) -> nn.Module:
    make = UNet if spec.network == "unet" else other_network
    return make(spec, dimension=dimension, channels=channels, outputs=outputs)
