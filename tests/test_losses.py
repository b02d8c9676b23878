"""Losses against closed forms, finite differences, other libraries and the cases without a structure."""

from __future__ import annotations

import inspect
import itertools
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from monai.losses import DiceLoss, FocalLoss, HausdorffDTLoss, TverskyLoss
from sklearn.metrics import f1_score
from torch.nn import functional

from shiftbench.errors import SpecError
from shiftbench.losses import (
    LOSSES,
    background_gradient_share,
    bce,
    boundary,
    cross_entropy,
    dice,
    dice_ce,
    focal,
    hausdorff,
    signed_distances,
    tversky,
)
from shiftbench.losses.terms import OPTIONS
from shiftbench.losses.voxel import log_odds
from shiftbench.metrics import dsc

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
benchmark = import_module("losses")

BY_SURFACE = ("boundary", "hausdorff")
HALF = (torch.float16, torch.bfloat16)


def batch(seed: int = 0, classes: int = 3, shape=(2, 6, 5), dtype=torch.float64):
    """Logits (b, k, *s) and a reference (b, *s) in which every class occurs in every sample."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], classes, *shape[1:], generator=rng, dtype=dtype)
    reference = torch.randint(0, classes, shape, generator=rng)
    reference.flatten(1)[:, :classes] = torch.arange(classes)
    return logits, reference


def hard(prediction: torch.Tensor, classes: int, dtype=torch.float64) -> torch.Tensor:
    """Logits whose softmax is one-hot to the last bit."""
    return functional.one_hot(prediction, classes).movedim(-1, 1).to(dtype) * 1e3


def gradient(loss, logits: torch.Tensor, *arguments, **options) -> torch.Tensor:
    leaf = logits.detach().clone().requires_grad_(True)
    return torch.autograd.grad(loss(leaf, *arguments, **options), leaf)[0]


def masked(seed: int = 1, shape=(2, 6, 5)) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.3


def test_the_tables_of_losses_and_of_their_options_agree_with_the_signatures():
    assert set(LOSSES) == set(OPTIONS)
    for name, loss in LOSSES.items():
        keywords = {p.name: p for p in inspect.signature(loss).parameters.values() if p.name not in {"logits"}}
        assert {"reference", "ignore", "class_weights"} <= set(keywords)
        options = {
            n: p.default
            for n, p in keywords.items()
            if n not in {"reference", "ignore", "class_weights"} and isinstance(p.default, float)
        }
        assert set(options) == set(OPTIONS[name]), name


@pytest.mark.parametrize("seed", range(5))
def test_soft_dice_on_hard_masks_is_one_minus_the_dsc_and_one_minus_f1(seed):
    rng = np.random.default_rng(seed)
    prediction, reference = (torch.from_numpy((rng.random((1, 9, 8)) < 0.4).astype(np.int64)) for _ in range(2))
    score = 1 - dice(hard(prediction, 2), reference).item()
    assert score == pytest.approx(dsc(prediction[0] == 1, reference[0] == 1), abs=1e-5)
    assert score == pytest.approx(f1_score(reference.flatten(), prediction.flatten()), abs=1e-5)


def test_soft_dice_is_the_mean_over_structures_of_the_whole_batch():
    logits, reference = batch()
    p = logits.softmax(1)
    each = [1 - 2 * (p[:, k] * (reference == k)).sum() / (p[:, k].sum() + (reference == k).sum()) for k in range(1, 3)]
    assert dice(logits, reference).item() == pytest.approx(float(sum(each) / 2), abs=1e-6)
    weighted = (2 * each[0] + 6 * each[1]) / 8
    assert dice(logits, reference, class_weights=(5, 2, 6)).item() == pytest.approx(float(weighted), abs=1e-6)


def test_tversky_with_both_weights_one_half_is_soft_dice():
    logits, reference = batch()
    halves = tversky(logits, reference, alpha=0.5, beta=0.5)
    assert halves.item() == pytest.approx(dice(logits, reference).item(), abs=1e-6)
    assert tversky(logits, reference).item() != pytest.approx(dice(logits, reference).item(), abs=1e-3)


def test_tversky_on_hard_masks_is_the_formula_with_counts():
    prediction, reference = torch.zeros(1, 4, 5, dtype=torch.int64), torch.zeros(1, 4, 5, dtype=torch.int64)
    prediction[0, 0], reference[0, 0, 2:], reference[0, 1, :4] = 1, 1, 1  # 3 true positives, 2 false ones, 4 missed
    value = tversky(hard(prediction, 2), reference, alpha=0.2, beta=0.9).item()
    assert value == pytest.approx(1 - 3 / (3 + 0.2 * 2 + 0.9 * 4), abs=1e-5)


@pytest.mark.parametrize("weights", [None, (1.0, 2.0, 5.0)])
def test_focal_loss_at_gamma_0_is_the_cross_entropy(weights):
    logits, reference = batch()
    assert focal(logits, reference, gamma=0, class_weights=weights).item() == pytest.approx(
        cross_entropy(logits, reference, class_weights=weights).item(), abs=1e-12
    )
    assert torch.allclose(
        gradient(focal, logits, reference, gamma=0, class_weights=weights),
        gradient(cross_entropy, logits, reference, class_weights=weights),
    )


def test_focal_loss_is_the_cross_entropy_of_each_voxel_times_a_power_of_what_is_missing():
    logits, reference = batch()
    p = logits.softmax(1).gather(1, reference[:, None])[:, 0]
    assert focal(logits, reference, gamma=1.5).item() == pytest.approx(float((-((1 - p) ** 1.5) * p.log()).mean()))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_has_a_finite_gradient_where_a_voxel_is_certain(gamma):
    reference = torch.tensor([[[0, 1]]])
    logits = hard(reference, 2, torch.float32)
    assert focal(logits, reference, gamma=gamma).item() == 0
    assert gradient(focal, logits, reference, gamma=gamma).isfinite().all()


def test_cross_entropy_and_its_weighted_form_are_those_of_torch():
    logits, reference = batch()
    assert torch.equal(cross_entropy(logits, reference), functional.cross_entropy(logits, reference))
    weights = (0.5, 2.0, 5.0)
    expected = functional.cross_entropy(logits, reference, weight=torch.tensor(weights, dtype=torch.float64))
    assert cross_entropy(logits, reference, class_weights=weights).item() == pytest.approx(expected.item(), abs=1e-12)


def test_the_gradient_of_bce_with_respect_to_the_logit_is_p_minus_y():
    logits, reference = batch(classes=2)
    logits[:, 0] = 0  # the background's logit is held at 0, so the other is the logit
    p_minus_y = logits[:, 1].sigmoid() - reference
    assert torch.allclose(gradient(bce, logits, reference)[:, 1], p_minus_y / reference.numel())


def test_the_gradient_of_bce_with_respect_to_each_log_odds_is_p_minus_y_for_many_classes():
    logits, reference = batch(classes=4)
    p = logits.softmax(1)[:, 1:]
    y = torch.stack([reference == k for k in range(1, 4)], 1).double()
    leaf = logits.clone().requires_grad_(True)
    odds = log_odds(leaf)
    assert torch.allclose(odds.sigmoid(), p)
    through = torch.autograd.grad(odds, leaf, (p - y) / reference.numel())[0]  # the chain rule on p - y
    assert torch.allclose(gradient(bce, logits, reference), through)


def test_bce_of_two_classes_is_the_cross_entropy_with_weights_and_mask_too():
    logits, reference = batch(classes=2)
    keywords = {"ignore": masked(), "class_weights": (1.0, 7.0)}
    assert bce(logits, reference).item() == pytest.approx(cross_entropy(logits, reference).item(), abs=1e-12)
    assert bce(logits, reference, **keywords).item() == pytest.approx(
        cross_entropy(logits, reference, **keywords).item(), abs=1e-12
    )


def test_dice_and_cross_entropy_together_weight_the_cross_entropy_alone():
    logits, reference = batch()
    weights = (1.0, 2.0, 5.0)
    expected = cross_entropy(logits, reference, class_weights=weights) + dice(logits, reference)
    assert torch.equal(dice_ce(logits, reference, class_weights=weights), expected)


@pytest.mark.parametrize("dimension", [2, 3])
def test_monai_agrees_where_it_computes_the_same(dimension):
    logits, reference = batch(classes=3, shape=(2, 6, 5, 4)[: dimension + 1], dtype=torch.float32)
    target = reference[:, None]
    common = {"include_background": False, "softmax": True, "to_onehot_y": True, "batch": True}
    smooth = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    pairs = [
        (dice(logits, reference), DiceLoss(**common, **smooth)(logits, target)),
        (tversky(logits, reference), TverskyLoss(**common, **smooth, alpha=0.3, beta=0.7)(logits, target)),
        (focal(logits, reference), 3 * FocalLoss(to_onehot_y=True, use_softmax=True, gamma=2.0)(logits, target)),
        (hausdorff(logits, reference), HausdorffDTLoss(**common, alpha=2.0)(logits, target)),
    ]
    for mine, theirs in pairs:
        assert mine.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_signed_distances_are_those_to_the_nearest_voxel_across_the_surface(spacing):
    mask = torch.from_numpy(np.random.default_rng(3).random((7, 6)) < 0.4)
    size = np.array(spacing or (1.0, 1.0))
    expected = np.zeros(mask.shape)
    for here in itertools.product(*map(range, mask.shape)):
        across = np.argwhere(mask.numpy() != bool(mask[here]))
        away = np.sqrt((((across - here) * size) ** 2).sum(1)).min()
        expected[here] = -away if mask[here] else away
    assert np.allclose(signed_distances(mask[None], spacing)[0], expected, atol=1e-5)


def test_masks_without_a_surface_have_zero_distances():
    masks = torch.stack([torch.zeros(4, 4, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)])
    assert not signed_distances(masks).any()


def test_boundary_loss_is_the_mean_of_probability_times_signed_distance_in_mm():
    logits, reference = batch()
    spacing = (2.0, 0.5)
    p = logits.softmax(1)
    each = [(p[:, k] * signed_distances(reference == k, spacing)).mean() for k in (1, 2)]
    assert boundary(logits, reference, spacing=spacing).item() == pytest.approx(float(sum(each) / 2), abs=1e-6)


def test_boundary_loss_is_least_for_the_reference_and_grows_with_the_distance_of_an_error():
    reference = torch.zeros(1, 12, 12, dtype=torch.int64)
    reference[0, 2:6, 2:6] = 1
    near, far = reference.clone(), reference.clone()
    near[0, 6, 3], far[0, 11, 11] = 1, 1
    values = [boundary(hard(x, 2), reference).item() for x in (reference, near, far)]
    assert values[0] < values[1] < values[2]


def test_hausdorff_loss_is_nought_for_the_reference_and_grows_with_the_distance_of_an_error():
    reference = torch.zeros(1, 12, 12, dtype=torch.int64)
    reference[0, 2:6, 2:6] = 1
    near, far = reference.clone(), reference.clone()
    near[0, 6, 3], far[0, 11, 11] = 1, 1
    values = [hausdorff(hard(x, 2), reference).item() for x in (reference, near, far)]
    assert values[0] == 0 < values[1] < values[2]


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_agree_with_finite_differences(name):
    logits, reference = batch(shape=(2, 3, 4))
    weights, ignore = (1.0, 2.0, 0.5), masked(shape=(2, 3, 4))
    for keywords in ({}, {"class_weights": weights, "ignore": ignore}):
        assert torch.autograd.gradcheck(
            lambda z, k=keywords: LOSSES[name](z, reference, **k), logits.requires_grad_(True), atol=1e-6
        )


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("sure", [0.0, 60.0])
def test_an_empty_reference_has_a_finite_value_and_a_finite_gradient(name, sure):
    logits, _ = batch(dtype=torch.float32)
    logits[:, 0] += sure
    empty = torch.zeros(2, 6, 5, dtype=torch.int64)
    assert LOSSES[name](logits, empty).isfinite()
    assert gradient(LOSSES[name], logits, empty).isfinite().all()


EMPTY = {"dice": 1.0, "tversky": 1.0, "boundary": 0.0}  # every voxel predicted as foreground, reference empty


@pytest.mark.parametrize("name", EMPTY)
def test_what_an_empty_reference_costs_is_defined(name):
    empty = torch.zeros(1, 6, 5, dtype=torch.int64)
    assert LOSSES[name](hard(empty + 1, 2), empty).item() == pytest.approx(EMPTY[name], abs=1e-5)
    assert LOSSES[name](hard(empty, 2), empty).item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_voxels_change_neither_value_nor_gradient_whatever_they_hold(name):
    logits, reference = batch()
    ignore = masked()
    other, labels = logits.clone(), reference.clone()
    other.movedim(1, -1)[ignore] = 50.0 * torch.randn(int(ignore.sum()), 3, dtype=torch.float64)
    labels[ignore] = 255  # no class at all
    loss = LOSSES[name]
    assert torch.equal(loss(logits, reference, ignore=ignore), loss(other, labels, ignore=ignore))
    kept = gradient(loss, other, labels, ignore=ignore)
    assert not kept.movedim(1, -1)[ignore].any() and kept.any()
    assert loss(logits, reference, ignore=ignore).item() != pytest.approx(loss(logits, reference).item(), abs=1e-9)


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in BY_SURFACE])
def test_ignoring_voxels_is_the_loss_of_the_others(name):
    logits, reference = batch()
    ignore = torch.zeros_like(reference, dtype=torch.bool)
    ignore[:, 4:] = True
    kept = LOSSES[name](logits[:, :, :4], reference[:, :4], class_weights=(1.0, 2.0, 3.0))
    value = LOSSES[name](logits, reference, ignore=ignore, class_weights=(1.0, 2.0, 3.0))
    assert value.item() == pytest.approx(kept.item(), abs=1e-12)


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_that_is_ignored_altogether_costs_nothing_and_teaches_nothing(name):
    logits, reference = batch(dtype=torch.float32)
    ignore = torch.ones_like(reference, dtype=torch.bool)
    assert LOSSES[name](logits, reference, ignore=ignore).item() == 0
    assert not gradient(LOSSES[name], logits, reference, ignore=ignore).any()


@pytest.mark.parametrize("name", LOSSES)
def test_class_weights_shift_the_loss_between_structures_and_equal_ones_change_nothing(name):
    logits, reference = batch()
    loss = LOSSES[name]
    plain = loss(logits, reference).item()
    assert loss(logits, reference, class_weights=(3.0, 3.0, 3.0)).item() == pytest.approx(plain, abs=1e-12)
    first, second = (loss(logits, reference, class_weights=w).item() for w in ((1.0, 9.0, 1.0), (1.0, 1.0, 9.0)))
    assert first != pytest.approx(second, abs=1e-6)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, -1.0, 1.0), (0.0, 0.0, 0.0), (1.0, float("nan"), 1.0)])
def test_class_weights_that_mean_nothing_are_refused(name, weights):
    logits, reference = batch()
    with pytest.raises(SpecError, match="class weights"):
        LOSSES[name](logits, reference, class_weights=weights)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_logits_give_the_loss_of_single_precision(name, dtype):
    logits, reference = batch(shape=(2, 40, 41), dtype=torch.float32)
    logits = logits.to(dtype)
    value = LOSSES[name](logits, reference)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(LOSSES[name](logits.float(), reference).item(), rel=1e-6)
    assert gradient(LOSSES[name], logits, reference).dtype == dtype


def cube(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (1, 2, n, n, n) of 0 and a reference whose half is foreground."""
    reference = torch.zeros(1, n, n, n, dtype=torch.uint8)
    reference[:, : n // 2] = 1
    return torch.zeros(1, 2, n, n, n, dtype=dtype), reference


CUBE = {"cross_entropy": np.log(2), "bce": np.log(2), "focal": np.log(2) / 4, "dice": 0.5, "tversky": 0.5}


@pytest.mark.parametrize("name", CUBE)
def test_half_precision_does_not_overflow_where_half_a_sum_would(name):
    logits, reference = cube(64, torch.float16)  # 131,072 foreground voxels; the largest half is 65,504
    assert LOSSES[name](logits, reference).item() == pytest.approx(CUBE[name], rel=1e-5)
    assert gradient(LOSSES[name], logits, reference).isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_does_not_overflow_on_256_cubed(name, dtype):
    logits, reference = cube(256, dtype)
    value = LOSSES[name](logits, reference)
    assert value.isfinite()
    if name in CUBE:
        assert value.item() == pytest.approx(CUBE[name], rel=1e-4)
    assert gradient(LOSSES[name], logits, reference).isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", LOSSES)
def test_a_gpu_gives_the_loss_and_the_gradient_of_the_cpu(name):
    logits, reference = batch(shape=(2, 16, 17), dtype=torch.float32)
    keywords = {"class_weights": (1.0, 2.0, 5.0), "ignore": masked(shape=(2, 16, 17))}
    there = {**keywords, "ignore": keywords["ignore"].cuda()}
    value = LOSSES[name](logits.cuda(), reference.cuda(), **there)
    assert value.is_cuda
    assert value.item() == pytest.approx(LOSSES[name](logits, reference, **keywords).item(), rel=1e-5)
    theirs = gradient(LOSSES[name], logits.cuda(), reference.cuda(), **there).cpu()
    assert torch.allclose(theirs, gradient(LOSSES[name], logits, reference, **keywords), atol=1e-6)


def test_the_share_of_the_gradient_of_the_background_is_that_of_p_minus_y():
    reference = torch.zeros(1, 10, 10, dtype=torch.int64)
    reference[0, 0, 0] = 1
    logits = torch.zeros(1, 2, 10, 10)  # p = 1/2 everywhere: every voxel pulls alike
    assert background_gradient_share(cross_entropy, logits, reference) == pytest.approx(0.99)
    weighted = background_gradient_share(lambda z, y: cross_entropy(z, y, class_weights=(1.0, 99.0)), logits, reference)
    assert weighted == pytest.approx(0.5)
    ignore = torch.zeros_like(reference, dtype=torch.bool)
    ignore[0, 5:] = True
    assert background_gradient_share(cross_entropy, logits, reference, ignore=ignore) == pytest.approx(49 / 50)


def test_measuring_the_share_leaves_the_gradients_of_a_training_step_alone():
    logits, reference = batch(dtype=torch.float32)
    network = torch.nn.Conv2d(3, 3, 1)
    out = network(logits)
    with torch.no_grad():
        assert 0 < background_gradient_share(dice, out, reference) < 1
    assert all(p.grad is None for p in network.parameters())
    dice(out, reference).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_no_gradient_at_all_has_no_share():
    logits, reference = batch()
    assert background_gradient_share(lambda z, y: z.sum() * 0, logits, reference) is None


def test_the_calibration_error_of_the_benchmark_is_the_gap_between_probability_and_frequency_per_bin():
    p, y = np.array([0.0, 0.05, 0.9, 0.9, 0.9, 0.9]), np.array([0, 0, 1, 1, 0, 0])
    assert benchmark.ece(p, y) == pytest.approx((0.05 + 4 * 0.4) / 6)  # (0 and 0.05 share the first bin) and 0.9
    assert benchmark.ece(y.astype(float), y) == 0


def test_the_benchmark_compares_losses_seed_by_seed_and_leaves_out_infinite_distances():
    rows = [
        {"loss": loss, "seed": seed, "domain": domain, "hd95_mm": value}
        for loss, values in {"dice": (9.0, 8.0, np.inf), "dice + boundary": (5.0, 8.5, np.inf)}.items()
        for (domain, seed), value in zip((("source", 0), ("source", 1), ("SNR 10", 0)), values, strict=True)
    ]
    frame = pd.DataFrame(rows).assign(recall=0.0, precision=0.0, ece=0.0)
    assert "| -4.0, +0.5 | 1 of 2 | 0 of 0 |" in benchmark.differences(frame)


def test_a_loss_looked_at_without_gradients_first_can_still_be_trained_with():
    logits, reference = batch(dtype=torch.float32)
    weights = (1.0, 2.0, 7.5)  # of no other test: constants are kept
    with torch.inference_mode():
        dice_ce(logits, reference, weights)
        dice(logits, reference, class_weights=weights)
    assert gradient(dice_ce, logits, reference, weights).any()
    assert gradient(dice, logits, reference, class_weights=weights).any()
