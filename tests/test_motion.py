"""Rigid motion during the acquisition of k-space."""

import numpy as np
import pytest
import torch

from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, motion
from shiftbench.shifts.kspace import signed_lines
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.steps import shifted

KEY = (0, "", "a")


def head(shape=(6, 64, 60), centre=(0.0, 0.0)):
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    r = np.hypot((axes[1] - centre[0]) / 24, (axes[2] - centre[1]) / 20)
    image = 400 / (1 + np.exp(12 * (r - 1))) + 150 / (1 + np.exp(12 * (np.hypot(axes[1] - 6, axes[2] + 4) / 7 - 1)))
    image *= np.exp(-0.5 * (axes[0] / 3) ** 2)
    return torch.from_numpy(image.astype(np.float32))


def scan(image, spacing=(3.0, 1.0, 1.0)):
    return Scan(image[None], spacing[-image.ndim :], "mr", known_body=image > 40)


def run(image, value, key=KEY, name="rigid_motion", spacing=(3.0, 1.0, 1.0)):
    return shifted(OPERATORS[name], value, scan(image, spacing), key)


def poses_of(monkeypatch, image, value, key=KEY, spacing=(3.0, 1.0, 1.0)):
    """The poses and shots that a motion was made of."""
    seen = {}
    spliced = motion._spliced

    def spy(scan, poses, shot_of):
        seen.update(poses=poses, shots=shot_of)
        return spliced(scan, poses, shot_of)

    monkeypatch.setattr(motion, "_spliced", spy)
    run(image, value, key, spacing=spacing)
    return seen["poses"], seen["shots"]


@pytest.mark.parametrize("value", OPERATORS["rigid_motion"].levels)
@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (2.0, 0.5, 0.8)])
def test_the_root_mean_square_displacement_over_body_and_lines_is_the_one_asked_for(monkeypatch, value, spacing):
    image = head(centre=(5.0, -6.0))  # not at the iso-centre
    poses, shots = poses_of(monkeypatch, image, value, (int(10 * value), "", "a"), spacing=spacing)
    inside = np.argwhere(image.numpy() > 40)
    at = (inside[:, 1:] - (np.array(image.shape[1:]) - 1) / 2) * spacing[1:]
    total = 0.0
    for y, x, z, angle in poses[shots]:  # every line, every voxel
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        total += np.square(at @ turn.T + (y, x) - at).sum(axis=1).mean() + z**2
    assert np.sqrt(total / len(shots)) == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_pose_at_the_centre_of_kspace_is_the_reference(monkeypatch, seed):
    image = head()
    poses, shots = poses_of(monkeypatch, image, 5.0, (seed, "", "a"))
    for k in (-1, 0, 1):
        assert (poses[shots[k]] == 0).all()
    out = run(image, 5.0, (seed, "", "a"))
    assert torch.allclose(out.signal.spectrum[0, :, 0], scan(image).signal.spectrum[0, :, 0], atol=0.05)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in image.shape), indexing="ij")
    for axis in axes:  # of the signal: of the magnitude, ghosts move it too
        moved, still = ((i.double() * axis).sum() / i.double().sum() for i in (out.signal.image[0].real, image))
        assert abs(float(moved - still)) < 0.1


@pytest.mark.parametrize("name", ["rigid_motion", "rigid_motion_interleaved"])
@pytest.mark.parametrize("shape", [(6, 64, 60), (5, 48, 63)])
def test_damage_grows_and_identity_is_kept_to_the_bit(name, shape):
    image = head(shape)
    assert run(image, 0.0, name=name).raw.data_ptr() == scan(image).raw.data_ptr()
    damage = [float((run(image, v, name=name).image[0] - image).norm()) for v in OPERATORS[name].levels]
    assert damage == sorted(damage) and damage[0] > 0
    flat = run(image[2], 2.5, name=name)
    assert flat.image.shape == (1, *shape[1:]) and bool(torch.isfinite(flat.image).all())


def test_rotation_moves_a_point_at_80_mm_as_much_as_translation_does(monkeypatch):
    image = head()
    spread = np.std([poses_of(monkeypatch, image, 2.5, (s, "", ""))[0] for s in range(12)], axis=(0, 1))
    assert 80 * spread[3] == pytest.approx(spread[:3].mean(), rel=0.5)


def test_lines_come_from_the_pose_of_their_shot():
    image = head()
    poses = np.zeros((motion.SHOTS, 4))
    poses[2] = (3.0, -2.0, 0.0, 0.0)
    shots = motion.shots(64, "sequential")
    out = motion._spliced(scan(image), poses, shots)
    moved = torch.fft.fft2(image.roll((3, -2), (1, 2)).to(torch.complex64), norm="ortho")
    still = torch.fft.fft2(image.to(torch.complex64), norm="ortho")
    rows = torch.from_numpy(shots == 2)
    assert torch.allclose(out[0][:, rows], moved[:, rows], atol=0.05)
    assert torch.allclose(out[0][:, ~rows], still[:, ~rows], atol=0.05)


def test_a_complex_signal_moves_as_its_parts():
    image = head()
    phase = torch.polar(torch.ones_like(image), torch.full_like(image, 0.7))
    signal = scan(image).with_signal(Signal(image=(image * phase)[None]))
    turned = shifted(OPERATORS["rigid_motion"], 2.5, signal, KEY)
    assert torch.allclose(turned.image, run(image, 2.5).image, atol=0.5)


@pytest.mark.parametrize("order", ["sequential", "interleaved"])
def test_every_line_has_one_shot_and_the_middle_shot_holds_the_centre(order):
    for n in (33, 64, 128):
        shots = motion.shots(n, order)
        assert shots[0] == motion.SHOTS // 2 and set(shots) == set(range(motion.SHOTS))
    k = signed_lines(128)
    in_order = motion.shots(128, order)[np.argsort(k)]
    changes = int((np.diff(in_order) != 0).sum())
    assert changes == (motion.SHOTS - 1 if order == "sequential" else 127)


def turned(image, angle, spacing):
    """An image (h, w) turned about the middle of the field of view: all its lines are those of one pose."""
    poses = np.array([[0.0, 0.0, 0.0, angle]])
    lines = motion._spliced(Scan(image[None], spacing, "mr"), poses, np.zeros(len(image), int))
    return torch.fft.ifft2(lines[0], norm="ortho").real


def test_D13_rotation_is_about_the_iso_centre_in_mm():
    image = torch.zeros(64, 64)
    image[30:34, 30:34] = 100.0  # at the middle of the field of view
    found = turned(image, np.deg2rad(5), (1.0, 1.0))
    y = torch.arange(64.0)
    at = [float((found.sum(dim=1 - a) * y).sum() / found.sum()) for a in (0, 1)]
    assert at == pytest.approx([31.5, 31.5], abs=0.05)
    c, s = np.cos(np.deg2rad(5)), np.sin(np.deg2rad(5))
    about_corner = np.array([[c, -s], [s, c]]) @ (31.5 * 2.0, 31.5 * 2.0) - 31.5 * 2.0
    assert np.linalg.norm(about_corner) > 7  # mm, at 2 mm voxels: the matrix alone moves the middle


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 1.0), (1.5, 0.75)])
def test_D14_a_rotation_is_rigid_in_mm_and_no_shear(spacing):
    y, x = np.meshgrid(*((np.arange(64) - 31.5) * mm for mm in spacing), indexing="ij")
    image = torch.from_numpy((np.exp(-((y - 8) ** 2 + (x - 3) ** 2) / 8) * 100).astype(np.float32))
    angle = 0.2
    found = turned(image, angle, spacing).numpy()
    at = [(found * a).sum() / found.sum() for a in (y, x)]
    c, s = np.cos(angle), np.sin(angle)
    assert at == pytest.approx([c * 8 - s * 3, s * 8 + c * 3], abs=0.05)
    if spacing != (1.0, 1.0):  # the raw matrix in normalised coordinates
        h, w = 64 * spacing[0], 64 * spacing[1]
        shear = [c * 8 - s * 3 * h / w, s * 8 * w / h + c * 3]
        assert np.abs(np.subtract(shear, at)).max() > 0.2


def test_D14_motion_of_all_shots_but_the_middle_is_no_double_exposure():
    image = head()[3]
    moved = image.roll(10, 0)
    unshifted = torch.fft.fft2(image)
    unshifted[32:] = torch.fft.fft2(moved)[32:]  # halves of the array, which are halves of signed k-space
    defective = torch.fft.ifft2(unshifted).real
    double = (image + moved) / 2
    assert float(torch.corrcoef(torch.stack([defective.flatten(), double.flatten()]))[0, 1]) > 0.99
    poses = np.zeros((motion.SHOTS, 4))
    poses[motion.SHOTS // 2 + 1 :, 0] = 10.0
    ours = Scan(image[None]).with_signal(
        Signal(spectrum=motion._spliced(scan(image), poses, motion.shots(64, "sequential")))
    )
    against = [
        float(torch.corrcoef(torch.stack([ours.image[0].flatten(), o.flatten()]))[0, 1]) for o in (image, double)
    ]
    assert against[0] > against[1] and float(ours.image.min()) >= 0


def test_D24_every_shot_keeps_its_own_lines_on_a_grid_that_is_not_a_cube():
    image = head((5, 44, 36))
    poses = np.zeros((motion.SHOTS, 4))
    poses[:, 0] = np.arange(motion.SHOTS) - motion.SHOTS // 2
    shots = motion.shots(44, "sequential")
    out = motion._spliced(scan(image), poses, shots)[0]
    for shot in range(motion.SHOTS):
        expected = torch.fft.fft2(image.roll(int(poses[shot, 0]), 1).to(torch.complex64), norm="ortho")
        rows = torch.from_numpy(shots == shot)
        assert torch.allclose(out[:, rows], expected[:, rows], atol=0.05)
    defective = np.zeros((44, 36), int)
    for shot in range(motion.SHOTS):  # the last axis, inverted: what stays is the old, all else is the newest
        block = np.resize(shots, 36) == shot
        defective = np.where(block[None], defective, shot)
    assert len(np.unique(defective)) <= 2  # nearly everything is the last shot


def test_through_plane_motion_mixes_neighbouring_slices_and_keeps_the_signal():
    lines = torch.zeros(1, 7, 2, 3, dtype=torch.complex64)
    lines[0, 3] = 1.0
    moved = motion._through_plane(lines, 0.25)
    assert torch.allclose(moved[0, :, 0, 0].real, torch.tensor([0, 0, 0, 0.75, 0.25, 0, 0]))
    assert torch.allclose(motion._through_plane(lines, -1.0)[0, 2], lines[0, 3])


def test_levels_share_the_direction_and_keys_do_not(monkeypatch):  # D4
    image = head()
    mild, _ = poses_of(monkeypatch, image, 0.6)
    strong, _ = poses_of(monkeypatch, image, 5.0)
    other, _ = poses_of(monkeypatch, image, 5.0, (1, "", "a"))
    assert np.allclose(mild / np.linalg.norm(mild), strong / np.linalg.norm(strong), atol=1e-6)
    assert not np.allclose(other, strong)
    assert generator(0, "a").uniform() == generator(0, "a").uniform()


@pytest.mark.parametrize("shape", [(64, 64), (64, 60), (65, 48)])
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.8, 1.0)])
def test_a_smooth_object_turns_and_moves_exactly(shape, spacing):
    def blob(y, x):
        return 100 * np.exp(-((y - 6) ** 2) / 30 - (x - 3) ** 2 / 12 - (y - 6) * (x - 3) / 40)

    y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij"
    )
    angle, dy, dx = 0.15, 1.7, -2.4
    c, s = np.cos(angle), np.sin(angle)
    expected = blob(c * (y - dy) + s * (x - dx), -s * (y - dy) + c * (x - dx))
    image = torch.from_numpy(blob(y, x).astype(np.float32))
    for copies in (1, 80):  # fewer and more slices than lines of a shot
        stack = image.expand(copies, *shape)
        poses = np.array([[dy, dx, 0.0, angle]])
        lines = motion._spliced(Scan(stack, spacing, "mr"), poses, np.zeros(shape[0], int))
        found = torch.fft.ifft2(lines, norm="ortho").real.numpy()
        assert np.abs(found - expected).max() < 0.05
