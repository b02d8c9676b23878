"""The bank of cases: windows inside and outside of volumes, repeated slices, and the positions of structures."""

import numpy as np
import pytest
import torch

from shiftbench.backbones import Backbone
from shiftbench.errors import DataError
from shiftbench.networks import Normalise, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train import bank as module
from shiftbench.train.bank import IGNORE, CaseBank, Volumes
from shiftbench.types import LabelledSet

SHAPES = np.array([[5, 7, 9], [3, 12, 8], [1, 6, 6]])


def network(dimension=3, stack=1, task=None):
    return build(
        Backbone(widths=(4, 8), convolutions=1),
        dimension=dimension,
        channels=2,
        task=task or Task(3),
        normalise=Normalise(),
        patch=(8,) * dimension,
        stack=stack,
    )


def volumes(channels=2):
    store = Volumes(SHAPES, channels, torch.float32, torch.device("cpu"), False)
    rng = generator(0, "volumes")
    for i, shape in enumerate(SHAPES):
        store.put_(i, torch.from_numpy(rng.normal(size=(channels, *shape)).astype(np.float32)), minimum_outside=True)
    return store


def cases(*shapes, labels=(1, 2)):
    rng = generator(0, "cases")
    images = [torch.from_numpy(rng.normal(size=(2, *s)).astype(np.float32)) for s in shapes]
    references = [torch.from_numpy(rng.choice([0, *labels], s).astype(np.uint8)) for s in shapes]
    return LabelledSet(images, references, [str(i) for i in range(len(shapes))])


def expected(store, case, start, size, repeat):
    """One window, voxel by voxel."""
    volume = store.volumes[case]
    c, *shape = volume.shape
    out = torch.empty(c, *size)
    for at in np.ndindex(*size):
        voxel = [a + s for a, s in zip(at, start, strict=True)]
        if repeat:
            voxel[0] = min(max(voxel[0], 0), shape[0] - 1)
        inside = all(0 <= v < n for v, n in zip(voxel, shape, strict=True))
        out[(slice(None), *at)] = volume[(slice(None), *voxel)] if inside else volume.flatten(1).amin(1)
    return out


@pytest.mark.parametrize("repeat", [False, True])
@pytest.mark.parametrize("size", [(2, 4, 5), (3, 9, 10), (1, 3, 3)])
def test_windows_are_those_found_voxel_by_voxel_also_beyond_the_ends(size, repeat):
    store, rng = volumes(), generator(1, list(size))
    picked = rng.integers(0, 3, 12)
    starts = rng.integers(-4, 8, (12, 3))
    truth = torch.stack([expected(store, c, s, size, repeat) for c, s in zip(picked, starts.tolist(), strict=True)])
    assert torch.equal(store.sliced(picked, starts, size, repeat=repeat), truth)
    assert torch.equal(store.gathered(picked, starts, size, repeat=repeat), truth)


def test_windows_far_outside_are_all_minimum():
    store = volumes()
    for read in (store.sliced, store.gathered):
        out = read(np.array([1]), np.array([[50, -50, 0]]), (2, 2, 2))
        assert torch.equal(out[0], store.outside[1].view(-1, 1, 1, 1).expand(-1, 2, 2, 2))


def test_references_outside_are_background():
    store = Volumes(SHAPES, 1, torch.uint8, torch.device("cpu"), False)
    for i, shape in enumerate(SHAPES):
        store.put_(i, torch.full(tuple(shape), 2, dtype=torch.uint8), minimum_outside=False)
    for read in (store.sliced, store.gathered):
        out = read(np.array([0, 1]), np.array([[-1, 0, 0], [0, 0, 0]]), (2, 2, 2))
        assert out[0, 0, 0].eq(0).all() and out[0, 0, 1].eq(2).all() and out[1].eq(2).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_windows_on_a_gpu_are_those_of_the_cpu_without_waiting_for_it():
    here, there = volumes(), Volumes(SHAPES, 2, torch.float32, torch.device("cuda"), False)
    for i in range(len(SHAPES)):
        there.put_(i, here.volumes[i], minimum_outside=True)
    rng = generator(2)
    picked, starts = rng.integers(0, 3, 12), rng.integers(-4, 8, (12, 3))
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = there.windows(picked, starts, (3, 4, 5))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), here.windows(picked, starts, (3, 4, 5)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cases_that_do_not_fit_stay_in_pinned_memory(monkeypatch):
    monkeypatch.setattr(module, "DEVICE_SHARE", 0.0)
    bank = CaseBank(network().cuda(), cases((8, 8, 8)), generator(0))
    assert bank.images.flat.is_pinned()
    out = bank.windows(bank.images, np.array([0]), np.array([[0, 0, 0]]), (4, 4, 4))
    assert out.is_cuda and torch.equal(out.cpu()[0], bank.images.volumes[0][:, :4, :4, :4])


def test_cases_of_varied_shape_are_kept_normalised():
    model, data = network(), cases((8, 9, 10), (12, 8, 8))
    bank = CaseBank(model, data, generator(0))
    for i in range(2):
        assert torch.equal(bank.images.volumes[i], model.normalise(data.images[i]))
        assert torch.equal(bank.references.volumes[i][0], data.references[i])
    assert bank.references.flat.dtype == torch.uint8 and len(bank) == 2


def test_centres_lie_on_the_structure_that_was_asked_for_and_cover_it_evenly():
    data = cases((6, 7, 8), (5, 5, 5))
    bank = CaseBank(network(), data, generator(0))
    labels = np.repeat(bank.classes, 2000)
    picked, centres = bank.centres_on(labels, generator(1))
    found = [int(data.references[c][tuple(at)]) for c, at in zip(picked, centres.tolist(), strict=True)]
    assert found == labels.tolist()
    assert np.bincount(picked) / len(picked) == pytest.approx([0.5, 0.5], abs=0.05)
    seen = {(c, *at) for c, at in zip(picked.tolist(), centres.tolist(), strict=True)}
    assert len(seen) > 0.99 * sum(int((r > 0).sum()) for r in data.references)


def test_a_structure_is_looked_for_only_where_it_occurs():
    data = cases((6, 6, 6), (6, 6, 6), labels=(1,))
    data.references[1][2, 3, 4] = 2
    bank = CaseBank(network(), data, generator(0))
    picked, centres = bank.centres_on(np.full(20, 2), generator(0))
    assert (picked == 1).all() and (centres == [2, 3, 4]).all()


def test_candidates_are_capped(monkeypatch):
    monkeypatch.setattr(module, "POINTS_PER_CLASS", 10)
    bank = CaseBank(network(), cases((8, 8, 8)), generator(0))
    flat = bank.references.volumes[0].flatten().numpy()
    for (_, label), where in bank.points.items():
        assert len(np.unique(where)) == 10 and (flat[where] == label).all()


def test_ignored_voxels_are_no_structure():
    data = cases((6, 6, 6), labels=(1, IGNORE))
    bank = CaseBank(network(), data, generator(0))
    assert bank.classes.tolist() == [1] and bool((bank.references.flat == IGNORE).any())


@pytest.mark.parametrize(("dimension", "pieces"), [(3, 1), (2, 4)])
def test_targets_of_heads_are_those_of_the_case_or_of_its_slices(dimension, pieces):
    from shiftbench.instances import head_targets

    task = Task(3, kind="instance", things=(1, 2), heads=("boundary", "distance"))
    data = cases((4, 8, 8))
    instances = [(r > 0).to(torch.int32) for r in data.references]
    data = LabelledSet(data.images, data.references, data.patients, instances)
    bank = CaseBank(network(dimension, task=task), data, generator(0))
    r, i = data.references[0], instances[0]
    whole = head_targets(r, i, task)
    by_slice = torch.stack([head_targets(a, b, task) for a, b in zip(r, i, strict=True)], 1)
    assert bank.targets is not None and not torch.equal(whole, by_slice)
    assert torch.equal(bank.targets.volumes[0], whole if pieces == 1 else by_slice)


def test_bad_cases_are_refused_with_what_is_wrong():
    model, good = network(), cases((8, 8, 8))
    with pytest.raises(DataError, match="no labelled case"):
        CaseBank(model, LabelledSet([], [], []), generator(0))
    with pytest.raises(DataError, match="differ in shape"):
        CaseBank(model, LabelledSet(good.images, [good.references[0][1:]], ["a"]), generator(0))
    with pytest.raises(DataError, match="label 7"):
        CaseBank(model, cases((8, 8, 8), labels=(1, 7)), generator(0))
    with pytest.raises(DataError, match="2 axes"):
        CaseBank(model, cases((8, 8)), generator(0))
    heads = Task(3, kind="instance", things=(1,), heads=("distance",))
    with pytest.raises(DataError, match="counts instances"):
        CaseBank(network(task=heads), good, generator(0))
