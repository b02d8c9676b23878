"""Which way a network's passes are run: the decision under a fake clock, and compiled results against eager ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from shiftbench.backbones import Backbone
from shiftbench.networks import Normalise, build
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.train import Speed, fit
from shiftbench.train.speed import TIMED, WARM_UP

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


class Pretended(nn.Module):
    """A network that only remembers how it was compiled."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.compiled = []

    def compile(self, **arguments):
        self.compiled.append("graphs" if arguments["options"].get("triton.cudagraphs") else "compiled")
        self._compiled_call_impl = self.forward


class Bench:
    """Steps on a pretended GPU whose clock goes on by what a step of the variant takes."""

    def __init__(self, monkeypatch, seconds, broken=(), **arguments):
        monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.get_rng_state())
        monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
        self.now, self.seconds, self.broken = 0.0, seconds, broken
        self.speed = Speed(clock=lambda: self.now, **arguments)
        self.model, self.variants = Pretended(), []

    def step(self):
        variant = self.speed.variant
        torch.rand(1)
        self.model.passes += 1
        if variant in self.broken:
            raise RuntimeError("the compiler gave up\nand said more")
        self.variants.append(variant)
        self.now += self.seconds[variant]
        return torch.zeros(())

    def run(self, steps, device=CUDA):
        with self.speed.of(self.model, device, steps):
            for _ in range(steps):
                self.speed.run(self.step)
        return self.speed.record


def test_a_short_run_stays_eager(monkeypatch):
    bench = Bench(monkeypatch, {"eager": 0.1})
    record = bench.run(1000)  # 100 s in all
    assert record["variant"] == "eager" and "97 s of steps were left" in record["reason"]
    assert not bench.model.compiled and record["seconds_per_step"] == {"eager": pytest.approx(0.1)}


@pytest.mark.parametrize("fastest", ["eager", "compiled", "graphs"])
def test_a_long_run_keeps_the_fastest_variant_that_was_measured(monkeypatch, fastest):
    seconds = {"eager": 0.11, "compiled": 0.12, "graphs": 0.13} | {fastest: 0.1}
    bench = Bench(monkeypatch, seconds)
    record = bench.run(10_000)
    assert record["variant"] == fastest and record["seconds_per_step"] == pytest.approx(seconds)
    assert bench.variants[: 3 * (WARM_UP + TIMED) : WARM_UP + TIMED] == ["eager", "compiled", "graphs"]
    assert set(bench.variants[3 * (WARM_UP + TIMED) :]) == {fastest}
    assert len(bench.variants) == 10_000  # every timed step is one of the training


def test_the_time_of_compilation_is_not_counted_as_that_of_a_step(monkeypatch):
    bench = Bench(monkeypatch, {"eager": 0.1, "compiled": 0.05, "graphs": 0.2})
    step, first = bench.step, []

    def slow_at_first():
        if bench.speed.variant == "compiled" and not first:
            first.append(1)
            bench.now += 60.0
        return step()

    bench.step = slow_at_first
    assert bench.run(10_000)["variant"] == "compiled"


def test_nothing_is_tried_on_the_cpu_unless_it_is_asked_for(monkeypatch):
    bench = Bench(monkeypatch, {"eager": 100.0})
    record = bench.run(100, device=CPU)
    assert record["variant"] == "eager" and not record["seconds_per_step"] and not bench.model.compiled


def test_a_variant_that_is_asked_for_is_taken_at_once(monkeypatch):
    bench = Bench(monkeypatch, {"compiled": 1.0}, choice="compiled")
    record = bench.run(3, device=CPU)
    assert bench.variants == ["compiled"] * 3 and record["reason"] == "asked for"


@pytest.mark.parametrize("choice", ["auto", "graphs"])
def test_a_variant_that_fails_is_left_and_its_step_is_taken_again(monkeypatch, choice):
    bench = Bench(monkeypatch, {"eager": 0.1, "compiled": 0.05}, broken=("graphs",), choice=choice)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        record = bench.run(10_000)
        drawn = torch.rand(1)
        torch.manual_seed(0)
        for _ in range(10_000):
            torch.rand(1)
        assert torch.equal(drawn, torch.rand(1))  # the step's draws were given back
    assert bench.model.passes == len(bench.variants) == 10_000  # and so were its buffers
    assert record["variant"] == ("compiled" if choice == "auto" else "eager")
    assert record["failed"] == {"graphs": "RuntimeError: the compiler gave up"}


def test_what_is_wrong_with_a_step_itself_is_still_raised(monkeypatch):
    bench = Bench(monkeypatch, {}, broken=("eager", "compiled"), choice="compiled")
    with pytest.raises(RuntimeError, match="gave up"):
        bench.run(1)


def test_the_network_is_eager_after_a_run_however_it_ended(monkeypatch):
    bench = Bench(monkeypatch, {"compiled": 1.0}, choice="compiled")
    with pytest.raises(KeyboardInterrupt), bench.speed.of(bench.model, CPU, 2):
        bench.speed.run(bench.step)
        assert bench.variants == ["compiled"] and bench.model._compiled_call_impl is not None
        raise KeyboardInterrupt
    assert bench.speed.variant == "eager" and bench.model._compiled_call_impl is None


@pytest.mark.slow
def test_compiled_passes_train_as_eager_ones_do_to_rounding():
    backbone = Backbone(widths=(4, 8), convolutions=1, dropout=0.3)
    arguments = {"dimension": 2, "channels": 1, "task": Task(2), "normalise": Normalise(), "patch": (16, 16)}
    eager = build(backbone, **arguments)
    compiled, torch_rng = copy.deepcopy(eager), torch.Generator().manual_seed(0)
    images = [torch.randn(3, 1, 16, 16, generator=torch_rng) for _ in range(12)]
    speed, losses = Speed("compiled"), []

    def loss(model, x):
        return nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())

    for model, how in ((eager, Speed()), (compiled, speed)):
        losses.append(fit(model, images, loss, steps=12, rng=generator(0, "s"), learning_rate=1e-2, speed=how))
    assert speed.record["variant"] == "compiled" and "failed" not in speed.record
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[1] != losses[0]
    assert compiled.network._compiled_call_impl is None and compiled.state_dict().keys() == eager.state_dict().keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("choice", ["compiled", "graphs"])
def test_every_variant_trains_on_a_gpu_as_eager_does_to_rounding(choice):
    backbone = Backbone(widths=(8, 16), convolutions=1)
    arguments = {"dimension": 2, "channels": 1, "task": Task(2), "normalise": Normalise(), "patch": (32, 32)}
    images = [torch.randn(4, 1, 32, 32, device="cuda") for _ in range(30)]
    speed, losses = Speed(choice), []
    for how in (Speed("eager"), speed):
        model = build(backbone, **arguments).cuda()

        def loss(model, x):
            return nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())

        losses.append(fit(model, images, loss, steps=30, rng=generator(0, "s"), learning_rate=1e-3, speed=how))
    assert speed.record["variant"] == choice and "failed" not in speed.record
    assert losses[1] == pytest.approx(losses[0], rel=0.05)  # bfloat16
