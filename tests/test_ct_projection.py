"""The Radon transform and its inverse against scikit-image and closed forms, and what arises in projections."""

import math

import numpy as np
import pytest
import torch
from skimage.transform import iradon, radon

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import ct, ct_image, ct_projection
from shiftbench.shifts.radon import detector, noise_variance, project, reconstruct, view_angles
from shiftbench.shifts.scan import Scan

BLOBS = ((0, 0, 14, 1.0), (8, -5, 4, 2.0), (-12, 7, 3, -0.5))  # x, y, width, height


def rng(*names):
    return generator(0, "projection", *names)


def ellipse(shape=(96, 96), mm=(3.0, 3.0), width=200.0, depth=200.0, inside=0.0, outside=-1000.0, fine=4):
    """An ellipse with partial volume, (1, h, w)."""
    y, x = np.meshgrid(
        *((np.arange(n * fine) - (n * fine - 1) / 2) * d / fine for n, d in zip(shape, mm, strict=True)), indexing="ij"
    )
    image = np.where(np.hypot(2 * y / depth, 2 * x / width) < 1, inside, outside)
    image = image.reshape(shape[0], fine, shape[1], fine).mean(axis=(1, 3)).astype(np.float32)
    return torch.from_numpy(image)[None]


def water(sigma=12.0, **kwargs):
    mm = kwargs.get("mm", (3.0, 3.0))
    return Scan(ellipse(**kwargs), mm, "ct", {"sigma": sigma, "mtf50": 0.42})


@pytest.fixture(scope="module")
def phantom():
    """A smooth object without symmetry, (65, 65)."""
    y, x = np.meshgrid(*(np.arange(65) - 32.0,) * 2, indexing="ij")
    return sum(a * np.exp(-((x - u) ** 2 + (y - v) ** 2) / s**2) for u, v, s, a in BLOBS).astype(np.float32)


def test_projections_are_those_of_scikit_image(phantom):
    angles = view_angles(phantom.shape)
    mine = project(torch.from_numpy(phantom)[None], (1.0, 1.0), angles)[0].numpy()
    theirs = radon(phantom, theta=-np.degrees(angles.numpy()), circle=False).T  # it turns the other way
    margin = (mine.shape[1] - theirs.shape[1]) // 2
    mine = mine[:, margin : margin + theirs.shape[1]]
    assert np.abs(mine - theirs).max() < 0.01 * theirs.max()  # it interpolates linearly
    bins = np.arange(detector(phantom.shape, (1.0, 1.0))[0])
    t = (bins - bins.mean())[margin : margin + theirs.shape[1]]
    c, s = np.cos(angles.numpy()), np.sin(angles.numpy())
    exact = sum(
        a * w * math.sqrt(math.pi) * np.exp(-((t - (x * c + y * s)[:, None]) ** 2) / w**2) for x, y, w, a in BLOBS
    )
    assert np.abs(mine - exact).max() < 4e-3 * exact.max()  # the widest goes on beyond the image


def test_reconstruction_is_as_good_as_that_of_scikit_image(phantom):
    angles = view_angles(phantom.shape)
    rows = project(torch.from_numpy(phantom)[None], (1.0, 1.0), angles)
    mine = reconstruct(rows, phantom.shape, (1.0, 1.0), angles)[0].numpy()
    theirs = iradon(
        radon(phantom, theta=np.degrees(angles.numpy()), circle=False),
        theta=np.degrees(angles.numpy()),
        circle=False,
        output_size=65,
    )
    assert np.sqrt(np.mean((mine - theirs) ** 2)) < 0.005 * phantom.max()
    assert np.sqrt(np.mean((mine - phantom) ** 2)) < 1.1 * np.sqrt(np.mean((theirs - phantom) ** 2)) + 1e-4


def test_projections_are_in_mm_on_any_grid():
    shape, mm, radius = (80, 60), (1.5, 2.0), 40.0
    disc = ellipse(shape, mm, 2 * radius, 2 * radius, inside=1.0, outside=0.0, fine=8)
    n, step = detector(shape, mm)
    t = (np.arange(n) - (n - 1) / 2) * step
    chord = 2 * np.sqrt(np.clip(radius**2 - t**2, 0, None))
    rows = project(disc, mm, view_angles(shape))[0].numpy()
    inner = np.abs(t) < 0.9 * radius
    assert np.abs(rows[:, inner] - chord[inner]).max() < 2.0  # mm of 80
    assert np.abs(rows[:, inner] - chord[inner]).mean() < 0.5
    back = reconstruct(torch.from_numpy(rows)[None], shape, mm, view_angles(shape))[0]
    assert float(back[40, 30]) == pytest.approx(1.0, abs=0.02)


def test_stacked_slices_are_those_of_one_at_a_time():
    stack = torch.cat([ellipse(width=w) + 1000 for w in (100.0, 150.0, 200.0)])
    angles = view_angles(stack.shape)
    rows = project(stack, (3.0, 3.0), angles)
    alone = project(stack[1:2], (3.0, 3.0), angles)
    assert torch.allclose(rows[1:2], alone, atol=1e-4 * float(rows.max()))
    both = reconstruct(rows, stack.shape, (3.0, 3.0), angles), reconstruct(alone, stack.shape, (3.0, 3.0), angles)
    assert torch.allclose(both[0][1:2], both[1], atol=1e-2)


def test_water_comes_back_at_zero_hu():
    scan = water()
    angles = view_angles(scan.shape)
    relative = 1 + scan.image / 1000
    back = 1000 * (reconstruct(project(relative, (3.0, 3.0), angles), scan.shape, (3.0, 3.0), angles) - 1)[0]
    depth = ct_projection.depth_mm(scan)
    assert float(back[depth > 12].mean()) == pytest.approx(0.0, abs=1.0)
    assert float(back[depth > 12].std()) < 5.0
    assert float(back[(depth == 0) & (ct_projection.depth_mm(water(width=220.0, depth=220.0)) == 0)].mean()) < -995


@pytest.mark.parametrize("mtf50", [None, 0.08])
def test_noise_of_a_reconstruction_is_predicted(mtf50):
    shape, mm = (48, 48), (3.0, 3.0)
    angles, (n, _) = view_angles(shape), detector(shape, mm)
    level = torch.linspace(0.5, 2.0, n).expand(1, len(angles), n)
    draws = torch.from_numpy(rng("mc").standard_normal((200, len(angles), n), dtype=np.float32)) * level.sqrt()
    seen = reconstruct(draws, shape, mm, angles, mtf50=mtf50).double().var(dim=0)
    expected = noise_variance(level, shape, mm, angles, mtf50=mtf50)[0].double()
    inner = (slice(8, 40), slice(8, 40))
    assert float(seen[inner].mean()) == pytest.approx(float(expected[inner].mean()), rel=0.05)
    assert float(((seen / expected)[inner] - 1).abs().mean()) < 0.12  # 200 draws: 8 % each


@pytest.mark.parametrize("percent", [75.0, 50.0, 25.0, 10.0])
def test_fewer_quanta_make_the_noise_of_that_dose_in_a_round_body(percent):
    scan = water(width=180.0, depth=180.0)
    out = ct_projection.projection_dose(scan, percent, rng("dose"))
    added = float((out.image - scan.image)[:, scan.body].double().std())
    assert math.hypot(added, 12.0) == pytest.approx(12.0 * math.sqrt(100 / percent), rel=0.05)
    draws = [ct_projection.projection_dose(scan, percent, rng("mean", str(i))).image for i in range(6)]
    assert abs(float((torch.stack(draws) - scan.image)[:, :, scan.body].mean())) < 2.0  # the logarithm of few quanta


def test_noise_is_higher_in_the_centre_than_at_the_edge():
    scan = water(shape=(64, 64), mm=(4.0, 4.0))
    scan = Scan(scan.image.expand(8, 64, 64)[None].clone(), (5.0, 4.0, 4.0), "ct", scan.native)
    added = (ct_projection.projection_dose(scan, 25.0, rng("centre")).image - scan.image)[0]
    depth = ct_projection.depth_mm(scan)
    assert float(added[depth > 70].std()) > 1.3 * float(added[(depth > 4) & (depth < 20)].std())


def roughness(change, body, axis):
    """SD of the change from pixel to pixel along an axis, where both are in the body."""
    both = body & body.roll(1, axis)
    return float((change - change.roll(1, axis))[both].std())


def test_shoulders_have_streaks_along_their_long_axis_and_starve():
    scan = water(shape=(64, 128), mm=(4.0, 4.0), width=460.0, depth=200.0)
    added = {p: (ct_projection.projection_dose(scan, p, rng("s")).image - scan.image)[0] for p in (50.0, 5.0)}
    for change in added.values():
        assert roughness(change, scan.body, -2) > 1.5 * roughness(change, scan.body, -1)
    ratio = float(added[5.0][scan.body].std() / added[50.0][scan.body].std())
    assert ratio > 1.2 * math.sqrt(19)  # the image domain cannot do that
    flat = {p: (ct_image.dose(scan, p, rng("s")).image - scan.image)[0] for p in (50.0, 5.0)}
    assert float(flat[5.0].std() / flat[50.0].std()) == pytest.approx(math.sqrt(19), rel=1e-3)
    assert roughness(flat[5.0], scan.body, -2) == pytest.approx(roughness(flat[5.0], scan.body, -1), rel=0.1)


def test_doses_share_their_draw_and_the_image_is_not_blurred():
    scan = water()
    out = {p: ct_projection.projection_dose(scan, p, rng("draw")).image - scan.image for p in (99.999, 50.0, 25.0)}
    assert float(out[99.999].abs().max()) < 0.5
    pair = torch.stack((out[50.0][:, scan.body], out[25.0][:, scan.body])).flatten(1)
    assert float(torch.corrcoef(pair)[0, 1]) > 0.99
    assert ct_projection.projection_dose(scan, 100.0, rng("draw")) is scan
    with pytest.raises(OperatorError, match="no noise"):
        ct_projection.projection_dose(water(sigma=0.0), 50.0, rng("draw"))


def test_a_polyenergetic_beam_hardens():
    lengths = torch.linspace(0, 40, 9)
    path = ct_projection.polyenergetic({"water": lengths}, 120.0)
    per_cm = path[1:] / lengths[1:]
    assert torch.all(per_cm[1:] < per_cm[:-1])
    assert float(per_cm[0]) == pytest.approx(ct.attenuation("water", 120.0, water_cm=0.0), rel=0.05)
    assert float(path[0]) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize("value", [5.0, 10.0, 20.0, 35.0, 50.0])
def test_cupping_is_that_asked_for_and_grows_inwards(value):
    scan = water(width=240.0, depth=240.0)
    change = (ct_projection.beam_hardening(scan, value, rng("cup")).image - scan.image)[0]
    depth = ct_projection.depth_mm(scan)
    shells = [float(change[(depth > a) & (depth <= a + 15)].mean()) for a in (4, 19, 34, 49, 64, 79, 94)]
    assert np.all(np.diff(shells) < 0)
    rim = change[(depth >= 4) & (depth <= 16)].mean()
    assert float(rim - change[depth >= 0.7 * depth.max()].mean()) == pytest.approx(value, rel=0.01)


def test_the_band_between_two_bones_is_dark():
    image = ellipse(width=260.0, depth=220.0, inside=40.0)
    x = (torch.arange(96) - 47.5) * 3.0
    for side in (-75.0, 75.0):
        image[0][torch.hypot(x[:, None], x - side) < 20] = 1200.0
    scan = Scan(image, (3.0, 3.0), "ct", {"mtf50": 0.42})
    change = (ct_projection.beam_hardening(scan, 20.0, rng("bones")).image - scan.image)[0]
    between, above = change[46:50, 40:56].mean(), change[26:30, 40:56].mean()
    assert float(between) < float(above) - 5


def test_a_small_body_cannot_be_cupped_so_much():
    with pytest.raises(NotApplicable, match=r"cupping of 80 HU was asked of a body that makes \d"):
        ct_projection.beam_hardening(water(width=100.0, depth=100.0), 80.0, rng("cup"))


@pytest.mark.parametrize("value", [5.0, 20.0, 80.0])
def test_metal_streaks_have_the_strength_asked_for_between_the_rods(value):
    scan = water(width=260.0, depth=200.0)
    out = ct_projection.metal(scan, value, rng("rods"))
    metal = out.image[0] > 3000
    assert 2 * 200 < int(metal.sum()) * 9.0 < 2 * 500  # mm2 of two rods of 10 mm radius
    assert ct_projection.streak_hu(scan, out, value) == pytest.approx(value, rel=0.05)
    change = (out.image - scan.image)[0]
    rows, columns = (torch.nonzero(metal)[:, axis] for axis in (0, 1))
    row, left, right = int(rows.float().mean()), int(columns.min()), int(columns.max())
    assert right - left > 20
    between = change[row - 1 : row + 2, left + 9 : right - 8]
    assert float(between.mean()) < -value


def test_rods_are_where_they_are_for_every_strength_and_need_room():
    scan = water(width=260.0, depth=200.0)
    masks = [ct_projection.metal(scan, v, rng("rods")).image > 3000 for v in (5.0, 80.0)]
    assert torch.equal(*masks)
    assert not torch.equal(masks[0], ct_projection.metal(scan, 5.0, rng("others")).image > 3000)
    with pytest.raises(NotApplicable, match="two rods of 20 mm were asked of a body that is"):
        ct_projection.metal(water(width=36.0, depth=36.0), 5.0, rng("rods"))
    with pytest.raises(NotApplicable, match="streaks of 900 HU was asked"):
        ct_projection.metal(scan, 900.0, rng("rods"))
