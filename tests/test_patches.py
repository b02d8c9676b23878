"""Patch sampling: what a batch holds in 2-D, 2.5-D and 3-D, how often structures are met, and resuming."""

import json
import warnings
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from shiftbench.backbones import Backbone
from shiftbench.errors import SpecError
from shiftbench.networks import Normalise, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train.augment import AUGMENTATIONS
from shiftbench.train.patches import PatchSampler
from shiftbench.types import LabelledSet, Recipe

IDENTITY = Normalise("window", (-1.0, 1.0))  # raw values within [-1, 1] stay as they are


def network(dimension=3, stack=1, task=None, channels=1):
    return build(
        Backbone(widths=(4, 8), convolutions=1),
        dimension=dimension,
        channels=channels,
        task=task or Task(4),
        normalise=IDENTITY,
        patch=(8,) * dimension,
        stack=stack,
    )


def recipe(patch, batch=4, augmentation="none", share=0.5):
    return Recipe("t", 1, 1, batch, patch, 1e-3, augmentation=augmentation, foreground_share=share)


def coded(*shapes, channels=1):
    """Cases whose voxels hold their own position, case number and channel, and whose references follow from them."""
    images, references = [], []
    for i, shape in enumerate(shapes):
        voxels = torch.arange(int(np.prod(shape)), dtype=torch.float32).reshape(shape)
        images.append(torch.stack([voxels / 4096 + 0.01 * i - 0.5 * c for c in range(channels)]))
        references.append((voxels.long() % 7 % 4).to(torch.uint8))
    return LabelledSet(images, references, [str(i) for i in range(len(shapes))])


def found(patch, volume):
    """Where `patch` occurs in `volume` (both (c, *s)), as the position of its first voxel, or None."""
    for start in np.argwhere(np.isclose(volume[0].numpy(), float(patch[(0,) * patch.ndim]), atol=1e-6)):
        index = tuple(slice(a, a + n) for a, n in zip(start, patch.shape[1:], strict=True))
        cut = volume[(slice(None), *index)]
        if cut.shape == patch.shape and torch.equal(cut, patch):
            return tuple(start.tolist())
    return None


@pytest.mark.parametrize("dimension", [2, 3])
def test_patches_are_pieces_of_the_cases_with_their_references(dimension):
    data = coded((6, 12, 14), (9, 10, 12), channels=2)
    patch = (4, 8, 6) if dimension == 3 else (8, 6)
    model = network(dimension, channels=2)
    sampler = PatchSampler(model, data, recipe(patch, batch=8), generator(0))
    seen = set()
    for images, references in islice(sampler, 4):
        assert images.shape == (8, 2, *patch) and references.shape == (8, *patch) and references.dtype == torch.int64
        for x, y in zip(images, references, strict=True):
            x = x if dimension == 3 else x[:, None]
            places = [found(x, model.normalise(case)) for case in data.images]
            assert sum(p is not None for p in places) == 1
            case = next(i for i, p in enumerate(places) if p is not None)
            z, r, c = places[case]
            d, h, w = x.shape[1:]
            cut = data.references[case][z : z + d, r : r + h, c : c + w].long()
            assert torch.equal(y if dimension == 3 else y[None], cut)
            seen.add((case, z))
    assert len(seen) > 4


@pytest.mark.parametrize("stack", [3, 5])
def test_a_stack_holds_the_neighbours_channel_by_channel_and_repeats_the_edges(stack):
    data = coded((4, 10, 10), channels=2)
    model = network(2, stack=stack, channels=2)
    volume = model.normalise(data.images[0])
    slices = set()
    for images, references in islice(PatchSampler(model, data, recipe((8, 8), batch=8), generator(0)), 4):
        assert images.shape == (8, 2 * stack, 8, 8)
        for x, y in zip(images.reshape(8, 2, stack, 8, 8), references, strict=True):
            z, r, c = found(x[:, stack // 2][:, None], volume)
            for j in range(stack):
                neighbour = min(max(z + j - stack // 2, 0), 3)
                assert torch.equal(x[:, j], volume[:, neighbour, r : r + 8, c : c + 8])
            assert torch.equal(y, data.references[0][z, r : r + 8, c : c + 8].long())
            slices.add(z)
    assert slices == {0, 1, 2, 3}


def test_two_dimensional_images_serve_two_and_a_half_dimensional_networks():
    images, references = next(iter(PatchSampler(network(2, 3), coded((12, 12)), recipe((8, 8)), generator(0))))
    assert images.shape == (4, 3, 8, 8) and references.shape == (4, 8, 8)
    assert torch.equal(images[:, 0], images[:, 2])


def test_a_share_of_each_batch_is_centred_on_structures_drawn_uniformly():
    data = coded((16, 16, 16))
    rare = torch.zeros(16, 16, 16, dtype=torch.uint8)
    rare[2:14, 2:14, 2:14] = 1
    rare[8, 8, 8] = 3
    data = LabelledSet(data.images, [rare], ["a"])
    sampler = PatchSampler(network(), data, recipe((4, 4, 4), batch=10, share=0.6), generator(0))
    met = np.zeros(4)
    for _, references in islice(sampler, 100):
        centres = references[:6, 2, 2, 2]
        met += np.bincount(centres.numpy(), minlength=4)
        assert (centres > 0).all()
    assert met[[1, 3]] / met.sum() == pytest.approx([0.5, 0.5], abs=0.06)


def test_without_any_structure_patches_lie_anywhere():
    data = coded((12, 12, 12))
    data = LabelledSet(data.images, [torch.zeros(12, 12, 12, dtype=torch.uint8)], ["a"])
    images, references = next(iter(PatchSampler(network(), data, recipe((8, 8, 8)), generator(0))))
    assert images.shape == (4, 1, 8, 8, 8) and not references.any()


def test_a_case_smaller_than_the_patch_is_padded_with_its_minimum_and_background():
    data = coded((5, 12, 12))
    data = LabelledSet([data.images[0] - 0.25], [torch.ones(5, 12, 12, dtype=torch.uint8)], ["a"])
    images, references = next(iter(PatchSampler(network(), data, recipe((8, 8, 8)), generator(0))))
    assert torch.equal(images[:, :, 5:], torch.full((4, 1, 3, 8, 8), float(data.images[0].min())))
    assert not references[:, 5:].any() and references[:, :5].all()


def test_a_patch_off_the_stride_is_rounded_up_with_one_warning():
    with pytest.warns(UserWarning, match=r"\(9, 8, 7\).*stride 2.*\(10, 8, 8\)") as heard:
        sampler = PatchSampler(network(), coded((12, 12, 12)), recipe((9, 8, 7)), generator(0))
    assert len(heard) == 1 and next(iter(sampler))[0].shape == (4, 1, 10, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PatchSampler(network(), coded((12, 12, 12)), recipe((8, 8, 8)), generator(0))


def test_a_patch_of_other_axes_than_the_network_is_refused():
    with pytest.raises(SpecError, match="2 axes"):
        PatchSampler(network(), coded((12, 12, 12)), recipe((8, 8)), generator(0))


@pytest.mark.parametrize("augmentation", list(AUGMENTATIONS))
@pytest.mark.parametrize(("dimension", "stack"), [(2, 1), (2, 3), (3, 1)])
def test_a_resumed_sampler_yields_the_same_bytes(augmentation, dimension, stack):
    model, data, order = (
        network(dimension, stack),
        coded((9, 12, 12), (6, 14, 10)),
        recipe((8,) * dimension, 6, augmentation),
    )
    whole = PatchSampler(model, data, order, generator(3))
    first = list(islice(whole, 6))
    stopped = PatchSampler(model, data, order, generator(3))
    list(islice(stopped, 3))
    state = json.loads(json.dumps(stopped.state()))
    assert state["drawn"] == stopped.drawn == 3
    resumed = PatchSampler(model, data, order, generator(3))
    resumed.restore_(state)
    for old, new in zip(first[3:], islice(resumed, 3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(old, new, strict=True))
    assert resumed.drawn == whole.drawn == 6
    assert not torch.equal(first[0][0], first[3][0])


@pytest.mark.parametrize("augmentation", ["light", "nnunet"])
@pytest.mark.parametrize(("dimension", "patch"), [(2, (8, 8)), (3, (8, 8, 8)), (3, (2, 8, 8))])
def test_batches_of_every_list_are_finite_whole_and_larger_than_the_data(augmentation, dimension, patch):
    sampler = PatchSampler(network(dimension), coded((9, 12, 12)), recipe(patch, 16, augmentation), generator(0))
    for images, references in islice(sampler, 3):
        assert images.shape == (16, 1, *patch) and references.shape == (16, *patch)
        assert torch.isfinite(images).all() and references.min() >= 0 and references.max() <= 3


def test_a_warp_reads_the_case_beyond_the_patch():
    """In the middle of a large constant reference nothing enters from outside, whatever the rotation."""
    reference = torch.ones(48, 48, 48, dtype=torch.uint8)
    reference[24, 24, 24] = 2
    data = LabelledSet([torch.zeros(1, 48, 48, 48)], [reference], ["a"])
    sampler = PatchSampler(network(), data, recipe((8, 8, 8), 16, "nnunet", share=1.0), generator(0))
    sampler.bank.classes = np.array([2])
    for _, references in islice(sampler, 4):
        assert (references > 0).all()


@pytest.mark.parametrize(("dimension", "stack"), [(2, 1), (2, 3), (3, 1)])
def test_a_warp_turns_and_scales_a_patch_about_its_own_centre(monkeypatch, dimension, stack):
    """The mean of a linear image over a box is its value at the centre, whatever the turn and the factor."""
    monkeypatch.setitem(AUGMENTATIONS, "turned", replace(AUGMENTATIONS["nnunet"], intensity=(), p_mirror=0.0))
    axes = torch.meshgrid(*(torch.arange(48.0) for _ in range(3)), indexing="ij")
    reference = torch.zeros(48, 48, 48, dtype=torch.uint8)
    reference[20:28, 20:28, 20:28] = 1
    data = LabelledSet([(0.004 * axes[0] + 0.007 * axes[1] - 0.006 * axes[2])[None]], [reference], ["a"])
    order, model = recipe((8,) * dimension, 32, "turned", share=1.0), network(dimension, stack)
    turned, _ = next(iter(PatchSampler(model, data, order, generator(0))))
    plain, _ = next(iter(PatchSampler(model, data, replace(order, augmentation="none"), generator(0))))
    assert not torch.allclose(turned, plain, atol=1e-2)
    torch.testing.assert_close(turned.flatten(2).mean(2), plain.flatten(2).mean(2), atol=1e-4, rtol=0)


def test_samples_that_drew_no_warp_are_untouched_and_stay_in_their_place(monkeypatch):
    monkeypatch.setitem(AUGMENTATIONS, "half", replace(AUGMENTATIONS["nnunet"], intensity=(), p_mirror=0.0))
    data, model = coded((20, 20, 20)), network()
    warped, plain = (PatchSampler(model, data, recipe((8, 8, 8), 32, name), generator(5)) for name in ("half", "none"))
    (x, y), (x0, y0) = next(iter(warped)), next(iter(plain))
    same = [torch.equal(a, b) for a, b in zip(x, x0, strict=True)]
    assert 0.4 < np.mean(same) < 0.9
    assert [torch.equal(a, b) for a, b in zip(y, y0, strict=True)] == same


@pytest.mark.parametrize(("dimension", "augmentation"), [(2, "none"), (3, "none"), (2, "nnunet"), (3, "nnunet")])
def test_head_targets_are_the_third_element_and_move_with_the_image(dimension, augmentation):
    task = Task(4, kind="instance", things=(1,), heads=("boundary", "distance"))
    reference = torch.zeros(16, 20, 20, dtype=torch.uint8)
    reference[4:12, 5:15, 5:15] = 1
    data = LabelledSet([reference[None].float()], [reference], ["a"], [reference.to(torch.int32)])
    sampler = PatchSampler(
        network(dimension, task=task), data, recipe((12,) * dimension, 8, augmentation), generator(0)
    )
    for images, references, targets in islice(sampler, 3):
        assert targets.shape == (8, 2, *(12,) * dimension) and images.shape[1] == 1
        outside = torch.where(references > 0, torch.zeros_like(targets[:, 1]), targets[:, 1])
        assert float(targets[:, 1].max()) > 0.3
        assert float((outside > 0.5).float().mean()) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("augmentation", list(AUGMENTATIONS))
def test_batches_on_a_gpu_are_made_without_waiting_for_it(augmentation):
    model = network().cuda()
    sampler = iter(PatchSampler(model, coded((20, 20, 20)), recipe((8, 8, 8), 8, augmentation), generator(0)))
    next(sampler)
    torch.cuda.set_sync_debug_mode("error")
    try:
        images, references = next(sampler)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert images.is_cuda and references.is_cuda
