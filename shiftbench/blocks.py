"""What adaptation methods share: prediction, norm layers and their statistics, entropies, image operators."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import binary_fill_holes
from skimage.filters import threshold_otsu
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from shiftbench.errors import NotApplicable
from shiftbench.inference import outputs, tiles
from shiftbench.networks import Normalised
from shiftbench.train import seeded
from shiftbench.types import Prediction, Predictor

QUANTILES = 1024  # grid of a quantile function
DARK_CORNERS = 0.9  # share of the in-plane corners that is dark where an image has a background
NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm)
Statistics = list[tuple[Tensor, Tensor]]  # mean and variance of every batch-norm layer


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie."""
    return next(model.parameters()).device


def log_probabilities(logits: Tensor) -> Prediction:
    """The prediction that belongs to the logits (k, *s) of one case."""
    return Prediction(log_probabilities=logits.float().log_softmax(0))


def predictor(model: Normalised) -> Predictor:
    """The frozen model as a predictor: log-probabilities (k, *s) and heads on the device of the image that is given."""
    device = device_of(model)

    def predict(image: Tensor) -> Prediction:
        with torch.no_grad():
            found = outputs(model, image.to(device))
            heads = found.heads.float().to(image.device) if model.task.heads else None
            return replace(log_probabilities(found.classes.to(image.device)), heads=heads)

    return predict


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Batch-norm layers of any dimension that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def instance_norm_layers(model: nn.Module) -> list[_InstanceNorm]:
    """Instance-norm layers with learnt scale and shift (MONAI's default has none)."""
    return [m for m in model.modules() if isinstance(m, _InstanceNorm) and m.weight is not None]


def norm_layers(model: nn.Module) -> list[nn.Module]:
    """Batch, instance, group and layer norms with learnt scale and shift."""
    return [m for m in model.modules() if isinstance(m, NORMS) and getattr(m, "weight", None) is not None]


def norm_parameters(layers: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Scale and shift of the layers."""
    return [p for layer in layers for p in (layer.weight, layer.bias) if isinstance(p, nn.Parameter)]


REQUIREMENTS = {
    "batch_norm": ("batch norm with running statistics", batch_norm_layers),
    "instance_norm_affine": ("instance norm with learnt scale and shift", instance_norm_layers),
    "norm_affine": ("a norm layer with learnt scale and shift", norm_layers),
    "features": ("declared features", lambda model: getattr(model, "features", None)),
}


def require(model: nn.Module, *requirements: str) -> None:
    """Raises NotApplicable where the backbone lacks one of `requirements` (the keys of REQUIREMENTS)."""
    for name in requirements:
        words, find = REQUIREMENTS[name]
        if not find(model):
            raise NotApplicable(f"the backbone has no {words}", remedy="choose a backbone that has it")


@contextmanager
def features(model: Normalised, name: str) -> Iterator[list[Tensor]]:
    """What a declared submodule returns, one tensor per forward pass inside the block; gradients flow.

    Args:
        model: stays as it is.
        name: "encoder" (the level before the bottleneck), "bottleneck", "penultimate" (what enters the head) or "head"
            of our U-Net; what its entry in BACKBONES declares for another network.

    Raises:
        NotApplicable: the backbone does not declare it.
    """
    if name not in model.features:
        remedy = f"it declares {', '.join(model.features)}" if model.features else "it declares none"
        raise NotApplicable(f"the backbone declares no feature '{name}'", remedy=remedy)
    seen: list[Tensor] = []
    hook = model.network.get_submodule(model.features[name]).register_forward_hook(lambda _, __, out: seen.append(out))
    try:
        yield seen
    finally:
        hook.remove()


def use_batch_statistics_(model: nn.Module) -> None:
    """Every batch norm uses the statistics of what it is given, in evaluation mode too; running statistics go."""
    for layer in batch_norm_layers(model):
        layer.track_running_stats = False
        layer.running_mean = layer.running_var = layer.num_batches_tracked = None


def _running(layer: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert layer.running_mean is not None and layer.running_var is not None  # batch_norm_layers asks for them
    return layer.running_mean, layer.running_var


def statistics(model: nn.Module) -> Statistics:
    """Copies of the running mean and variance of every batch-norm layer."""
    return [(mean.clone(), variance.clone()) for mean, variance in map(_running, batch_norm_layers(model))]


def set_statistics_(model: nn.Module, values: Statistics) -> None:
    """Writes what `statistics` returned."""
    for layer, new in zip(batch_norm_layers(model), values, strict=True):
        for tensor, value in zip(_running(layer), new, strict=True):
            tensor.copy_(value)


class _Moments:
    """Count, sum and sum of squares per channel (float64) of all that enters one layer; mixes them into that layer."""

    def __init__(self, layer: _BatchNorm, keep: float):
        self.layer, self.keep = layer, keep
        self.source = [tensor.double() for tensor in _running(layer)]
        self.count, self.total, self.squares = 0, *(torch.zeros_like(tensor) for tensor in self.source)

    def see(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach()
        axes = [0, *range(2, x.ndim)]
        variance, mean = torch.var_mean(x, axes, correction=0)
        mean, variance = mean.double(), variance.double()
        n = x.numel() // x.shape[1]
        self.count += n
        self.total = self.total + n * mean
        self.squares = self.squares + n * (variance + mean**2)
        self.write_(mean, variance)  # this pass goes on with the batch's own statistics

    def finish_(self) -> None:
        mean = self.total / self.count
        self.write_(mean, (self.squares / self.count - mean**2).clamp_min(0.0))

    def write_(self, mean: Tensor, variance: Tensor) -> None:
        for tensor, old, new in zip(_running(self.layer), self.source, (mean, variance), strict=True):
            tensor.copy_(self.keep * old + (1 - self.keep) * new)


@torch.no_grad()
def collect_statistics_(
    model: Normalised, images: Sequence[Tensor], *, keep: float = 0.0, layer_by_layer: bool = True
) -> None:
    """Batch-norm statistics become keep * old + (1 - keep) * those of `images` (biased variance, linear mixture).

    Every layer's moments are pooled over all tiles of all images. One tile needs one pass and is exact; several are
    exact `layer_by_layer` (one pass per layer, so each layer sees what the adapted earlier layers made of the inputs),
    and approximate in one pass, where deeper layers see inputs normalised tile by tile.

    Args:
        model: changed in place; in evaluation mode.
        images: raw cases (c, *s).
        keep: share of the old statistics (1: nothing changes; 0: those of `images` alone).
        layer_by_layer: exact where there are several tiles.
    """
    layers, device = batch_norm_layers(model), device_of(model)

    def batches() -> Iterator[Tensor]:
        return (tile for image in images for tile in tiles(model, image.to(device)))

    several = layer_by_layer and sum(1 for _ in zip(range(2), batches(), strict=False)) > 1
    for group in [[layer] for layer in layers] if several else [layers]:
        moments = [_Moments(layer, keep) for layer in group]
        hooks = [m.layer.register_forward_pre_hook(m.see) for m in moments]
        for tile in batches():
            model(tile)
        for hook, m in zip(hooks, moments, strict=True):
            hook.remove()
            m.finish_()


def train_only_(model: nn.Module, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """Only `parameters` keep a gradient; returns them. Raises NotApplicable where there are none (no silent no-op)."""
    if not parameters:
        raise NotApplicable("the backbone has no parameter this method trains", remedy="choose another backbone")
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    return list(parameters)


def copies(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Detached copies, to compare with later."""
    return [p.detach().clone() for p in parameters]


def require_moved(before: Sequence[Tensor], parameters: Sequence[Tensor]) -> None:
    """Raises NotApplicable where nothing differs from `before`: a method that did nothing is never ranked."""
    if all(torch.equal(old, new.detach()) for old, new in zip(before, parameters, strict=True)):
        raise NotApplicable("adapting changed nothing", remedy="check the learning rate, the steps and the backbone")


def untrained(model: Normalised, rng: np.random.Generator) -> Normalised:
    """A copy whose network is re-initialised from `rng`, behind the same normalisation.

    Raises:
        NotApplicable: a layer with parameters has no `reset_parameters`.
    """
    fresh = copy.deepcopy(model)
    fresh.requires_grad_(True)
    with seeded(rng):
        for name, module in fresh.network.named_modules():
            if callable(getattr(module, "reset_parameters", None)):
                module.reset_parameters()
            elif next(module.parameters(recurse=False), None) is not None:
                raise NotApplicable(f"the layer '{name}' ({type(module).__name__}) cannot be re-initialised")
    return fresh


def entropy(logits: Tensor) -> Tensor:
    """Shannon entropy in nats, (b, k, *s) to (b, *s)."""
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def balanced_entropy(logits: Tensor) -> Tensor:
    """Mean entropy of predicted foreground and of predicted background, each with weight 1/2 (scalar, nats).

    The plain mean is ruled by the background. Where only one of the two is predicted it is the plain mean.
    """
    values = entropy(logits)
    foreground = logits.argmax(1) != 0
    if not foreground.any() or foreground.all():
        return values.mean()
    return (values[foreground].mean() + values[~foreground].mean()) / 2


def body_mask(image: Tensor) -> Tensor:
    """The body, found without labels: above Otsu's threshold, holes filled slice by slice; bool (*s) for (c, *s).

    An image without a background (a crop inside the body: its in-plane corners are not all dark), or a constant one,
    is all body.

    Reference:
        Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9, 1979.
    """
    grey = image.detach().float().mean(0).cpu().numpy()
    if grey.min() == grey.max():
        return torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    bright = grey > threshold_otsu(grey)
    h, w = (max(1, n // 16) for n in bright.shape[-2:])
    corners = [
        bright[..., rows, columns] for rows in (slice(h), slice(-h, None)) for columns in (slice(w), slice(-w, None))
    ]
    if 1 - np.mean(corners) < DARK_CORNERS:
        return torch.ones(image.shape[1:], dtype=torch.bool, device=image.device)
    slices = bright.reshape(-1, *bright.shape[-2:])
    filled = np.stack([binary_fill_holes(s) for s in slices]).reshape(bright.shape)
    return torch.from_numpy(filled).to(image.device)


def quantile_function(values: Tensor, n: int = QUANTILES) -> Tensor:
    """Quantiles of values (m,) at the probabilities (i + 1/2) / n, float32 (n,); linear between order statistics."""
    ordered = values.detach().double().sort().values.cpu().numpy()
    grid, ranks = (np.arange(n) + 0.5) / n, (np.arange(len(ordered)) + 0.5) / len(ordered)
    return torch.from_numpy(np.interp(grid, ranks, ordered)).float()


def mid_ranks(values: Tensor) -> Tensor:
    """Empirical distribution function with ties at their middle, float64 (m,) in (0, 1): (#less + #equal / 2) / m."""
    _, inverse, counts = values.detach().unique(return_inverse=True, return_counts=True)
    upper = counts.double().cumsum(0)
    return ((upper - counts / 2) / len(values))[inverse]


def match_quantiles(values: Tensor, quantiles: Tensor) -> Tensor:
    """Values (m,) mapped by the monotone T(x) = Q(F(x)) onto the quantile function Q (n,)."""
    grid = (np.arange(len(quantiles)) + 0.5) / len(quantiles)
    matched = np.interp(mid_ranks(values).cpu().numpy(), grid, quantiles.detach().double().cpu().numpy())
    return torch.from_numpy(matched).to(values)


def low_frequency_width(shape: Sequence[int], beta: float) -> int:
    """Half-width b of a band in cycles per field of view: floor(beta * min(h, w)), at least 1; 0 for beta 0."""
    if beta <= 0:
        return 0
    smallest = min(shape[-2:])
    return min(max(1, int(beta * smallest)), (smallest - 1) // 2)


def _band(spectrum: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Row and column indices of the frequencies -b..b: symmetric, so that a real image stays real."""
    offsets = torch.arange(-b, b + 1, device=spectrum.device)
    return (offsets % spectrum.shape[-2])[:, None], (offsets % spectrum.shape[-1])[None, :]


def low_frequency_amplitude(image: Tensor, b: int) -> Tensor:
    """Amplitudes over h*w at the in-plane frequencies -b..b, (..., h, w) to (..., 2b+1, 2b+1); [b, b] is |mean|."""
    spectrum = torch.fft.fft2(image.float(), norm="forward")
    rows, columns = _band(spectrum, b)
    return spectrum[..., rows, columns].abs()


def swapped_spectrum(image: Tensor, amplitude: Tensor) -> Tensor:
    """In-plane spectrum (norm "forward") of `image` with its lowest amplitudes replaced and every phase kept.

    Frequencies are whole cycles per field of view, so a template of one matrix size serves every other.
    """
    spectrum = torch.fft.fft2(image.float(), norm="forward")
    rows, columns = _band(spectrum, amplitude.shape[-1] // 2)
    phase = spectrum[..., rows, columns].angle()
    spectrum[..., rows, columns] = torch.polar(amplitude.to(phase).expand_as(phase).contiguous(), phase)
    return spectrum


def swap_low_frequencies(image: Tensor, amplitude: Tensor) -> Tensor:
    """`image` (..., h, w) with its lowest in-plane amplitudes replaced by `amplitude` (..., 2b+1, 2b+1).

    Reference:
        Yang, Soatto, FDA: Fourier domain adaptation for semantic segmentation, CVPR 2020, eq. 3.
    """
    return torch.fft.ifft2(swapped_spectrum(image, amplitude), norm="forward").real
