"""The checkerboard diagnostic: closed forms, and what up-sampling layers make of constant and of smooth images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shiftbench.networks.checkerboard import (
    UPSAMPLERS,
    Decoder,
    checkerboard_energy,
    coarse,
    overlap_energy,
    smooth_images,
    trained_decoders,
)
from shiftbench.rng import generator

EVEN = [name for name in UPSAMPLERS if name != "transposed 3/2"]


def alternating(n: int, dimension: int, *values: float) -> torch.Tensor:
    """The outer product of a pattern along every axis, (1, 1, *s)."""
    line = torch.tensor(values, dtype=torch.float64).repeat(n // len(values))
    out = torch.ones((1,) * (dimension + 2), dtype=torch.float64)
    for axis in range(dimension):
        out = out * line.reshape([-1 if a == axis + 2 else 1 for a in range(dimension + 2)])
    return out


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_pattern_of_one_to_two_has_its_closed_form(dimension):
    share = 1 - 0.9**dimension  # along one axis 0.5**2 of the mean square (1 + 4) / 2
    assert checkerboard_energy(alternating(32, dimension, 1, 2)) == pytest.approx(share, abs=1e-9)


def test_a_pure_checkerboard_has_all_of_its_energy_there_and_a_slower_pattern_none():
    assert checkerboard_energy(alternating(32, 2, 1, -1)) == pytest.approx(1)
    assert checkerboard_energy(alternating(32, 2, 1, 1, -1, -1)) < 1e-12
    assert checkerboard_energy(torch.full((2, 3, 32, 32), 7.0)) < 1e-12
    assert checkerboard_energy(torch.zeros(1, 1, 32, 32)) == 0


def test_the_unit_of_the_image_does_not_matter_and_smooth_images_have_none():
    images = smooth_images(generator(0, "smooth"), 4)
    assert checkerboard_energy(images) < 1e-12
    noisy = images + 0.1 * torch.from_numpy(generator(0, "noise").standard_normal(images.shape))
    assert checkerboard_energy(noisy) == pytest.approx(checkerboard_energy(1000 * noisy))
    assert 0 < checkerboard_energy(noisy) < checkerboard_energy(noisy, band=0.25) < 0.1


def test_images_too_small_for_the_band_are_refused():
    with pytest.raises(ValueError, match="too small"):
        checkerboard_energy(torch.zeros(1, 1, 16, 16))


@pytest.mark.parametrize("dimension", [2, 3])
def test_a_kernel_that_the_stride_does_not_divide_overlaps_unevenly(dimension):
    layer = UPSAMPLERS["transposed 3/2"].layer(1, 1, dimension).requires_grad_(False)
    for parameter in layer.parameters():
        parameter.fill_(float(parameter.ndim > 1))
    out = layer(torch.ones(1, 1, *(8,) * dimension))[(0, 0, *(slice(4, 12),) * dimension)]
    assert out.unique().tolist() == [2.0**i for i in range(dimension + 1)], "1 : 2 : 4 (: 8) terms"
    assert overlap_energy(UPSAMPLERS["transposed 3/2"], dimension=dimension) == pytest.approx(
        1 - 0.9**dimension, abs=1e-9
    )


@pytest.mark.parametrize("name", EVEN)
def test_the_others_overlap_evenly(name):
    assert overlap_energy(UPSAMPLERS[name]) < 1e-12


def first_layers(name, seed):
    torch.manual_seed(seed)
    return UPSAMPLERS[name].layer(8, 8, 2).requires_grad_(False)


def test_icnr_takes_the_checkerboard_of_a_fresh_sub_pixel_convolution_away():
    x = smooth_images(generator(0, "input"), 8, size=32).reshape(1, 8, 32, 32).expand(4, 8, 32, 32)
    plain, icnr, nearest = (
        sum(checkerboard_energy(first_layers(name, seed)(x)[..., 4:-4, 4:-4]) for seed in range(3))
        for name in ("sub-pixel", "sub-pixel, ICNR", "nearest, convolution")
    )
    assert plain > 20 * icnr and icnr < 4 * nearest


def test_before_training_even_a_kernel_that_the_stride_divides_has_one_for_its_weights_differ():
    x = torch.ones(1, 8, 36, 36)
    energies = {n: checkerboard_energy(first_layers(n, 0)(x)[..., 4:-4, 4:-4]) for n in UPSAMPLERS}
    assert all(energies[n] > 1e-3 for n in ("transposed 2/2", "transposed 4/2", "transposed 3/2", "sub-pixel"))
    assert all(energies[n] < 1e-12 for n in ("nearest, convolution", "linear, convolution", "sub-pixel, ICNR"))


def test_a_decoder_multiplies_the_size_by_four_and_undoes_the_blocks():
    images = smooth_images(generator(0, "blocks"), 2)
    assert coarse(images).shape == (2, 1, 16, 16)
    assert all(Decoder(u)(coarse(images)).shape == images.shape for u in UPSAMPLERS.values())


def test_training_is_the_same_each_time_and_leaves_torchs_generator():
    state = torch.get_rng_state()
    runs = [list(trained_decoders(UPSAMPLERS["transposed 2/2"], (0, 3), size=48)) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert [step for step, _, _ in runs[0]] == [0, 3]
    assert all(torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0][1], runs[0][1][1])


@pytest.mark.slow
def test_a_short_training_leaves_more_of_it_where_the_stride_does_not_divide_the_kernel():
    after = {}
    for name in ("transposed 3/2", "transposed 4/2", "linear, convolution"):
        *_, (_, _, after[name]) = trained_decoders(UPSAMPLERS[name], (0, 200))
    assert after["transposed 3/2"] > 2 * after["transposed 4/2"] > 20 * after["linear, convolution"]


def test_without_icnr_a_sub_pixel_convolution_starts_as_any_convolution():
    torch.manual_seed(0)
    layer = UPSAMPLERS["sub-pixel"].layer(2, 3, 2)
    groups = layer.weight.detach().reshape(3, 4, -1)
    assert isinstance(layer, nn.Conv2d) and not torch.equal(groups[:, 0], groups[:, 1])
