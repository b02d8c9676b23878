"""Calibration of one structure against the rest: hand values, scikit-learn, regions that no prediction decides."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from shiftbench.metrics.calibration import (
    CLIP,
    ace,
    around,
    brier,
    calibration_values,
    checked_classes,
    clipped_share,
    ece,
    nll,
    reliability,
)
from shiftbench.metrics.scorers import CALIBRATION_SCORERS
from shiftbench.rng import generator
from shiftbench.scoring.calibration import probabilities_of
from shiftbench.tasks import Task
from shiftbench.types import Prediction
from shiftbench.worker.kept import FLOOR, kept

ALL = (brier, nll, ece, ace, clipped_share)


def drawn(name: str, shape=(9, 14, 12), bend: float = 1.0):
    """Probabilities of a smooth field, and a reference drawn with their powers."""
    rng = generator(0, "calibration", name)
    p = 1 / (1 + np.exp(-3 * ndimage.gaussian_filter(rng.normal(size=shape), 1.5) * 8))
    return p, rng.random(shape) < p**bend


def stack(name: str, shape=(6, 20, 20), classes: int = 4, sharp: float = 30.0):
    """Log-probabilities (k, *s), float32, and labels that mostly agree with them."""
    rng = generator(1, "stack", name)
    logits = sharp * np.stack([ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(classes)])
    labels = (logits + rng.normal(size=logits.shape)).argmax(0)
    return torch.from_numpy(logits).float().log_softmax(0), labels.astype(np.uint8)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_brier_nll_and_the_bins_are_those_of_scikit_learn(name):
    p, y = drawn(name, bend=1.5)
    assert brier(p, y) == pytest.approx(brier_score_loss(y.ravel(), p.ravel()), rel=1e-12)
    assert nll(p, y) == pytest.approx(log_loss(y.ravel(), np.clip(p, CLIP, 1 - CLIP).ravel()), rel=1e-6)
    frequency, confidence = calibration_curve(y.ravel(), p.ravel(), n_bins=15)
    bins = reliability(p, y)
    held = bins.voxels > 0
    np.testing.assert_allclose(bins.frequency[held], frequency)
    np.testing.assert_allclose(bins.confidence[held], confidence)
    assert ece(p, y) == pytest.approx((bins.voxels[held] * np.abs(frequency - confidence)).sum() / p.size)


def test_equal_mass_bins_are_those_of_scikit_learns_quantiles():
    p, y = drawn("mass", shape=(10, 15, 12), bend=2.0)  # 1800 different values: 15 bins of 120
    frequency, confidence = calibration_curve(y.ravel(), p.ravel(), n_bins=15, strategy="quantile")
    assert ace(p, y) == pytest.approx(np.abs(frequency - confidence).mean(), abs=2e-3)  # theirs shares its limits
    order = np.argsort(p.ravel())
    parts = zip(np.split(p.ravel()[order], 15), np.split(y.ravel()[order], 15), strict=True)
    assert ace(p, y) == pytest.approx(np.mean([abs(a.mean() - b.mean()) for a, b in parts]), rel=1e-9)


def test_values_by_hand():
    p, y = np.array([[0.0, 0.2, 0.2, 0.8]]), np.array([[0, 0, 1, 1]], bool)
    assert brier(p, y) == pytest.approx((0 + 0.04 + 0.64 + 0.04) / 4)
    assert nll(p, y) == pytest.approx(-(0 + math.log(0.8) + math.log(0.2) + math.log(0.8)) / 4)
    assert ece(p, y) == pytest.approx((1 * 0 + 2 * abs(0.2 - 0.5) + 1 * 0.2) / 4)
    assert ece(p, y, bins=1) == pytest.approx(abs(0.3 - 0.5))
    assert ace(p, y, bins=2) == pytest.approx((abs(0.1 - 0.25) + abs(0.5 - 0.75)) / 2)  # the two of 0.2 hold one half


def test_bins_are_closed_on_the_right_and_zero_is_in_the_first_one():
    p = np.array([[0.0, 0.2, np.nextafter(0.2, 1), 0.6, 1.0]])
    assert reliability(p, p > 0.5, bins=5).voxels.tolist() == [2, 1, 1, 0, 1]


def test_voxels_of_probability_zero_count_where_some_tools_drop_them():
    p, y = np.zeros((1, 100)), np.zeros((1, 100), bool)
    p[0, :10], y[0, :4] = 0.9, True
    assert ece(p, y) == pytest.approx(10 * 0.5 / 100)
    assert ece(p, y, p > 0) == pytest.approx(0.5)  # what a region of predicted voxels would say
    y[0, 50] = True  # missed with certainty: it has to cost
    assert ece(p, y) == pytest.approx((10 * 0.5 + 1) / 100)


def test_ece_is_a_matter_of_the_region():
    p, y = drawn("region", shape=(6, 40, 40))
    p[:, 15:25, 15:25], y[:] = 0.7, False
    y[:, 15:25, 15:20] = True
    p[:, :13], p[:, 27:], p[:, :, :13], p[:, :, 27:] = 0.0, 0.0, 0.0, 0.0
    near, far = around(y, (1, 1, 1), 1.0), around(y, (1, 1, 1), 8.0)
    values = [ece(p, y, region) for region in (near, far, None)]
    assert values[0] > 1.5 * values[1] > 1.5 * values[2]


def test_a_missed_voxel_far_below_the_clip_costs_no_more_than_the_worst_value():
    p, y = np.zeros((2, 2)), np.ones((2, 2), bool)
    assert nll(p, y) == pytest.approx(CALIBRATION_SCORERS["nll"].worst)
    assert clipped_share(p, y) == 1.0 and brier(p, y) == CALIBRATION_SCORERS["brier"].worst
    p[0] = 2e-7
    assert clipped_share(p, y) == 0.5
    assert ece(p, y) == pytest.approx(CALIBRATION_SCORERS["ece"].worst, abs=1e-6)
    assert clipped_share(1 - p, ~y) == 0.5  # presence claimed where it is not


def test_a_region_reaches_a_distance_in_the_unit_of_the_spacing():
    mask = np.zeros((7, 15, 15), bool)
    mask[3, 7, 7] = True
    region = around(mask, (5.0, 2.0, 3.0), 5.0)
    z, y, x = np.meshgrid(*[np.arange(n) for n in mask.shape], indexing="ij")
    expected = (5.0 * (z - 3)) ** 2 + (2.0 * (y - 7)) ** 2 + (3.0 * (x - 7)) ** 2 <= 25.0
    np.testing.assert_array_equal(region, expected)
    assert region[2, 7, 7] and region[3, 9, 8] and not region[3, 10, 7]
    np.testing.assert_array_equal(around(mask[3], (2.0, 3.0), 5.0), expected[3])
    assert not around(np.zeros((4, 4)), (1, 1), 3.0).any()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), distance=st.floats(0.0, 9.0))
def test_a_region_is_that_of_the_distance_transform_wherever_the_structure_lies(seed, distance):
    rng = np.random.default_rng(seed)
    spacing = rng.uniform(0.5, 4.0, size=3)
    mask = np.zeros(rng.integers(2, 12, size=3), bool)
    mask.flat[rng.integers(0, mask.size, size=rng.integers(1, 4))] = True
    expected = ndimage.distance_transform_edt(~mask, sampling=spacing)
    clear = np.abs(expected - distance) > 1e-4
    np.testing.assert_array_equal(around(mask, spacing, distance)[clear], (expected <= distance)[clear])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), digits=st.integers(1, 6))
def test_the_order_of_voxels_changes_nothing_even_where_probabilities_are_tied(seed, digits):
    rng = np.random.default_rng(seed)
    p = np.round(rng.random((5, 8)), digits)
    y = rng.random(p.shape) < p
    order = rng.permutation(p.size)
    for measure in ALL:
        assert measure(p.ravel()[order].reshape(8, 5), y.ravel()[order].reshape(8, 5)) == pytest.approx(measure(p, y))
        assert measure(p[::-1], y[::-1]) == pytest.approx(measure(p, y), abs=1e-15)


def test_ties_across_a_limit_are_shared_out_evenly():
    rng = generator(0, "ties")
    p = np.repeat([0.1, 0.5, 0.9], [20, 55, 25])
    y = rng.random(p.size) < p
    values = []
    for _ in range(400):  # each order of the voxels by itself, and the mean of every bin over the orders
        order = rng.permutation(p.size)
        order = order[np.argsort(p[order], kind="stable")]
        values.append([p[part].mean() - y[part].mean() for part in np.array_split(order, 7)])
    starts = np.arange(8) * p.size // 7
    same_bins = [p[a:b].mean() for a, b in zip(starts[:-1], starts[1:], strict=True)]
    assert len(same_bins) == 7
    assert ace(p[None], y[None], bins=7) == pytest.approx(np.abs(np.mean(values, axis=0)).mean(), abs=0.02)


@pytest.mark.parametrize("measure", ALL)
def test_an_empty_region_has_no_value(measure):
    p, y = drawn("none", shape=(3, 4, 5))
    assert measure(p, y, np.zeros(p.shape, bool)) is None


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan])
def test_what_is_no_probability_is_refused(measure, bad):
    p = np.full((3, 4), 0.5)
    p[1, 2] = bad
    with pytest.raises(ValueError, match="give values from 0 to 1, without NaN"):
        measure(p, p > 0.2)


def test_shapes_that_differ_bins_that_are_none_and_sums_that_are_not_one_are_refused():
    p = np.full((3, 4), 0.5)
    with pytest.raises(ValueError, match=r"shapes differ: probabilities \(3, 4\), reference \(4, 3\)"):
        brier(p, p.T > 0)
    with pytest.raises(ValueError, match="0 bins hold nothing"):
        ece(p, p > 0, bins=0)
    with pytest.raises(ValueError, match="add up to 1.5, not to one; give a softmax over classes"):
        checked_classes(np.full((3, 2, 2), 0.5))
    with pytest.raises(ValueError, match="add up to 1.5"):
        calibration_values(np.full((3, 2, 2), 0.5), np.zeros((2, 2), int), (1, 1), 2.0)
    with pytest.raises(ValueError, match="cannot reach -1"):
        around(p > 0, (1, 1), -1.0)
    checked_classes(np.full((2, 2, 2), 0.5))


def test_every_structure_has_every_metric_and_one_that_is_not_there_has_none():
    scores, labels = stack("values")
    labels[labels == 2] = 0
    found = calibration_values(scores.exp().numpy(), labels, (5, 2, 2), 6.0)
    keys = {(m, d) for m, s in CALIBRATION_SCORERS.items() for d in s.definitions} | {("clipped_share", "region")}
    assert len(found) == 3 and all(set(values) == keys for values in found)
    assert set(found[1].values()) == {None}
    p, y = scores.exp().numpy()[3], labels == 3
    assert found[2]["ece", "volume"] == pytest.approx(ece(p, y))
    assert found[2]["ece", "region"] == pytest.approx(ece(p, y, around(y, (5, 2, 2), 6.0)))
    assert found[2]["ece", "region"] != pytest.approx(found[2]["ece", "volume"], rel=0.05)


def test_a_probability_that_is_the_frequency_is_calibrated_and_a_bent_one_is_not():
    p, y = drawn("true", shape=(20, 60, 60))
    bent = p**3 / (p**3 + (1 - p) ** 3)
    for measure in (ece, ace):
        assert measure(p, y) < 0.01 < 0.05 < measure(bent, y)
    assert brier(p, y) < brier(bent, y) and nll(p, y) < nll(bent, y)


@pytest.mark.parametrize("sharp", [3.0, 30.0, 300.0])
def test_what_is_stored_changes_no_metric_by_a_thousandth(sharp):
    scores, labels = stack("stored", shape=(8, 40, 40), sharp=sharp)
    arrays, _ = kept(Prediction(log_probabilities=scores), labels, Task(4), ["log_probabilities"])
    stored = arrays["log_probabilities"]
    assert stored.dtype == np.float16 and stored.shape == scores.shape
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    buffer.seek(0)
    back = probabilities_of(np.load(buffer)["log_probabilities"])
    np.testing.assert_allclose(back.sum(axis=0), 1.0, rtol=1e-12)
    exact = scores.double().softmax(0).numpy()  # single precision adds up to one only to 1e-7, which is the clip
    noisy = ndimage.grey_dilation(labels, (1, 3, 3))
    ours = calibration_values(back, noisy, (5, 3, 3), 10.0)
    theirs = calibration_values(exact, noisy, (5, 3, 3), 10.0)
    for label in range(3):
        for key, value in theirs[label].items():
            assert ours[label][key] == pytest.approx(value, abs=1e-3), (label, key)


def test_the_error_of_the_storage_is_as_stated():
    scores = torch.linspace(-25, 0, 100_001).expand(2, 1, -1)
    arrays, _ = kept(
        Prediction(log_probabilities=scores), np.zeros((1, 100_001), np.uint8), Task(2), ["log_probabilities"]
    )
    stored, exact = arrays["log_probabilities"][0, 0].astype(float), scores[0, 0].numpy()
    error = np.abs(stored - np.maximum(exact, FLOOR))
    assert error.max() <= 2**-7 and error[exact > -16].max() <= 2**-8 and error[exact > -1].max() <= 2**-12
    assert 99 * np.exp(stored.min()) < CLIP  # what was cut off is still known to be under the clip


def test_nothing_is_stored_unless_it_is_asked_for_and_there():
    scores, labels = stack("asked")
    assert kept(Prediction(log_probabilities=scores), labels, Task(4), [])[0] == {}
    assert kept(Prediction(labels=torch.from_numpy(labels)), labels, Task(4), ["log_probabilities"]) == ({}, {})


def test_confidence_is_the_soft_dice_of_what_was_predicted():
    scores, _ = stack("confidence")
    labels = scores.argmax(0).numpy().astype(np.uint8)
    labels[labels == 3] = 0  # as where a structure's pieces are too small to be kept
    _, facts = kept(Prediction(log_probabilities=scores), labels, Task(4), [])
    p = scores.double().exp().numpy()
    expected = [2 * p[c][labels == c].sum() / (p[c].sum() + (labels == c).sum()) for c in (1, 2)]
    assert facts["confidence"]["definition"] == "soft_dice"
    assert facts["confidence"]["values"] == pytest.approx([*expected, 0.0], rel=1e-5)


def test_confidence_is_the_methods_own_uncertainty_where_it_gives_one():
    scores, labels = stack("uncertainty")
    labels[labels == 3] = 0
    uncertainty = torch.rand(labels.shape, generator=torch.Generator().manual_seed(0))
    given_ = uncertainty.numpy()
    for prediction in (
        Prediction(log_probabilities=scores, uncertainty=uncertainty),
        Prediction(labels=torch.from_numpy(labels), uncertainty=uncertainty),
    ):
        _, facts = kept(prediction, labels, Task(4), [])
        assert facts["confidence"]["definition"] == "uncertainty"
        expected = [1 - given_[labels == 1].mean(), 1 - given_[labels == 2].mean(), 1 - given_.mean()]
        assert facts["confidence"]["values"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_prediction_on_the_gpu_is_kept_as_one_on_the_cpu():
    scores, labels = stack("gpu")
    there = kept(Prediction(log_probabilities=scores.cuda()), labels, Task(4), ["log_probabilities"])
    here = kept(Prediction(log_probabilities=scores), labels, Task(4), ["log_probabilities"])
    np.testing.assert_array_equal(there[0]["log_probabilities"], here[0]["log_probabilities"])
    assert there[1]["confidence"]["values"] == pytest.approx(here[1]["confidence"]["values"], rel=1e-5)
