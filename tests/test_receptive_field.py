"""Receptive fields against the support of the gradient, and what they mean for volumes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.signal import convolve
from torch import nn

from shiftbench.backbones import Backbone, backbone_named
from shiftbench.errors import NotApplicable
from shiftbench.networks import Normalise, UNet, build, in_mm, receptive_field
from shiftbench.rng import generator
from shiftbench.tasks import Task

SMALL = Backbone(widths=(2, 2, 2), convolutions=1)
CLASSICAL = Backbone(widths=(2, 2, 2, 2), convolutions=2)  # three down-samplings, two convolutions per level


def unet(dimension=2, spec=SMALL, **choices) -> UNet:
    torch.manual_seed(1)
    return UNet(replace(spec, **choices), dimension=dimension, channels=1, outputs=2).double().eval()


def built(name, dimension, stack=1):
    return build(
        name,
        dimension=dimension,
        channels=1,
        task=Task(3),
        normalise=Normalise(),
        patch=(32,) * dimension,
        stack=stack,
    )


def gradient_support(network, at, size, dimension, period):
    """Largest extent, per axis, of the input that an output position depends on; norms are frozen (batch norm)."""
    seen = []
    hook = None if at == "output" else network.get_submodule(at).register_forward_hook(lambda m, i, o: seen.append(o))
    x = torch.randn(1, 1, *(size,) * dimension, dtype=torch.float64, requires_grad=True)
    out = network(x) if hook is None else (network(x), seen[0])[1]
    if hook is not None:
        hook.remove()
    middle = [n // 2 // period * period for n in out.shape[2:]]
    largest = np.zeros(dimension, int)
    offsets = product(range(period), repeat=dimension) if dimension == 2 else ((i,) * 3 for i in range(period))
    for offset in offsets:
        position = (0, slice(None), *(m + o for m, o in zip(middle, offset, strict=True)))
        gradient = torch.autograd.grad(out[position].sum(), x, retain_graph=True)[0][0, 0]
        where = gradient.nonzero().numpy()
        assert where.min() > 0 and where.max() < size - 1, "the image is too small to see the whole field"
        largest = np.maximum(largest, np.ptp(where, axis=0) + 1)
    return tuple(int(n) for n in largest)


CHOICES = [
    *({}, {"up_kernel": 3}, {"up_kernel": 4}, {"up": "nearest"}, {"up": "linear"}, {"up": "shuffle"}),
    *(
        {"skips": False},
        {"residual": True},
        {"stem_stride": 2},
        {"stem_stride": 2, "up": "linear"},
        {"convolutions": 2},
    ),
]


@pytest.mark.parametrize("choices", CHOICES, ids=str)
def test_the_analytic_field_is_the_support_of_the_gradient(choices):
    network = unet(**choices)
    assert (1, *gradient_support(network, "output", 128, 2, network.spec.stride)) == receptive_field(network)
    assert (1, *gradient_support(network, "bottleneck", 128, 2, 1)) == receptive_field(network, "bottleneck")


def test_in_3d_it_is_too():
    network = unet(3, widths=(2, 2))
    assert gradient_support(network, "output", 32, 3, 2) == receptive_field(network)
    assert gradient_support(network, "bottleneck", 32, 3, 1) == receptive_field(network, "bottleneck")


def test_anisotropic_dilated_and_pooling_layers_count_along_each_axis():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 2, (3, 5), padding=(1, 2), dilation=(2, 1)),
        nn.AvgPool2d((1, 2)),
        nn.Conv2d(2, 1, (1, 3)),
        nn.ConvTranspose2d(1, 1, (1, 4), stride=(1, 3), padding=(0, 1)),
    ).double()
    found = gradient_support(network, "output", 96, 2, 6)
    assert (1, *found) == receptive_field(network)


def test_closed_forms_of_the_classical_network():
    # k = 3 throughout: 1 + 2 * (1 + 1) on the first level, then 2 * (half the step + the step) at each of three more
    assert receptive_field(unet(spec=CLASSICAL), "encoder.0") == (1, 5, 5)
    assert receptive_field(unet(spec=CLASSICAL), "bottleneck") == (1, 47, 47)
    assert receptive_field(nn.Conv2d(1, 1, 7)) == (1, 7, 7)


def test_along_z_a_2d_network_sees_one_slice_a_stack_its_slices_and_a_volume_more_with_depth():
    for widths in ((2, 2), (2, 2, 2), (2, 2, 2, 2)):
        assert receptive_field(unet(widths=widths))[0] == 1
    assert receptive_field(built("unet_bn", 2, stack=3))[0] == 3
    assert receptive_field(built("unet_bn_wide", 2, stack=5))[0] == 5
    depths = [receptive_field(unet(3, widths=(2,) * n))[0] for n in (2, 3, 4, 5)]
    assert depths == [7, 17, 33, 65]


def test_three_down_samplings_see_less_than_the_depth_of_a_volume_of_256_by_256_by_128():
    voxels = receptive_field(unet(3, spec=CLASSICAL), "bottleneck")
    assert voxels == (47, 47, 47) and max(voxels) < 128
    assert in_mm(voxels, (3.0, 1.0, 1.0)) == (141.0, 47.0, 47.0), "of a depth of 384 mm"


def test_norms_skips_and_deep_outputs_do_not_change_it():
    same = {receptive_field(built(name, 2)) for name in ("unet_bn", "unet_in", "unet_gn", "unet_bn_deep")}
    assert len(same) == 1
    assert receptive_field(unet(skips=False)) == receptive_field(unet())


def test_other_networks_are_followed_where_their_graph_can_be():
    assert receptive_field(built("monai_unet_bn", 2)) == (1, 39, 39)
    assert receptive_field(built("dynunet_in", 2), "bottleneck") == (1, 47, 47)
    with pytest.raises(NotApplicable, match="graph of a SwinUNETR cannot be followed"):
        receptive_field(built("swinunetr", 2))


def test_what_is_not_known_is_said_by_name():
    class Odd(nn.Module):
        def forward(self, x):
            return x.cumsum(-1)

    with pytest.raises(NotApplicable, match="what 'cumsum'"):
        receptive_field(Odd())
    with pytest.raises(NotApplicable, match="no submodule 'middle'"):
        receptive_field(unet(), "middle")
    with pytest.raises(NotApplicable, match="with gaps"):
        receptive_field(nn.ConvTranspose2d(1, 1, 2, stride=3))
    with pytest.raises(NotApplicable, match="aligned corners"):
        receptive_field(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))


def test_the_network_is_left_as_it_was():
    network = unet().train()
    receptive_field(network)
    assert all(m.training for m in network.modules()) and not any(m._forward_hooks for m in network.modules())


def test_a_learnt_kernel_under_cross_correlation_is_the_flipped_kernel_under_convolution():
    rng = generator(0, "kernel")
    layer = nn.Conv2d(1, 1, (3, 4), bias=False).double()
    image, blur = rng.standard_normal((20, 24)), rng.standard_normal((3, 4))
    goal = torch.from_numpy(convolve(image, blur, mode="valid"))[None, None]
    x = torch.from_numpy(image)[None, None]
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        loss = (layer(x) - goal).square().mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    learnt = layer.weight.detach().numpy()[0, 0]
    assert np.allclose(learnt, blur[::-1, ::-1], atol=1e-5) and not np.allclose(learnt, blur, atol=0.1)
    assert np.allclose(layer(x).detach().numpy()[0, 0], convolve(image, learnt[::-1, ::-1], mode="valid"), atol=1e-6)


def test_the_light_defaults_still_have_three_levels_of_context():
    assert backbone_named("unet_bn").stride == 16
    assert receptive_field(built("unet_bn", 3), "bottleneck") == (31, 31, 31)
