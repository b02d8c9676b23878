"""Normal noise by the million, from the generator that an operator is handed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**16  # pairs drawn from one stream: a block stays in the cache, and is the same whichever thread draws it


def normals(rng: np.random.Generator, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Independent standard normal values, float32 `shape`.

    One number of `rng` seeds them. The CPU takes a stream of its own for every block, so that the number of threads
    does not change a value; a GPU draws from its own generator: other numbers of the same law.
    """
    n = prod(shape)
    if torch.device(device).type == "cuda":
        return torch.randn(tuple(shape), device=device, generator=_seeded(rng, device))
    pairs = torch.view_as_real(_pairs(rng, (n + 1) // 2)).flatten()
    return pairs[:n].reshape(tuple(shape))


def complex_normals(rng: np.random.Generator, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Circular complex normal values, complex64 `shape`, SD 1 in each part; drawn as `normals` are."""
    if torch.device(device).type == "cuda":
        parts = torch.randn((*shape, 2), device=device, generator=_seeded(rng, device))
        return torch.view_as_complex(parts)
    return _pairs(rng, prod(shape)).reshape(tuple(shape))


def _seeded(rng: np.random.Generator, device: torch.device | str) -> torch.Generator:
    return torch.Generator(device).manual_seed(int(rng.integers(2**63)))


def _pairs(rng: np.random.Generator, n: int) -> Tensor:
    """Circular complex normal values (n,), by threads of which torch says how many.

    Reference:
        Box and Muller, Ann Math Stat 29:610, 1958.
    """
    seed = int(rng.integers(2**63))
    out = np.empty(n, np.complex64)
    starts = range(0, n, BLOCK)

    def fill(start: int) -> None:
        block = out[start : start + BLOCK]
        bits = np.random.SFC64((seed, start // BLOCK)).random_raw(len(block)).view(np.int32).reshape(2, -1)
        bits >>= 8
        radius, angle = bits.astype(np.float32)  # -2^23 to 2^23 - 1
        radius += 2.0**23 + 1
        radius *= 2.0**-24  # above 0, at most 1
        np.sqrt(np.multiply(np.log(radius, out=radius), -2, out=radius), out=radius)
        angle *= np.float32(2 * np.pi * 2.0**-24)
        np.multiply(radius, np.cos(angle), out=block.real)
        np.multiply(radius, np.sin(angle), out=block.imag)

    threads = min(torch.get_num_threads(), len(starts))
    if threads < 2:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(fill, starts))
    return torch.from_numpy(out)
