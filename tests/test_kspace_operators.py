"""Physics of the operators on k-space, resolution and noise, and the defects of other simulators they must not have."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, geometry, intensity, kspace, noise
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.signal import Signal
from shiftbench.shifts.steps import achieved, shifted

KEY = (0, "", "a")


def disc(n=64, pad=0, level=400.0):
    """A smooth-edged ellipse (n + 2 pad, n + 2 pad) of two tissues."""
    y, x = np.meshgrid(*(np.arange(n) - (n - 1) / 2,) * 2, indexing="ij")
    r = np.hypot(y / (0.4 * n), x / (0.33 * n))
    image = level / (1 + np.exp(20 * (r - 1))) + level / 2 / (1 + np.exp(20 * (r - 0.5)))
    image[image < 4] = 0
    return torch.from_numpy(np.pad(image, pad).astype(np.float32))


def scan(image=None, spacing=(1.0, 1.0), **kwargs):
    image = disc() if image is None else image
    return Scan(image[None], spacing, "mr", **kwargs)


def run(name, before, value, key=KEY):
    return shifted(OPERATORS[name], value, before, key)


def measured(name, before, after, value):
    return achieved(OPERATORS[name], value, before, after)[OPERATORS[name].achieved]


@pytest.mark.parametrize("name", ["ghosting", "spike", "in_plane_resolution", "partial_fourier"])
@pytest.mark.parametrize("n", [48, 63, 100])
def test_every_level_achieves_its_value_on_every_grid(name, n):
    before = scan(disc(n))
    for value in OPERATORS[name].levels:
        after = run(name, before, value)
        assert measured(name, before, after, value) == pytest.approx(value, rel=0.05)
        assert after.image.dtype == torch.float32 and bool(torch.isfinite(after.image).all())
    assert run(name, before, OPERATORS[name].identity).raw is before.raw


@pytest.mark.parametrize("n", [96, 100, 112, 120, 128, 160])
def test_D2_ghosts_grow_with_severity_whatever_the_number_of_lines(n):
    image = disc(n)
    for case in "abcd":
        changes = [
            float((run("ghosting", scan(image), v, (0, "", case)).image[0] - image).norm() / image.norm())
            for v in OPERATORS["ghosting"].levels
        ]
        assert all(a < b for a, b in zip(changes, changes[1:], strict=False))


def test_D2_weakening_every_nth_plane_with_one_plane_restored_is_not_monotone():
    def defective(image, ghosts, strength):
        n = len(image)
        k = torch.fft.fftshift(torch.fft.fft2(image))
        weak = k.clone()
        weak[::ghosts] *= 1 - strength
        weak[n // 2] = k[n // 2]
        return float((torch.fft.ifft2(torch.fft.ifftshift(weak)).real - image).norm() / image.norm())

    levels = [(3, 0.55), (5, 0.65), (7, 0.75), (9, 0.85), (11, 0.95)]
    worse = [[defective(disc(n), *level) for level in levels] for n in (96, 100, 112, 120, 128, 160)]
    assert sum(w != sorted(w) for w in worse) >= 5


@pytest.mark.parametrize("value", [5.0, 20.0])
@pytest.mark.parametrize("case", ["a", "b", "c", "d"])
def test_D15_ghosts_keep_the_mean_of_the_signal(value, case):
    before = scan()
    after = run("ghosting", before, value, (0, "", case))
    assert complex(after.signal.image.mean()) == pytest.approx(complex(before.signal.image.mean()), rel=1e-5)
    factor = torch.ones(64)
    factor[:: 64 // 4] = 1 - 0.8  # size // num_ghosts lines apart, centre included
    defective = torch.fft.ifft2(torch.fft.fft2(disc()) * factor[:, None]).real
    assert float(defective.mean() / disc().mean()) == pytest.approx(0.2, abs=0.01)


def test_a_ghost_lies_at_a_part_of_the_field_of_view_with_the_strength_asked_for():
    image = torch.zeros(100, 64)
    image[46:54, 28:36] = 100.0  # 100 is not divisible by 3
    for case in range(20):
        after = run("ghosting", scan(image), 10.0, (case, "", "a"))
        n = int(after.native["ghosts"])
        rows = after.image[0, :, 32]
        for j in range(1, n):
            assert float(rows[round(50 + j * 100 / n) % 100] / rows[50]) == pytest.approx(0.1, rel=0.15)
    assert {int(run("ghosting", scan(image), 1.0, (c, "", "a")).native["ghosts"]) for c in range(20)} == {2, 3, 4}


def test_D12_magnitude_not_real_part_so_no_negative_voxels_and_no_double_exposure():
    image = disc()
    k = torch.fft.fft2(image)
    moved = torch.fft.fft2(image.roll(10, 0))
    half = torch.from_numpy(kspace.signed_lines(64) > 0)[:, None]
    spliced = torch.where(half, moved, k)
    defective = torch.fft.ifft2(spliced).real
    double = (image + image.roll(10, 0)) / 2
    assert float(torch.corrcoef(torch.stack([defective.flatten(), double.flatten()]))[0, 1]) > 0.99
    out = Scan(image[None]).with_signal(Signal(spectrum=spliced[None] / 64)).image
    assert float(out.min()) >= 0 and float((out[0] - defective).norm() / image.norm()) > 0.05
    quarter = torch.from_numpy(kspace.signed_lines(64) > 8)[:, None]
    assert float(torch.fft.ifft2(torch.where(quarter, moved, k)).real.min()) < -2
    for name in ("partial_fourier", "spike", "ghosting", "in_plane_resolution", "rigid_motion"):
        assert float(run(name, scan(), OPERATORS[name].levels[4]).image.min()) >= 0


def test_D19_in_plane_resolution_cuts_every_axis_in_mm_and_is_symmetric_about_the_centre_of_kspace():
    volume = disc(64)[:48].expand(5, 48, 64).contiguous() + torch.arange(5.0)[:, None, None]
    before = Scan(volume[None], (3.0, 0.8, 1.1), "mr")
    after = run("in_plane_resolution", before, 2.2)
    lines = geometry.kept_lines((48, 64), (0.8, 1.1), 2.2)
    assert float(lines[:, 0].sum()) == pytest.approx(48 * 0.8 / 2.2) and float(lines[0].sum()) == pytest.approx(32)
    assert torch.equal(lines[1:], lines[1:].flip(0)) and torch.equal(lines[:, 1:], lines[:, 1:].flip(1))
    assert torch.allclose(after.image.mean(dim=(-2, -1)), before.image.mean(dim=(-2, -1)), rtol=1e-2)
    cube = torch.stack(torch.meshgrid(*(torch.arange(64) - 63 / 2,) * 3, indexing="ij")).norm(dim=0)
    assert float((cube <= 64 / math.sqrt(2)).float().mean()) < 0.99  # a sphere at alpha 0: not the identity
    flat = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (16, 128, 128)), indexing="ij"))
    assert bool((flat.norm(dim=0) <= 0.2 * 128 / math.sqrt(2))[:, 64, 64].all())  # at alpha 0.8: z is never cut
    assert run("in_plane_resolution", before, 0.8).raw is before.raw


@pytest.mark.parametrize("name", ["in_plane_resolution", "partial_fourier", "ghosting", "spike", "bias_field"])
def test_a_finer_grid_does_not_change_what_is_shown(name):  # D3
    fine = torch.nn.functional.interpolate(disc(48)[None, None], scale_factor=2, mode="bicubic")[0, 0].clamp(min=0)
    spectrum = torch.fft.fftshift(torch.fft.fft2(fine))[24:72, 24:72]  # the same object without its outer k-space
    low = torch.fft.ifft2(torch.fft.ifftshift(spectrum)).abs() / 4
    body = low > 40
    value = OPERATORS[name].levels[2]
    coarse = run(name, scan(low, (1.0, 1.0), known_body=body), value).image[0]
    twice = body.repeat_interleave(2, 0).repeat_interleave(2, 1)
    finer = run(name, scan(fine, (0.5, 0.5), known_body=twice), value)
    small = torch.fft.fftshift(torch.fft.fft2(finer.image[0]))[24:72, 24:72]
    small = torch.fft.ifft2(torch.fft.ifftshift(small)).abs() / 4
    if name == "partial_fourier":
        return  # a finer grid has more lines: the share of them is the same, not what they show
    assert float((small - coarse).norm() / (coarse - low).norm()) < 0.35


def test_a_resolution_that_is_native_or_worse_is_refused_with_the_native_one():
    coarse = run("in_plane_resolution", scan(), 2.0)
    with pytest.raises(NotApplicable, match="1.5 mm were asked of a scan with pixels of 2 mm"):
        run("in_plane_resolution", coarse, 1.5)
    with pytest.raises(NotApplicable, match="smaller pixels"):
        run("in_plane_resolution", scan(disc(32)), 29.0)


def test_partial_fourier_hurts_because_the_object_has_a_phase(monkeypatch):
    image = disc()
    harm = [float((run("partial_fourier", scan(), v).image[0] - image).norm()) for v in (7 / 8, 5 / 8, 0.55)]
    assert harm[0] < harm[1] < harm[2] and harm[2] > 0.04 * float(image.norm())
    monkeypatch.setattr(kspace, "PHASE_SD", 0.0)
    without = float((run("partial_fourier", scan(), 0.55).image[0] - image).norm())
    assert harm[2] > 1.2 * without
    monkeypatch.undo()
    after = run("partial_fourier", scan(), 0.75)
    held = after.signal.spectrum[0].abs().sum(dim=1) > 0
    assert int(held.sum()) == 48
    k = kspace.signed_lines(64)[held.numpy()]
    assert {int(k.min()), int(k.max())} in ({-16, 31}, {-31, 16}, {-32, 15}, {-15, 32}, {-31, 15})
    sides = {
        bool(run("partial_fourier", scan(), 0.6, (s, "", "")).signal.spectrum[0, 25].abs().sum() > 0) for s in range(9)
    }
    assert sides == {True, False}


@pytest.mark.parametrize("level", [60.0, 400.0])
def test_D22_the_amplitude_of_a_spike_is_a_share_of_the_reference_signal(level):
    before = scan(disc(level=level)[:48].contiguous())
    after = run("spike", before, 20.0)
    stripes = after.signal.image[0] - before.signal.image[0]
    assert float(stripes.abs().mean()) == pytest.approx(0.2 * float(before.reference_signal[0]), rel=1e-3)

    def defective(image):  # exp(2.5 mean log |k|)
        return float(torch.exp(2.5 * torch.fft.fft2(image).abs().log().mean()))

    textured = disc() + torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    assert defective(textured * 10) / defective(textured) == pytest.approx(10**2.5, rel=1e-2)  # not in proportion


def test_noise_in_air_is_rayleigh_whichever_face_the_signal_has():
    image = disc(128)
    for spectral in (False, True):
        before = scan(image)
        if spectral:
            before = before.with_signal(Signal(spectrum=before.signal.spectrum))
        after = run("rician_noise", before, 10.0)
        sigma = float(before.reference_signal[0]) / 10
        air = after.image[0][image == 0]
        assert float(air.mean()) == pytest.approx(1.2533 * sigma, rel=0.02)
        assert float(air.std()) == pytest.approx(0.6551 * sigma, rel=0.03)


def test_noise_lies_on_the_acquired_lines_and_keeps_its_strength():
    before = run("in_plane_resolution", scan(disc(128)), 2.0)
    after = run("rician_noise", before, 8.0)
    assert float(after.signal.spectrum[0, 40:88].abs().max()) < 1e-2  # beyond the cut
    air = after.image[0][disc(128) == 0]
    assert float(air.square().mean().sqrt()) == pytest.approx(2**0.5 * float(before.reference_signal[0]) / 8, rel=0.06)


def test_the_draw_is_the_same_for_all_values_and_differs_between_keys():  # D4, D10
    a, b, other = (run("rician_noise", scan(), v, k) for v, k in ((20.0, KEY), (5.0, KEY), (5.0, (0, "", "b"))))
    air = disc() == 0
    one, two, three = (x.image[0][air] for x in (a, b, other))
    assert float((two / one).std() / (two / one).mean()) < 1e-4
    assert abs(float(torch.corrcoef(torch.stack([two, three]))[0, 1])) < 0.1
    fixed = [np.random.default_rng(99999).random(50) for _ in range(2)]
    assert (fixed[0] == fixed[1]).all()  # the defective generator: the same pixels always


@pytest.mark.parametrize("snr", [5.0, 10.0, 20.0])
@pytest.mark.parametrize("coils", [1, 4, 8])
def test_D23_sum_of_squares_noise_is_non_central_chi_with_its_cross_term(snr, coils):
    x = torch.full((1, 40_000), snr)
    ours = noise.non_central_chi(x, torch.ones(1), coils, generator(0, "chi", coils))[0].numpy()
    theory = stats.ncx2(2 * coils, snr**2)
    assert np.square(ours).mean() == pytest.approx(theory.mean(), rel=0.02)
    assert np.square(ours).std() == pytest.approx(theory.std(), rel=0.03)
    assert stats.kstest(np.square(ours), theory.cdf).pvalue > 1e-3
    rng = generator(0, "defective")
    squares = sum(np.square(rng.standard_normal(40_000)) for _ in range(2 * coils))
    defective = np.sqrt(snr**2 + squares)
    assert np.square(defective).std() < 0.8 * theory.std()
    nothing = noise.non_central_chi(torch.zeros(1, 40_000), torch.ones(1), coils, generator(1, "chi"))[0].numpy()
    assert nothing.mean() == pytest.approx(stats.chi(2 * coils).mean(), rel=0.02)


def test_parallel_imaging_multiplies_the_noise_by_g_and_the_root_of_the_reduction():
    image = disc(128)
    sigma = 8.0
    draw = generator(0, "n").standard_normal((2, 128, 128), dtype=np.float32) * sigma
    noisy = torch.hypot(image + torch.from_numpy(draw[0]), torch.from_numpy(draw[1]))
    before = scan(noisy, native={"sigma": sigma}, known_body=image > 40)
    g = noise.g_factor(
        before.body, (1.0, 1.0), 3.0, float(generator(0, "", "a", "parallel_imaging", 1, 0).uniform(0, 2 * math.pi))
    )
    after = run("parallel_imaging", before, 3.0)
    middle = torch.zeros_like(before.body)
    middle[44:84, 48:80] = True
    wanted = sigma * float((3 * g[middle].square()).mean().sqrt())
    assert float((after.image[0] - image)[middle].std()) == pytest.approx(wanted, rel=0.05)
    gains = [
        measured("parallel_imaging", before, run("parallel_imaging", before, v), v) for v in (1.5, 2.0, 3.0, 4.0, 6.0)
    ]
    assert gains == sorted(gains) and gains[0] > 1.5**0.5 * 0.97


def test_the_g_factor_is_one_without_reduction_grows_and_lies_in_the_geometry_of_the_coils():
    body = disc(64) > 40
    assert torch.allclose(noise.g_factor(body, (1.0, 1.0), 1.0), torch.ones(64, 64), atol=1e-3)
    means = [float(noise.g_factor(body, (1.0, 1.0), r, 0.3)[body].mean()) for r in (1.5, 2.0, 3.0, 4.0, 6.0)]
    assert means == sorted(means) and means[1] < 1.1 and 1.2 < means[3] < 3
    padded = torch.nn.functional.pad(body, (8, 3, 5, 0))
    wide = noise.g_factor(padded, (1.0, 1.0), 3.0, 0.3)[5:, 8:-3]
    assert torch.allclose(wide[body], noise.g_factor(body, (1.0, 1.0), 3.0, 0.3)[body], atol=1e-3)
    smaller = noise.g_factor(body, (0.5, 0.5), 3.0, 0.3)
    assert torch.allclose(smaller[body], noise.g_factor(body, (1.0, 1.0), 3.0, 0.3)[body], atol=1e-3)


def test_parallel_imaging_refuses_an_image_without_noise():
    with pytest.raises(NotApplicable, match="no noise"):
        run("parallel_imaging", scan(native={"sigma": 0.0}), 2.0)


def test_D5_D21_shading_is_of_the_stated_strength_and_adds_no_gain():
    body = disc() > 40
    for seed in range(6):
        before = scan(known_body=body)
        out = run("bias_field", before, 40.0, (seed, "", ""))
        ratio = (out.image[0] / disc())[body]
        assert 100 * float(ratio.quantile(0.99) - ratio.quantile(0.01)) == pytest.approx(40, rel=0.05)
        assert float(ratio.log().mean()) == pytest.approx(0, abs=1e-3)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    corners = []
    for seed in range(40):  # coefficients of (0, 0.1), all positive
        c = generator(seed, "d21").uniform(0, 0.1, 6)
        corners.append(float(np.exp(c.sum()) - np.exp(c[0] - c[1] - c[2] + c[3] + c[4] + c[5])))
    assert min(corners) > 0  # brighter at one corner in every draw
    ours = [
        float(
            (lambda f: f[-8:, -8:].mean() - f[:8, :8].mean())(
                intensity.smooth_field(body, (1.0, 1.0), generator(s, ""))
            )
        )
        for s in range(40)
    ]
    assert 8 < sum(v > 0 for v in ours) < 32


def test_D20_a_smooth_field_has_every_first_order_term():
    body = torch.ones(32, 32, dtype=torch.bool)
    slopes = np.array(
        [
            [
                float(torch.gradient(intensity.smooth_field(body, (1.0, 1.0), generator(s, "")), dim=a)[0].mean())
                for a in (0, 1)
            ]
            for s in range(60)
        ]
    )
    spread = slopes.std(axis=0)
    assert spread[0] == pytest.approx(spread[1], rel=0.4)
    rows, columns = np.tril_indices(4)
    assert (0, 1) not in set(zip(rows, columns, strict=True))  # i >= j: no pure y term


def test_D18_contrast_does_not_depend_on_the_unit_of_the_grey_values():
    image = disc()
    ours = run("gamma", scan(image), 1.5).image[0]
    other = run("gamma", scan(image * 9 + 50), 1.5).image[0]
    assert torch.allclose((other - 50) / 9, ours, atol=0.1)
    raw, scaled = image.sign() * image.abs() ** 0.8, (image * 9).abs() ** 0.8 / 9
    assert not torch.allclose(raw, scaled, rtol=0.1)


@pytest.mark.parametrize("profile", ["rect", "gauss", "slr"])
@pytest.mark.parametrize("step", [0.5, 1.0])
@pytest.mark.parametrize("thickness", [2.0, 3.0, 5.0, 7.0])
def test_D17_every_slice_profile_has_the_width_asked_for(profile, step, thickness):
    if thickness == 2 * step and profile == "gauss":
        return
    assert geometry.slice_profile_fwhm_mm(thickness, step, profile) == pytest.approx(thickness, rel=0.05)


def test_the_profiles_differ_in_their_edges():
    centres = np.array([50.0])
    rect, gauss, slr = (geometry.slab_weights(101, 1.0, 20.0, centres, p)[0] for p in ("rect", "gauss", "slr"))
    for weights in (rect, gauss, slr):
        assert weights.sum() == pytest.approx(1) and (weights * np.arange(101)).sum() == pytest.approx(50)
    assert rect[65] == 0 and 0 < slr[61] < slr[50] and gauss[65] > slr[65] > 0 - 1e-12
    assert slr[50] == pytest.approx(rect[50], rel=0.02) and gauss[50] < rect[50]


def volume(n=60, step=1.0):
    z = (np.arange(n) - (n - 1) / 2) * step
    blob = 400 * np.exp(-0.5 * (z / 9) ** 2)[:, None, None] * np.ones((1, 6, 6)) + 10
    return Scan(torch.from_numpy((blob + np.arange(6)).astype(np.float32))[None], (step, 1.0, 1.0), "mr")


def test_a_gap_leaves_thickness_and_profile_and_moves_the_slices_apart():
    before = volume()
    thick = run("slice_thickness", before, 4.0)
    gapped = run("slice_gap", thick, 50.0)
    assert gapped.slice_mm == 4.0 and gapped.spacing[0] == pytest.approx(6.0)
    assert measured("slice_gap", thick, gapped, 50.0) == pytest.approx(50)
    phase = float(generator(0, "", "a", "slice_gap", 1, 0).uniform())
    centres = geometry.slice_centres(60, 1.0, 6.0, phase)
    direct = torch.from_numpy(geometry.slab_weights(60, 1.0, 4.0, centres).astype(np.float32))
    assert torch.allclose(gapped.image[0, :, 0, 0], direct @ before.image[0, :, 0, 0], atol=1e-3)  # cut once, not twice
    assert gapped.exported().shape == before.image.shape


def test_a_gap_alone_acts_on_the_native_slices_and_does_not_displace():
    before = volume()
    z = torch.arange(60.0)
    for seed in range(6):
        after = run("slice_gap", before, 30.0, (seed, "", ""))
        assert after.spacing[0] == pytest.approx(1.3)
        centroid = [float(((i := s[0, :, 0, 0] - 10) * z).sum() / i.sum()) for s in (before.image, after.exported())]
        assert abs(centroid[1] - centroid[0]) < 0.1
    with pytest.raises(OperatorError, match="no slice axis"):
        geometry.slice_gap(scan(), 20.0, generator(0))


def test_D16_thick_slices_stay_where_they_are_as_those_of_nearest_sampling_do_not():
    before = volume(60)
    z = torch.arange(60.0)

    def centroid(line):
        return float(((line - 10) * z).sum() / (line - 10).sum())

    start = centroid(before.image[0, :, 0, 0])
    for seed in range(4):
        assert abs(centroid(run("slice_thickness", before, 5.0, (seed, "", "")).exported()[0, :, 0, 0]) - start) < 0.1
    line = before.image[0, :, 0, 0]
    down = line[(torch.arange(12) * 5).long()]
    up = torch.nn.functional.interpolate(down[None, None], size=60, mode="linear", align_corners=True)[0, 0]
    assert abs(centroid(up) - start) > 1.0


def test_D8_a_grey_image_is_noised_once_with_the_noise_asked_for():
    grey = Scan(disc(128)[None] / 4 + 20, None, "grey", native={"sigma": 0.0})
    after = run("camera_noise", grey, 10.0)
    assert measured("camera_noise", grey, after, 10.0) == pytest.approx(10, rel=0.05)
    sigma = float(grey.image[0][grey.body].median()) / 10
    channels = generator(0, "d8").standard_normal((3, 20_000)) * sigma
    assert (channels * [[0.299], [0.587], [0.114]]).sum(axis=0).std() == pytest.approx(0.669 * sigma, rel=0.02)
    colour = Scan(torch.stack([disc(128) / 4 + 20] * 3), None, "rgb", native={"sigma": 0.0})
    change = run("camera_noise", colour, 10.0).image - colour.image
    inner = disc(128) > 590
    assert all(float(change[c][inner].std()) == pytest.approx(float(change[0][inner].std()), rel=0.1) for c in (1, 2))
    assert abs(float(torch.corrcoef(change[:2, inner])[0, 1])) < 0.1


def test_D6_noise_does_not_depend_on_the_air_around():
    spread = []
    for pad in (0, 32, 64):
        image = disc(128, pad)
        after = run("rician_noise", scan(image), 10.0)
        core = image > 590
        assert int(core.sum()) > 400
        spread.append(float((after.image[0] - image)[core].std()))
    assert max(spread) / min(spread) < 1.15
    wrong = [float(disc(64, pad).std()) for pad in (0, 16, 32)]
    assert wrong[0] / wrong[2] > 1.5  # SD of the whole image


def test_D22_operators_on_magnitudes_say_so():
    for name in (
        "rician_noise",
        "parallel_imaging",
        "rigid_motion",
        "ghosting",
        "spike",
        "wrap_around",
        "vendor_filter",
    ):
        assert "magnitude" in OPERATORS[name].requires


def test_D11_levels_are_five_and_monotone():
    for op in OPERATORS.values():
        if (
            op.monotone
            and "mr" in op.modalities
            and op.function.split(":")[0]
            in ("kspace", "motion", "artefacts", "warps", "finish", "noise", "geometry", "intensity")
        ):
            steps = np.diff([1 / v if math.isinf(op.identity) else v for v in (op.identity, *op.levels)])
            assert len(op.levels) == 5 and ((steps > 0).all() or (steps < 0).all())
