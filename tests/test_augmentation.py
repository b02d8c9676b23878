"""Augmentation: every entry against its definition, how often it acts, and what moves together."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch.nn import functional

from shiftbench.errors import SpecError
from shiftbench.rng import generator
from shiftbench.train import augment_intensity as intensity
from shiftbench.train.augment import AUGMENTATIONS, augment, augmentation_named
from shiftbench.train.augment_intensity import Change
from shiftbench.train.augment_spatial import Spatial, Warps, mirror_, warp, warped_axes

TURN = {"turn_deg": 0.0, "tilt_deg": 0.0, "plane_deg": 0.0, "long_plane_deg": 0.0}


def rows(*shape, seed=0):
    return torch.from_numpy(generator(seed, "rows").normal(size=shape).astype(np.float32))


def applied(change, x, value, axes=3):
    """A function of `augment_intensity` on rows, with one value for all."""
    values = torch.full((len(x), 1, 1, 1), float(value))
    return change(x.clone(), values, axes, generator(0, "change"))


def batch(*shape, b=4, c=1):
    """Smooth images and labels that are a function of the image."""
    x = rows(b, c, *shape)
    for axis in range(2, x.ndim):
        x = (x + x.roll(1, axis) + x.roll(2, axis)) / 3
    return x, (x[:, 0] > 0).to(torch.uint8) + (x[:, 0] > 0.4).to(torch.uint8)


def warps(matrix, shift, size):
    return Warps(np.array([0]), np.asarray(matrix, float)[None], np.asarray(shift, float)[None], tuple(size))


def test_noise_has_the_variance_that_was_drawn_and_none_is_none():
    x = torch.zeros(2, 24, 24, 24)
    noise = applied(intensity.add_noise, x, 0.09)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01) and float(noise.std()) == pytest.approx(0.3, rel=0.03)
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(applied(intensity.add_noise, x, 0.0), x)


@pytest.mark.parametrize("axes", [2, 3])
def test_blur_is_the_gaussian_filter_away_from_the_border(axes):
    x = rows(2, 20, 24, 28)
    mine = applied(intensity.blur, x, 0.9, axes)
    for row, blurred in zip(x, mine, strict=True):
        sigma = (0.9 if axes == 3 else 0.0, 0.9, 0.9)
        truth = ndimage.gaussian_filter(row.numpy().astype(float), sigma, truncate=8)
        np.testing.assert_allclose(blurred[5:-5, 5:-5, 5:-5], truth[5:-5, 5:-5, 5:-5], atol=1e-5)


def test_blur_keeps_a_constant_up_to_the_border_and_every_row_has_its_own_width():
    assert torch.allclose(applied(intensity.blur, torch.full((1, 6, 7, 8), 2.5), 1.2), torch.tensor(2.5))
    x = rows(1, 8, 9, 10).expand(2, -1, -1, -1)
    both = intensity.blur(x.clone(), torch.tensor([0.6, 1.4]).view(2, 1, 1, 1), 3, generator(0))
    for i, sigma in enumerate((0.6, 1.4)):
        torch.testing.assert_close(both[i : i + 1], applied(intensity.blur, x[:1], sigma))


@pytest.mark.parametrize(("n", "zoom"), [(32, 0.5), (32, 0.75), (24, 0.61), (17, 0.8)])
def test_low_resolution_is_nearest_down_and_cubic_up(n, zoom):
    x = rows(2, 3, n, n)
    small = functional.interpolate(x, size=(round(n * zoom),) * 2, mode="nearest-exact")
    truth = functional.interpolate(small, size=(n, n), mode="bicubic", align_corners=False)
    torch.testing.assert_close(applied(intensity.lower_resolution, x, zoom, axes=2), truth, atol=2e-5, rtol=0)


def test_low_resolution_of_three_axes_acts_on_the_depth_too_and_full_resolution_changes_nothing():
    x = rows(1, 16, 16, 16)
    torch.testing.assert_close(applied(intensity.lower_resolution, x, 1.0), x)
    ramp = torch.arange(16.0).view(1, 16, 1, 1).expand(1, 16, 16, 16)
    coarse = applied(intensity.lower_resolution, ramp, 0.5)
    assert not torch.allclose(coarse, ramp, atol=0.1)
    assert torch.allclose(applied(intensity.lower_resolution, ramp, 0.5, axes=2), ramp)


@pytest.mark.parametrize("change", [intensity.gamma, intensity.inverted_gamma])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_keeps_the_mean_the_spread_and_the_order_of_the_values(change, exponent):
    x = rows(3, 4, 5, 6)
    y = applied(change, x, exponent)
    torch.testing.assert_close(y.mean((1, 2, 3)), x.mean((1, 2, 3)), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((1, 2, 3)), x.std((1, 2, 3)))
    order = x.flatten(1).argsort(1)
    assert (y.flatten(1).gather(1, order).diff(dim=1) > -1e-5).all()
    assert not torch.allclose(x, y, atol=0.05)
    torch.testing.assert_close(applied(change, x, 1.0), x, atol=1e-5, rtol=0)


def test_gamma_is_the_power_of_the_unit_range_and_its_inversion_that_of_the_negative():
    x = torch.linspace(0, 1, 8).view(1, 1, 1, 8)
    for change, power in ((intensity.gamma, x**1.4), (intensity.inverted_gamma, 1 - (1 - x) ** 1.4)):
        expected = (power - power.mean()) * (x.std() / power.std()) + x.mean()
        torch.testing.assert_close(applied(change, x, 1.4), expected)


def test_gamma_of_a_constant_stays_finite():
    assert torch.isfinite(applied(intensity.gamma, torch.full((1, 2, 3, 4), -1.5), 0.7)).all()


def test_contrast_scales_distances_from_the_mean_and_never_leaves_the_range():
    x = rows(2, 4, 5, 6)
    mean = x.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(applied(intensity.contrast, x, 0.8), mean + 0.8 * (x - mean))
    strong = applied(intensity.contrast, x, 1.25)
    assert float(strong.max()) <= float(x.max()) and float(strong.min()) >= float(x.min())
    assert float(strong.std()) > float(x.std())


def test_multiply_and_add_are_what_they_say():
    x = rows(2, 1, 3, 3)
    torch.testing.assert_close(applied(intensity.multiply, x, 1.2), x * 1.2)
    torch.testing.assert_close(applied(intensity.add, x, -0.3), x - 0.3)


def test_a_change_of_probability_zero_never_acts_and_of_one_always():
    x = torch.ones(6, 1, 4, 4)
    never = Change(intensity.add, p=0.0, span=(1.0, 2.0))
    always = Change(intensity.add, p=1.0, span=(1.0, 2.0))
    assert torch.equal(never(x.clone(), 3, 2, generator(0)), x)
    changed = always(x.clone(), 3, 2, generator(0))
    assert (changed >= 2.0).all() and (changed <= 3.0).all()


def test_rows_that_were_not_drawn_stay_and_the_numbers_belong_to_the_rows():
    change = Change(intensity.add, p=0.5, span=(1.0, 2.0), p_channel=0.5)
    which, numbers = change.draw(8, 2, generator(3))
    x = torch.zeros(16, 1, 2, 2)
    y = change(x.clone(), 8, 2, generator(3))
    truth = torch.zeros(16)
    truth[which] = torch.from_numpy(numbers).float()
    assert 0 < len(which) < 16
    torch.testing.assert_close(y, truth.view(16, 1, 1, 1).expand_as(y))


def test_draws_have_the_probabilities_and_ranges_of_the_list():
    change = Change(intensity.add, p=0.4, span=(0.75, 1.25), p_channel=0.5, halves=True)
    which, numbers = change.draw(20_000, 2, generator(0))
    samples = np.unique(which // 2)
    assert len(which) / 40_000 == pytest.approx(0.2, abs=0.01)
    assert len(samples) / 20_000 == pytest.approx(0.4 * 0.75, abs=0.01)
    assert (numbers < 1).mean() == pytest.approx(0.5, abs=0.02)
    assert (
        numbers.min() >= 0.75
        and numbers.max() <= 1.25
        and numbers.std() == pytest.approx(0.5 / math.sqrt(12), rel=0.02)
    )


def test_halves_give_either_side_of_one_the_same_weight_in_a_lopsided_range():
    _, numbers = Change(intensity.gamma, p=1.0, span=(0.7, 1.5), halves=True).draw(20_000, 1, generator(0))
    assert (numbers < 1).mean() == pytest.approx(0.5, abs=0.02)
    assert numbers[numbers > 1].mean() == pytest.approx(1.25, abs=0.01)


def test_shared_numbers_are_those_of_the_sample():
    _, numbers = Change(intensity.add, p=1.0, span=(0.0, 1.0), shared=True).draw(50, 3, generator(0))
    numbers = numbers.reshape(50, 3)
    assert (numbers == numbers[:, :1]).all() and len(np.unique(numbers)) == 50


def test_the_spatial_draws_have_their_probabilities():
    spatial = AUGMENTATIONS["nnunet"].spatial
    drawn = spatial.draw(20_000, (32, 32, 32), generator(0))
    assert len(drawn.which) / 20_000 == pytest.approx(1 - 0.8**2, abs=0.01)
    factor = np.linalg.det(drawn.matrices) ** (1 / 3)
    scaled = ~np.isclose(factor, 1.0)
    assert scaled.sum() / 20_000 == pytest.approx(0.2, abs=0.01)
    assert factor.min() >= 0.7 - 1e-9 and factor.max() <= 1.4 + 1e-9
    assert not drawn.shifts.any()


def test_rotations_keep_lengths_and_stay_in_the_plane_of_flat_patches():
    spatial = AUGMENTATIONS["nnunet"].spatial
    deep = spatial.draw(200, (32, 32, 32), generator(1)).matrices
    flat = spatial.draw(200, (8, 64, 64), generator(1)).matrices
    for matrices in (deep, flat):
        products = matrices @ matrices.transpose(0, 2, 1)
        n = matrices.shape[-1]
        np.testing.assert_allclose(products, products[:, :1, :1] * np.eye(n), atol=1e-9)
    assert deep.shape[1:] == (3, 3) and flat.shape[1:] == (2, 2)
    assert warped_axes((8, 64, 64)) == (64, 64) and warped_axes((32, 64, 64)) == (32, 64, 64)


@pytest.mark.parametrize(("patch", "limit"), [((64, 64), 180), ((128, 64), 15), ((8, 128, 64), 15)])
def test_the_range_of_in_plane_rotations_follows_the_shape_of_the_patch(patch, limit):
    only_turns = Spatial(1.0, 30.0, 30.0, 180.0, 15.0, 0.0, (1.0, 1.0))
    m = only_turns.draw(2000, patch, generator(0)).matrices
    angles = np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0]))
    assert limit * 0.98 < np.abs(angles).max() <= limit + 1e-6


@pytest.mark.parametrize("shape", [(12, 16), (8, 10, 12)])
def test_the_identity_warp_returns_the_middle_of_the_window(shape):
    x = rows(1, 2, *(n + 4 for n in shape))
    middle = x[(..., *(slice(2, -2) for _ in shape))]
    grid = warps(np.eye(len(shape)), np.zeros(len(shape)), shape).grid(x.shape[2:], x.device)
    torch.testing.assert_close(warp(x, grid), middle, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(12, 16), (8, 10, 12)])
def test_the_grid_is_that_of_affine_grid_where_window_and_patch_agree(shape):
    a = len(shape)
    spatial = Spatial(1.0, 30.0, 30.0, 180.0, 15.0, 1.0, (0.7, 1.4), shift=0.1)
    drawn = spatial.draw(3, shape, generator(0))
    ours = drawn.grid(shape, torch.device("cpu"))
    half = np.asarray(shape) / 2
    theta = np.concatenate(
        [drawn.matrices * half[None, None, :] / half[None, :, None], (drawn.shifts / half)[..., None]], 2
    )
    order = [*reversed(range(a)), a]
    theta = torch.from_numpy(theta[:, ::-1][:, :, order].copy()).float()
    truth = functional.affine_grid(theta, [3, 1, *shape], align_corners=False)
    torch.testing.assert_close(ours, truth, atol=1e-5, rtol=0)


def test_a_shift_and_a_quarter_turn_move_voxels_where_they_should():
    x = rows(1, 1, 9, 9)
    shifted = warp(x, warps(np.eye(2), (1, -2), (5, 5)).grid((9, 9), x.device))
    torch.testing.assert_close(shifted, x[:, :, 3:8, 0:5], atol=1e-5, rtol=0)
    turned = warp(x, warps([[0, -1], [1, 0]], (0, 0), (9, 9)).grid((9, 9), x.device))
    torch.testing.assert_close(turned, x.rot90(-1, (2, 3)), atol=1e-5, rtol=0)


def test_a_factor_above_one_shrinks_structures():
    x = torch.zeros(1, 1, 32, 32)
    x[..., 8:24, 8:24] = 1
    half = warp(x, warps(2 * np.eye(2), (0, 0), (16, 16)).grid((32, 32), x.device))
    assert float(half.sum()) == pytest.approx(64, abs=1)


def test_margins_hold_all_that_a_warp_reads():
    drawn = AUGMENTATIONS["nnunet"].spatial.draw(50, (16, 20, 24), generator(0))
    margins = drawn.margins()
    window = np.asarray(drawn.size) + 2 * margins
    grid = drawn.grid(window, torch.device("cpu"))
    edge = torch.from_numpy(1 - 1 / window[::-1].copy()).float()  # centres of the outermost voxels
    assert (grid.abs() <= edge + 1e-5).all()


@pytest.mark.parametrize("name", ["light", "nnunet"])
@pytest.mark.parametrize("shape", [(24, 20), (16, 12, 20), (4, 24, 20)])
def test_nearest_and_linear_sampling_agree_wherever_the_neighbours_do(name, shape):
    _, y = batch(*shape, b=12)
    drawn = AUGMENTATIONS[name].spatial.draw(12, shape, generator(0))
    moving = (y[drawn.which] > 0)[:, None]
    grid = drawn.grid(shape[-len(drawn.size) :], y.device)
    nearest, linear = warp(moving.to(torch.uint8), grid, mode="nearest"), warp(moving.float(), grid)
    decided = (linear - 0.5).abs() > 0.499
    assert nearest.shape == moving.shape and float(decided.float().mean()) > 0.2
    assert torch.equal(nearest[decided] > 0, linear[decided] > 0.5)


def test_augment_moves_images_as_it_moves_references():
    x, _ = batch(24, 20, b=16)
    y = (x[:, 0] > 0).to(torch.uint8)
    image = torch.where(y[:, None] > 0, 1.0, -1.0)
    for name in ("light", "nnunet"):
        warped, labels = augment(image, y, rng=generator(5), augmentation=name)
        agree = ((warped[:, 0] > warped[:, 0].mean((1, 2), keepdim=True)) == (labels > 0)).float().mean()
        assert float(agree) > 0.85, name
        assert not torch.equal(labels, y)


def test_labels_survive_a_warp_with_the_ignore_label_and_the_border_is_background():
    y = torch.full((6, 24, 24), 255, dtype=torch.uint8)
    y[:, 8:16] = 3
    x = y[:, None].float()
    _, labels = augment(x, y, rng=generator(0), augmentation="light")
    assert set(labels.unique().tolist()) == {0, 3, 255} and labels.dtype == torch.uint8
    corners = labels[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).any()


def test_what_enters_from_outside_is_the_channels_minimum():
    y = torch.zeros(8, 24, 24, dtype=torch.uint8)
    x = torch.stack([torch.full((8, 24, 24), 5.0), torch.full((8, 24, 24), -2.0)], 1)
    x[:, 0, 12, 12], x[:, 1, 12, 12] = 4.0, -3.0
    warped, _ = augment(x, y, rng=generator(0), augmentation="light")
    assert (warped[:, 0].flatten(1).amin(1) > 3).all() and (warped[:, 1].flatten(1).amin(1) < -2.4).all()


def test_mirrored_twice_is_the_identity_and_every_tensor_is_mirrored_alike():
    x, y = batch(6, 8)
    first, second = x.clone(), y.clone()
    mirror_([first, second], 2, 0.5, generator(1))
    assert not torch.equal(first, x)
    assert torch.equal((first[:, 0] > 0).to(torch.uint8) + (first[:, 0] > 0.4).to(torch.uint8), second)
    mirror_([first, second], 2, 0.5, generator(1))
    assert torch.equal(first, x) and torch.equal(second, y)
    mirror_([first], 2, 1.0, generator(1))
    assert torch.equal(first, x.flip(2, 3))
    mirror_([second], 2, 0.0, generator(1))
    assert torch.equal(second, y)


def test_mirroring_flips_each_axis_half_of_the_time():
    x = torch.arange(8.0).view(1, 1, 2, 2, 2).repeat(4000, 1, 1, 1, 1)
    mirror_([x], 3, 0.5, generator(0))
    first = x[:, 0, 0, 0, 0].long()
    assert np.bincount(first.numpy(), minlength=8) / 4000 == pytest.approx(np.full(8, 1 / 8), abs=0.02)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
@pytest.mark.parametrize("shape", [(16, 16), (8, 12, 16), (4, 16, 16)])
def test_the_same_generator_gives_the_same_bytes_and_the_arguments_stay(name, shape):
    x, y = batch(*shape, c=2)
    kept = x.clone(), y.clone()
    first, second = (augment(x, y, rng=generator(7), augmentation=name) for _ in range(2))
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    assert torch.equal(x, kept[0]) and torch.equal(y, kept[1])
    assert first[0].shape == x.shape and first[1].shape == y.shape and torch.isfinite(first[0]).all()
    other = augment(x, y, rng=generator(8), augmentation=name)
    assert torch.equal(first[0], other[0]) == (name == "none")


def test_no_augmentation_returns_the_batch():
    x, y = batch(8, 8)
    again = augment(x, y, rng=generator(0), augmentation="none")
    assert torch.equal(again[0], x) and torch.equal(again[1], y)


def test_the_slices_of_a_stack_share_every_change_but_the_noise():
    quiet = [c for c in AUGMENTATIONS["nnunet"].intensity if c.change is not intensity.add_noise]
    x = rows(40, 2, 1, 12, 12).expand(40, 2, 3, 12, 12).reshape(40, 6, 12, 12).contiguous()
    y = torch.zeros(40, 12, 12, dtype=torch.uint8)
    out, _ = augment(x, y, rng=generator(0), augmentation="light", stack=3)
    stacked = out.reshape(40, 2, 3, 12, 12)
    torch.testing.assert_close(stacked, stacked[:, :, :1].expand_as(stacked))
    lines = x.reshape(80, 3, 12, 12).clone()
    for change in quiet:
        lines = change(lines, 40, 2, generator(2))
    torch.testing.assert_close(lines, lines[:, :1].expand_as(lines), atol=1e-5, rtol=0)
    assert not torch.allclose(lines, x.reshape(80, 3, 12, 12))


def test_the_list_of_nnunet_is_complete_and_in_its_order():
    names = [change.change.__name__ for change in AUGMENTATIONS["nnunet"].intensity]
    assert names == ["add_noise", "blur", "multiply", "contrast", "lower_resolution", "inverted_gamma", "gamma"]
    assert AUGMENTATIONS["nnunet"].p_mirror == 0.5


def test_an_unknown_list_is_named_with_its_nearest():
    with pytest.raises(SpecError, match="nnunet"):
        augmentation_named("nnunett")
