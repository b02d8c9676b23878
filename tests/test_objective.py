"""Weighted sums of losses: schedules, one sentence for what is not known, and the methods that train with them."""

from __future__ import annotations

import copy
import functools
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from shiftbench.blocks import predictor
from shiftbench.check import problem
from shiftbench.errors import SpecError
from shiftbench.losses import LOSSES, Objective, boundary, check_terms, cross_entropy, dice, tversky
from shiftbench.methods import load_methods
from shiftbench.rng import generator
from shiftbench.types import Access, LossTerm, Recipe

WEIGHTS = (1.0, 2.0, 5.0)


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 6, 5, generator=rng), torch.randint(0, 3, (2, 6, 5), generator=rng)


def test_one_term_is_its_loss(batch):
    for name, loss in LOSSES.items():
        value = Objective((LossTerm(name),), WEIGHTS)(*batch)
        assert torch.equal(value, loss(*batch, class_weights=WEIGHTS)), name


def test_terms_are_added_up_with_their_weights_options_class_weights_and_mask(batch):
    ignore = torch.rand(2, 6, 5, generator=torch.Generator().manual_seed(1)) < 0.3
    terms = (LossTerm("cross_entropy", 0.5), LossTerm("tversky", 2.0, options=(("alpha", 0.1), ("beta", 0.9))))
    keywords = {"class_weights": WEIGHTS, "ignore": ignore}
    expected = 0.5 * cross_entropy(*batch, **keywords) + 2 * tversky(*batch, alpha=0.1, beta=0.9, **keywords)
    assert torch.allclose(Objective(terms, WEIGHTS)(*batch, ignore=ignore), expected)


@pytest.mark.parametrize("progress", [0.0, 0.25, 1.0])
def test_a_weight_runs_linearly_to_its_last(batch, progress):
    objective = Objective((LossTerm("dice", 1.0, 0.2), LossTerm("boundary", 0.0, 0.8)))
    assert objective.weights(progress) == pytest.approx((1 - 0.8 * progress, 0.8 * progress))
    expected = (1 - 0.8 * progress) * dice(*batch) + 0.8 * progress * boundary(*batch)
    assert objective(*batch, progress=progress).item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_term_without_a_last_weight_keeps_its_first():
    assert Objective((LossTerm("dice", 0.7),)).weights(0.9) == (0.7,)


def test_a_term_of_weight_0_is_not_computed(batch, monkeypatch):
    objective = Objective((LossTerm("dice"), LossTerm("hausdorff", 0.0, 1.0)))

    def refuses(*_, **__):
        raise AssertionError("computed")

    monkeypatch.setitem(LOSSES, "hausdorff", refuses)
    assert objective(*batch).isfinite()
    with pytest.raises(AssertionError, match="computed"):
        objective(*batch, progress=0.5)


def test_the_gradient_reaches_the_logits_from_every_term(batch):
    logits, reference = batch
    objective = Objective(tuple(LossTerm(name, 0.1, 0.2) for name in LOSSES))
    value = objective(logits.requires_grad_(True), reference, progress=0.5)
    assert torch.autograd.grad(value, logits)[0].any()


def test_the_default_recipe_has_a_loss_that_is_known():
    check_terms(Recipe("a", 1, 1, 1, (8, 8), 0.1).loss)


@pytest.mark.parametrize(
    ("term", "sentence"),
    [
        (LossTerm("dise"), "unknown loss 'dise'; did you mean 'dice'"),
        (LossTerm("tversky", options=(("betta", 0.7),)), "no option 'betta'; did you mean 'beta'"),
        (LossTerm("dice", options=(("gamma", 1.0),)), "the loss 'dice' has no option 'gamma'"),
        (LossTerm("focal", options=(("gamma", -1.0),)), "'gamma' of the loss 'focal' is -1.0; give 0 or more"),
        (LossTerm("dice", -1.0), "'dice' has the weight -1.0"),
        (LossTerm("dice", 1.0, float("nan")), "'dice' has the weight nan"),
        (LossTerm("dice", 1.0, 0.0), "every loss has weight 0 at the last step"),
        (LossTerm("dice", 0.0, 1.0), "every loss has weight 0 at the first step"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_sentence(term, sentence):
    with pytest.raises(SpecError, match="site.toml, training.loss: ") as error:
        check_terms((term,), where="site.toml, training.loss")
    assert sentence in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(SpecError):
        Objective((term,))


def test_no_loss_at_all_is_refused():
    with pytest.raises(SpecError, match="no loss is given"):
        Objective(())


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_outside_the_training_is_refused(progress, batch):
    with pytest.raises(ValueError, match="progress"):
        Objective((LossTerm("dice"),))(*batch, progress=progress)


def test_terms_are_checked_without_torch():
    code = "import sys, shiftbench.losses as l\nl.check_terms\nassert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


SHIPPED = load_methods("erm_losses")


@pytest.fixture(scope="module")
def tiny():
    return problem("unet_bn", 2)


def prepared(name: str, tiny, **changes):
    """Weights of the source model that a variant trains, the same draws for all."""
    build = functools.partial(copy.deepcopy, tiny.model)
    recipe = replace(tiny.recipe, steps=2, **changes)
    method = SHIPPED[name].method
    return method.prepare(tiny.source, tiny.source_val, build, recipe=recipe, rng=generator(0, "p")).model


@pytest.mark.parametrize("name", SHIPPED)
def test_a_variant_of_source_only_has_a_known_loss_and_trains_the_whole_model_with_it(name, tiny):
    check_terms(SHIPPED[name].method.terms())
    model = prepared(name, tiny)
    assert not model.training
    start, after = tiny.model.state_dict(), model.state_dict()
    assert all(not torch.equal(start[n], after[n]) for n, _ in model.named_parameters())
    other = prepared("erm_dice" if name != "erm_dice" else "erm_ce", tiny).state_dict()
    assert any(not torch.equal(after[n], other[n]) for n in after)


def test_options_of_a_loss_are_hyper_parameters_of_the_method():
    (method,) = load_methods("erm_tversky:alpha=0.1,beta=0.9").values()
    assert method.method.terms() == (LossTerm("tversky", options=(("alpha", 0.1), ("beta", 0.9))),)
    assert SHIPPED["erm_dice_boundary"].method.terms() == (LossTerm("dice"), LossTerm("boundary", 0.0, 0.5))


def test_a_variant_ignores_the_loss_and_the_class_weights_of_the_budget(tiny):
    plain, changed = (
        prepared("erm_ce", tiny, class_weights=weights, loss=(LossTerm(loss),)).state_dict()
        for weights, loss in ((None, "dice"), ((1.0, 9.0, 9.0), "focal"))
    )
    assert all(torch.equal(plain[n], changed[n]) for n in plain)


def test_the_weights_of_weighted_cross_entropy_are_inverse_frequencies_to_a_power():
    balanced_weights = sys.modules[type(SHIPPED["erm_wce"].method).__module__].balanced_weights
    reference = torch.zeros(10, 10, dtype=torch.uint8)
    reference[0, :4] = 1
    reference[1, 0] = 2
    assert balanced_weights([reference], 3, 1.0) == pytest.approx((1.0, 95 / 4, 95.0))
    assert balanced_weights([reference], 4, 0.5) == pytest.approx((1.0, (95 / 4) ** 0.5, 95**0.5, 95**0.5))


def test_prediction_is_that_of_the_prepared_model(tiny):
    method = SHIPPED["erm_dice"].method
    image = tiny.test[0]
    predict = method.adapt(tiny.model, Access(recipe=tiny.recipe), rng=generator(0))
    assert torch.equal(predict(image).log_probabilities, predictor(tiny.model)(image).log_probabilities)
