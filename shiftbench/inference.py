"""Whole cases through a network: slices as a batch, the whole volume at once, or sliding windows."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import functional

from shiftbench.networks import Normalised

MAX_POSITIONS = 2**22  # grid points of one forward pass; a larger case is cut into slices or windows
WINDOW_OVERLAP = 0.25


def forward(model: Normalised, image: Tensor) -> Tensor:
    """Logits (k, *s) of one raw case (c, *s); gradients flow when they are enabled.

    A 2-D network sees a volume (c, d, h, w) as d slices. What fits in one pass is one batch (so that batch statistics
    are those of the case); a larger case goes through in chunks of slices, or in sliding windows with Gaussian weights.
    """
    if image.ndim - 1 == model.dimension and image[0].numel() > MAX_POSITIONS:
        return _sliding(model, image)
    logits = [model(tile) for tile in tiles(model, image)]
    out = torch.cat(logits)
    out = out.movedim(0, 1) if image.ndim - 1 > model.dimension else out[0]  # (d k h w) -> (k d h w)
    return out[(slice(None), *(slice(0, n) for n in image.shape[1:]))]


def tiles(model: Normalised, image: Tensor) -> Iterator[Tensor]:
    """The normalised tiles (b, c, *tile) of one raw case (c, *s), padded at the far ends to the network's stride.

    Usually one tile, the whole case. Methods that take gradients add them up over the tiles and step once per case.
    """
    x = model.normalise(image)
    if image.ndim - 1 == model.dimension:
        if image[0].numel() <= MAX_POSITIONS:
            yield pad_to_stride(x[None], model.stride)
        else:
            yield from _windows(model, x)
        return
    if image.ndim - 1 != model.dimension + 1 or model.dimension != 2:
        raise ValueError(f"a {model.dimension}-D network cannot take an image of shape {tuple(image.shape)}")
    slices = x.movedim(1, 0)  # (c d h w) -> (d c h w)
    for chunk in slices.split(max(1, MAX_POSITIONS // slices[0, 0].numel())):
        yield pad_to_stride(chunk, model.stride)


def pad_to_stride(tile: Tensor, stride: int) -> Tensor:
    """`tile` (b, c, *s) grown at the far ends to multiples of `stride` by repeating its border."""
    pad = [amount for n in reversed(tile.shape[2:]) for amount in (0, -n % stride)]
    return functional.pad(tile, pad, mode="replicate") if any(pad) else tile


def _window_size(model: Normalised, shape: tuple[int, ...]) -> tuple[int, ...]:
    patch = tuple(max(p, model.stride) for p in model.patch)
    return tuple(-(-min(p, n) // model.stride) * model.stride for p, n in zip(patch, shape, strict=True))


def _sliding(model: Normalised, image: Tensor) -> Tensor:
    window = _window_size(model, tuple(image.shape[1:]))
    x = model.normalise(image)[None]
    return sliding_window_inference(
        x, window, 4, model, overlap=WINDOW_OVERLAP, mode="gaussian", padding_mode="replicate"
    )[0]


def _windows(model: Normalised, x: Tensor) -> Iterator[Tensor]:
    """Non-overlapping windows that cover a case too large for one pass; the last ones are moved inside."""
    window = _window_size(model, tuple(x.shape[1:]))
    starts = [[min(s, max(0, n - w)) for s in range(0, n, w)] for n, w in zip(x.shape[1:], window, strict=True)]
    grid = torch.cartesian_prod(*(torch.tensor(s) for s in starts)).reshape(-1, len(window)).tolist()
    for start in grid:
        index = (slice(None), *(slice(s, s + w) for s, w in zip(start, window, strict=True)))
        yield pad_to_stride(x[index][None], model.stride)
