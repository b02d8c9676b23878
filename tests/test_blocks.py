"""What methods share: statistics, entropies, masks, quantiles and low frequencies against closed forms."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import UNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from shiftbench import blocks, inference
from shiftbench.check import CLASSES, problem
from shiftbench.contract import REQUIREMENTS
from shiftbench.errors import NotApplicable
from shiftbench.rng import generator


@pytest.fixture
def bn_model():
    return copy.deepcopy(problem("unet_bn", 2).model)


@pytest.fixture
def image():
    return problem("unet_bn", 2).test[0]


def in_slices_of(monkeypatch, slices, image):
    """Lets at most `slices` slices of `image` through the network at once."""
    monkeypatch.setattr(inference, "MAX_POSITIONS", slices * image[0, 0].numel())


def test_a_predictor_returns_normalised_log_probabilities_on_the_grid_of_the_image(bn_model, image):
    prediction = blocks.predictor(bn_model)(image)
    log_p = prediction.log_probabilities
    assert log_p.shape == (CLASSES, *image.shape[1:]) and not log_p.requires_grad
    assert torch.allclose(log_p.exp().sum(0), torch.ones(image.shape[1:]), atol=1e-5)


@pytest.mark.parametrize("dimension", [2, 3])
def test_batch_norm_layers_are_found_in_every_dimension(dimension):
    assert len(blocks.batch_norm_layers(problem("unet_bn", dimension).model)) > 3
    assert not blocks.instance_norm_layers(problem("unet_bn", dimension).model)


def test_instance_norm_without_learnt_parameters_counts_as_nothing_to_adapt():
    plain = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=(4, 8), strides=(2,))
    assert not blocks.norm_layers(plain) and not blocks.instance_norm_layers(plain)
    for requirement in blocks.REQUIREMENTS:
        with pytest.raises(NotApplicable):
            blocks.require(plain, requirement)


def test_the_contract_and_the_blocks_name_the_same_requirements():
    assert set(blocks.REQUIREMENTS) == set(REQUIREMENTS)


def test_training_nothing_is_refused(bn_model):
    with pytest.raises(NotApplicable, match="no parameter"):
        blocks.train_only_(bn_model, [])


def test_only_the_named_parameters_keep_a_gradient(bn_model):
    named = blocks.norm_parameters(blocks.norm_layers(bn_model))
    blocks.train_only_(bn_model, named)
    assert {id(p) for p in bn_model.parameters() if p.requires_grad} == {id(p) for p in named}


def test_moving_nothing_is_refused_and_moving_one_value_is_not(bn_model):
    parameters = list(bn_model.parameters())
    before = blocks.copies(parameters)
    with pytest.raises(NotApplicable, match="changed nothing"):
        blocks.require_moved(before, parameters)
    parameters[-1].data[0] += 1
    blocks.require_moved(before, parameters)


def test_batch_statistics_in_evaluation_mode_equal_training_mode(bn_model, image):
    trained = copy.deepcopy(bn_model).train()
    blocks.use_batch_statistics_(bn_model)
    with torch.no_grad():
        assert torch.equal(inference.forward(bn_model, image), inference.forward(trained, image))


def as_instance_norm(model):
    """The model with every batch norm replaced by an instance norm of the same scale and shift."""
    converted = copy.deepcopy(model)
    for module in list(converted.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                norm = nn.InstanceNorm2d(child.num_features, eps=child.eps, affine=True)
                norm.load_state_dict({"weight": child.weight, "bias": child.bias})
                setattr(module, name, norm.eval())
    return converted


def test_statistics_of_one_slice_make_a_batch_norm_net_an_instance_norm_net(bn_model, image):
    one = image[:, 3]
    converted = as_instance_norm(bn_model)
    blocks.collect_statistics_(bn_model, [one])
    with torch.no_grad():
        assert torch.allclose(inference.forward(bn_model, one), inference.forward(converted, one), atol=1e-4)


def test_keeping_all_of_the_old_statistics_changes_no_bit(bn_model, image):
    before = copy.deepcopy(bn_model.state_dict())
    blocks.collect_statistics_(bn_model, [image], keep=1.0)
    assert all(torch.equal(value, before[name]) for name, value in bn_model.state_dict().items())


def test_mixed_statistics_are_the_linear_mixture_in_the_first_layer(bn_model, image):
    old, new = copy.deepcopy(bn_model), copy.deepcopy(bn_model)
    blocks.collect_statistics_(new, [image], keep=0.0)
    blocks.collect_statistics_(bn_model, [image], keep=0.9)
    for i in (0, 1):
        expected = 0.9 * blocks.statistics(old)[0][i] + 0.1 * blocks.statistics(new)[0][i]
        assert torch.allclose(blocks.statistics(bn_model)[0][i], expected, rtol=1e-5)


def test_layer_by_layer_statistics_do_not_depend_on_how_the_case_is_cut(bn_model, image, monkeypatch):
    whole, cut, rough = (copy.deepcopy(bn_model) for _ in range(3))
    blocks.collect_statistics_(whole, [image])
    in_slices_of(monkeypatch, 2, image)
    blocks.collect_statistics_(cut, [image])
    blocks.collect_statistics_(rough, [image], layer_by_layer=False)
    exact = blocks.statistics(whole)
    gaps = [
        max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(layer, goal, strict=True))
        for layer, goal in zip(blocks.statistics(cut), exact, strict=True)
    ]
    assert max(gaps) < 1e-4
    approximate = blocks.statistics(rough)
    assert torch.allclose(approximate[0][1], exact[0][1], rtol=1e-4), "the first layer is exact in one pass too"
    assert not torch.allclose(approximate[-1][1], exact[-1][1], rtol=1e-4), "deeper ones are not"


def test_collecting_leaves_no_hook_and_no_training_mode_behind(bn_model, image):
    blocks.collect_statistics_(bn_model, [image])
    once = blocks.statistics(bn_model)
    blocks.predictor(bn_model)(image * 3 + image**2)
    assert all(torch.equal(a, b) for a, b in zip(once[0], blocks.statistics(bn_model)[0], strict=True))
    assert not any(m.training for m in bn_model.modules())


def test_an_untrained_copy_depends_on_rng_alone_and_leaves_the_model(bn_model):
    before = copy.deepcopy(bn_model.state_dict())
    first, again = (blocks.untrained(bn_model, generator(1, "a")) for _ in range(2))
    other = blocks.untrained(bn_model, generator(2, "a"))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    kernel = "network.encoder.0.body.0.weight"
    assert not torch.equal(first.state_dict()[kernel], other.state_dict()[kernel])
    assert not torch.equal(first.state_dict()[kernel], before[kernel])
    assert all(torch.equal(mean, torch.zeros_like(mean)) for mean, _ in blocks.statistics(first))
    assert all(torch.equal(value, before[name]) for name, value in bn_model.state_dict().items())
    assert first.normalise == bn_model.normalise


def test_a_layer_that_cannot_be_initialised_anew_is_refused(bn_model):
    bn_model.network.extra = nn.ParameterList([torch.zeros(2)])
    with pytest.raises(NotApplicable, match="extra"):
        blocks.untrained(bn_model, generator(0))


def test_entropy_is_ln_k_for_equal_logits_and_zero_for_certain_ones():
    assert torch.allclose(blocks.entropy(torch.zeros(2, 4, 5, 5)), torch.tensor(math.log(4)))
    certain = torch.full((1, 3, 2, 2), -1e4)
    certain[:, 1] = 1e4
    certain.requires_grad_(True)
    values = blocks.entropy(certain)
    values.sum().backward()
    assert torch.equal(values, torch.zeros(1, 2, 2)) and not certain.grad.any()


def test_balanced_entropy_weighs_foreground_and_background_equally():
    logits = torch.zeros(1, 2, 1, 10)
    logits[0, 0, 0, 1:] = 5.0  # nine certain background positions, one undecided foreground position
    logits[0, 1, 0, 0] = 0.1
    values = blocks.entropy(logits)[0, 0]
    expected = (values[0] + values[1:].mean()) / 2
    assert torch.allclose(blocks.balanced_entropy(logits), expected)
    assert float(blocks.balanced_entropy(logits)) > 3 * float(values.mean())


def test_balanced_entropy_without_foreground_is_the_plain_mean():
    logits = torch.zeros(1, 2, 1, 4)
    logits[:, 0] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert torch.equal(blocks.balanced_entropy(logits), blocks.entropy(logits).mean())


def body(gamma: float) -> tuple[torch.Tensor, torch.Tensor]:
    """A body with a bright rim of fat around darker organs, in noisy air."""
    rng = generator(0, "body", gamma)
    y, x = np.meshgrid(*[np.linspace(-1, 1, 96)] * 2, indexing="ij")
    radius = np.sqrt((y / 0.6) ** 2 + (x / 0.8) ** 2)
    signal = np.select([radius > 1, radius > 0.85, radius > 0.6], [0.0, 1.0, 0.25], 0.45)
    noisy = np.abs(signal + rng.normal(0, 0.02, (4, 96, 96))) ** gamma
    return torch.from_numpy(noisy[None].astype(np.float32)), torch.from_numpy(radius <= 1).expand(4, 96, 96)


@pytest.mark.parametrize("gamma", [0.45, 1.0, 2.2])
def test_the_body_is_found_under_gamma_with_its_dark_inside(gamma):
    volume, truth = body(gamma)
    found = blocks.body_mask(volume)
    assert float((found & truth).sum() / (found | truth).sum()) > 0.95


def test_a_crop_inside_the_body_and_a_constant_image_are_all_body():
    crop = torch.from_numpy(generator(0, "crop").normal(100, 20, (1, 5, 20, 20)).astype(np.float32))
    assert blocks.body_mask(crop).all()
    assert blocks.body_mask(torch.full((1, 8, 8), 3.0)).all()


finite = st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=200)


def test_mid_ranks_put_ties_in_their_middle():
    ranks = blocks.mid_ranks(torch.tensor([5.0, 1.0, 5.0, 9.0]))
    assert ranks.tolist() == [0.5, 0.125, 0.5, 0.875]


@settings(max_examples=50, deadline=None)
@given(finite, finite)
def test_matching_is_monotone_and_idempotent(values, goal):
    x, q = torch.tensor(values), blocks.quantile_function(torch.tensor(goal))
    once = blocks.match_quantiles(x, q)
    assert (once[x.argsort(stable=True)].diff() >= 0).all()
    spread = max(1.0, float(q.abs().max()))
    assert torch.allclose(blocks.match_quantiles(once, q), once, atol=1e-4 * spread)


def test_matched_values_have_the_goals_quantiles():
    rng = generator(0, "quantiles")
    q = blocks.quantile_function(torch.from_numpy(rng.gamma(2.0, 10.0, 5000)))
    matched = blocks.match_quantiles(torch.from_numpy(rng.normal(0, 1, 20000).astype(np.float32)), q)
    own = blocks.quantile_function(matched)
    assert (own[1:-1] >= q[:-2] - 1e-4).all() and (own[1:-1] <= q[2:] + 1e-4).all(), "within one bin"


def test_matching_ignores_a_strictly_increasing_map_of_the_image():
    values = torch.from_numpy(generator(0, "increasing").uniform(1, 100, 3000).astype(np.float32)).round()
    q = torch.linspace(0, 1, 1024)
    assert torch.equal(blocks.match_quantiles(values, q), blocks.match_quantiles(values**3 / 7, q))


def test_matching_to_its_own_quantiles_returns_the_values():
    values = torch.from_numpy(generator(0, "own").normal(0, 1, 1024).astype(np.float32))
    assert torch.allclose(blocks.match_quantiles(values, blocks.quantile_function(values)), values, atol=1e-6)


@pytest.fixture
def pair():
    rng = generator(0, "fda")
    return (torch.from_numpy(rng.uniform(0, 1, (2, 33, 48)).astype(np.float32)) for _ in range(2))


def test_a_band_is_empty_for_beta_zero_and_never_for_a_small_beta():
    assert blocks.low_frequency_width((1, 64, 128), 0.0) == 0
    assert blocks.low_frequency_width((1, 64, 128), 0.01) == 1
    assert blocks.low_frequency_width((1, 200, 300), 0.05) == 10
    assert blocks.low_frequency_width((1, 9, 9), 0.9) == 4, "below the Nyquist frequency"


@pytest.mark.parametrize("b", [1, 3, 8])
def test_swapping_in_the_own_amplitude_returns_the_image(pair, b):
    image, _ = pair
    same = blocks.swap_low_frequencies(image, blocks.low_frequency_amplitude(image, b))
    assert torch.allclose(same, image, atol=1e-6)


@pytest.mark.parametrize("b", [1, 3, 8])
def test_the_swap_is_symmetric_so_the_result_is_real(pair, b):
    image, style = pair
    spectrum = blocks.swapped_spectrum(image, blocks.low_frequency_amplitude(style, b))
    assert float(torch.fft.ifft2(spectrum, norm="forward").imag.abs().max()) < 1e-6


def test_the_swap_transfers_the_mean_and_keeps_the_phase(pair):
    image, style = pair
    out = blocks.swap_low_frequencies(image, blocks.low_frequency_amplitude(style, 2))
    assert torch.allclose(out.mean((1, 2)), style.mean((1, 2)), atol=1e-6)
    before, after = torch.fft.fft2(image), torch.fft.fft2(out)
    strong = before.abs() > 1e-2 * before.abs().amax()
    turned = (before / before.abs() - after / after.abs()).abs()
    assert strong.sum() > 20 and float(turned[strong].max()) < 1e-3
    assert torch.allclose(blocks.low_frequency_amplitude(out, 2), blocks.low_frequency_amplitude(style, 2), atol=1e-6)


def test_a_template_serves_another_matrix_size_at_the_same_cycles_per_field_of_view():
    def wave(h, w):
        y, x = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
        return (3 + torch.cos(2 * torch.pi * y) + 0.5 * torch.sin(2 * torch.pi * (x + 2 * y)))[None]

    small, large = (blocks.low_frequency_amplitude(wave(*s), 3) for s in ((32, 32), (64, 80)))
    assert torch.allclose(small, large, atol=1e-5) and float(small[0, 3, 3]) == pytest.approx(3.0)
