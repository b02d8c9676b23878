"""Activation memory against what torch keeps and allocates, and the textbook's figure."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from shiftbench.backbones import Backbone
from shiftbench.networks import Normalise, UNet, activation_memory, build, total_bytes
from shiftbench.networks.memory import kept_activations
from shiftbench.tasks import Task

FLOAT = 4
GIB = 2**30
CLASSICAL = Backbone(widths=(32, 64, 128, 256), convolutions=2)


def built(name, dimension=2):
    return build(name, dimension=dimension, channels=1, task=Task(3), normalise=Normalise(), patch=(32,) * dimension)


def unet(dimension):
    return UNet(CLASSICAL, dimension=dimension, channels=1, outputs=3)


def test_a_convolution_a_norm_and_an_activation_by_hand():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.01, inplace=True), nn.Conv2d(4, 2, 1)
    )
    rows = activation_memory(network, (2, 1, 8, 8))
    of_four_channels = 2 * 4 * 8 * 8 * FLOAT
    assert [(r.layer, r.shape) for r in rows] == [*((str(i), (2, 4, 8, 8)) for i in range(3)), ("3", (2, 2, 8, 8))]
    mean_and_deviation = 2 * 4 * FLOAT
    # the norm keeps its input and two numbers per channel; its output is activated in place; the input is there anyway
    assert [r.bytes for r in rows] == [of_four_channels, of_four_channels + mean_and_deviation, 0, 0]
    assert total_bytes(rows) == 2 * of_four_channels + mean_and_deviation
    assert total_bytes(rows, "1") == rows[1].bytes


NAMES = ("unet_bn", "unet_in", "unet_gn", "unet_bn_residual", "unet_bn_linear", "unet_bn_shuffle", "unet_bn_dropout")


@pytest.mark.parametrize("name", [*NAMES, "monai_unet_bn", "dynunet_in", "segresnet_gn"])
def test_the_meta_device_counts_what_autograd_keeps_on_the_cpu(name):
    model = built(name)
    expected = activation_memory(model, (2, 1, 64, 32))
    found = kept_activations(model.train(), torch.randn(2, 1, 64, 32))
    assert [r[:2] for r in found] == [r[:2] for r in expected]
    assert total_bytes(found) == total_bytes(expected) > 0


def test_it_does_so_in_3d():
    model = built("unet_in", 3)
    expected = activation_memory(model, (1, 1, 32, 32, 32))
    assert kept_activations(model.train(), torch.randn(1, 1, 32, 32, 32)) == expected


@pytest.mark.parametrize(
    ("name", "dimension"), [("unet_bn", 2), ("unet_bn_residual", 2), ("unet_bn_nearest", 2), ("unet_bn", 3)]
)
def test_a_forward_pass_leaves_just_that_much_allocated_on_the_cpu(name, dimension):
    model = built(name, dimension).train()
    x = torch.randn(2, 1, *(32,) * dimension)
    expected = total_bytes(activation_memory(model, x.shape))
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        out = model.network(x)
    allocated = sum(event.self_cpu_memory_usage for event in record.key_averages())
    assert allocated - out.untyped_storage().nbytes() == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_forward_pass_leaves_about_that_much_allocated_on_a_gpu():
    model = built("unet_bn", 3).cuda().train()
    x = torch.randn(2, 1, 64, 64, 64, device="cuda")
    expected = total_bytes(activation_memory(model, x.shape))
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    out = model.network(x)
    allocated = torch.cuda.memory_allocated() - before - out.untyped_storage().nbytes()
    assert expected <= allocated < 1.05 * expected


def test_a_volume_of_128_slices_needs_128_times_the_early_activations_of_one():
    volume, plane = activation_memory(unet(3), (1, 1, 128, 256, 256)), activation_memory(unet(2), (1, 1, 256, 256))
    first_convolution = [next(r for r in rows if r.layer == "encoder.0.body.0") for rows in (volume, plane)]
    assert first_convolution[0].bytes == 128 * first_convolution[1].bytes == 32 * 128 * 256 * 256 * FLOAT == GIB
    statistics = 2 * 2 * 32 * FLOAT  # of two norms, the same for any size
    early = [total_bytes(rows, "encoder.0") for rows in (volume, plane)]
    assert early[0] - statistics == 128 * (early[1] - statistics)
    assert total_bytes(volume) > 13 * GIB and 90 < total_bytes(volume) / total_bytes(plane) < 128


def test_deeper_levels_of_a_volume_shrink_faster_than_those_of_a_slice():
    rows = [activation_memory(unet(d), (1, 1, *(64,) * d)) for d in (2, 3)]
    shares = [total_bytes(found, "bottleneck") / total_bytes(found, "encoder.0") for found in rows]
    # three halvings take 4**3 of the positions of a slice and 8**3 of a volume; widths grow by 8
    assert shares[0] / shares[1] == pytest.approx(8, rel=0.02)


def test_the_network_stays_on_its_device_in_its_mode_and_without_hooks():
    model = built("unet_bn").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    activation_memory(model, (2, 1, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(m.training or m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_half_precision_halves_it():
    rows = [activation_memory(unet(2).to(dtype), (1, 1, 64, 64)) for dtype in (torch.float32, torch.bfloat16)]
    assert total_bytes(rows[1]) == pytest.approx(total_bytes(rows[0]) / 2, rel=0.01)
