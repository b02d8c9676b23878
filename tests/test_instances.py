"""Instances: ids that fit the labels, what heads are taught, and decoding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from shiftbench.instances import decode, head_loss, head_targets, separate, settled
from shiftbench.instances.ids import connected, grown
from shiftbench.rng import generator
from shiftbench.tasks import Task

NUCLEI = Task(2, "instance", (1,), ("boundary", "distance"), min_voxels=0)


def discs(shape, centres, radius) -> np.ndarray:
    """Ids of discs or balls of one radius; a voxel that several hold is of the one whose centre is nearest."""
    axes = np.indices(shape)
    distances = [np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True))) for centre in centres]
    nearest = np.argmin(distances, axis=0)
    return np.where(np.min(distances, axis=0) <= radius, nearest + 1, 0).astype(np.int32)


def perfect_outputs(reference, ids, task) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and heads of a network that has learnt its targets."""
    labels, instances = torch.from_numpy(reference).long(), torch.from_numpy(ids)
    logits = 8.0 * torch.nn.functional.one_hot(labels, task.classes).movedim(-1, 0).float()
    targets = head_targets(labels, instances, task)
    return logits.log_softmax(0), torch.logit(targets.clamp(1e-4, 1 - 1e-4))


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two id maps are equal but for the names of the ids."""
    pairs = set(zip(one.ravel().tolist(), other.ravel().tolist(), strict=True))
    return (
        len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        and (one > 0).sum() == ((one > 0) & (other > 0)).sum()
    )


def fits(labels, ids, things) -> None:
    """Every voxel has exactly one class and one id: things 1 to n, each of one class, all else 0."""
    assert np.array_equal(ids > 0, np.isin(labels, things))
    numbers = np.unique(ids[ids > 0])
    assert np.array_equal(numbers, np.arange(1, len(numbers) + 1))
    assert all(len(np.unique(labels[ids == number])) == 1 for number in numbers)


maps = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7).flatmap(
    lambda s: st.tuples(
        hnp.arrays(np.uint8, s, elements=st.integers(0, 3)), hnp.arrays(np.int32, s, elements=st.integers(0, 4))
    )
)


@settings(max_examples=150, deadline=None)
@given(pair=maps, things=st.sampled_from([(), (1,), (3, 1), (1, 2, 3)]))
def test_settled_ids_give_every_voxel_one_class_and_one_id(pair, things):
    labels, given_ids = pair
    for ids in (settled(labels, given_ids, things), settled(labels, None, things)):
        fits(labels, ids, things)
    ids = settled(labels, given_ids, things)
    assert np.array_equal(settled(labels, ids, things), ids)
    for label in things:  # an id that was given keeps its voxels together, and apart from others
        inside = (labels == label) & (given_ids > 0)
        assert same_partition(given_ids[inside], ids[inside])


@settings(max_examples=100, deadline=None)
@given(
    pair=maps,
    kind=st.sampled_from(["instance", "panoptic"]),
    how=st.sampled_from(["watershed", "components"]),
    heads=st.sampled_from([(), ("boundary",), ("distance",), ("boundary", "distance")]),
    min_voxels=st.integers(0, 6),
    seed=st.integers(0, 5),
)
def test_decoding_gives_every_voxel_one_class_and_one_id_whatever_the_outputs(pair, kind, how, heads, min_voxels, seed):
    labels, _ = pair
    task = Task(4, kind, (1, 3), heads, how, min_voxels)
    rng = generator(seed, "heads")
    scores = torch.from_numpy(rng.normal(size=(4, *labels.shape))).log_softmax(0)
    raw = torch.from_numpy(rng.normal(scale=3, size=(len(heads), *labels.shape)))
    decoded, ids = decode(scores, raw, task)
    fits(decoded, ids, task.things)
    assert decoded.dtype == np.uint8 and ids.dtype == np.int32
    sizes = np.bincount(ids.ravel())[1:]
    assert all(size >= min_voxels for size in sizes)
    likeliest = scores.argmax(0).numpy()
    assert np.array_equal(decoded[decoded > 0], likeliest[decoded > 0])
    if min_voxels < 2:
        assert np.array_equal(decoded, likeliest)


def test_a_margin_goes_to_the_nearest_instance_and_a_component_without_ids_becomes_one():
    labels = np.zeros((9, 24), np.uint8)
    labels[2:7, 1:15] = 1
    labels[3:6, 18:22] = 1
    given_ids = np.zeros(labels.shape, np.int16)
    given_ids[3:6, 2:5], given_ids[3:6, 10:14] = 7, 40
    ids = settled(labels, given_ids, (1,))
    assert set(np.unique(ids)) == {0, 1, 2, 3}
    assert (ids[2:7, 1:7] == 1).all() and (ids[2:7, 9:15] == 2).all()
    assert (ids[3:6, 18:22] == 3).all()


def test_an_id_on_two_things_becomes_two_instances_and_one_outside_things_none():
    labels = np.array([[1, 1, 2, 2, 3, 0]], np.uint8)
    ids = settled(labels, np.full(labels.shape, 5), (1, 2))
    assert ids.tolist() == [[1, 1, 2, 2, 0, 0]]


@settings(max_examples=150, deadline=None)
@given(mask=hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=9)))
def test_components_are_those_of_scipy_with_corners(mask):
    expected, n = ndimage.label(mask, np.ones((3,) * mask.ndim))
    assert same_partition(connected(mask), expected) and connected(mask).max() == n


def test_a_component_that_cc3d_splits_when_it_is_given_bools_is_one():
    mask = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]], bool)
    assert connected(mask).max() == 2


def test_markers_do_not_leave_the_mask_nor_reach_what_is_not_connected_to_them():
    mask = np.array([[1, 1, 1, 0, 1, 1]], bool)
    assert grown(np.array([[2, 0, 0, 9, 0, 0]]), mask).tolist() == [[2, 2, 2, 0, 0, 0]]


@pytest.mark.parametrize("shape", [(9, 11), (5, 7, 8)])
def test_boundaries_are_the_voxels_whose_face_neighbours_are_something_else(shape):
    ids = generator(1, "ids", list(shape)).integers(0, 3, shape)
    reference = np.where(ids > 0, 1, 0)
    task = Task(2, "instance", (1,), ("boundary",))
    found = head_targets(torch.from_numpy(reference), torch.from_numpy(ids), task)[0].numpy()
    expected = np.zeros(shape)
    for index in np.ndindex(*shape):
        for axis in range(len(shape)):
            for step in (-1, 1):
                other = list(index)
                other[axis] += step
                if 0 <= other[axis] < shape[axis] and ids[tuple(other)] != ids[index] and ids[index] > 0:
                    expected[index] = 1
    assert np.array_equal(found, expected)


def test_relative_distances_equal_brute_force_per_instance_and_end_at_one():
    ids = np.where(discs((24, 30), [(10, 9)], 7), 1, 2 * discs((24, 30), [(12, 19)], 4))
    spacing = (2.0, 1.0)
    task = Task(2, "instance", (1,), ("distance",))
    reference = torch.from_numpy((ids > 0).astype(np.uint8))
    found = head_targets(reference, torch.from_numpy(ids), task, spacing=spacing)[0].numpy()
    points = np.argwhere(np.ones(ids.shape)) * spacing
    for number in (1, 2):
        own = np.argwhere(ids == number) * spacing
        others = points[(ids != number).ravel()]
        nearest = np.sqrt(((own[:, None] - others[None]) ** 2).sum(-1)).min(1)
        assert found[ids == number] == pytest.approx(nearest / nearest.max(), abs=1e-5)
    assert (found[ids == 0] == 0).all()


def test_touching_instances_have_a_boundary_between_them_and_the_border_of_the_array_is_none():
    ids = np.repeat([[1, 1, 1, 2, 2, 2]], 5, axis=0)
    boundary, distance = head_targets(torch.ones(5, 6), torch.from_numpy(ids), NUCLEI)
    assert boundary[0].tolist() == [0, 0, 1, 1, 0, 0] and (boundary == boundary[0]).all()
    assert distance[2].tolist() == pytest.approx([1, 2 / 3, 1 / 3, 1 / 3, 2 / 3, 1])


def test_an_instance_that_fills_the_patch_has_finite_targets():
    boundary, distance = head_targets(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.int32), NUCLEI)
    assert (boundary == 0).all() and (distance == 1).all()
    empty = head_targets(torch.zeros(4, 4), torch.zeros(4, 4, dtype=torch.int32), NUCLEI)
    assert empty.shape == (2, 4, 4) and (empty == 0).all()


def test_stuff_has_no_head_targets_even_where_ids_were_left_on_it():
    reference = torch.tensor([[1, 1, 1, 0, 2, 2, 2]] * 3)
    task = Task(3, "panoptic", (1,), ("boundary", "distance"))
    targets = head_targets(reference, torch.full((3, 7), 4, dtype=torch.int32), task)
    assert (targets[:, reference != 1] == 0).all() and targets[1, reference == 1].min() > 0


@pytest.mark.parametrize("heads", [("boundary",), ("distance",), ("boundary", "distance")])
@pytest.mark.parametrize("how", ["watershed", "components"])
@pytest.mark.parametrize(
    ("shape", "centres"), [((40, 60), [(20, 15), (20, 28), (20, 46)]), ((20, 24, 40), [(10, 12, 11), (10, 12, 23)])]
)
def test_touching_instances_are_told_apart_by_perfect_heads_and_are_one_without(heads, how, shape, centres):
    ids = discs(shape, centres, 8)
    reference = (ids > 0).astype(np.uint8)
    task = Task(2, "instance", (1,), heads, how)
    log_probabilities, raw = perfect_outputs(reference, ids, task)
    labels, found = decode(log_probabilities, raw, task)
    assert np.array_equal(labels, reference) and found.max() == len(centres)
    agreement = [np.mean(found[ids == i] == np.bincount(found[ids == i]).argmax()) for i in range(1, len(centres) + 1)]
    assert min(agreement) > 0.97
    _, merged = decode(log_probabilities, None, task)
    assert merged.max() == ndimage.label(reference, np.ones((3,) * len(shape)))[1] < len(centres)


@pytest.mark.parametrize(("how", "first_of_the_second"), [("watershed", 13), ("components", 10)])
def test_watershed_meets_where_the_distance_is_least_and_components_halfway_between_the_cores(how, first_of_the_second):
    profile = np.array([0.9] * 4 + [0.35, 0.33, 0.3, 0.28, 0.25, 0.2, 0.15, 0.1, 0.05, 0.05, 0.2, 0.6, 0.9, 0.9])
    raw = np.repeat(np.log(profile / (1 - profile))[None], 5, axis=0)[None]
    _, ids = separate(np.ones((5, 18), np.uint8), raw, Task(2, "instance", (1,), ("distance",), how))
    assert ids.max() == 2 and abs(int((ids[2] == 1).sum()) - first_of_the_second) <= 1


def test_an_instance_too_thin_for_a_core_is_kept_as_one():
    reference = np.zeros((12, 20), np.uint8)
    reference[3:5, 2:18] = 1
    task = Task(2, "instance", (1,), ("boundary",))
    labels, ids = decode(*perfect_outputs(reference, reference.astype(np.int32), task), task)
    assert np.array_equal(labels, reference) and ids.max() == 1


def test_instances_below_the_smallest_size_become_background_and_those_of_that_size_stay():
    labels = np.zeros((6, 12), np.uint8)
    labels[1:3, 1:3], labels[1:4, 6:8], labels[5, 0] = 1, 1, 2
    kept, ids = separate(labels, None, Task(3, "panoptic", (1,), min_voxels=6))
    assert (kept[1:3, 1:3] == 0).all() and (kept[1:4, 6:8] == 1).all() and kept[5, 0] == 2
    assert ids.max() == 1 and (ids[1:4, 6:8] == 1).all()


def test_learning_the_heads_makes_their_loss_small_and_unlearning_it_large():
    ids = discs((40, 60), [(20, 15), (20, 28)], 8)
    reference = (ids > 0).astype(np.uint8)
    _, raw = perfect_outputs(reference, ids, NUCLEI)
    labels = torch.from_numpy(reference)
    targets = head_targets(labels, torch.from_numpy(ids), NUCLEI)
    right = head_loss(raw[None], targets[None], labels[None], NUCLEI)
    wrong = head_loss(-raw[None], targets[None], labels[None], NUCLEI)
    silent = head_loss(torch.zeros_like(raw)[None], targets[None], labels[None], NUCLEI)
    assert right < 0.01 and right < silent < wrong


def test_the_head_loss_has_finite_gradients_without_any_thing_in_half_precision_and_without_heads():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        raw = torch.full((2, 2, 5, 6), 60.0, dtype=dtype, requires_grad=True)
        nothing = torch.zeros(2, 5, 6)
        loss = head_loss(raw, torch.zeros(2, 2, 5, 6), nothing, NUCLEI)
        loss.backward()
        assert loss.isfinite() and raw.grad.isfinite().all() and loss.dtype == torch.float32
    assert head_loss(torch.zeros(2, 0, 5, 6), torch.zeros(2, 0, 5, 6), nothing, Task(2)) == 0


def test_boundaries_the_rest_of_things_and_everything_else_weigh_the_same():
    reference, target = torch.zeros(1, 10, 10), torch.zeros(1, 1, 10, 10)
    reference[:, :3, :3], target[..., 0, 0] = 1, 1
    task = Task(2, "instance", (1,), ("boundary",))
    raw = torch.zeros(1, 1, 10, 10, requires_grad=True)
    head_loss(raw, target, reference, task).backward()
    pull = raw.grad[:, 0]
    assert pull[:, 0, 0].sum() == pytest.approx(-1 / 6)
    assert pull[reference == 0].sum() == pytest.approx(1 / 6) and pull.sum() == pytest.approx(1 / 6)


def test_speckle_in_the_heads_makes_no_instances():
    ids = discs((40, 60), [(20, 15), (20, 28), (20, 46)], 8)
    reference = (ids > 0).astype(np.uint8)
    log_probabilities, raw = perfect_outputs(reference, ids, NUCLEI)
    noise = torch.from_numpy(generator(0, "speckle").normal(scale=1.0, size=raw.shape))
    _, found = decode(log_probabilities, raw + noise, NUCLEI)
    assert found.max() == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_targets_and_loss_stay_on_the_device_and_agree_with_the_cpu():
    ids = torch.from_numpy(discs((40, 60), [(20, 15), (20, 28)], 8))
    reference = (ids > 0).to(torch.uint8)
    here, there = head_targets(reference, ids, NUCLEI), head_targets(reference.cuda(), ids.cuda(), NUCLEI)
    assert there.is_cuda and torch.equal(here, there.cpu())
    raw = torch.randn(1, 2, 40, 60, generator=torch.Generator().manual_seed(0))
    on_gpu = head_loss(raw.cuda(), there[None], reference.cuda()[None], NUCLEI)
    assert float(on_gpu) == pytest.approx(float(head_loss(raw, here[None], reference[None], NUCLEI)), rel=1e-4)


def test_ignored_voxels_train_no_head():
    task = Task(2, "instance", (1,), ("boundary", "distance"))
    reference = torch.zeros(1, 6, 6, dtype=torch.long)
    reference[0, 1:4, 1:4] = 1
    targets = head_targets(reference[0], reference[0], task)[None]
    heads = torch.zeros(1, 2, 6, 6, requires_grad=True)
    ignore = torch.zeros(1, 6, 6, dtype=torch.bool)
    ignore[0, 3:] = True
    head_loss(heads, targets, reference, task, ignore=ignore).backward()
    assert not heads.grad[0, :, 3:].any() and heads.grad[0, :, :3].abs().sum() > 0
    spoilt = targets.clone()
    spoilt[:, :, 3:] = 0.9
    with torch.no_grad():
        same = [head_loss(heads, t, reference, task, ignore=ignore) for t in (targets, spoilt)]
        assert torch.equal(*same) and not torch.equal(
            *(head_loss(heads, t, reference, task) for t in (targets, spoilt))
        )
