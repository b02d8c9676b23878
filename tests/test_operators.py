"""Physics of the acquisition operators, the known defects of other simulators, and bad input."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from shiftbench.errors import DataError, NotApplicable, OperatorError, SpecError
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, apply, geometry, intensity, measure
from shiftbench.shifts.acquisition import acquire
from shiftbench.shifts.scan import Scan, body_mask, estimated_sigma
from shiftbench.shifts.settings import Step, acquisition_defaults, check_acquisition
from shiftbench.types import Anatomy, Geometry

SPACING = (1.0, 1.0, 1.0)


def head(shape=(40, 48, 44), pad=0) -> np.ndarray:
    """A smooth-edged ellipsoid of 400 with a core of 600, float32, in `pad` voxels more of air."""
    axes = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in shape), indexing="ij")
    radius = np.sqrt(sum((a / (0.42 * n)) ** 2 for a, n in zip(axes, shape, strict=True)))
    image = 400 / (1 + np.exp(20 * (radius - 1))) + 200 / (1 + np.exp(20 * (radius - 0.5)))
    image[image < 4] = 0
    return np.pad(image, pad).astype(np.float32)


def real(image: np.ndarray, spacing=SPACING, modality="mr") -> Anatomy:
    """A real scan (1, *s) without labels."""
    empty = np.zeros(image.shape, np.int16)
    return Anatomy("a", "a", Geometry(spacing), empty, image=image[None], modality=modality)


T1, T2STAR, PD = (1000.0, 860.0, 590.0), (5.0, 28.0, 28.0), (0.0, 0.78, 0.72)


def phantom(shape=(12, 40, 40), supersampling=(1, 2, 2)):
    fine_shape = tuple(n * f for n, f in zip(shape, supersampling, strict=True))
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in fine_shape), indexing="ij")
    radius = np.sqrt(axes[1] ** 2 + axes[2] ** 2)
    tissue = ((radius < 0.85).astype(np.uint8)) + (radius < 0.4)
    fine = tissue[tuple(slice(None, None, f) for f in supersampling)].astype(np.int16)

    def maps(anatomy: Anatomy, table) -> dict[str, torch.Tensor]:
        longer = np.float32((table.get("field_t", 1.5) / 1.5) ** 0.3)
        look = {"T1_ms": np.array(T1) * longer, "T2star_ms": np.array(T2STAR), "PD": np.array(PD)}
        hu = np.array((-1000.0, 55.0, 110.0))
        return {name: torch.from_numpy(v.astype(np.float32)[tissue]) for name, v in {**look, "HU": hu}.items()}

    size = Geometry((2.0, 1.5, 1.5))
    return Anatomy("p", "p", size, fine, tissue=tissue, supersampling=supersampling, reference_label=2), maps


def interior(mask: np.ndarray) -> np.ndarray:
    """The mask without its two outermost in-plane voxels, which are mixed."""
    return np.logical_and.reduce([np.roll(mask, shift, axis) for axis in (1, 2) for shift in (-2, 0, 2)])


QUIET = {"flip_deg": 80.0, "snr": 1e6, "bias_percent": 0.0}
KEY = (0, "digest", "p")


def test_noise_in_air_is_rayleigh_and_in_tissue_has_the_snr_asked_for():
    image = head((64, 64, 64))
    out = apply("rician_noise", image, value=10.0, spacing_mm=SPACING, seed=1)
    scan = Scan(torch.from_numpy(image)[None])
    sigma = float(scan.reference_signal[0]) / 10
    air, core = image == 0, (image > 595)
    assert out[air].mean() == pytest.approx(1.2533 * sigma, rel=0.02)
    assert out[air].std() == pytest.approx(0.6551 * sigma, rel=0.02)
    assert (out[core] - image[core]).std() == pytest.approx(sigma, rel=0.02)


@pytest.mark.parametrize("value", OPERATORS["rician_noise"].levels)
def test_achieved_snr_is_the_one_asked_for(value):
    image, measured = acquire(real(head()), None, {}, [Step("rician_noise", value)], key=KEY)
    assert measured["snr"] == pytest.approx(value, rel=0.05)
    clean = torch.from_numpy(head())
    sigma = float(estimated_sigma(torch.from_numpy(image), body_mask(clean[None]))[0])
    assert float(clean[body_mask(clean[None])].median()) / sigma == pytest.approx(value, rel=0.05)


def test_noise_that_is_there_already_counts():
    noisy = apply("rician_noise", head(), value=20.0, seed=1)
    twice = apply("rician_noise", noisy, value=10.0, seed=2)
    core = head() > 595
    assert (twice - head())[core].std() == pytest.approx(40.0, rel=0.05)  # not sqrt(20**2 + 40**2) = 45
    with pytest.raises(NotApplicable, match="image with an SNR of (19|20|21)"):
        apply("rician_noise", noisy, value=40.0, seed=3)


@pytest.mark.parametrize("pad", [0, 8, 16, 32])
def test_noise_does_not_depend_on_the_air_around_the_head(pad):  # D6
    core = head(pad=pad) > 595
    seen = [apply("rician_noise", head(pad=pad), value=10.0, seed=seed)[core].std() for seed in range(8)]
    assert np.mean(seen) == pytest.approx(40.0, rel=0.05)


def test_noise_refuses_a_normalised_image():  # D22
    image = head()
    with pytest.raises(OperatorError, match="negative values.*before normalisation"):
        apply("rician_noise", (image - image.mean()) / image.std(), value=10.0)


def test_noise_draws_differ_between_cases_and_seeds():  # MedMNIST-C draws the same pixels always
    a, b, c = (
        apply("rician_noise", head(), value=10.0, seed=seed, case=case) for seed, case in ((0, "a"), (1, "a"), (0, "b"))
    )
    air = head() == 0
    assert abs(np.corrcoef(a[air], b[air])[0, 1]) < 0.05 and abs(np.corrcoef(a[air], c[air])[0, 1]) < 0.05


def test_noise_is_refused_for_photographs_and_shading_is_shared_by_their_channels():  # D8
    colour = np.stack([head((48, 48, 44))[:, :, 20] * f for f in (0.2, 0.3, 0.1)])
    with pytest.raises(OperatorError, match="not defined for modality 'rgb'"):
        apply("rician_noise", colour, value=10.0, modality="rgb")
    shaded = apply("bias_field", colour, value=80.0, modality="rgb")
    inside = colour[0] > 20
    ratio = shaded[:, inside] / colour[:, inside]
    assert np.allclose(ratio[0], ratio[1], rtol=1e-5) and np.allclose(ratio[0], ratio[2], rtol=1e-5)


@pytest.mark.parametrize("value", OPERATORS["bias_field"].levels)
@pytest.mark.parametrize("seed", [0, 1])
def test_shading_has_the_strength_asked_for_inside_the_body(value, seed):  # D4, D5
    image = head()
    body = body_mask(torch.from_numpy(image)[None])
    out = apply("bias_field", image, value=value, seed=seed, spacing_mm=SPACING)
    ratio = out[body] / image[body]
    assert 100 * (np.percentile(ratio, 99) - np.percentile(ratio, 1)) == pytest.approx(value, rel=0.05)
    assert np.log(ratio).mean() == pytest.approx(0, abs=1e-3)  # no gain
    _, measured = acquire(real(image), None, {}, [Step("bias_field", value)], key=KEY)
    assert measured["inu_percent"] == pytest.approx(value, rel=0.05)


def test_shading_is_a_function_of_position_in_mm_and_of_nothing_else():
    body = torch.zeros(20, 30, 40, dtype=torch.bool)
    body[4:16, 5:25, 5:35] = True
    field = intensity.smooth_field(body, (2.0, 1.0, 1.0), generator(0, "a"))
    wide = intensity.smooth_field(torch.nn.functional.pad(body, (9, 2, 0, 7)), (2.0, 1.0, 1.0), generator(0, "a"))
    assert torch.allclose(wide[:, 0:30, 9:49], field, atol=1e-4)
    twice = body.repeat_interleave(2, 0)
    finer = intensity.smooth_field(twice, (1.0, 1.0, 1.0), generator(0, "a"))
    assert torch.allclose((finer[0::2] + finer[1::2]) / 2, field, atol=0.02)


def test_shading_has_no_preferred_direction():  # D20, D21
    body = torch.ones(24, 24, dtype=torch.bool)
    fields = torch.stack([intensity.smooth_field(body, (1.0, 1.0), generator(s, "a")) for s in range(200)])
    slopes = [(fields.roll(-1, axis)[:, :-1, :-1] - fields[:, :-1, :-1]).mean(dim=(1, 2)) for axis in (1, 2)]
    for slope in slopes:
        assert 70 <= int((slope > 0).sum()) <= 130
    assert float(slopes[0].std() / slopes[1].std()) == pytest.approx(1, abs=0.25)


def test_gamma_keeps_mean_and_sd_and_does_not_depend_on_the_unit():  # D18
    image = head()
    for name, value in (("gamma", 2.2), ("gamma_bright", 1 / 2.2)):
        out = apply(name, image, value=value)
        assert out.mean() == pytest.approx(image.mean(), rel=1e-4)
        assert out.std() == pytest.approx(image.std(), rel=1e-4)
        other_unit = apply(name, image * 7 + 30, value=value)
        assert np.allclose((other_unit - 30) / 7, out, atol=0.05)


def test_gamma_refuses_hounsfield_units():  # D18
    ct = head() - 1000
    with pytest.raises(OperatorError, match="seems to be in HU"):
        apply("gamma", ct, severity=2)
    with pytest.raises(OperatorError, match="not defined for modality 'ct'"):
        apply("gamma", ct, severity=2, modality="ct")


def test_gain_costs_nothing_after_z_scoring():
    image = head()
    z = [(x - x.mean()) / x.std() for x in (image, apply("gain", image, severity=5))]
    assert np.allclose(*z, atol=1e-5)


@pytest.mark.parametrize("thickness", [3.5, 4.0, 5.0, 7.5, 10.0])
@pytest.mark.parametrize("step", [0.5, 1.0, 3.0])
def test_the_edge_response_of_a_slice_is_as_wide_as_it_is_thick(thickness, step):  # D17
    assert geometry.slice_profile_fwhm_mm(thickness, step) == pytest.approx(thickness, rel=0.05)


@pytest.mark.parametrize("thickness", [3.0, 5.0, 7.5])
def test_the_edge_response_of_the_operator_is_that_of_a_slab_and_linear_interpolation(thickness):
    step, n = 0.5, 160
    z = (np.arange(n) - (n - 1) / 2) * step
    response = np.zeros(n)
    draws = 64
    for seed in range(draws):  # random grid phases: a slanted edge
        image = np.repeat(np.repeat((z > 0.25).astype(np.float32)[:, None, None], 4, 1), 4, 2)
        response += apply("slice_thickness", image + 0.0, value=thickness, spacing_mm=(step, 1, 1), seed=seed)[:, 0, 0]
    spread = np.gradient(response / draws, z)
    second_moment = (spread * (z - 0.25) ** 2).sum() / spread.sum()
    # box: t^2 / 12; triangle: t^2 / 6
    assert second_moment == pytest.approx(thickness**2 / 4, rel=0.1)


def test_slices_do_not_depend_on_the_grid_spacing():  # D3: mm, not voxels
    fine_z = (np.arange(160) + 0.5) * 0.5
    fine = (200 + 100 * np.sin(fine_z / 5))[:, None, None] * np.ones((1, 4, 4))
    fine = (fine + np.arange(4)).astype(np.float32)
    coarse = fine.reshape(80, 2, 4, 4).mean(axis=1)
    for seed in range(3):
        a = apply("slice_thickness", fine, value=5.0, spacing_mm=(0.5, 1, 1), seed=seed)
        b = apply("slice_thickness", coarse, value=5.0, spacing_mm=(1.0, 1, 1), seed=seed)
        assert np.allclose(a.reshape(80, 2, 4, 4).mean(axis=1), b, atol=1.0)


@pytest.mark.parametrize("thickness", [2.0, 3.0, 5.0, 7.5, 8.0, 10.0])
def test_thick_slices_do_not_displace_the_content(thickness):  # D16
    z = np.arange(96, dtype=float)
    blob = 500 * np.exp(-0.5 * ((z - 46.3) / 10) ** 2)[:, None, None] * np.ones((1, 4, 4))
    image = (blob + np.arange(4) * 1e-3).astype(np.float32)
    for seed in range(8):
        out = apply("slice_thickness", image, value=thickness, spacing_mm=SPACING, seed=seed)
        centroids = [(a.sum(axis=(1, 2)) * z).sum() / a.sum() for a in (image, out)]
        assert abs(centroids[1] - centroids[0]) < 0.1


def test_thick_slices_are_refused_where_they_mean_nothing():
    with pytest.raises(OperatorError, match="no slice axis"):
        apply("slice_thickness", head()[20], severity=2, spacing_mm=(1.0, 1.0))
    with pytest.raises(NotApplicable, match="2 mm were asked of a scan with slices of 2.5 mm"):
        apply("slice_thickness", head(), value=2.0, spacing_mm=(2.5, 1.0, 1.0))
    with pytest.raises(OperatorError, match="no spacing; give spacing_mm"):
        apply("slice_thickness", head(), severity=2)


def test_in_plane_resolution_is_exact_at_the_native_size_and_keeps_the_mean():  # D19
    image = head() + 50
    assert apply("in_plane_resolution", image, value=1.0, spacing_mm=SPACING).tobytes() == image.tobytes()
    out = apply("in_plane_resolution", image, value=3.0, spacing_mm=SPACING)
    assert np.allclose(out.mean(axis=(1, 2)), image.mean(axis=(1, 2)), rtol=1e-5)
    assert (apply("in_plane_resolution", head(), value=3.0, spacing_mm=SPACING) >= 0).all()  # D12: magnitude


def test_in_plane_resolution_is_a_cut_in_mm_along_each_axis():
    y, x = np.arange(64)[:, None] * 0.5, np.arange(64)[None] * 1.0
    kept, lost = np.cos(2 * np.pi * y / 8), np.cos(2 * np.pi * x * 18 / 64)  # periods of 8 mm and 3.6 mm
    finer = np.cos(2 * np.pi * y * 12 / 32)  # 2.7 mm: lost at 1.5 mm and above, kept if the cut were in pixels
    image = (100 + 20 * kept + 20 * lost + 20 * finer).astype(np.float32)
    out = apply("in_plane_resolution", image, value=2.0, spacing_mm=(0.5, 1.0))
    assert np.allclose(out, 100 + 20 * kept, atol=0.01)
    both = apply("in_plane_resolution", image, value=1.5, spacing_mm=(0.5, 1.0))
    assert np.allclose(both, 100 + 20 * kept + 20 * lost, atol=0.01)


def test_in_plane_resolution_refuses_finer_pixels_than_there_are():
    with pytest.raises(NotApplicable, match="with pixels of 3.125 mm"):
        apply("in_plane_resolution", head()[20], value=2.0, spacing_mm=(3.125, 3.125))


def test_bad_input_is_refused_in_one_sentence():
    image = head()
    bad = image.copy()
    bad[0, 0, 0] = np.nan
    for name in ("identity", "rician_noise", "gamma"):
        with pytest.raises(DataError, match="NaN or infinity"):
            apply(name, bad, severity=1)
        with pytest.raises(DataError, match="constant"):
            apply(name, np.full_like(image, 3), severity=0)
    with pytest.raises(OperatorError, match="did you mean 'rician_noise'"):
        apply("ricean_noise", image, severity=1)
    with pytest.raises(OperatorError, match="needs tissue maps"):
        apply("flip_angle", image, severity=1)
    for both in ({}, {"severity": 1, "value": 2.0}):
        with pytest.raises(OperatorError, match="exactly one"):
            apply("gain", image, **both)
    with pytest.raises(OperatorError, match="severity from 0 to 5"):
        apply("gain", image, severity=6)
    with pytest.raises(OperatorError, match="use 0 to 300 %"):
        apply("bias_field", image, value=-5.0)
    with pytest.raises(OperatorError, match="negative values"):
        apply("bias_field", image - 5, value=5.0)
    with pytest.raises(DataError, match="one spacing for each"):
        apply("gain", image, severity=1, spacing_mm=(1.0,))


def test_acquisition_tables_are_checked():
    assert check_acquisition({})["modality"] == "mr" == acquisition_defaults()["modality"]
    assert check_acquisition({"modality": "ct", "kvp": 100})["kvp"] == 100
    with pytest.raises(SpecError, match=r"s\.toml: unknown key 'flip_angel'.*did you mean 'flip_deg'"):
        check_acquisition({"flip_angel": 3}, "s.toml")
    with pytest.raises(SpecError, match="unknown key 'kvp'"):
        check_acquisition({"kvp": 120})
    with pytest.raises(SpecError, match="use 0.05 to 7 T"):
        check_acquisition({"field_t": 12})
    with pytest.raises(SpecError, match="did you mean 'spgr'"):
        check_acquisition({"sequence": "spg"})
    with pytest.raises(SpecError, match="unknown modality"):
        check_acquisition({"modality": "us"})


def test_the_tables_are_listed_without_torch():
    code = "import sys; from shiftbench.shifts import OPERATORS, PROTOCOLS, POPULATIONS; assert len(OPERATORS) >= 10;"
    subprocess.run([sys.executable, "-c", code + "assert not {'torch', 'scipy'} & set(sys.modules)"], check=True)


def test_a_phantom_is_scaled_to_its_reference_tissue_and_has_partial_volume():
    anatomy, maps = phantom()
    liver = anatomy.fine == 2
    image, measured = acquire(anatomy, maps, QUIET, [], key=KEY)
    assert image.shape == (1, 12, 40, 40) and image.dtype == np.float32
    assert np.median(image[0][liver]) == pytest.approx(400, rel=1e-3)
    values = np.unique(np.round(image[0, 6], 0))
    assert len(values) > 3  # mixed voxels at the edges, beside air and the two tissues


def test_a_flip_angle_changes_contrast_and_leaves_the_noise_of_the_coil():
    anatomy, maps = phantom()
    liver, muscle = anatomy.fine == 2, anatomy.fine == 1
    images = {}
    for value in (100.0, 25.0):
        steps = [Step("flip_angle", value)]
        images[value], measured = acquire(anatomy, maps, {**QUIET, "snr": 20.0}, steps, key=KEY)
    assert measured["flip_deg"] == 20.0
    contrast = [images[v][0][liver].mean() / images[v][0][muscle].mean() for v in (100.0, 25.0)]
    assert contrast[0] > 1.2 and abs(contrast[1] - contrast[0]) > 0.1
    noise = [images[v][0][interior(liver)].std() for v in (100.0, 25.0)]
    assert noise[0] == pytest.approx(400 / 20, rel=0.05) and noise[1] == pytest.approx(noise[0], rel=0.05)


def test_a_stronger_field_has_more_signal_and_less_uniform_transmission():
    anatomy, maps = phantom()
    snr, spread = {}, {}
    for field_t in (0.3, 1.5, 3.0):
        table = {**QUIET, "snr": 20.0}
        image, measured = acquire(anatomy, maps, table, [Step("field_strength", field_t)], key=KEY)
        quiet, _ = acquire(anatomy, maps, QUIET, [Step("field_strength", field_t)], key=KEY)
        snr[field_t] = measured["snr"]
        inner = quiet[0][interior(anatomy.fine == 2)]
        spread[field_t] = inner.std() / inner.mean()
    assert snr[0.3] < snr[1.5] / 3 < snr[1.5] < snr[3.0] / 1.5
    assert spread[3.0] > spread[1.5] + 0.005


def test_steps_enter_at_their_place_whatever_their_order():
    anatomy, maps = phantom()
    steps = [Step("gamma", 1.5), Step("rician_noise", 8.0), Step("bias_field", 40.0), Step("flip_angle", 50.0)]
    first, measured = acquire(anatomy, maps, {}, steps, key=KEY)
    again, _ = acquire(anatomy, maps, {}, steps[::-1], key=KEY)
    assert first.tobytes() == again.tobytes()
    assert measured["snr"] == pytest.approx(8.0, rel=0.06)


def test_cells_of_a_factorial_share_every_draw():
    anatomy, maps = phantom()
    base = {**QUIET, "snr": 20.0}
    plain, _ = acquire(anatomy, maps, base, [], key=KEY)
    shaded, _ = acquire(anatomy, maps, base, [Step("bias_field", 40.0)], key=KEY)
    far = np.zeros(anatomy.fine.shape, bool)
    far[:, :3, :3] = True
    assert plain[0][far].tobytes() == shaded[0][far].tobytes()  # the same noise where there is no signal
    other, _ = acquire(anatomy, maps, base, [], key=(0, "digest", "q"))
    assert plain[0][far].tobytes() != other[0][far].tobytes()


def test_two_occurrences_of_an_operator_have_two_draws():
    anatomy = real(head())
    one, two = (acquire(anatomy, None, {}, [Step("bias_field", 40.0, occurrence)], key=KEY)[0] for occurrence in (0, 1))
    assert not np.allclose(one, two)


def test_a_scan_has_one_slice_thickness():
    anatomy, maps = phantom()
    thick, _ = acquire(anatomy, maps, {**QUIET, "slice_mm": 6.0}, [], key=KEY)
    stepped, measured = acquire(anatomy, maps, QUIET, [Step("slice_thickness", 6.0)], key=KEY)
    assert np.allclose(thick, stepped, atol=0.5) and measured["edge_fwhm_mm"] == pytest.approx(6, rel=0.05)
    with pytest.raises(NotApplicable, match="3 mm were asked of a source with slices of 6 mm"):
        acquire(anatomy, maps, {**QUIET, "slice_mm": 6.0}, [Step("slice_thickness", 3.0)], key=KEY)


def test_ct_has_noise_by_dose_and_refuses_what_is_of_mr():
    anatomy, maps = phantom()
    image, _ = acquire(anatomy, maps, {"modality": "ct", "noise_hu": 10.0, "dose_percent": 25.0}, [], key=KEY)
    liver = interior(anatomy.fine == 2)
    assert image[0][liver].mean() == pytest.approx(110, abs=1.5)
    assert image[0][liver].std() == pytest.approx(20, rel=0.05)
    for step in (Step("flip_angle", 50.0), Step("rician_noise", 10.0)):
        with pytest.raises(OperatorError, match="not defined for modality 'ct'"):
            acquire(anatomy, maps, {"modality": "ct"}, [step], key=KEY)


def test_references_are_untouched_by_an_acquisition():  # D1
    anatomy, maps = phantom()
    before = anatomy.fine.tobytes()
    steps = [
        Step(n, OPERATORS[n].levels[2]) for n in ("flip_angle", "bias_field", "rigid_motion", "rician_noise", "gamma")
    ]
    acquire(anatomy, maps, {}, steps, key=KEY)
    acquire(replace(anatomy, image=head()[None]), None, {}, [Step("slice_thickness", 5.0)], key=KEY)
    assert anatomy.fine.tobytes() == before


def test_edge_width_of_a_known_edge():
    x = np.linspace(-10, 10, 401)
    assert measure.edge_fwhm(x, np.clip(x / 4 + 0.5, 0, 1)) == pytest.approx(4, rel=0.02)
    gaussian = np.cumsum(np.exp(-0.5 * (x / 1.5) ** 2))
    assert measure.edge_fwhm(x, -gaussian) == pytest.approx(2.3548 * 1.5, rel=0.02)
    with pytest.raises(ValueError, match="wider than its samples"):
        measure.edge_fwhm(x, x)


def test_the_body_is_found_without_labels():
    image = head()
    image[18:22, 22:26, 20:24] = 0  # a cavity is inside
    body = body_mask(torch.from_numpy(image)[None]).numpy()
    assert body[20, 24, 22] and not body[0, 0, 0]
    truth = head() > 200
    assert (body & truth).sum() / (body | truth).sum() > 0.9
    cropped = image[10:30, 12:36, 12:32] + 100
    assert body_mask(torch.from_numpy(cropped)[None]).all()


def test_a_phantom_of_one_channel_cannot_lose_one():
    anatomy, maps = phantom()
    with pytest.raises(OperatorError, match="the image has one channel"):
        acquire(anatomy, maps, {}, [Step("missing_channel", 1.0)], key=KEY)


def test_a_slice_that_is_averaged_over_more_has_less_noise_as_the_voxel_has_more_signal():
    anatomy, maps = phantom(shape=(48, 40, 40))
    noise = {}
    for thickness in (2.0, 8.0):
        image, measured = acquire(anatomy, maps, {**QUIET, "snr": 20.0}, [Step("slice_thickness", thickness)], key=KEY)
        noise[thickness] = measured["snr"]
    assert noise[8.0] / noise[2.0] == pytest.approx(4, rel=0.1)
    thick, measured = acquire(anatomy, maps, {**QUIET, "snr": 20.0, "slice_mm": 8.0}, [], key=KEY)
    assert measured["snr"] == pytest.approx(20, rel=0.06)  # the SNR of a source is that of its own slices
