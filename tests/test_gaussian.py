"""Normal noise by the million, ranks, and the filling of a body mask."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from shiftbench.rng import generator
from shiftbench.shifts.gaussian import BLOCK, complex_normals, normals
from shiftbench.shifts.ranks import count, inside, median, ranked
from shiftbench.shifts.scan import _filled


@pytest.mark.parametrize("shape", [(3, 100, 777), (2 * BLOCK + 1,), (1,)])
def test_normals_are_the_same_for_every_number_of_threads(shape):
    before, drawn = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        drawn.append(normals(generator(0, "n"), shape))
    torch.set_num_threads(before)
    assert torch.equal(*drawn) and drawn[0].shape == shape and drawn[0].dtype == torch.float32
    assert not torch.equal(drawn[0], normals(generator(1, "n"), shape))


def test_normals_are_normal_and_their_parts_and_blocks_independent():
    values = complex_normals(generator(0, "law"), (4 * BLOCK,)).numpy()
    for part in (values.real, values.imag):
        assert stats.kstest(part.astype(float), "norm").pvalue > 0.01
        assert part.mean() == pytest.approx(0, abs=0.01) and part.std() == pytest.approx(1, abs=0.005)
        assert (part.astype(float) ** 4).mean() == pytest.approx(3, abs=0.05) and 4.2 < np.abs(part).max() < 6
    assert abs(np.corrcoef(values.real, values.imag)[0, 1]) < 0.01
    assert abs(np.corrcoef(np.abs(values[:-1]), np.abs(values[1:]))[0, 1]) < 0.01
    assert abs(np.corrcoef(values.real[:BLOCK], values.real[BLOCK : 2 * BLOCK])[0, 1]) < 0.02


def test_ranks_and_masks_are_those_of_torch():
    values = normals(generator(0, "ranks"), (2, 9, 11))
    mask = values[0] > 0.2
    assert torch.equal(inside(values, mask), values[:, mask]) and torch.equal(inside(values[0], mask), values[0][mask])
    assert count(mask) == int(mask.sum())
    flat = values.flatten()
    assert median(flat) == float(flat.median()) and ranked(flat, 3) == float(flat.kthvalue(4).values)


@pytest.mark.parametrize("shape", [(40, 33), (7, 40, 33)])
def test_holes_are_filled_slice_by_slice(shape):
    mask = ndimage.gaussian_filter(generator(0, "holes").standard_normal(shape), 1.5) > -0.02
    expected = (
        ndimage.binary_fill_holes(mask) if len(shape) == 2 else np.stack([ndimage.binary_fill_holes(m) for m in mask])
    )
    assert (expected != mask).any() and np.array_equal(_filled(mask), expected)
