"""Averages of weights over a training against closed forms, and batch-norm statistics against recomputed ones."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from shiftbench.rng import generator
from shiftbench.train import Average, fit, refresh_statistics_
from shiftbench.train.average import DECAY, STATISTICS_BATCHES, SWA_RATE, swa_start


def parameters_of(*values):
    return [nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in values]


def network(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.2), nn.Conv2d(4, 2, 1)
        )


def batches(n, seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            torch.from_numpy(rng.normal(3, 2, (3, 1, 8, 8)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, 2, (3, 8, 8))),
        )
        for _ in range(n)
    ]


def loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaging_identical_weights_is_the_identity(kind):
    weights = parameters_of([0.1, -3.3, 1e-7], [[2.0]])
    before = [p.detach().clone() for p in weights]
    average = Average(kind, weights, 40)
    for i in range(40):
        average.update_(i)
    average.apply_()
    assert all(torch.equal(p, b) for p, b in zip(weights, before, strict=True))


def test_an_exponential_average_has_its_closed_form_after_any_number_of_steps():
    (weight,) = parameters_of([5.0])
    average = Average("ema", [weight], 10_000)
    decays, values = [], np.random.default_rng(0).normal(size=30)
    for i, value in enumerate(values):
        weight.data.fill_(value)
        average.update_(i)
        decays.append(min(DECAY, (1 + i) / (10 + i)))
    rest = np.array([np.prod(decays[i + 1 :]) for i in range(len(values))])  # what later steps leave of step i
    expected = 5.0 * np.prod(decays) + np.sum((1 - np.array(decays)) * rest * values)
    assert average.shadow[0].item() == pytest.approx(expected, rel=1e-12)
    assert weight.item() == values[-1]  # the training goes on with its own weights


def test_the_decay_of_an_exponential_average_never_exceeds_its_constant():
    (weight,) = parameters_of([0.0])
    average = Average("ema", [weight], 10**6)
    weight.data.fill_(1.0)
    average.update_(10**6 - 1)
    assert average.shadow[0].item() == pytest.approx(1 - DECAY)


def test_a_stochastic_average_is_the_mean_of_the_last_quarter():
    (weight,) = parameters_of([99.0])
    average = Average("swa", [weight], 20)
    for i in range(20):
        weight.data.fill_(float(i))
        average.update_(i)
    average.apply_()
    assert weight.item() == pytest.approx(np.mean([15, 16, 17, 18, 19]))


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 1000])
def test_a_stochastic_average_begins_within_the_training(steps):
    assert 0 <= swa_start(steps) <= max(0, steps - 1)


def test_fit_leaves_the_mean_of_the_weights_after_the_last_quarter_of_the_steps(monkeypatch):
    after, step, model = [], torch.optim.AdamW.step, network()

    def watched(optimiser):
        step(optimiser)
        after.append([p.detach().clone() for p in model.parameters()])

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(model, batches(12), loss, steps=12, rng=generator(0, "x"), learning_rate=1e-2, average="swa")
    for p, *w in zip(model.parameters(), *after[9:], strict=True):
        assert torch.allclose(p, torch.stack(w).mean(0), atol=1e-7) and not torch.equal(p, w[-1])


def test_the_learning_rate_is_constant_while_a_stochastic_average_runs(monkeypatch):
    rates = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self)))
    fit(network(), batches(8), loss, steps=8, rng=generator(0, "x"), learning_rate=1e-2, average="swa")
    assert rates[6:] == [1e-2 * SWA_RATE] * 2 and len(set(rates[:6])) == 6


def test_statistics_estimated_again_equal_recomputed_ones():
    model, data = network(), batches(7)
    fit(model, batches(4, seed=1), loss, steps=4, rng=generator(0, "x"), learning_rate=1e-2)
    used = refresh_statistics_(model, data, loss)
    outputs = [model[0](x).detach() for x, _ in data]
    mean = torch.stack([o.mean((0, 2, 3)) for o in outputs]).mean(0)
    variance = torch.stack([o.var((0, 2, 3), correction=1) for o in outputs]).mean(0)
    assert used == 7 and not any(m.training for m in model.modules())
    assert torch.allclose(model[1].running_mean, mean, atol=1e-5)
    assert torch.allclose(model[1].running_var, variance, rtol=1e-4)
    assert model[1].momentum == 0.1


def test_a_stochastic_average_has_the_statistics_of_its_own_weights():
    model, data = network(), batches(4)
    fit(model, data, loss, steps=4, rng=generator(0, "x"), learning_rate=1e-1, average="swa")
    copied = copy.deepcopy(model)
    refresh_statistics_(copied, data, loss)  # the four batches are used up, so fit began the list again
    assert torch.equal(model[1].running_mean, copied[1].running_mean)
    assert torch.equal(model[1].running_var, copied[1].running_var)


def test_at_most_a_fixed_number_of_batches_is_used_for_statistics():
    one = batches(1)[0]
    assert refresh_statistics_(network(), (one for _ in range(10**9)), loss) == STATISTICS_BATCHES


def test_a_network_without_batch_norm_is_not_run_again():
    def never(*_):
        raise AssertionError

    assert refresh_statistics_(nn.Sequential(nn.Conv2d(1, 2, 1), nn.InstanceNorm2d(2)), batches(2), never) == 0


def test_statistics_from_no_batch_are_refused():
    with pytest.raises(ValueError, match="no batch is left"):
        refresh_statistics_(network(), [], loss)


def test_an_exponential_average_keeps_the_running_statistics_of_the_training():
    plain, averaged = network(), network()
    for model, kind in ((plain, "none"), (averaged, "ema")):
        fit(model, batches(6), loss, steps=6, rng=generator(0, "x"), learning_rate=1e-2, average=kind)
    assert torch.equal(plain[1].running_mean, averaged[1].running_mean)
    assert not torch.equal(plain[0].weight, averaged[0].weight)
