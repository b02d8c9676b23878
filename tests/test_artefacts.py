"""Artefacts of the field of view and of susceptibility, and what is done to the finished image."""

import numpy as np
import pytest
import torch

from shiftbench.errors import OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, artefacts, finish
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.steps import achieved, shifted

KEY = (0, "", "a")


def head(shape=(10, 64, 56), spacing=(3.0, 1.0, 1.0)):
    axes = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)), indexing="ij"
    )
    r = np.hypot(axes[-2] / 26, axes[-1] / 22)
    image = 400 / (1 + np.exp(15 * (r - 1))) * (1 + 0.2 * np.sin(axes[-1] / 5))
    image[image < 5] = 0
    return torch.from_numpy(image.astype(np.float32))


def scan(image=None, spacing=(3.0, 1.0, 1.0), **kwargs):
    image = head() if image is None else image
    return Scan(image[None], spacing[-image.ndim :], "mr", known_body=image > 40, **kwargs)


def photo(channels=3, modality="rgb"):
    y, x = np.meshgrid(np.arange(72.0), np.arange(80.0), indexing="ij")
    grey = 90 + 50 * np.sin(y / 7) * np.cos(x / 9) + 40 * (np.hypot(y - 36, x - 40) < 18)
    image = np.stack([grey * f for f in (1.0, 0.8, 0.6)][:channels])
    return Scan(
        torch.from_numpy(image.astype(np.float32)), None, modality, known_body=torch.ones(72, 80, dtype=torch.bool)
    )


def run(name, before, value, key=KEY):
    return shifted(OPERATORS[name], value, before, key)


def reached(name, before, value, key=KEY):
    return achieved(OPERATORS[name], value, before, run(name, before, value, key))[OPERATORS[name].achieved]


MR = ("wrap_around", "susceptibility_void", "vendor_filter", "quantise", "jpeg2000", "b0_field")
PHOTO = ("defocus", "colour_cast", "jpeg")


@pytest.mark.parametrize("name", MR + PHOTO)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_level_achieves_its_value_in_order_and_the_identity_is_exact(name, seed):
    before = photo() if name in PHOTO else scan(native={"te_ms": 5.0, "sigma": 0.0})
    op, key = OPERATORS[name], (seed, "", "a")
    assert torch.equal(run(name, before, op.identity, key).image, before.image)
    values = [reached(name, before, v, key) for v in op.levels]
    damage = [float((run(name, before, v, key).image - before.image).norm()) for v in op.levels]
    assert values == sorted(values, reverse=op.worse < 0) and len(set(values)) == 5
    assert damage == sorted(damage) and damage[0] > 0
    if op.tolerance:
        assert values == pytest.approx(op.levels, rel=op.tolerance)
    out = run(name, before, op.levels[2], key).image
    assert out.dtype == torch.float32 and out.shape == before.image.shape and bool(torch.isfinite(out).all())


@pytest.mark.parametrize("shape", [(64, 56), (51, 40)])
@pytest.mark.parametrize("value", [3.0, 10.0, 25.0])
def test_what_is_folded_appears_at_the_other_side_and_no_signal_is_lost(shape, value):
    image = head(shape, (1.0, 1.0))
    for seed in range(3):
        after = run("wrap_around", scan(image), value, (seed, "", ""))
        assert float(after.image.sum()) == pytest.approx(float(image.sum()), rel=1e-4)
        rows = torch.nonzero(after.image[0].sum(dim=1)).flatten()
        assert len(rows) == pytest.approx(after.native["fov_mm"], abs=2)
        inner = slice(int(rows[0]) + 1, int(rows[-1]))
        assert bool((after.image[0][inner] >= image[inner] - 1e-3).all())  # in place, with the fold on top


def test_folding_is_the_same_in_mm_on_a_finer_grid():
    image = head((64, 56), (1.0, 1.0))
    fine = image.repeat_interleave(2, 0).repeat_interleave(2, 1)
    coarse = run("wrap_around", scan(image), 15.0).image[0]
    finer = run("wrap_around", Scan(fine[None], (0.5, 0.5), "mr", known_body=fine > 40), 15.0).image[0]
    assert torch.allclose(torch.nn.functional.avg_pool2d(finer[None, None], 2)[0, 0], coarse, atol=1.0)


def test_a_complex_signal_folds_like_a_finished_image():
    before = scan()
    signal = before.with_signal(Signal(image=before.image + 0j))
    assert torch.allclose(run("wrap_around", signal, 10.0).image, run("wrap_around", before, 10.0).image, atol=1e-2)


@pytest.mark.parametrize("spacing", [(3.0, 1.0, 1.0), (1.0, 0.6, 0.6)])
@pytest.mark.parametrize("value", [4.0, 6.0, 10.0])
def test_half_the_signal_is_left_at_the_radius_asked_for(spacing, value):
    image = torch.full((20, 60, 60), 300.0) + torch.arange(60.0)
    before = Scan(
        image[None], spacing, "mr", native={"sigma": 0.0}, known_body=torch.ones(20, 60, 60, dtype=torch.bool)
    )
    for seed in range(3):
        after = run("susceptibility_void", before, value, (seed, "", ""))
        centre = [after.native[f"void_mm_{a}"] for a in "zyx"]
        d = artefacts.squared_distance((20, 60, 60), spacing, centre, image.device).sqrt()
        kept = after.image[0] / image
        shell = (d > value * 0.9) & (d < value * 1.1)
        assert float(kept[shell].mean()) == pytest.approx(0.5, abs=0.06)
        assert float(kept[d < value / 2].max()) < 0.01 if bool((d < value / 2).any()) else True
        assert float(kept[d > 3 * value].min()) > 0.98 if bool((d > 3 * value).any()) else True


def test_the_noise_in_a_void_stays():
    sigma = 10.0
    image = torch.full((96, 96), 300.0)
    draw = generator(0, "noise").standard_normal((2, 96, 96), dtype=np.float32) * sigma
    noisy = torch.hypot(image + torch.from_numpy(draw[0]), torch.from_numpy(draw[1]))
    before = Scan(noisy[None], (1.0, 1.0), "mr", native={"sigma": sigma}, known_body=image > 0)
    after = run("susceptibility_void", before, 20.0)
    centre = [after.native[f"void_mm_{a}"] for a in "yx"]
    inside = artefacts.squared_distance((96, 96), (1.0, 1.0), centre, image.device) < 10**2
    assert float(after.image[0][inside].mean()) == pytest.approx(1.2533 * sigma, rel=0.15)


def test_a_void_lies_in_the_body_at_one_place_for_all_levels():
    before = scan()
    places = [
        [run("susceptibility_void", before, v, (3, "", "")).native[f"void_mm_{a}"] for a in "zyx"] for v in (2.0, 15.0)
    ]
    assert places[0] == places[1]
    index = tuple(int(round(c / mm)) for c, mm in zip(places[0], (3.0, 1.0, 1.0), strict=True))
    assert bool(before.body[index])


def test_the_field_of_a_sphere_is_that_of_a_dipole():
    n = 40
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2,) * 3, indexing="ij"))
    r = grid.norm(dim=0)
    field = artefacts.dipole_field(r < 8, (1.0, 1.0, 1.0))
    theory = 8**3 / 3 * (3 * grid[0] ** 2 / r**2 - 1) / r**3
    away = (r > 10) & (r < 17)
    assert float(torch.corrcoef(torch.stack([field[away], theory[away]]))[0, 1]) > 0.98
    assert float(field[away].std() / theory[away].std()) == pytest.approx(1, abs=0.1)
    assert abs(float((field - theory)[away].mean())) < 0.1 * float(theory[away].std())
    assert abs(float(field[r < 6].mean())) < 0.05  # uniform inside a sphere, up to the lattice


def test_the_field_does_not_come_round_the_other_side():
    body = torch.zeros(20, 24, 24, dtype=torch.bool)
    body[:, 6:18, 6:18] = True
    alone = artefacts.dipole_field(body, (1.0, 1.0, 1.0))
    wide = artefacts.dipole_field(torch.nn.functional.pad(body, (0, 0, 0, 0, 15, 15)), (1.0, 1.0, 1.0))[15:-15]
    assert torch.allclose(alone, wide, atol=0.02)


def test_a_gradient_across_a_voxel_dephases_it(monkeypatch):
    ramp = 20.0 * torch.arange(10.0)[:, None, None].expand(10, 64, 56)
    monkeypatch.setattr(artefacts, "dipole_field", lambda *_: ramp.clone())
    monkeypatch.setattr(artefacts, "air_rim", lambda *_: torch.ones(10, 64, 56, dtype=torch.bool))
    value = float(ramp.square().mean().sqrt())
    flat = scan(torch.full((10, 64, 56), 100.0), native={"te_ms": 20.0, "bandwidth_hz": 1e6})
    left = run("b0_field", flat, value).image[0, 2:-2, 5:-5, 5:-5]
    assert torch.allclose(left, torch.full_like(left, 100 * float(np.sinc(20.0 * 0.02))), rtol=1e-2)


def test_a_field_in_hz_dephases_and_shifts_and_needs_an_echo_time():
    before = scan(native={"te_ms": 5.0, "bandwidth_hz": 100.0})
    mild, strong = (run("b0_field", before, v).image for v in (25.0, 250.0))
    assert float(strong.sum()) < float(mild.sum()) <= float(before.image.sum()) * 1.01
    later = run("b0_field", scan(native={"te_ms": 30.0, "bandwidth_hz": 100.0}), 250.0).image
    assert float(later.sum()) < 0.95 * float(strong.sum())
    with pytest.raises(OperatorError, match="echo time is not known"):
        run("b0_field", scan(), 50.0)


def test_sharpening_adds_what_a_gaussian_takes_away_in_mm():
    before = scan()
    after = run("vendor_filter", before, 1.0)
    assert float(after.image.min()) >= 0
    assert float(after.image.mean()) == pytest.approx(float(before.image.mean()), rel=0.02)
    impulse = torch.zeros(1, 1, 41, 41)
    impulse[..., 20, 20] = 1
    spread = finish.blurred(impulse, (6.0, 3.0))[0, 0]
    for axis, fwhm in ((1, 6.0), (0, 3.0)):
        line = spread.sum(dim=axis)
        variance = float((line * (torch.arange(41) - 20) ** 2).sum())
        assert variance**0.5 * 2.3548 == pytest.approx(fwhm, rel=0.03)


def test_eight_bits_have_at_most_256_values():
    out = run("quantise", scan(), 8.0).image
    assert (
        len(out.unique()) <= 256
        and float((out - scan().image).abs().max()) <= float(scan().image.max()) / 255 / 2 * 1.01
    )


def test_a_colour_cast_keeps_the_mean_gain_and_its_direction_is_by_chance():
    before = photo()
    gains = [(run("colour_cast", before, 30.0, (s, "", "")).image / before.image).mean(dim=(1, 2)) for s in range(4)]
    for g in gains:
        assert float(g.mean()) == pytest.approx(1, abs=1e-4) and float(g.max() - g.min()) == pytest.approx(
            0.3, rel=1e-3
        )
    assert not torch.allclose(gains[0], gains[1], atol=0.01)


def test_an_offset_is_a_share_of_the_reference_and_vanishes_after_z_scoring():
    before = scan()
    after = run("offset", before, 20.0)
    assert float((after.image - before.image).mean()) == pytest.approx(
        0.2 * float(before.reference_signal[0]), rel=1e-4
    )
    z = [(s.image - s.image.mean()) / s.image.std() for s in (before, after)]
    assert torch.allclose(*z, atol=1e-4)


def test_compression_leaves_the_range_and_counts_no_headers():
    before = scan()
    after = run("jpeg2000", before, 15.0)
    assert after.native["compression"] == pytest.approx(15, rel=0.08)
    assert float((after.image - before.image).abs().mean()) < 0.1 * float(before.image.max())
    grey = photo(1, "grey")
    assert float((run("jpeg", grey, 80.0).image - grey.image).abs().mean()) < 4
