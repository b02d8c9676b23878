"""Faults of a pipeline: what they do to the image, and that labels go with it where they must."""

import numpy as np
import pytest
import torch

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, apply, faults
from shiftbench.shifts.operator import LabelPolicy, resolve
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.table.faults import ROWS
from shiftbench.shifts.warps import pull
from shiftbench.types import Family


def rng():
    return generator(0, "fault")


def head(shape=(48, 48), radius=16.0, noise=True):
    """A disc or ball of 400 with a corner of 600 in air, and its labels."""
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    labels = (np.sqrt(sum(a**2 for a in axes)) < radius).astype(np.int16)
    labels[labels.astype(bool) & (axes[-1] > 3) & (axes[-2] > 5)] = 2
    image = np.array([0.0, 400.0, 600.0])[labels]
    if noise:
        image = np.abs(image + np.random.default_rng(0).standard_normal(shape))
    return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(labels)


MOVING = [row for row in ROWS if row.policy is LabelPolicy.CO_WARP]


def test_faults_are_a_family_of_their_own_and_those_that_move_have_a_field():
    assert all(row.family is Family.FAULT and row.name in OPERATORS for row in ROWS)
    assert {row.name for row in MOVING} == {"left_right_flip", "orientation", "wrong_spacing"}
    assert all((row.displacement is not None) == (row in MOVING) for row in ROWS)


@pytest.mark.parametrize("shape", [(40, 40), (6, 40, 40)])
@pytest.mark.parametrize("name", ["left_right_flip", "orientation"])
def test_labels_go_with_the_image_to_the_voxel(name, shape):
    row, (image, labels) = OPERATORS[name], head(shape)
    spacing = (3.0, 0.7, 0.7)[-len(shape) :]
    for value in sorted(set(row.levels)):
        moved = resolve(row.function)(Scan(image, spacing), value, rng())
        field = resolve(row.displacement)(shape, spacing, None, value, rng())
        assert torch.equal(pull(image, field, spacing, mode="nearest"), moved.image), value
        pulled = pull(labels[None].float(), field, spacing, mode="nearest")[0]
        assert torch.equal((pulled > 0), moved.image[0] > 200)
        assert sorted(pulled.unique(return_counts=True)[1]) == sorted(labels.unique(return_counts=True)[1])
        assert not torch.equal(moved.image, image)


def test_a_flip_reverses_columns_alone_and_twice_is_none():
    image, _ = head((6, 30, 44))
    scan = Scan(image, (3.0, 1.0, 1.0))
    once = faults.left_right_flip(scan, 1.0, rng())
    assert torch.equal(once.image, torch.from_numpy(image.numpy()[..., ::-1].copy()))
    assert torch.equal(faults.left_right_flip(once, 1.0, rng()).image, image)
    assert torch.equal(once.body, scan.body.flip(-1))


def test_orientations_are_all_different_and_axes_are_exchanged_on_square_grids_only():
    image, _ = head()
    outs = [faults.orientation(Scan(image), float(k), rng()).image for k in range(6)]
    outs.append(faults.left_right_flip(Scan(image), 1.0, rng()).image)
    assert all(not torch.equal(a, b) for i, a in enumerate(outs) for b in outs[:i])
    assert torch.equal(outs[3], image.transpose(-1, -2))
    oblong, _ = head((40, 48))
    assert faults.orientation(Scan(oblong), 2.0, rng()) is not None
    for scan in (Scan(oblong), Scan(image, (1.0, 2.0))):
        with pytest.raises(OperatorError, match="cannot be exchanged"):
            faults.orientation(scan, 3.0, rng())


@pytest.mark.parametrize("value", OPERATORS["wrong_spacing"].levels)
@pytest.mark.parametrize("shape", [(64, 80), (4, 64, 80)])
def test_wrong_spacing_magnifies_image_and_labels_about_the_centre(value, shape):
    image, labels = head(shape, radius=12.0, noise=False)
    spacing = (4.0, 1.0, 1.0)[-len(shape) :]
    scan = Scan(image, spacing)
    out = faults.wrong_spacing(scan, value, rng())
    assert faults.magnification(scan, out, value) == pytest.approx(value, rel=0.02)
    field = faults.wrong_spacing_displacement(shape, spacing, None, value, rng())
    moved = pull(labels[None].float(), field, spacing, mode="nearest")[0]
    middle = (shape[0] // 2,) if len(shape) == 3 else ()
    grown = float((moved[middle] > 0).sum() / (labels[middle] > 0).sum())
    assert grown == pytest.approx(value**2, rel=0.08)
    assert float(((moved > 0) == (out.image[0] > 200)).float().mean()) > 0.98
    for mask, limit in ((labels > 0, 0.1), (labels == 2, 0.35)):  # nearest neighbours of a small structure tie
        shown = faults.wrong_spacing(Scan(mask.float()[None], spacing), value, rng()).image[0] > 0.5
        pulled = pull(mask.float()[None], field, spacing, mode="nearest")[0] > 0.5
        centres = [torch.nonzero(where).double().mean(dim=0) for where in (pulled, shown)]
        assert float((centres[0] - centres[1]).abs().max()) < limit


@pytest.mark.parametrize("mm", [1.0, 0.5])
def test_erosion_is_in_mm_and_leaves_the_rest(mm):
    n = int(60 / mm)
    axis = (torch.arange(n) - (n - 1) / 2) * mm
    disc = (torch.hypot(axis[:, None], axis) < 25).float() * 100
    out = faults.mask_erosion(Scan(disc[None], (mm, mm)), 6.0, rng()).image[0]
    radius = float(((out > 0).sum() * mm**2 / np.pi).sqrt())
    assert radius == pytest.approx(19.0, abs=0.5)
    assert torch.equal(out[out > 0], disc[out > 0])


def test_erosion_grows_with_its_value_and_air_of_ct_stays_air():
    image, _ = head((10, 48, 48), radius=20.0)
    scan = Scan(image, (3.0, 3.0, 3.0))
    row = OPERATORS["mask_erosion"]
    outs = [faults.mask_erosion(scan, value, rng()) for value in row.levels]
    measured = [faults.eroded_mm(scan, out, v) for out, v in zip(outs, row.levels, strict=True)]
    assert np.all(np.diff(measured) > 0) and all(m <= v for m, v in zip(measured, row.levels, strict=True))
    assert faults.mask_erosion(scan, 0.0, rng()) is scan
    with pytest.raises(NotApplicable, match="99 mm were to be cut off"):
        faults.mask_erosion(scan, 99.0, rng())
    hu = Scan(torch.where(image[:, 0] > 200, 40.0, -1000.0), (3.0, 3.0), "ct")
    assert set(faults.mask_erosion(hu, 4.0, rng()).image.unique().tolist()) <= {-1000.0, 40.0}


def test_a_lost_channel_is_constant_and_others_are_untouched():
    image = torch.rand(3, 16, 16)
    scan = Scan(image, None, "rgb")
    for k in (1, 2, 3):
        out = faults.missing_channel(scan, float(k), rng())
        assert faults.lost_channels(scan, out, float(k)) == 1
        assert out.image[k - 1].unique().numel() == 1
        others = [i for i in range(3) if i != k - 1]
        assert torch.equal(out.image[others], image[others])
    with pytest.raises(NotApplicable, match="channel 4 of an image of 3 channels"):
        faults.missing_channel(scan, 4.0, rng())
    with pytest.raises(OperatorError, match="one channel"):
        apply("missing_channel", head()[0].numpy(), severity=1, modality="grey")


def test_units_of_ct_are_five_mistakes():
    image = torch.tensor([[-1000.0, -160.0, 0.0, 240.0, 1000.0]]).repeat(5, 1)[None]
    scan = Scan(image, (1.0, 1.0), "ct")
    outs = [faults.hu_unit(scan, float(k), rng()).image[0, 0].tolist() for k in range(1, 6)]
    assert outs[0] == [24.0, 864.0, 1024.0, 1264.0, 2024.0]
    assert outs[1] == [-2024.0, -1184.0, -1024.0, -784.0, -24.0]
    assert outs[2] == pytest.approx([0.0, 0.84, 1.0, 1.24, 2.0])
    assert outs[3] == [0.0, 0.0, 102.0, 255.0, 255.0] and outs[4] == [255.0, 255.0, 153.0, 0.0, 0.0]
    with pytest.raises(OperatorError, match="not in HU"):
        apply("hu_unit", head()[0].numpy(), severity=1, modality="ct", spacing_mm=(1.0, 1.0))


def test_bias_correction_takes_shading_off_and_more_levels_take_more():
    image, _ = head((64, 64), radius=28.0)
    ramp = torch.exp(torch.linspace(-0.4, 0.4, 64))
    scan = Scan(image * ramp, (3.0, 3.0))
    tissue = (image[0] > 350) & (image[0] < 450)
    spread = []
    for value in (0.0, 1.0, 3.0):
        out = faults.bias_correction(scan, value, rng()).image[0]
        spread.append(float(out[tissue].std() / out[tissue].mean()))
    assert spread[2] < spread[0] / 2 and spread[1] < spread[0]


def test_no_fault_is_no_change_to_the_bit():
    image, _ = head()
    for row in ROWS:
        if row.kind == "image":
            scan = Scan(image, (2.0, 2.0), "mr")
            assert resolve(row.function)(scan, row.identity, rng()) is scan, row.name
