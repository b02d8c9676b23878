"""Medians and percentiles of many values, and the values under a mask: by numpy on the CPU, where torch is slow."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SAMPLE = 2**17  # values from which a percentile is taken


def inside(values: Tensor, mask: Tensor) -> Tensor:
    """What `values` (*s) or (c, *s) are where `mask` (*s) holds, (n,) or (c, n)."""
    if values.is_cuda:
        return values[..., mask]
    array, where = values.numpy(), mask.numpy()
    if array.ndim == where.ndim:
        return torch.from_numpy(array[where])
    return torch.from_numpy(np.stack([channel[where] for channel in array]))


def count(mask: Tensor) -> int:
    """Number of elements of a bool tensor that hold."""
    return int(mask.sum()) if mask.is_cuda else int(np.count_nonzero(mask.numpy()))


def ranked(values: Tensor, rank: int) -> float:
    """The value of `values` (n,) that `rank` others are not above, ties broken anyhow; rank 0 is the smallest."""
    if values.is_cuda:
        return float(values.kthvalue(rank + 1).values)
    return float(np.partition(values.numpy(), rank)[rank])


def median(values: Tensor) -> float:
    """The median of `values` (n,), the lower one of two."""
    return ranked(values, (values.numel() - 1) // 2)


def sampled(values: Tensor, most: int = SAMPLE) -> Tensor:
    """Every k-th of `values` (n,) so that about `most` are left, k odd: it does not fall on the same columns."""
    return values[:: max(1, values.numel() // most) | 1]


def percentiles(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """Two percentiles of `values` (n,), nearest rank; of many values an even sample of about 2^17 is looked at."""
    sample = sampled(values)
    last = sample.numel() - 1
    return ranked(sample, round(low / 100 * last)), ranked(sample, round(high / 100 * last))
