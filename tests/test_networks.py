"""The U-Net and its choices, and how its features are read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from shiftbench import blocks
from shiftbench.backbones import BACKBONES, Backbone, backbone_named
from shiftbench.errors import NotApplicable, SpecError
from shiftbench.networks import Normalise, Normalised, UNet, build
from shiftbench.networks.upsample import SubPixelConv2d, SubPixelConv3d, linear_interpolation, pixel_shuffle, upsampling
from shiftbench.rng import generator
from shiftbench.tasks import Task

SMALL = Backbone(widths=(4, 6, 8), convolutions=1)
UPS = [{"up": up} for up in ("nearest", "linear", "shuffle")] + [{"up_kernel": k} for k in (2, 3, 4, 5)]
CHOICES = [
    *UPS,
    *({"skips": False}, {"residual": True}, {"norm": "instance"}, {"norm": "group"}, {"dropout": 0.5}),
    *({"stem_stride": 2}, {"convolutions": 3}, {"widths": (4, 8)}, {"widths": (3, 5, 7, 9)}),
    *({"stem_stride": 2, "up": "shuffle"}, {"stem_stride": 2, "up_kernel": 3}, {"deep_supervision": 1}),
]


def unet(dimension=2, channels=1, outputs=3, **choices) -> UNet:
    torch.manual_seed(0)
    return UNet(replace(SMALL, **choices), dimension=dimension, channels=channels, outputs=outputs)


def built(name, dimension=2, *, stack=1, channels=1, classes=3, rng=None) -> Normalised:
    return build(
        name,
        dimension=dimension,
        channels=channels,
        task=Task(classes),
        normalise=Normalise(),
        patch=(32,) * dimension,
        stack=stack,
        rng=rng,
    )


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_every_choice_keeps_the_grid_and_gives_every_parameter_a_gradient(choices, dimension):
    network = unet(dimension, channels=2, **choices)
    x = torch.randn(2, 2, *((16, 24) if dimension == 2 else (8, 16, 16)))
    out = network.eval()(x)
    assert out.shape == (2, 3, *x.shape[2:])
    trained = network.train()(x)
    torch.cat([y.square().flatten() for y in (trained if isinstance(trained, list) else [trained])]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_choice_changes_one_thing_alone():
    table = {name: spec for name, spec in BACKBONES.items() if spec.network == "unet" and "wide" not in name}
    light = BACKBONES["unet_bn"]
    for name, spec in table.items():
        differ = {field for field in vars(spec) if getattr(spec, field) != getattr(light, field)}
        assert len(differ) == (name != "unet_bn"), (name, differ)


def test_without_skips_the_input_reaches_the_output_through_the_bottleneck_alone():
    x = torch.randn(1, 1, 16, 16)

    def moves_with_the_input_where_the_bottleneck_is_silent(network):
        network.bottleneck.register_forward_hook(lambda m, i, out: torch.zeros_like(out))
        return not torch.equal(network.eval()(x), network(x + 1))

    assert moves_with_the_input_where_the_bottleneck_is_silent(unet(skips=True))
    assert not moves_with_the_input_where_the_bottleneck_is_silent(unet(skips=False))


def test_a_residual_level_with_silent_convolutions_passes_its_input_on():
    level = unet(residual=True, convolutions=2).decoder[-1]
    inputs = level.shortcut.weight.shape[1]
    for module in level.body:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)
    x = torch.randn(2, inputs, 8, 8)
    assert torch.equal(level(x), functional.leaky_relu(level.shortcut(x), level.activation.negative_slope))


def test_deep_supervision_speaks_only_while_training_and_the_finest_first():
    network = unet(widths=(4, 5, 6, 7, 8), deep_supervision=2)
    x = torch.randn(1, 1, 32, 32)
    assert [y.shape[-1] for y in network.train()(x)] == [32, 16, 8]
    assert isinstance(network.eval()(x), torch.Tensor)
    model = built("unet_bn_deep")
    deep = model.train().outputs(torch.randn(2, 1, 32, 32)).deep
    assert [y.shape[-1] for y in deep] == [8, 4] and not model.eval().outputs(torch.randn(2, 1, 32, 32)).deep


def test_dropout_drops_whole_channels_and_only_while_training():
    network = unet(dropout=0.5, norm="instance")
    seen = []
    network.bottleneck.register_forward_hook(lambda m, i, out: seen.append(out))
    x = torch.randn(8, 1, 16, 16)
    network.train()(x)
    network.eval()(x)
    dropped = [(out == 0).flatten(2).all(2) for out in seen]
    assert 0 < dropped[0].float().mean() < 1 and not dropped[1].any()


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"up_kernel": 1}, "leaves gaps"),
        ({"up": "spline"}, "unknown up-sampling 'spline'"),
        ({"stem_stride": 3}, "stem's stride is 3"),
        ({"deep_supervision": 2}, "choose at most 1"),
        ({"widths": (4,)}, "two levels"),
    ],
)
def test_choices_that_do_not_fit_are_refused_in_one_sentence(choices, words):
    with pytest.raises(SpecError, match=words):
        unet(**choices)


@pytest.mark.parametrize("name", [n for n in BACKBONES if n.startswith("unet")])
def test_a_networks_total_stride_is_what_sizes_are_padded_to(name):
    model, spec = built(name), backbone_named(name)
    seen = []
    model.network.bottleneck.register_forward_hook(lambda m, i, out: seen.append(out))
    model.eval()(torch.zeros(1, 1, 2 * spec.stride, 3 * spec.stride))
    assert seen[0].shape[2:] == (2, 3) and model.stride == spec.stride


def test_weights_depend_on_the_generator_alone():
    one, same, other = (built("unet_bn", rng=generator(seed, "w")).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not torch.equal(one["network.encoder.0.body.0.weight"], other["network.encoder.0.body.0.weight"])


def test_a_stack_of_slices_enters_as_channels():
    model = built("unet_bn", stack=3, channels=2)
    assert model.network.encoder[0].body[0].in_channels == 6
    assert model.eval()(torch.zeros(1, 6, 32, 32)).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("norm", ["unet_bn", "unet_in", "unet_gn"])
def test_every_norm_has_learnt_scale_and_shift(norm):
    layers = blocks.norm_layers(built(norm))
    assert len(layers) == 7 and all(layer.weight.requires_grad and layer.bias.requires_grad for layer in layers)


@pytest.mark.parametrize(("dimension", "kernel"), [(2, 2), (2, 3), (2, 4), (2, 5), (3, 3), (3, 4)])
def test_any_kernel_from_the_stride_on_doubles_the_size(dimension, kernel):
    layer = upsampling("transposed", 2, 3, dimension=dimension, kernel=kernel)
    assert layer(torch.zeros(1, 2, *(5,) * dimension)).shape == (1, 3, *(10,) * dimension)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(2, 3))
def test_shuffling_in_2d_is_torchs(channels, h, w, factor):
    x = torch.arange(float(2 * channels * factor**2 * h * w)).reshape(2, -1, h, w)
    assert torch.equal(pixel_shuffle(x, factor), functional.pixel_shuffle(x, factor))


def test_shuffling_in_3d_puts_every_channel_at_its_offset():
    c, (d, h, w) = 2, (2, 3, 4)
    x = torch.randn(1, c * 8, d, h, w)
    out = pixel_shuffle(x, 2)
    for k, z, y, x_ in torch.cartesian_prod(torch.arange(c), *[torch.arange(2)] * 3).tolist():
        assert torch.equal(out[0, k, z::2, y::2, x_::2], x[0, 8 * k + 4 * z + 2 * y + x_])


@pytest.mark.parametrize(
    ("kind", "conv", "dimension"), [(SubPixelConv2d, functional.conv2d, 2), (SubPixelConv3d, functional.conv3d, 3)]
)
def test_a_sub_pixel_convolution_starts_as_a_nearest_neighbour_up_sampling_and_does_so_again(kind, conv, dimension):
    layer = upsampling("shuffle", 3, 2, dimension=dimension)
    assert isinstance(layer, kind)
    x = torch.randn(1, 3, *(6,) * dimension)
    before = layer.weight.detach().clone()
    layer.reset_parameters()
    assert not torch.equal(layer.weight, before)
    positions = 2**dimension
    plain = conv(x, layer.weight[::positions], layer.bias[::positions], padding=1)
    assert torch.allclose(layer(x), functional.interpolate(plain, scale_factor=2, mode="nearest"), atol=1e-6)


@pytest.mark.parametrize("name", ["encoder", "bottleneck", "penultimate", "head"])
def test_a_declared_feature_is_captured_with_its_gradient_and_no_hook_stays(name):
    model = built("unet_bn").eval()
    x = torch.randn(2, 1, 32, 32)
    with blocks.features(model, name) as seen:
        model(x)
        model(x + 1)
    model(x)
    assert len(seen) == 2 and not any(m._forward_hooks for m in model.modules())
    gradient = torch.autograd.grad(seen[0].square().sum(), model.network.encoder[0].body[0].weight)[0]
    assert gradient.abs().sum() > 0
    sizes = {"encoder": (64, 4), "bottleneck": (128, 2), "penultimate": (16, 16), "head": (3, 32)}
    assert (seen[0].shape[1], seen[0].shape[-1]) == sizes[name]


def test_the_head_makes_the_logits_from_the_penultimate_features():
    model = built("unet_in").eval()
    with blocks.features(model, "penultimate") as seen:
        logits = model(torch.randn(1, 1, 32, 32))
    assert torch.equal(model.network.head(seen[0]), logits)


def test_a_feature_that_is_not_declared_is_not_applicable():
    with pytest.raises(NotApplicable, match="declares no feature 'middle'; it declares encoder, bottleneck"):
        with blocks.features(built("unet_bn"), "middle"):
            pass
    bare = Normalised(nn.Conv2d(1, 2, 1), Normalise(), dimension=2, patch=(8, 8), stride=1, task=Task(2))
    with pytest.raises(NotApplicable, match="it declares none"):
        with blocks.features(bare, "bottleneck"):
            pass
    with pytest.raises(NotApplicable, match="declared features"):
        blocks.require(bare, "features")


def test_trilinear_interpolation_is_torchs():
    x = torch.randn(2, 3, 4, 5, 6)
    expected = functional.interpolate(x, scale_factor=2, mode="trilinear")
    assert torch.allclose(linear_interpolation(3)(x), expected, atol=1e-6)
