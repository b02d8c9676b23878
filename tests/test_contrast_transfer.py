"""Contrast transfer on simulated scans whose true tissue maps, and so whose true contrast, are known."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from shiftbench.data.phantoms.brain import BrainPhantom
from shiftbench.data.phantoms.tissues import tissue_maps
from shiftbench.errors import NotApplicable, OperatorError
from shiftbench.shifts import mr, parameters, transfer
from shiftbench.shifts.libraries import n4_bias
from shiftbench.shifts.scan import Scan
from shiftbench.shifts.table.mr import ROWS

PHANTOM = BrainPhantom(patients=4, shape=(12, 80, 80), spacing_mm=(10.0, 2.9, 2.9))
BRAIN = (
    *("csf", "cortex", "white_matter", "deep_grey", "brainstem", "cerebellum"),
    *("ventricle", "choroid_plexus", "lesion_rim", "lesion"),
)
CLASSES = {"csf": ("csf", "ventricle"), "grey": ("cortex", "cerebellum", "deep_grey"), "white": ("white_matter",)}
SNR = 35.0
LEVELS = {row.name: row.levels for row in ROWS if row.kind == "image"}


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def pooled(fine: torch.Tensor, factors: tuple[int, ...]) -> torch.Tensor:
    shape = [n for size, by in zip(fine.shape, factors, strict=True) for n in (size // by, by)]
    return fine.reshape(shape).mean(dim=(1, 3, 5))


@cache
def patient(case: str):
    anatomy = PHANTOM.anatomy(case, {})
    labels = {name: index for index, name in enumerate(PHANTOM.fine_labels)}
    brain = torch.from_numpy(np.isin(anatomy.fine, [labels[name] for name in BRAIN]))
    fine = torch.from_numpy(anatomy.values["fine_label"].astype(np.int64)[anatomy.tissue])
    tissue = {}
    for name, members in CLASSES.items():  # voxels of that tissue alone
        holds = torch.isin(fine, torch.tensor([labels[m] for m in members])).float()
        tissue[name] = pooled(holds, anatomy.supersampling) == 1
    return anatomy, brain, tissue


def simulated(case: str, acquisition) -> torch.Tensor:
    """The noise-free skull-stripped image (*s) of a patient, shaded, in the units of the assumed acquisition."""
    anatomy, brain, _ = patient(case)

    def rendered(table) -> torch.Tensor:
        field = parameters.relaxation_field_t(table)
        fine = mr.transverse(tissue_maps(anatomy, field, properties=mr.needed_maps(table)), table)
        return pooled(fine, anatomy.supersampling).abs().float() * brain

    image = rendered(acquisition)
    z, y, x = (torch.linspace(-1, 1, n) for n in image.shape)
    shade = torch.exp(0.12 * x + (0.1 * y**2)[:, None] - (0.08 * z)[:, None, None])
    return image * shade * (400 / rendered(transfer.ASSUMED)[brain].median())


@cache
def observed(case: str) -> Scan:
    clean = simulated(case, transfer.ASSUMED)
    noise = np.random.default_rng(7).standard_normal((2, *clean.shape)).astype(np.float32) * (400 / SNR)
    image = torch.hypot(clean + torch.from_numpy(noise[0]), torch.from_numpy(noise[1]))
    return Scan(image[None], PHANTOM.spacing_mm, "mr", {"sigma": 400 / SNR}, patient(case)[1])


def agreement(image: torch.Tensor, truth: torch.Tensor, mask: torch.Tensor) -> float:
    return float(np.corrcoef(image[mask].numpy(), truth[mask].numpy())[0, 1])


@pytest.mark.parametrize("case", ["p0001", "p0002"])
@pytest.mark.parametrize(
    ("function", "value", "wanted"),
    [
        (transfer.contrast_transfer_flip, 50.0, {"flip_deg": 10.0}),
        (transfer.contrast_transfer_flip, 25.0, {"flip_deg": 5.0}),
        (transfer.contrast_transfer_field, 7.0, {"relaxation_t": 7.0}),
        (transfer.contrast_transfer_field, 0.064, {"relaxation_t": 0.064}),
    ],
)
def test_a_transferred_image_is_far_closer_to_the_true_one_than_the_image_left_as_it_is(case, function, value, wanted):
    truth = simulated(case, {**transfer.ASSUMED, **wanted})
    scan, (_, brain, tissue) = observed(case), patient(case)
    out = function(scan, value, rng()).image[0]
    left, moved = agreement(scan.image[0], truth, brain), agreement(out, truth, brain)
    assert moved > 0.85 and 1 - moved < 0.5 * (1 - left), (left, moved)
    for name, mask in tissue.items():  # the patient's tissues are not those of the table
        limit = (
            0.5 if name == "csf" else 0.1
        )  # hardly a voxel of it is pure, so its class is drawn to that of the cortex
        assert float(out[mask].mean()) == pytest.approx(float(truth[mask].mean()), rel=limit), name


def test_a_low_flip_angle_inverts_the_contrast_of_a_real_image_too():
    scan, (_, _, tissue) = observed("p0001"), patient("p0001")
    out = transfer.contrast_transfer_flip(scan, 25.0, rng()).image[0]
    ratio = [float(i[tissue["white"]].mean() / i[tissue["grey"]].mean()) for i in (scan.image[0], out)]
    assert ratio[0] > 1.15 and ratio[1] < 0.97


def test_contrast_changes_more_with_each_level_and_in_the_same_way():
    scan = observed("p0001")
    outs = [transfer.contrast_transfer_flip(scan, value, rng()) for value in LEVELS["contrast_transfer_flip"][::2]]
    change = [transfer.log_contrast_change(scan, out, 0.0) for out in outs]
    assert all(a < b for a, b in zip(change, change[1:], strict=False)) and change[0] > 0.01
    logs = [(out.image / scan.image)[0][scan.body].log() for out in outs]
    assert np.corrcoef(logs[0].numpy(), logs[-1].numpy())[0, 1] > 0.98


@pytest.mark.parametrize(
    ("function", "value"), [(transfer.contrast_transfer_flip, 100.0), (transfer.contrast_transfer_field, 1.5)]
)
def test_the_identity_gives_the_scan_itself(function, value):
    scan = observed("p0001")
    assert function(scan, value, rng()) is scan


def test_a_gain_of_the_scanner_changes_nothing_but_the_gain():
    scan = observed("p0001")
    louder = replace(scan, raw=scan.image * 16)
    out, loud = (transfer.contrast_transfer_flip(s, 50.0, rng()).image for s in (scan, louder))
    assert torch.allclose(loud, out * 16, rtol=2e-3)


def test_air_stays_as_it_is_noise_follows_its_tissue_and_the_input_is_left_alone():
    scan = observed("p0001")
    before = scan.image.clone()
    out = transfer.contrast_transfer_flip(scan, 25.0, rng())
    assert torch.equal(scan.image, before) and out.image.dtype == torch.float32
    assert torch.equal(out.image[:, ~scan.body], before[:, ~scan.body])
    factor = float((out.image / before)[0][scan.body].median())
    assert out.native["sigma"] == pytest.approx(400 / SNR * factor) and scan.native["sigma"] == 400 / SNR


def test_a_voxel_of_two_tissues_becomes_what_the_two_would_give_together():
    means = torch.tensor([100.0, 400.0])
    generator = np.random.default_rng(3)
    share = torch.from_numpy(np.clip(generator.uniform(-1.5, 2.5, (8, 64, 64)), 0, 1).astype(np.float32))
    noise = torch.from_numpy(generator.standard_normal(share.shape).astype(np.float32))
    image = means[0] + share * (means[1] - means[0]) + 4 * noise
    shares, found = transfer.tissue_posteriors(image, 2, rng())
    assert found.numpy() == pytest.approx(means.numpy(), rel=0.03)
    assert torch.allclose(shares.sum(dim=0), torch.ones(share.shape), atol=1e-5)
    assert float((shares[1] - share).abs().mean()) < 0.03


@pytest.mark.parametrize("kind", ["one tissue", "ramp", "noise"])
def test_an_image_whose_tissues_do_not_separate_is_refused(kind):
    generator = np.random.default_rng(5)
    noise = generator.standard_normal((8, 36, 36)).astype(np.float32)
    image = {
        "one tissue": 300 + 10 * noise,
        "ramp": np.broadcast_to(np.linspace(100, 500, 36, dtype=np.float32), (8, 36, 36)) + noise,
        "noise": np.abs(gaussian_filter(noise, 2)) * 1000,
    }[kind]
    with pytest.raises(NotApplicable, match="do not separate into 3 tissues"):
        transfer.contrast_transfer_flip(Scan(torch.from_numpy(image)[None], (2.0, 1.0, 1.0)), 50.0, rng())


def test_two_channels_a_wrong_order_and_an_empty_image_are_refused():
    scan = observed("p0001")
    with pytest.raises(OperatorError, match="one channel"):
        transfer.contrast_transfer_flip(scan.with_image(scan.image.repeat(2, 1, 1, 1)), 50.0, rng())
    with pytest.raises(OperatorError, match="brighter in that order"):
        transfer.contrast_transfer(scan, transfer.BRAIN[::-1], transfer.ASSUMED, transfer.ASSUMED, rng())
    with pytest.raises(OperatorError, match="do not make 3 classes"):
        transfer.tissue_posteriors(scan.image[0], 3, rng(), body=torch.zeros_like(scan.body))


def test_the_same_generator_gives_the_same_image_and_two_dimensions_do():
    scan, slice_ = observed("p0001"), 6
    flat = Scan(scan.image[:, slice_], PHANTOM.spacing_mm[1:], known_body=scan.body[slice_])
    a, b = (transfer.contrast_transfer_flip(flat, 35.0, rng()).image for _ in range(2))
    assert torch.equal(a, b) and a.shape == flat.image.shape
    volume = transfer.contrast_transfer_flip(scan, 35.0, rng()).image[:, slice_]
    assert agreement(a[0], volume[0], flat.body) > 0.95


def test_n4_finds_the_shading_it_is_relied_on_for():
    scan, (_, brain, _) = observed("p0001"), patient("p0001")
    found = torch.from_numpy(n4_bias(scan.image[0].numpy(), brain.numpy())).log()
    z, y, x = (torch.linspace(-1, 1, n) for n in brain.shape)
    true = 0.12 * x + (0.1 * y**2)[:, None] - (0.08 * z)[:, None, None]
    assert agreement(found, true.expand_as(found), brain) > 0.8
    assert float(found[brain].mean()) == pytest.approx(0, abs=1e-5)
