"""Whole cases through a network: chunks, windows and flips agree with the whole; 2.5-D sees what it should."""

import pytest
import torch
from torch import nn

from shiftbench import inference
from shiftbench.inference import forward, outputs, pad_to_stride, stacks, tiles
from shiftbench.networks import Normalise, Normalised
from shiftbench.tasks import Task

RAW = Normalise("window", (-1.0, 1.0))  # raw values within [-1, 1] stay as they are
CONV = {2: nn.Conv2d, 3: nn.Conv3d}


def wrapped(network, dimension, *, stack=1, classes=2, heads=(), stride=4, patch=8):
    kind = "instance" if heads else "semantic"
    task = Task(classes, kind=kind, things=(1,) if heads else (), heads=heads)
    return Normalised(
        network, RAW, dimension=dimension, patch=(patch,) * dimension, stride=stride, task=task, stack=stack
    ).eval()


def local(dimension, stack=1, out=2, heads=(), channels=1):
    """A network that looks one voxel far."""
    torch.manual_seed(0)
    conv = CONV[dimension](channels * stack, out + len(heads), 3, padding=1, padding_mode="replicate")
    return wrapped(conv, dimension, stack=stack, classes=out, heads=heads)


def image(*shape, channels=1):
    return torch.rand(channels, *shape, generator=torch.Generator().manual_seed(1)) - 0.5


class Centre(nn.Module):
    """The middle slice of a stack, as it is."""

    def __init__(self, stack):
        super().__init__()
        self.stack = stack

    def forward(self, x):
        return x.unflatten(1, (-1, self.stack))[:, :, self.stack // 2]


class Picture(nn.Module):
    """One slice of a stack, as it is."""

    def __init__(self, stack, which):
        super().__init__()
        self.stack, self.which = stack, which

    def forward(self, x):
        return x.unflatten(1, (-1, self.stack))[:, :, self.which]


@pytest.mark.parametrize(("dimension", "shape"), [(2, (13, 18)), (2, (5, 13, 18)), (3, (9, 13, 18))])
def test_odd_sizes_are_padded_and_cropped_back(dimension, shape):
    model, x = local(dimension), image(*shape)
    out = forward(model, x)
    assert out.shape == (2, *shape)
    batch = x.movedim(1, 0) if len(shape) > dimension else x[None]
    with torch.no_grad():
        truth = model.network(batch)
    truth = truth.movedim(0, 1) if len(shape) > dimension else truth[0]
    torch.testing.assert_close(out, truth)


@pytest.mark.parametrize(("dimension", "shape"), [(2, (21, 30)), (3, (10, 21, 17))])
def test_sliding_windows_equal_the_whole_where_the_network_looks_only_near(monkeypatch, dimension, shape):
    conv = CONV[dimension](1, 2, 1)
    model, x = wrapped(conv, dimension), image(*shape)
    whole = forward(model, x)
    monkeypatch.setattr(inference, "MAX_POSITIONS", 100)
    assert len(list(tiles(model, x))) > 1
    torch.testing.assert_close(forward(model, x), whole, atol=1e-5, rtol=0)


def test_sliding_windows_come_close_to_the_whole_where_windows_end_inside_the_case(monkeypatch):
    model, axes = local(3), [torch.linspace(0, 6, n) for n in (12, 24, 20)]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij")).sin().mean(0, keepdim=True)
    whole = forward(model, x).detach()
    monkeypatch.setattr(inference, "MAX_POSITIONS", 100)
    slid = forward(model, x).detach()
    assert float((slid - whole).abs().mean()) < 0.05 * float(whole[0].std())
    assert not torch.allclose(slid, whole)


@pytest.mark.parametrize("stack", [1, 3, 5])
def test_chunks_of_slices_equal_the_whole(monkeypatch, stack):
    model, x = local(2, stack, channels=2), image(7, 12, 16, channels=2)
    whole, views = forward(model, x), torch.cat(list(tiles(model, x)))
    monkeypatch.setattr(inference, "MAX_POSITIONS", 2 * 12 * 16)
    torch.testing.assert_close(forward(model, x), whole)
    parts = list(tiles(model, x))
    assert [len(p) for p in parts] == [2, 2, 2, 1] and torch.equal(torch.cat(parts), views)


@pytest.mark.parametrize("stack", [3, 5])
@pytest.mark.parametrize("limit", [10**6, 2 * 12 * 16, 50])
def test_a_network_that_returns_the_middle_slice_gives_back_the_image(monkeypatch, stack, limit):
    monkeypatch.setattr(inference, "MAX_POSITIONS", limit)
    x = image(6, 12, 16, channels=2)
    torch.testing.assert_close(forward(wrapped(Centre(stack), 2, stack=stack), x), x)


def test_other_slices_of_a_stack_are_the_neighbours_and_the_edge_is_repeated():
    x = image(6, 12, 16)
    before = forward(wrapped(Picture(3, 0), 2, stack=3, classes=1), x)
    torch.testing.assert_close(before[:, 1:], x[:, :-1])
    torch.testing.assert_close(before[:, 0], x[:, 0])
    after = forward(wrapped(Picture(5, 4), 2, stack=5, classes=1), x)
    torch.testing.assert_close(after[:, :-2], x[:, 2:])
    torch.testing.assert_close(after[:, -2:], x[:, -1:].expand(-1, 2, -1, -1))


def test_a_single_plane_is_its_own_neighbour():
    x = image(12, 16, channels=2)
    torch.testing.assert_close(forward(wrapped(Picture(3, 0), 2, stack=3), x), x)
    assert [tuple(t.shape) for t in tiles(local(2, 3), image(12, 16))] == [(1, 3, 12, 16)]


def test_stacks_are_ordered_channel_by_channel():
    volume = torch.arange(2 * 4.0).view(2, 4, 1, 1)
    assert stacks(volume, 3, 0, 4)[:, :, 0, 0].tolist() == [
        [0, 0, 1, 4, 4, 5],
        [0, 1, 2, 4, 5, 6],
        [1, 2, 3, 5, 6, 7],
        [2, 3, 3, 6, 7, 7],
    ]


@pytest.mark.parametrize(("dimension", "shape"), [(2, (12, 16)), (2, (3, 12, 16)), (3, (8, 12, 16))])
def test_flips_change_nothing_for_a_network_that_treats_sides_alike(dimension, shape):
    model, x = local(dimension), image(*shape)
    weight = model.network.weight.data
    for subset in ([2], [3], [4])[:dimension]:
        weight.copy_((weight + weight.flip(subset)) / 2)
    torch.testing.assert_close(forward(model, x, flips=True), forward(model, x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("dimension", "shape"), [(2, (3, 12, 16)), (3, (8, 12, 16))])
def test_flips_are_the_mean_of_the_logits_of_all_mirrorings(dimension, shape):
    model, x = local(dimension), image(*shape)
    ours = forward(model, x, flips=True)
    axes = [-2, -1] if dimension == 2 else [-3, -2, -1]
    total, n = 0, 0
    for mask in range(2**dimension):
        chosen = [a for i, a in enumerate(axes) if mask >> i & 1]
        total, n = total + forward(model, x.flip(chosen)).flip(chosen), n + 1
    torch.testing.assert_close(ours, total / n, atol=1e-5, rtol=0)
    assert not torch.allclose(ours, forward(model, x), atol=1e-3)


@pytest.mark.parametrize(("dimension", "shape"), [(2, (12, 16)), (2, (3, 12, 16)), (3, (8, 12, 16))])
@pytest.mark.parametrize("limit", [10**6, 100])
def test_heads_of_the_whole_case_follow_the_classes(monkeypatch, dimension, shape, limit):
    monkeypatch.setattr(inference, "MAX_POSITIONS", limit)
    model, x = local(dimension, heads=("boundary", "distance")), image(*shape)
    out = outputs(model, x)
    assert out.classes.shape == (2, *shape) and out.heads.shape == (2, *shape)
    assert torch.equal(out.classes, forward(model, x))
    plain = outputs(local(dimension), x)
    assert plain.heads.shape == (0, *shape)


def test_gradients_flow_to_the_network_and_the_image():
    model, x = local(2, 3), image(4, 12, 16).requires_grad_()
    forward(model, x, flips=True).sum().backward()
    assert x.grad is not None and float(model.network.weight.grad.abs().sum()) > 0


def test_gradients_over_tiles_add_up_to_those_of_the_whole(monkeypatch):
    gradients = []
    for limit in (10**6, 2 * 12 * 16):
        monkeypatch.setattr(inference, "MAX_POSITIONS", limit)
        model = local(2, 3)
        for tile in tiles(model, image(5, 12, 16)):
            model(tile).square().sum().backward()
        gradients.append(model.network.weight.grad)
    torch.testing.assert_close(*gradients)


def test_windows_of_tiles_cover_the_case(monkeypatch):
    monkeypatch.setattr(inference, "MAX_POSITIONS", 100)
    x = torch.arange(10 * 13 * 17, dtype=torch.float32).view(1, 10, 13, 17) / 3000
    windows = list(tiles(local(3), x))
    assert {tuple(w.shape) for w in windows} == {(1, 1, 8, 8, 8)}  # the last ones are moved inside, not cut
    seen = torch.cat([w.flatten() for w in windows])
    assert torch.isin(RAW(x).flatten(), seen).all()


def test_an_image_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match="3-D network"):
        forward(local(3), image(12, 16))


def test_the_border_is_repeated_up_to_the_stride():
    tile = pad_to_stride(torch.arange(5.0).view(1, 1, 1, 5), 4)
    assert tile.shape == (1, 1, 4, 8) and tile[0, 0, 3].tolist() == [0, 1, 2, 3, 4, 4, 4, 4]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_takes_a_share_of_its_memory():
    device = torch.device("cuda")
    total = torch.cuda.get_device_properties(device).total_memory
    positions = inference.max_positions(device)
    assert 0 < positions * inference.BYTES_PER_POSITION <= inference.DEVICE_SHARE * total
    model, x = local(3), image(9, 13, 18)
    torch.testing.assert_close(forward(model.cuda(), x.cuda()).cpu(), forward(local(3), x), atol=1e-4, rtol=0)
