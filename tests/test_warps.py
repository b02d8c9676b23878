"""Fields that move image and labels together."""

import numpy as np
import pytest
import torch

from shiftbench.errors import NotApplicable
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, warps
from shiftbench.shifts.operator import LabelPolicy, resolve
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.steps import shifted

SHAPE, SPACING = (8, 64, 56), (3.0, 1.0, 1.2)


def head():
    axes = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING, strict=True)), indexing="ij"
    )
    r = np.hypot(axes[1] / 26, axes[2] / 24)
    return torch.from_numpy((400 / (1 + np.exp(15 * (r - 1)))).astype(np.float32)), axes


def blob(axes, y=8.0, x=-5.0):
    return torch.from_numpy((np.exp(-((axes[1] - y) ** 2 + (axes[2] - x) ** 2) / 30)).astype(np.float32))


def run(value, seed=0, image=None):
    image, body = head()[0] if image is None else image, head()[0] > 40
    return shifted(OPERATORS["distortion"], value, Scan(image[None], SPACING, "mr", known_body=body), (seed, "", "a"))


def field(value, seed=0):
    rng = generator(seed, "", "a", "distortion", OPERATORS["distortion"].version, 0)
    return resolve(OPERATORS["distortion"].displacement)(SHAPE, SPACING, head()[0] > 40, value, rng)


@pytest.mark.parametrize("value", OPERATORS["distortion"].levels)
@pytest.mark.parametrize("seed", range(3))
def test_D7_a_distortion_has_the_displacement_asked_for_and_never_folds(value, seed):
    try:
        u = field(value, seed)
    except NotApplicable:
        assert value == 5.0
        return
    inside = head()[0] > 40
    assert float(u[1][inside].square().mean().sqrt()) == pytest.approx(value, rel=1e-3)
    assert abs(float(u[1][inside].mean())) < 1e-3 * value and not u[0].any() and not u[2].any()
    assert float(u[1].diff(dim=1).min()) > -0.95  # rows stay in their order


def test_D7_a_control_grid_without_a_check_folds():
    control = generator(0, "elastic").uniform(-24, 24, 7)  # 18 to 30 mm at 7 points over 64 mm
    along = np.interp(np.arange(64), np.linspace(0, 63, 7), control)
    assert np.diff(along).min() < -1
    with pytest.raises(NotApplicable, match="would fold a body"):
        warps.distortion_field((64, 56), (1.0, 1.0), None, 40.0, generator(0))


@pytest.mark.parametrize("seed", range(4))
def test_image_and_labels_move_together(seed):
    _, axes = head()
    structure = blob(axes) * 300
    label = (structure > 100).to(torch.int16)
    u = field(3.0, seed)
    moved = warps.pull(label[None], u, SPACING, mode="nearest")[0]
    assert moved.dtype == label.dtype and set(moved.unique().tolist()) <= {0, 1}
    image = warps.pull(structure[None], u, SPACING, mode="bilinear")[0]
    mask = (image > 100).float()
    at = [[float((m * torch.from_numpy(a)).sum() / m.sum()) for a in axes] for m in (mask, moved.float())]
    assert np.abs(np.subtract(*at)).max() < 0.1 * min(SPACING)
    assert float((mask.bool() ^ moved.bool()).sum() / mask.sum()) < 0.08
    assert run(3.0, seed, structure).image.shape == (1, *SHAPE)


def test_a_distortion_conserves_the_signal_and_identity_is_exact():
    image, _ = head()
    for seed in range(3):
        after = run(3.0, seed)
        assert float(after.image.sum() / image.sum()) == pytest.approx(1, abs=0.01)
    assert torch.equal(run(0.0).image[0], image)
    assert torch.equal(warps.pull(image[None], torch.zeros(3, *SHAPE), SPACING, mode="bilinear")[0], image)


def test_a_complex_signal_is_distorted_like_its_magnitude():
    image, _ = head()
    scan = Scan(image[None], SPACING, "mr", known_body=image > 40)
    signal = scan.with_signal(Signal(image=image[None] * torch.exp(torch.tensor(0.5j))))
    after = shifted(OPERATORS["distortion"], 2.0, signal, (0, "", "a"))
    assert torch.allclose(after.image, run(2.0).image, atol=0.05)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_one_axis_and_three_axes_agree(mode):
    image, axes = head()
    u = torch.zeros(3, *SHAPE)
    u[1] = 2.3 * torch.from_numpy(np.sin(axes[2] / 9)).float()
    fast = warps.pull(image[None], u, SPACING, mode=mode)
    u[2] += 1e-7
    u[0] += 1e-7
    slow = warps.pull(image[None], u, SPACING, mode=mode)
    assert torch.allclose(fast, slow, atol=0.05) if mode == "bilinear" else float((fast != slow).float().mean()) < 0.01


def test_the_value_at_x_is_the_one_that_was_at_x_plus_u_in_mm():
    line = torch.arange(20.0)[:, None].expand(20, 4).contiguous()
    u = torch.zeros(2, 20, 4)
    u[0] = 3.0  # mm, voxels of 2 mm
    assert torch.allclose(warps.pull(line[None], u, (2.0, 1.0), mode="bilinear")[0, :18, 0], torch.arange(18.0) + 1.5)


def test_the_effect_is_in_mm_whatever_the_grid():
    body = head()[0][4] > 40
    coarse = warps.distortion_field((64, 56), (1.0, 1.2), body, 2.0, generator(0, "w"))[0]
    twice = body.repeat_interleave(2, 0).repeat_interleave(2, 1)
    fine = warps.distortion_field((128, 112), (0.5, 0.6), twice, 2.0, generator(0, "w"))[0]
    assert torch.allclose(torch.nn.functional.avg_pool2d(fine[None, None], 2)[0, 0], coarse, atol=0.03)


def test_the_row_says_that_labels_move_along():
    assert OPERATORS["distortion"].policy is LabelPolicy.CO_WARP and OPERATORS["distortion"].displacement
