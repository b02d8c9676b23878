"""CT numbers, and the operators on CT images: spectra of noise, kernels, doses, and bad input."""

import math

import numpy as np
import pytest
import torch

from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.rng import generator
from shiftbench.shifts import OPERATORS, apply, ct, ct_denoise, ct_image
from shiftbench.shifts.operator import LabelPolicy, resolve
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.table.ct import ROWS

SOURCE_MTF50 = 0.42
IMAGE_ROWS = [row for row in ROWS if row.kind == "image"]


def rng(*names):
    return generator(0, "test", *names)


def trunk(shape=(96, 96), mm=3.0, width=220.0, depth=160.0, inside=60.0):
    """An ellipse of soft tissue with a ring of fat and a vertebra, in HU, (1, *s)."""
    y, x = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * mm for n in shape[-2:]), indexing="ij")
    radius = np.hypot(2 * y / depth, 2 * x / width)
    image = np.full(shape[-2:], -1000.0)
    image[radius < 1] = -100.0
    image[radius < 0.85] = inside
    image[np.hypot(x, y - depth / 4) < 18] = 600.0
    image = np.broadcast_to(image, shape).astype(np.float32)
    return torch.from_numpy(image.copy())[None]


def noisy(shape=(96, 96), mm=3.0, sigma=12.0, known=True):
    spacing = (mm,) * len(shape)
    clean = Scan(trunk(shape, mm), spacing, "ct", {"mtf50": SOURCE_MTF50})
    scan = ct_image.ct_source_noise(clean, sigma, SOURCE_MTF50, rng("source"))
    return scan if known else Scan(scan.image, spacing, "ct")


def rings(images, mm):
    """Radial frequency in lp/mm and mean power of images (n, h, h) in rings of one line of the spectrum."""
    power = torch.fft.fft2(images.double()).abs().square().mean(dim=0).numpy() / images[0].numel()
    f = np.fft.fftfreq(images.shape[-1])
    ring = np.rint(np.hypot(f[:, None], f) * images.shape[-1]).astype(int)
    count = np.bincount(ring.ravel())
    return (
        np.bincount(ring.ravel(), np.hypot(f[:, None], f).ravel()) / count / mm,
        np.bincount(ring.ravel(), power.ravel()) / count,
    )


@pytest.mark.parametrize("mm", [0.6, 1.0, 3.0])
def test_noise_has_the_spectrum_of_filtered_back_projection(mm):
    blank = Scan(torch.zeros(1, 128, 128, 128), (5.0, mm, mm), "ct")
    noise = ct_image.ct_source_noise(blank, 1.0, SOURCE_MTF50, rng("nps")).image[0]
    assert noise.double().var() == pytest.approx(1.0, rel=0.02)
    assert noise.mean(dim=(-1, -2)).abs().max() < 1e-5
    f, power = rings(noise, mm)
    f50 = min(SOURCE_MTF50, 0.25 / mm)  # half of Nyquist where the pixels are large
    theory = f * np.exp(-2 * math.log(2) * (f / f50) ** 2)
    seen = (theory > 0.05 * theory.max()) & (f < 0.5 / mm) & (np.arange(len(f)) > 3)
    ratio = power[seen] / theory[seen]
    assert np.all(np.abs(ratio / np.median(ratio) - 1) < 0.1)
    assert power.argmax() == pytest.approx(theory.argmax(), rel=0.2)


def test_noise_is_independent_between_slices():
    blank = Scan(torch.zeros(1, 6, 128, 128), (5.0, 1.0, 1.0), "ct")
    noise = ct_image.ct_noise(blank, SOURCE_MTF50, rng("slices"))[0].flatten(1).numpy()
    assert np.abs(np.corrcoef(noise) - np.eye(6)).max() < 0.05


@pytest.mark.parametrize(("percent", "ratio"), [(75.0, 1.155), (50.0, 1.414), (25.0, 2.0), (10.0, 3.16), (5.0, 4.47)])
def test_noise_grows_as_the_root_of_the_dose(percent, ratio):
    scan = noisy((128, 128))
    out = ct_image.dose(scan, percent, rng("dose"))
    total = (out.image - trunk((128, 128))).double().std()
    assert total == pytest.approx(12.0 * ratio, rel=0.03)
    assert float(out.sigma[0]) == pytest.approx(12.0 * ratio, rel=0.01)
    assert ct_image.effective_dose_percent(scan, out, percent) == pytest.approx(percent, rel=0.05)


def test_added_noise_has_the_spectrum_of_the_noise_that_is_there_and_one_direction_for_all_doses():
    scan = noisy((64, 128, 128), mm=1.0)
    half, tenth = (ct_image.dose(scan, percent, rng("dose")) for percent in (50.0, 10.0))
    first, second = half.image - scan.image, tenth.image - scan.image
    assert torch.allclose(second, 3.0 * first, atol=1e-2)  # sqrt(9) / sqrt(1)
    _, there = rings((scan.image - trunk((64, 128, 128), 1.0))[0], 1.0)
    f, added = rings(first[0], 1.0)
    seen = (f > 0.05) & (f < 0.45)
    ratio = added[seen] / there[seen]
    assert np.all(np.abs(ratio / ratio.mean() - 1) < 0.15)


@pytest.mark.parametrize("mm", [0.8, 3.0])
def test_noise_of_a_kernel_is_estimated_with_its_spectrum(mm):
    flat = Scan(torch.zeros(1, 12, 96, 96), (3.0, mm, mm), "ct", {}, torch.ones(12, 96, 96, dtype=torch.bool))
    image = ct_image.ct_source_noise(flat, 12.0, SOURCE_MTF50, rng("estimate")).image
    scan = Scan(image, flat.spacing, "ct", {}, flat.known_body)
    assert float(ct_image.noise_sigma(scan)[0]) == pytest.approx(12.0, rel=0.05)
    assert abs(float(scan.sigma[0]) / 12.0 - 1) > 0.1  # as if it were white


def edge_mtf50(image, mm, radius):
    """MTF50 in lp/mm from the edge of a disc: the derivative of its radial profile, transformed."""
    n = image.shape[-1]
    axis = (np.arange(n) - (n - 1) / 2) * mm
    distance = np.hypot(axis[:, None], axis).ravel() - radius
    step, reach = 0.05, 8.0
    near = np.abs(distance) < reach
    bins = np.floor((distance[near] + reach) / step).astype(int)
    count = np.bincount(bins, minlength=int(2 * reach / step))
    at = (np.arange(len(count)) + 0.5) * step
    filled = count > 0
    profile = np.bincount(bins, image.numpy().ravel()[near], minlength=len(count))[filled] / count[filled]
    spread = np.gradient(np.interp(at, at[filled], profile)) * np.hanning(len(at))
    transfer = np.abs(np.fft.rfft(spread, 16384))
    transfer /= transfer[0]
    return np.interp(-0.5, -transfer[: int(transfer.argmin())], np.fft.rfftfreq(16384, step)[: int(transfer.argmin())])


@pytest.fixture(scope="module")
def disc():
    """A disc of 40 mm, 0 HU in air, as a kernel with the source's MTF shows it on pixels of 0.4 mm."""
    n, mm, radius = 256, 0.4, 40.0
    axis = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2) * mm
    distance = torch.hypot(axis[:, None], axis) - radius
    width = math.sqrt(math.log(2) / 2) / (math.pi * SOURCE_MTF50)
    edge = 0.5 * torch.erfc(distance / (width * math.sqrt(2)))
    return Scan((1000 * edge - 1000).float()[None], (mm, mm), "ct", {"mtf50": SOURCE_MTF50, "sigma": 12.0})


@pytest.mark.parametrize("value", [40.0, 60.0, 83.0, 100.0, 115.0, 143.0, 165.0, 190.0])
def test_kernel_has_the_mtf50_asked_for_at_the_edge_of_a_disc(disc, value):
    out = ct_image.kernel(disc, value, rng("kernel"))
    assert edge_mtf50(out.image[0], 0.4, 40.0) == pytest.approx(SOURCE_MTF50 * value / 100, rel=0.1)
    assert ct_image.kernel_percent(disc, out, value) == pytest.approx(value, rel=0.1)
    assert float(out.image[0, 128, 128]) == pytest.approx(0.0, abs=0.5)  # no gain


@pytest.mark.parametrize("value", [40.0, 71.0, 143.0, 190.0])
@pytest.mark.parametrize("mm", [0.6, 3.0])
def test_noise_that_is_there_goes_through_the_kernel(value, mm):
    flat = Scan(torch.zeros(1, 16, 96, 96), (3.0, mm, mm), "ct", {}, torch.ones(16, 96, 96, dtype=torch.bool))
    scan = ct_image.ct_source_noise(flat, 12.0, SOURCE_MTF50, rng("kernel noise"))
    out = ct_image.kernel(scan, value, rng("kernel"))
    assert float(out.image.double().std()) == pytest.approx(float(out.sigma[0]), rel=0.05)
    assert (float(out.sigma[0]) > 12.0) == (value > 100)


def test_kernel_is_in_mm_and_not_in_pixels():
    point = torch.zeros(1, 65, 129)
    point[0, 32, 64] = 1.0
    out = ct_image.kernel(Scan(point, (1.0, 0.5), "ct", {"mtf50": 0.25}), 40.0, rng("kernel")).image[0].double()

    def width(profile, mm):
        at = (torch.arange(len(profile)) - len(profile) // 2) * mm
        return float(((profile * at**2).sum() / profile.sum()).sqrt())

    assert width(out.sum(dim=1), 1.0) == pytest.approx(width(out.sum(dim=0), 0.5), rel=0.02)
    assert width(out.sum(dim=1), 1.0) == pytest.approx(
        math.sqrt(math.log(2) / 2 * (0.1**-2 - 0.25**-2)) / math.pi, 0.05
    )


def test_kernel_sharper_than_the_pixels_carry_is_not_applicable():
    scan = noisy()
    assert ct_image.kernel_mtf50(scan) == pytest.approx(0.25 / 3)
    assert ct_image.kernel(scan, 190.0, rng("kernel")) is not scan
    with pytest.raises(NotApplicable, match=r"0\.175 lp/mm was asked of pixels that carry 0\.167 lp/mm"):
        ct_image.kernel(scan, 210.0, rng("kernel"))


def test_a_sharper_kernel_is_known_to_what_comes_after_it():
    sharp = ct_image.kernel(noisy((8, 96, 96)), 165.0, rng("kernel"))
    assert ct_image.kernel_mtf50(sharp) == pytest.approx(1.65 * 0.25 / 3)
    half = ct_image.dose(sharp, 50.0, rng("dose"))
    _, there = rings(
        (sharp.image - ct_image.kernel(Scan(trunk((8, 96, 96)), sharp.spacing, "ct"), 165.0, rng()).image)[0], 3.0
    )
    f, added = rings((half.image - sharp.image)[0], 3.0)
    seen = (f > 0.03) & (f < 0.16)
    assert np.corrcoef(there[seen], added[seen])[0, 1] > 0.9


def test_kernel_does_not_wrap_around_the_image():
    ramp = torch.linspace(-200, 200, 64).expand(1, 64, 64).contiguous()
    out = ct_image.kernel(Scan(ramp, (1.0, 1.0), "ct", {"mtf50": 0.25}), 50.0, rng("kernel")).image
    assert (out - ramp).abs().max() < 8


@pytest.mark.parametrize("thickness", [2.0, 4.0])
def test_noise_falls_as_the_root_of_the_slice_thickness(thickness):
    flat = Scan(torch.zeros(1, 48, 64, 64), (1.0, 1.0, 1.0), "ct", {}, torch.ones(48, 64, 64, dtype=torch.bool))
    scan = ct_image.ct_source_noise(flat, 12.0, SOURCE_MTF50, rng("thick"))
    out = resolve(OPERATORS["ct_slice_thickness"].function)(scan, thickness, rng("phase"))
    inner = out.image[:, 1:-1]
    assert float(inner.double().std()) == pytest.approx(12.0 / math.sqrt(thickness), rel=0.15)


@pytest.mark.parametrize("value", [20.0, 50.0, 80.0])
@pytest.mark.parametrize("mm", [0.8, 3.0])
def test_iterative_reconstruction_takes_the_share_of_noise_asked_for_and_coarsens_the_rest(value, mm):
    flat = Scan(torch.zeros(1, 32, 96, 96), (3.0, mm, mm), "ct", {}, torch.ones(32, 96, 96, dtype=torch.bool))
    scan = ct_image.ct_source_noise(flat, 12.0, SOURCE_MTF50, rng("iterative"))
    out = ct_denoise.iterative(scan, value, rng("iterative"))
    assert 100 * (1 - float(out.image.double().std()) / 12.0) == pytest.approx(value, rel=0.05)
    assert ct_denoise.removed_percent(scan, out, value) == pytest.approx(value, rel=0.02)
    f, before = rings(scan.image[0], mm)
    _, after = rings(out.image[0], mm)
    inside = f < 0.5 / mm
    centroid = [float((f * p)[inside].sum() / p[inside].sum()) for p in (before, after)]
    assert centroid[1] < centroid[0] * (1 - 0.2 * value / 100)


@pytest.mark.parametrize("value", OPERATORS["ct_iterative"].levels)
def test_noise_within_organs_falls_by_the_share_asked_for_and_their_texture_is_not_taken_for_it(value):
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    organs = torch.where(x < 32, 50.0, torch.where(y < 40, 110.0, -90.0)) + 4 * torch.sin(y / 9) * torch.sin(x / 11)
    clean = Scan(organs.expand(1, 24, 96, 96), (3.0, 1.0, 1.0), "ct", {}, torch.ones(24, 96, 96, dtype=torch.bool))
    scan = ct_image.ct_source_noise(clean, 12.0, SOURCE_MTF50, rng("organs"))
    out = ct_denoise.iterative(scan, value, rng("organs"))
    inner = (slice(None), slice(None), slice(50, 86), slice(42, 86))
    residue = out.image[inner] - out.image[inner].mean(dim=1, keepdim=True)  # texture is alike in all slices
    left = float(residue.double().std()) * (24 / 23) ** 0.5
    assert 100 * (1 - left / 12.0) == pytest.approx(value, rel=0.1)
    assert ct_denoise.removed_percent(scan, out, value) == pytest.approx(value, rel=0.03)


def test_an_image_without_homogeneous_tissue_has_no_noise_to_judge():
    checks = 2000.0 * ((torch.arange(48)[:, None] // 2 + torch.arange(48) // 2) % 2) - 1000
    scan = Scan(checks[None], (1.0, 1.0), "ct", {"sigma": 10.0}, torch.ones(48, 48, dtype=torch.bool))
    with pytest.raises(OperatorError, match="no homogeneous tissue"):
        ct_denoise.iterative(scan, 50.0, rng("checks"))


def test_iterative_reconstruction_keeps_edges():
    scan = noisy((16, 96, 96))
    out = ct_denoise.iterative(scan, 65.0, rng("iterative"))
    clean = trunk((16, 96, 96))
    edge = (clean[..., 1:] - clean[..., :-1]).abs() > 500
    sharp = [(s.image[..., 1:] - s.image[..., :-1])[edge].abs().mean() for s in (scan, out)]
    assert float(sharp[1]) == pytest.approx(float(sharp[0]), rel=0.03)


@pytest.mark.parametrize("value", OPERATORS["ct_calibration"].levels)
def test_calibration_is_off_in_water_and_right_in_air(value):
    signs = set()
    for case in "abcdefgh":
        water = torch.cat((torch.zeros(1, 8, 8), torch.full((1, 8, 8), -1000.0)), dim=-1)
        out = ct_image.calibration(Scan(water, (3.0, 3.0), "ct"), value, rng(case)).image
        assert float(out[0, 0, 0].abs()) == pytest.approx(value, rel=1e-5)
        assert float(out[0, 0, -1]) == pytest.approx(-1000.0)
        signs.add(float(out[0, 0, 0]) > 0)
    assert signs == {True, False}


@pytest.mark.parametrize("value", OPERATORS["ct_fov_truncation"].levels)
def test_field_of_view_cuts_the_share_of_the_width_asked_for(value):
    box = torch.full((1, 40, 100), -1000.0)
    box[:, 10:30, 10:90] = 40.0
    scan = Scan(box, (3.0, 3.0), "ct")
    out = ct_image.fov_truncation(scan, value, rng("fov")).image
    inside = (out[0, 20] + 1000) / 1040  # share of every column that is left
    assert float(80 - inside.sum()) == pytest.approx(0.8 * value, rel=0.02)
    assert torch.equal(out[0, :10], box[0, :10])


def test_every_image_operator_is_monotone_keeps_the_identity_and_its_certificate():
    scans = [noisy((96, 96), 2.5), noisy((72, 72), 4.0, sigma=8.0), noisy((8, 56, 56), 5.0)]
    for row in IMAGE_ROWS:
        for index, scan in enumerate(scans):
            if scan.ndim == 2 and "volume" in row.requires:
                continue
            function, measured = resolve(row.function), []
            assert (
                function(scan, scan.slice_mm if row.unit == "mm" else row.identity, rng("certificate", index)) is scan
            ), row.name
            values = [6.0, 7.0, 8.0, 10.0, 12.0] if row.unit == "mm" else row.levels
            for value in values:
                after = function(scan, value, rng("certificate", index))
                measured.append(resolve(row.measure)(scan, after, value))
                assert torch.isfinite(after.image).all() and after.image.dtype == torch.float32, row.name
                if row.tolerance is not None and index < 2:
                    assert measured[-1] == pytest.approx(value, rel=row.tolerance), (row.name, value)
            assert np.all(np.diff(measured) * row.worse > 0), (row.name, measured)


def test_operators_leave_references_alone_and_have_a_source():
    for row in ROWS:
        assert row.policy is LabelPolicy.INVARIANT and row.reference and row.modalities == ("ct",)


def test_operators_refuse_what_is_not_in_hu():
    normalised = trunk().numpy()[0] / 1000
    for row in IMAGE_ROWS:
        image = np.stack([normalised] * 4) if "volume" in row.requires else normalised
        with pytest.raises(OperatorError, match="not in HU"):
            apply(row.name, image, severity=1, spacing_mm=(3.0,) * image.ndim, modality="ct")
    with pytest.raises(OperatorError, match="no noise"):
        ct_image.dose(Scan(trunk(), (3.0, 3.0), "ct", {"sigma": 0.0}), 50.0, rng("dose"))
    with pytest.raises(OperatorError, match="not defined for modality 'mr'"):
        apply("ct_dose", trunk().numpy()[0], severity=1, spacing_mm=(3.0, 3.0))


MAPS = {
    "HU_unenhanced": np.array([-1000.0, -100.0, 40.0, 58.0, 700.0], np.float32),
    "HU_late_arterial": np.array([-1000.0, -100.0, 325.0, 85.0, 700.0], np.float32),
    "HU_portal_venous": np.array([-1000.0, -100.0, 150.0, 110.0, 700.0], np.float32),
    "HU_delayed": np.array([-1000.0, -100.0, 100.0, 90.0, 700.0], np.float32),
}


def enhancement(kvp, phase="portal_venous"):
    return ct.hu(MAPS, {"kvp": kvp, "phase": phase}) - ct.hu(MAPS, {"kvp": kvp, "phase": "unenhanced"})


def test_enhancement_follows_the_tube_voltage_as_iodine():
    at = {kvp: float(enhancement(kvp)[2]) for kvp in (70, 80, 100, 120, 140)}
    assert at[120] == 110.0
    assert 1.28 <= at[100] / at[120] <= 1.35
    assert at[70] / at[120] == pytest.approx(1.9, rel=0.02)
    assert sorted(at.values(), reverse=True) == list(at.values())


def test_fat_and_bone_follow_the_tube_voltage_and_soft_tissue_does_not():
    plain = {kvp: ct.hu(MAPS, {"kvp": kvp, "phase": "unenhanced"}) for kvp in (100, 120, 140)}
    assert plain[100][1] / plain[120][1] == pytest.approx(135 / 119, rel=0.01)
    assert plain[140][1] / plain[120][1] == pytest.approx(104 / 119, rel=0.01)
    assert plain[100][4] / plain[120][4] == pytest.approx(1.15) and plain[140][4] < plain[120][4]
    assert np.allclose(plain[100][[0, 2, 3]], plain[120][[0, 2, 3]], atol=3)


def test_tables_agree_with_the_attenuation_of_the_materials():
    water = {kvp: ct.attenuation("water", kvp) for kvp in (70, 80, 100, 120, 140)}
    assert 0.18 < water[120] < 0.22
    for kvp, scale in ct.BONE_SCALE.items():
        bone = [ct.attenuation("bone", v) / ct.attenuation("water", v) - 1 for v in (kvp, 120.0)]
        assert bone[0] / bone[1] == pytest.approx(scale, rel=0.02)
    for kvp in (70.0, 80.0):
        fat = [ct.attenuation("fat", v) / ct.attenuation("water", v) - 1 for v in (kvp, 120.0)]
        assert fat[0] / fat[1] == pytest.approx(ct.FAT_SCALE[kvp], rel=0.02)


def test_tube_voltage_changes_the_noise_at_the_same_current():
    table = ct.tube_voltage({"kvp": 120.0, "noise_hu": 12.0}, 80.0)
    assert table["kvp"] == 80.0 and table["noise_hu"] == pytest.approx(12 * 1.5**2.4)


def test_phases_are_columns_of_the_table_or_lie_between_them_in_time():
    assert len({ct.contrast_phase({}, k)["phase"] for k in range(6)}) == 6
    assert ct.contrast_phase({}, 0)["phase"] == "portal_venous"
    aorta = {phase: float(ct.hu(MAPS, {"phase": phase})[2]) for phase in ct.PHASES}
    assert aorta["late_arterial"] == 325.0 and aorta["unenhanced"] == 40.0
    assert aorta["unenhanced"] < aorta["early_arterial"] < aorta["late_arterial"]
    assert aorta["portal_venous"] < aorta["early_portal"] < aorta["late_arterial"]
    assert aorta["early_arterial"] == pytest.approx(182.5)  # half way from the arrival at 15 s to 35 s
    assert set(ct.needed_maps({"phase": "early_arterial", "kvp": 100})) == {"HU_unenhanced", "HU_late_arterial"}
    assert torch.equal(ct.hu({k: torch.tensor(v) for k, v in MAPS.items()}, {}), torch.tensor(MAPS["HU_portal_venous"]))


def test_missing_maps_phases_and_voltages_are_refused():
    with pytest.raises(OperatorError, match="needs the map HU_late_arterial"):
        ct.hu({"HU": MAPS["HU_portal_venous"], "HU_unenhanced": MAPS["HU_unenhanced"]}, {"phase": "early_portal"})
    with pytest.raises(OperatorError, match="unknown contrast phase 'portal'.*portal_venous"):
        ct.hu(MAPS, {"phase": "portal"})
    with pytest.raises(OperatorError, match="60.0 kVp"):
        ct.hu(MAPS, {"kvp": 60.0})
