"""Whole cases through a network: slices as a batch, the whole volume at once, or sliding windows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from shiftbench.networks import Normalised, Outputs

MAX_POSITIONS = 2**22  # grid points of one forward pass on a CPU; a larger case is cut into slices or windows
BYTES_PER_POSITION = 2**12  # of one pass: the widest U-Net of the table keeps 2.4 KB for gradients
DEVICE_SHARE = 0.5  # of a GPU's memory for one pass
WINDOW_OVERLAP = 0.25
WINDOWS_AT_ONCE = 4


def forward(model: Normalised, image: Tensor, *, flips: bool = False) -> Tensor:
    """Class logits (k, *s) of one raw case (c, *s); `outputs` without the heads."""
    return outputs(model, image, flips=flips).classes


def outputs(model: Normalised, image: Tensor, *, flips: bool = False) -> Outputs:
    """Class logits (k, *s) and heads (h, *s) of one raw case (c, *s); gradients flow when they are enabled.

    A 2-D network sees a volume (c, d, h, w) as d slices, a 2.5-D network as d stacks. What fits in one pass is one
    batch (so that batch statistics are those of the case); a larger case goes through in chunks of slices, or in
    sliding windows with Gaussian weights.

    Args:
        flips: the mean of the raw outputs (logits, not probabilities, as in nnU-Net) over the case mirrored along every
            subset of the network's axes.

    Raises:
        ValueError: the network cannot take an image of this shape.
    """
    chunks = _chunks(model, model.normalise(image))
    parts = torch.cat([_flipped(model, chunk) if flips else _pass(model, chunk) for chunk in chunks])
    raw = parts.movedim(0, 1) if image.ndim - 1 > model.dimension else parts[0]  # (d o h w) -> (o d h w)
    k = model.task.classes
    return Outputs(raw[:k], raw[k:])


def tiles(model: Normalised, image: Tensor) -> Iterator[Tensor]:
    """The normalised tiles (b, c * stack, *tile) of one raw case (c, *s), padded at the far ends to the stride.

    Usually one tile, the whole case. Methods that take gradients add them up over the tiles and step once per case.
    """
    for chunk in _chunks(model, model.normalise(image)):
        if _fits(chunk):
            yield pad_to_stride(chunk, model.stride)
        else:
            yield from _windows(model, chunk)


def max_positions(device: torch.device) -> int:
    """Grid points of one forward pass on a device.

    A constant on the CPU, so that no result depends on the machine's memory; on a GPU a share of its whole memory (not
    of what is free at the time).
    """
    if device.type != "cuda":
        return MAX_POSITIONS
    return int(torch.cuda.get_device_properties(device).total_memory * DEVICE_SHARE) // BYTES_PER_POSITION


def pad_to_stride(tile: Tensor, stride: int) -> Tensor:
    """`tile` (b, c, *s) grown at the far ends to multiples of `stride` by repeating its border."""
    pad = [amount for n in reversed(tile.shape[2:]) for amount in (0, -n % stride)]
    return functional.pad(tile, pad, mode="replicate") if any(pad) else tile


def stacks(volume: Tensor, stack: int, start: int, stop: int) -> Tensor:
    """Slices `start` to `stop` of a volume (c, d, h, w), each with its neighbours as channels, (n, c * stack, h, w).

    Channel by channel, neighbours in order; the first and last slice are repeated beyond the ends.
    """
    reach = stack // 2
    at = torch.arange(start, stop, device=volume.device)[:, None] + torch.arange(
        -reach, reach + 1, device=volume.device
    )
    picked = volume[:, at.clamp(0, volume.shape[1] - 1)]  # (c, n, stack, h, w)
    return picked.movedim(1, 0).flatten(1, 2)


def _fits(chunk: Tensor) -> bool:
    return chunk[0, 0].numel() <= max_positions(chunk.device)


def _chunks(model: Normalised, x: Tensor) -> Iterator[Tensor]:
    """A normalised case (c, *s) as batches of what the network takes: one volume, or as many slices as fit."""
    if model.dimension == 3 and x.ndim == 4:
        yield x[None]
        return
    if model.dimension != 2 or x.ndim not in (3, 4):
        raise ValueError(f"a {model.dimension}-D network cannot take an image of shape {tuple(x.shape)}")
    volume = x if x.ndim == 4 else x[:, None]
    depth, n = volume.shape[1], max(1, max_positions(x.device) // volume[0, 0].numel())
    for start in range(0, depth, n):
        yield stacks(volume, model.stack, start, min(depth, start + n))


def _raw(model: Normalised, tile: Tensor) -> Tensor:
    """Class logits and heads (b, k + h, *s) of normalised tiles."""
    out = model.outputs(tile)
    return torch.cat([out.classes, out.heads], 1) if out.heads.shape[1] else out.classes


def _pass(model: Normalised, chunk: Tensor) -> Tensor:
    """Raw outputs (b, o, *s) of a batch (b, c, *s), whole or in sliding windows."""
    if _fits(chunk):
        out = _raw(model, pad_to_stride(chunk, model.stride))
        return out[(slice(None), slice(None), *(slice(0, n) for n in chunk.shape[2:]))]
    from monai.inferers import sliding_window_inference  # seconds to import, for the few cases that need windows

    slid = sliding_window_inference(
        chunk,
        _window_size(model, tuple(chunk.shape[2:])),
        WINDOWS_AT_ONCE,
        lambda windows: _raw(model, windows),
        overlap=WINDOW_OVERLAP,
        mode="gaussian",
        padding_mode="replicate",
    )
    assert isinstance(slid, Tensor)  # MONAI returns what the network returns
    return slid


def _flipped(model: Normalised, chunk: Tensor) -> Tensor:
    """Mean raw outputs over all mirrorings of the network's axes."""
    axes = range(2, chunk.ndim)
    subsets = [s for n in range(len(axes) + 1) for s in itertools.combinations(axes, n)]
    total = _pass(model, chunk)
    for subset in subsets[1:]:
        total = total + _pass(model, chunk.flip(subset)).flip(subset)
    return total / len(subsets)


def _window_size(model: Normalised, shape: tuple[int, ...]) -> tuple[int, ...]:
    patch = tuple(max(p, model.stride) for p in model.patch)
    return tuple(-(-min(p, n) // model.stride) * model.stride for p, n in zip(patch, shape, strict=True))


def _windows(model: Normalised, chunk: Tensor) -> Iterator[Tensor]:
    """Non-overlapping windows that cover a batch too large for one pass; the last ones are moved inside."""
    window = _window_size(model, tuple(chunk.shape[2:]))
    starts = [[min(s, max(0, n - w)) for s in range(0, n, w)] for n, w in zip(chunk.shape[2:], window, strict=True)]
    for start in itertools.product(*starts):
        index = (slice(None), slice(None), *(slice(s, s + w) for s, w in zip(start, window, strict=True)))
        yield pad_to_stride(chunk[index], model.stride)
