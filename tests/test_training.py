"""The training loop: its bytes, what stops it, what it reports, and the loss of the source recipe."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shiftbench.backbones import Backbone
from shiftbench.errors import DataError, SpecError
from shiftbench.instances import head_loss
from shiftbench.losses import Objective
from shiftbench.networks import Normalise, build
from shiftbench.networks.wrapper import Outputs
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train import (
    IGNORE,
    NonFiniteLoss,
    Observed,
    OutOfMemory,
    PatchSampler,
    fit,
    fit_supervised,
    one_cycle,
    seeded,
)
from shiftbench.train.history import CHECK_EVERY, History
from shiftbench.train.supervised import Supervised
from shiftbench.types import LabelledSet, LossTerm, Recipe

RECIPE = Recipe("t", 6, 3, 2, (16, 16), 1e-2, augmentation="none")


def network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 2, 1)
        )


def batches(n, shape=(2, 1, 8, 8)):
    rng = np.random.default_rng(0)
    images = [torch.from_numpy(rng.normal(size=shape).astype(np.float32)) for _ in range(n)]
    return [(x, (x[:, 0] > 0).long()) for x in images]


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def cases(n=2, labels=(0, 1, 2), shape=(24, 24), seed=0):
    rng = np.random.default_rng(seed)
    references = [torch.from_numpy(rng.choice(labels, shape).astype(np.uint8)) for _ in range(n)]
    images = [
        r[None].float().clamp(max=3) + torch.from_numpy(rng.normal(0, 0.1, (1, *shape)).astype(np.float32))
        for r in references
    ]
    return LabelledSet(images, references, [f"p{i}" for i in range(n)])


THREE = Task(3)


def unet(task=THREE, **changes):
    backbone = Backbone(**({"widths": (4, 8), "convolutions": 1} | changes))
    return build(backbone, dimension=2, channels=1, task=task, normalise=Normalise(), patch=(16, 16))


def test_fit_is_the_bare_loop_to_the_byte():
    ours, bare, data = network(), network(), batches(10)
    losses = fit(ours, data, loss, steps=10, rng=generator(0, "t"), learning_rate=1e-2)
    optimiser, expected = torch.optim.AdamW(bare.parameters(), lr=1e-2, weight_decay=1e-4, fused=True), []
    bare.train()
    with seeded(generator(0, "t")):
        for i, batch in enumerate(data):
            optimiser.param_groups[0]["lr"] = 1e-2 * one_cycle(i, 10)
            optimiser.zero_grad()
            value = loss(bare, batch)
            value.backward()
            optimiser.step()
            expected.append(value.item())
    assert losses == expected
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), bare.state_dict().values(), strict=True))
    assert not any(m.training for m in ours.modules())


def test_fit_trains_only_the_parameters_it_is_given_and_leaves_torchs_generator_alone():
    model, before = network(), torch.get_rng_state()
    start = copy.deepcopy(model.state_dict())
    fit(model, batches(3), loss, steps=3, rng=generator(0, "t"), learning_rate=1e-2, parameters=[model[4].weight])
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, start[n])} - {
        n for n in start if "1." in n
    }
    assert changed == {"4.weight"} and torch.equal(before, torch.get_rng_state())


def test_batches_that_end_early_end_the_training():
    assert len(fit(network(), batches(2), loss, steps=5, rng=generator(0, "t"), learning_rate=1e-2)) == 2


def test_no_step_is_a_training_too():
    model = network()
    weight = model[0].weight.detach().clone()
    assert fit(model, batches(2), loss, steps=0, rng=generator(0, "t"), learning_rate=1e-2) == []
    assert torch.equal(weight, model[0].weight)


def poisoned_images(model, images):
    images[0, 0, 0, 0] = float("nan")


def huge_images(model, images):
    images.fill_(3e38)


def poisoned_weights(model, images):
    model[4].weight.data[0] = float("inf")


def poisoned_loss(model, images):
    return float("nan")


@pytest.mark.parametrize(
    "poison, cause",
    [
        (poisoned_images, "the images of its batch held NaN .* look for them in the training cases"),
        (poisoned_weights, "the weights 4.weight had become NaN or infinite; lower the learning rate"),
        (huge_images, "the output of layer 0 overflowed; lower the learning rate"),
        (poisoned_loss, "the network's outputs were finite, the loss of them was not; look at the options"),
    ],
)
def test_a_loss_that_is_not_finite_stops_the_training_with_its_cause(poison, cause):
    model, data = network(), batches(6)
    begun_with: list[Tensor] = []

    def step(model, batch):
        factor = (poison(model, batch[0]) if batch[0] is data[2][0] else None) or 1.0
        begun_with.append(model[0].weight.detach().clone())
        return factor * loss(model, batch)

    with pytest.raises(NonFiniteLoss, match=cause) as caught:
        fit(model, data, step, steps=6, rng=generator(0, "t"), learning_rate=1e-2)
    assert f"at step 3 of 6 (learning rate {1e-2 * one_cycle(2, 6):.3g})" in str(caught.value)
    assert torch.equal(model[0].weight, begun_with[2])  # the gradients of that step moved nothing
    assert type(pickle.loads(pickle.dumps(caught.value))) is NonFiniteLoss


@pytest.mark.parametrize("image, cause", [(1.0, "its batch was finite"), (float("inf"), "its batch held NaN")])
def test_on_a_gpu_losses_are_read_now_and_then_and_the_step_that_failed_is_still_named(image, cause):
    history = History(network(), loss, 200, lambda i: 0.1 * i, torch.device("cuda"))
    batch = (torch.full((1, 1, 2, 2), image), torch.zeros(1, 2, 2, dtype=torch.long))
    for i in range(CHECK_EVERY - 1):
        history.add(torch.tensor(float("nan") if i == 7 else 1.0), batch)
    assert not history.values  # nothing was read yet
    with pytest.raises(NonFiniteLoss, match=rf"nan at step 8 of 200 \(learning rate 0.7\): {cause}"):
        history.add(torch.tensor(1.0), batch)
    assert history.values == [1.0] * 7


def test_losses_that_are_read_late_are_the_same_in_the_same_order():
    history = History(network(), loss, 200, lambda i: 0.1, torch.device("cuda"))
    for i in range(2 * CHECK_EVERY + 3):
        history.add(torch.tensor(float(i)), torch.zeros(1))
    assert history.last() == 2 * CHECK_EVERY + 2 and history.read() == [float(i) for i in range(2 * CHECK_EVERY + 3)]


def test_an_observer_is_told_at_most_a_few_times_a_second_and_at_the_end():
    told, now = [], [100.0]

    def step(model, batch):
        now[0] += 0.1
        return loss(model, batch)

    observed = Observed(told.append, every_seconds=0.35, clock=lambda: now[0])
    losses = fit(
        *(network(), batches(10), step),
        **{"steps": 10, "rng": generator(0, "t"), "learning_rate": 1e-2, "observe": observed, "watch": lambda: 0.5},
    )
    assert [p.step for p in told] == [1, 5, 9, 10] and {p.steps for p in told} == {10}
    assert [p.loss for p in told] == [losses[p.step - 1] for p in told]
    assert [p.seconds_left for p in told] == pytest.approx([0.9, 0.5, 0.1, 0.0])
    assert {p.dsc for p in told} == {0.5}


def test_an_observer_changes_no_byte():
    models = [network(), network()]
    for model, observe in zip(models, (None, Observed(lambda _: None, every_seconds=0)), strict=True):
        fit(model, batches(5), loss, steps=5, rng=generator(0, "t"), learning_rate=1e-2, observe=observe)
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in models), strict=True))


class Stand:
    """A model that returns given outputs, and a sampler that has drawn given batches."""

    def __init__(self, classes, deep=(), heads=None, task=THREE, drawn=1, references=()):
        self.given = Outputs(classes, torch.zeros(len(classes), 0) if heads is None else heads, tuple(deep))
        self.task, self.drawn = task, drawn
        flat = torch.cat([r.flatten() for r in references]) if references else torch.zeros(1)
        self.bank = SimpleNamespace(references=SimpleNamespace(flat=flat))

    def outputs(self, images):
        return self.given


def logits(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def labels(*shape, seed=0):
    return torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))


def test_the_loss_is_that_of_the_recipe():
    x, y = logits(2, 3, 8, 8), labels(2, 8, 8)
    stand, terms = Stand(x), (LossTerm("cross_entropy", 2.0), LossTerm("dice", 0.5))
    ours = Supervised(stand, replace(RECIPE, loss=terms, class_weights=(1.0, 2.0, 3.0)), 10)(stand, (x, y))
    assert torch.equal(ours, Objective(terms, (1.0, 2.0, 3.0))(x, y))


def test_deep_supervision_halves_the_weight_of_every_level_and_reads_references_at_the_nearest_voxel():
    x, deep, y = logits(2, 3, 8, 8), [logits(2, 3, 4, 4, seed=1), logits(2, 3, 2, 2, seed=2)], labels(2, 8, 8)
    stand, objective = Stand(x, deep), Objective(RECIPE.loss)
    ours = Supervised(stand, RECIPE, 10)(stand, (x, y))
    expected = (4 * objective(x, y) + 2 * objective(deep[0], y[:, ::2, ::2]) + objective(deep[1], y[:, ::4, ::4])) / 7
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


def test_deep_levels_of_a_task_with_heads_train_their_classes():
    task = Task(3, "instance", (1, 2), ("distance",))
    x, deep, y = logits(2, 3, 8, 8), logits(2, 4, 4, 4, seed=1), labels(2, 8, 8)
    stand = Stand(x, [deep], heads=logits(2, 1, 8, 8, seed=2), task=task)
    targets = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    ours, objective = Supervised(stand, RECIPE, 10)(stand, (x, y, targets)), Objective(RECIPE.loss)
    classes = (2 * objective(x, y) + objective(deep[:, :3], y[:, ::2, ::2])) / 3
    expected = classes + head_loss(stand.given.heads, targets, y, task)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("drawn, progress", [(1, 0.0), (6, 0.5), (11, 1.0), (50, 1.0)])
def test_schedules_go_from_the_first_step_to_the_last(drawn, progress):
    x, y, terms = logits(2, 3, 8, 8), labels(2, 8, 8), (LossTerm("dice", 1.0, 0.0), LossTerm("focal", 0.0, 1.0))
    stand = Stand(x, drawn=drawn)
    ours = Supervised(stand, replace(RECIPE, loss=terms), 11)(stand, (x, y))
    assert torch.equal(ours, Objective(terms)(x, y, progress=progress))


def test_voxels_that_are_ignored_train_nothing_at_any_level():
    x, deep, y = logits(2, 3, 8, 8), logits(2, 3, 4, 4, seed=1), labels(2, 8, 8)
    y[0, :4] = IGNORE
    stand = Stand(x, [deep], references=[y])
    Supervised(stand, RECIPE, 10)(stand, (x, y)).backward()
    assert not x.grad[0, :, :4].any() and x.grad[0, :, 4:].any()
    assert not deep.grad[0, :, :2].any() and deep.grad[0, :, 2:].any()


def test_the_dsc_of_a_batch_is_the_mean_over_structures_that_occur_or_were_predicted():
    y = torch.tensor([[[0, 1, 1, IGNORE]]])
    predicted = torch.tensor([[[0, 1, 0, 2]]])
    x = nn.functional.one_hot(predicted, 4).movedim(-1, 1).float().requires_grad_(True)
    stand = Stand(x, task=Task(4), references=[y])
    step = Supervised(stand, RECIPE, 10)
    assert step.dsc() is None
    step(stand, (x, y))
    assert step.dsc() == pytest.approx(2 / 3)  # label 1; 2 is predicted on an ignored voxel alone, 3 nowhere
    y[0, 0, 0] = 3
    assert step.dsc() == pytest.approx((2 / 3 + 0) / 2)


def test_training_by_the_source_recipe_learns_and_notes_what_there_is_to_keep():
    notes, told = {}, []
    recipe = replace(RECIPE, steps=60, batch=4)
    losses = fit_supervised(
        *(unet(), cases(), recipe),
        rng=generator(0, "t"),
        observe=Observed(told.append, every_seconds=0),
        gradient_share_every=25,
        note=notes.__setitem__,
    )
    assert len(losses) == 60 and np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert told[-1].dsc > told[0].dsc and told[-1].step == 60
    assert [step for step, _ in notes["background_gradient_share"]] == [1, 26, 51]
    assert all(0 < share < 1 for _, share in notes["background_gradient_share"])
    assert notes["speed"]["variant"] == "eager" and "absent" not in notes


def test_looking_at_gradients_and_scores_changes_no_byte():
    plain, watched = unet(dropout=0.3), unet(dropout=0.3)
    for model, more in (
        (plain, {}),
        (watched, {"gradient_share_every": 1, "observe": Observed(print, every_seconds=0)}),
    ):
        fit_supervised(model, cases(), RECIPE, rng=generator(0, "t"), **more)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))


@pytest.mark.parametrize("average", ["ema", "swa"])
def test_the_recipe_says_what_weights_a_training_leaves(average):
    models = [unet(), unet()]
    for model, kind in zip(models, ("none", average), strict=True):
        fit_supervised(model, cases(), replace(RECIPE, average=kind), rng=generator(0, "t"))
    assert not torch.equal(*(next(m.parameters()) for m in models))


def test_deep_supervision_and_heads_are_trained_from_cases():
    model = unet(Task(3, "instance", (1, 2), ("boundary", "distance")), widths=(4, 8, 8), deep_supervision=1)
    data = cases()
    data = replace(data, instances=[r.int() for r in data.references])
    before = copy.deepcopy(model.state_dict())
    losses = fit_supervised(model, data, RECIPE, rng=generator(0, "t"))
    assert len(losses) == RECIPE.steps
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_more_classes_in_the_data_than_outputs_are_refused_before_training():
    with pytest.raises(DataError, match="label 7"):
        fit_supervised(unet(), cases(labels=(0, 1, 7)), RECIPE, rng=generator(0, "t"))


def test_a_structure_that_no_case_has_is_said_once_and_noted():
    notes = {}
    with pytest.warns(UserWarning, match="no training case has a voxel of label 2") as said:
        fit_supervised(unet(), cases(labels=(0, 1)), RECIPE, rng=generator(0, "t"), note=notes.__setitem__)
    assert len(said) == 1 and notes["absent"] == [2]


def test_one_case_and_a_batch_larger_than_the_data_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses = fit_supervised(unet(), cases(1), replace(RECIPE, batch=5), rng=generator(0, "t"))
    assert len(losses) == RECIPE.steps


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_norm_layer_with_one_value_per_channel_is_explained(norm):
    model = unet(widths=(4, 8, 8, 8, 8), norm=norm)  # a stride of 16: one voxel at the bottom
    with pytest.raises(SpecError, match=r"one value per channel .*\(1, 1, 16, 16\); raise the batch or the patch"):
        fit_supervised(model, cases(), replace(RECIPE, batch=1), rng=generator(0, "t"))


def of_the_cpu(*_):
    return torch.empty(2**52)


def of_the_gpu(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of ...")


def of_python(*_):
    raise MemoryError


@pytest.mark.parametrize(
    "fail, asked",
    [(of_the_cpu, "1.68e.07 GiB were asked for"), (of_the_gpu, "20.5 GiB were asked for"), (of_python, "alone")],
)
def test_running_out_of_memory_says_what_was_needed_and_what_to_lower(fail, asked):
    model = unet()
    with pytest.raises(OutOfMemory, match=asked) as caught:
        fit(model, batches(1, (2, 1, 16, 16)), fail, steps=1, rng=generator(0, "t"), learning_rate=1e-2)
    words = str(caught.value)
    assert "batches (2, 1, 16, 16)" in words and "activations alone take about" in words
    assert "lower the batch, the patch or the widths" in words and isinstance(caught.value, MemoryError)


def test_other_errors_of_a_step_are_left_as_they_are():
    def step(model, batch):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="^something else$"):
        fit(network(), batches(1), step, steps=1, rng=generator(0, "t"), learning_rate=1e-2)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
def test_no_step_on_a_gpu_waits_for_the_device():
    data = cases()
    data = replace(data, images=[x.cuda() for x in data.images], references=[y.cuda() for y in data.references])
    model, recipe = unet().cuda(), replace(RECIPE, average="ema", augmentation="none")
    sampler = PatchSampler(model, data, recipe, generator(0, "t"))
    step, drawn = Supervised(sampler, recipe, 20), []

    def checked(network, batch) -> Tensor:
        drawn.append(1)
        torch.cuda.set_sync_debug_mode("error" if 2 < len(drawn) < 15 else "default")
        return step(network, batch)

    try:
        losses = fit(model, sampler, checked, steps=20, rng=generator(0, "t"), learning_rate=1e-2, average="ema")
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(losses) == 20 and all(map(math.isfinite, losses))


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_with_bfloat16_computes_in_it_and_keeps_its_weights_in_float32():
    model, kinds = network().cuda(), []
    model[0].register_forward_hook(lambda _, __, out: kinds.append(out.dtype))
    fit(model, batches(2), loss, steps=2, rng=generator(0, "t"), learning_rate=1e-2)
    expected = torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    assert set(kinds) == {expected} and model[0].weight.dtype == torch.float32
