"""Centre-line Dice on drawn tubes, and thinning that loses neither a part, nor a hole, nor a branch."""

from __future__ import annotations

import itertools

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.ndimage import gaussian_filter

from shiftbench.metrics.thinning import _BITS, _STEPS, _deletable, thinned
from shiftbench.metrics.tubes import centre_line_shares, centre_lines, cldice
from shiftbench.rng import generator

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
pairs = shapes.flatmap(lambda shape: st.tuples(*(hnp.arrays(bool, shape) for _ in range(2))))


def bar(shape, *corners) -> np.ndarray:
    """A mask of boxes, each (low, high)."""
    mask = np.zeros(shape, bool)
    for low, high in corners:
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def topology(mask) -> tuple[int, int, int]:
    """Parts, cavities and the Euler number of a 3-D mask: vertices - edges + faces - cubes of its closed voxels."""
    padded = np.pad(mask, 1)
    parts = int(cc3d.connected_components(padded.astype(np.uint8), connectivity=26).max())
    outside = int(cc3d.connected_components((~padded).astype(np.uint8), connectivity=6).max())
    euler = 0
    for thick in itertools.product((0, 1), repeat=3):  # along which axes the cell has an extent
        cells = padded
        for axis, extent in enumerate(thick):
            low, high = (tuple(s if a == axis else slice(None) for a in range(3)) for s in (slice(1), slice(1, None)))
            if not extent:
                before = np.concatenate([np.zeros_like(cells[low]), cells], axis)
                cells = before | np.concatenate([cells, np.zeros_like(cells[low])], axis)
        euler += (-1) ** sum(thick) * int(cells.sum())
    return parts, outside, euler


def blob(shape, i) -> np.ndarray:
    rng = generator(0, "blob", i)
    noise = gaussian_filter(rng.random(shape), rng.uniform(0.0, 1.0))
    return noise > np.quantile(noise, rng.uniform(0.2, 0.95))


def test_half_of_a_line_and_a_line_with_a_false_branch():
    line = bar((9, 40), ((4, 0), (5, 40)))
    half = bar((9, 40), ((4, 0), (5, 20)))
    assert centre_line_shares(half, line) == (1.0, 0.5) and cldice(half, line) == pytest.approx(2 / 3)
    longer = line | bar((9, 40), ((0, 20), (4, 21)))
    assert centre_line_shares(longer, line) == (pytest.approx(40 / 44), 1.0)
    assert centre_line_shares(line, longer) == (1.0, pytest.approx(40 / 44))


def test_a_missing_piece_costs_its_length_however_thin_the_tube_is():
    thick, thin = bar((24, 100), ((2, 2), (13, 98))), bar((24, 100), ((18, 2), (19, 98)))
    reference = thick | thin
    without_thin, without_thick = cldice(thick, reference), cldice(thin, reference)
    assert without_thin == pytest.approx(2 * 0.47 / 1.47, abs=0.02) == pytest.approx(without_thick, abs=0.06)


def test_a_tube_that_is_thicker_or_thinner_keeps_its_centre_line():
    for axes in ((30,), (30, 12)):
        low, high = [[2 + cut] + [2 + cut] * (len(axes) - 1) + [2] for cut in (0, 2)], [9, 7]
        wide, narrow = (
            bar((11,) * len(axes) + (40,), (a, [b] * len(axes) + [38])) for a, b in zip(low, high, strict=True)
        )
        assert cldice(narrow, wide) > 0.95 and cldice(wide, narrow) > 0.95


def test_empty_masks_and_masks_that_do_not_meet():
    line, empty = bar((5, 9), ((2, 0), (3, 9))), np.zeros((5, 9), bool)
    assert cldice(empty, empty) is None and cldice(line, empty) == 0.0 == cldice(empty, line)
    assert cldice(line, np.roll(line, 2, 0)) == 0.0


def test_a_skeleton_that_vanished_would_give_a_number(monkeypatch):
    morphology = pytest.importorskip("skimage.morphology")
    monkeypatch.setattr(morphology, "skeletonize", np.zeros_like)
    line = bar((5, 9), ((2, 0), (3, 9)))
    assert cldice(line, line) == 1.0 and cldice(line, np.roll(line, 2, 0)) == 0.0


def test_masks_that_are_none_are_refused():
    with pytest.raises(ValueError, match="shape"):
        cldice(np.ones((3, 3), bool), np.ones((3, 4), bool))
    with pytest.raises(ValueError, match="binary"):
        cldice(np.full((3, 3), 2), np.ones((3, 3), bool))


@settings(max_examples=150, deadline=None)
@given(pair=pairs)
def test_the_score_is_symmetric_in_its_range_and_blind_to_padding(pair):
    prediction, reference = pair
    value = cldice(prediction, reference)
    assert (value is None) == (not prediction.any() and not reference.any())
    assert value is None or 0 <= value <= 1
    assert value == cldice(reference, prediction)
    assert value == cldice(*(np.pad(mask, [(3, 2)] * mask.ndim) for mask in pair))
    assert not reference.any() or cldice(reference, reference) == 1.0


@pytest.mark.parametrize("shape", [(40, 33), (14, 13, 12)])
def test_flips_and_axis_order_change_nothing(shape):
    mask, other = blob(shape, "mask"), blob(shape, "other")
    lines, value = centre_lines(mask), cldice(mask, other)
    flips = [tuple(np.flatnonzero(chosen)) for chosen in itertools.product((0, 1), repeat=len(shape))]
    turns = [(axes, order) for order in itertools.permutations(range(len(shape))) for axes in flips]
    for axes, order in turns[:: len(turns) // 8]:
        turned = [np.flip(m, axes).transpose(order) for m in (mask, other)]
        assert (centre_lines(turned[0]) == np.flip(lines, axes).transpose(order)).all()
        assert cldice(*turned) == value


@settings(max_examples=150, deadline=None)
@given(pair=pairs)
def test_every_part_keeps_a_centre_line_inside_it(pair):
    for mask in pair:
        lines = centre_lines(mask)
        assert not (lines & ~mask).any()
        ids = cc3d.connected_components(np.pad(mask, 1).astype(np.uint8), connectivity=8 if mask.ndim == 2 else 26)
        assert set(np.unique(ids[np.pad(lines, 1)])) == set(range(1, ids.max() + 1))


@pytest.mark.parametrize("size", [(2, 2, 2), (4, 4, 4), (6, 6, 6), (2, 2, 20), (4, 4, 20), (2, 20, 20), (5, 5, 20)])
def test_bodies_of_an_even_thickness_keep_a_centre_line(size):
    lines = thinned(np.ones(size, bool))
    assert lines.any() and topology(lines) == topology(np.ones(size, bool)) == (1, 1, 1)
    if sorted(size)[1] <= 5:
        assert (
            max(np.ptp(np.nonzero(lines)[2]), 1) >= size[2] - max(size[:2]) - 2
        )  # shorter by no more than its thickness


def test_a_branch_of_an_even_thickness_is_kept():
    tube = bar((9, 44, 44), ((2, 18, 2), (7, 23, 42)))
    branch = bar((9, 44, 44), ((2, 2, 10), (6, 42, 14)))
    along = np.nonzero(thinned(tube | branch).any((0, 2)))[0]
    assert along.min() <= 5 and along.max() >= 38
    assert cldice(tube, tube | branch) < 0.75


@pytest.mark.parametrize("i", range(25))
def test_thinning_in_3d_keeps_parts_cavities_and_tunnels(i):
    mask = blob((13, 12, 11), i)
    lines = thinned(mask)
    assert not (lines & ~mask).any() and lines.sum() < mask.sum()
    assert topology(lines) == topology(mask)


def test_what_is_left_cannot_be_thinned_but_at_the_ends_of_lines():
    lines = np.pad(thinned(blob((12, 12, 12), "left")), 1)
    for voxel in np.argwhere(lines):
        around = np.array([lines[tuple(voxel + step)] for step in _STEPS])
        alone = lines.copy()
        alone[tuple(voxel)] = False
        assert around.sum() == 1 or topology(alone) != topology(lines)


def test_simple_voxels_are_those_whose_deletion_changes_no_topology():
    codes = generator(0, "codes").integers(0, 2**26, 400)
    codes = np.r_[codes, codes & generator(1, "codes").integers(0, 2**26, 400), 1 << np.arange(26)].astype(np.int32)
    for code, deletable in zip(codes, _deletable(codes), strict=True):
        cube = np.zeros((3, 3, 3), bool)
        cube[tuple((_STEPS[(code & _BITS) != 0] + 1).T)] = True
        before = cube.copy()
        before[1, 1, 1] = True
        assert deletable == (cube.sum() > 1 and topology(before) == topology(cube)), code


def test_a_ring_and_a_torus_keep_their_hole():
    ring = bar((12, 20), ((1, 1), (11, 19))) & ~bar((12, 20), ((4, 5), (8, 15)))
    outside = cc3d.connected_components((~np.pad(centre_lines(ring), 1)).astype(np.uint8), connectivity=4)
    assert outside.max() == 2
    z, y, x = np.indices((11, 24, 24)) - np.array([5, 11.5, 11.5])[:, None, None, None]
    torus = (np.hypot(y, x) - 8) ** 2 + z**2 < 3.2**2
    lines = thinned(torus)
    assert topology(torus) == topology(lines) == (1, 1, 0) and 40 < lines.sum() < 70


def test_the_score_equals_the_papers_formula_with_scikit_image_where_that_loses_nothing():
    morphology = pytest.importorskip("skimage.morphology")
    for i in range(5):
        prediction, reference = blob((40, 40), f"p{i}"), blob((40, 40), f"r{i}")
        s_p, s_r = morphology.skeletonize(prediction), morphology.skeletonize(reference)
        precision, sensitivity = (s_p & reference).sum() / s_p.sum(), (s_r & prediction).sum() / s_r.sum()
        expected = 2 * precision * sensitivity / (precision + sensitivity)
        assert cldice(prediction, reference) == pytest.approx(expected, abs=0.02)
    wide, cut = bar((9, 9, 60), ((2, 2, 2), (7, 7, 58))), bar((9, 9, 60), ((2, 2, 2), (7, 7, 30)))
    s_p, s_r = morphology.skeletonize(cut), morphology.skeletonize(wide)
    precision, sensitivity = (s_p & wide).sum() / s_p.sum(), (s_r & cut).sum() / s_r.sum()
    assert cldice(cut, wide) == pytest.approx(2 * precision * sensitivity / (precision + sensitivity), abs=0.01)
