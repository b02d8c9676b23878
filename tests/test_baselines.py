"""The contract over every file in `baselines/`, and what METHODS.md says each method must do."""

from __future__ import annotations

import copy
import inspect
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from shiftbench import blocks, contract, inference
from shiftbench.check import CLASSES, SHAPES, Finding, Problem, check_method, problem
from shiftbench.check.problem import tiny_cases
from shiftbench.contract import grant
from shiftbench.errors import NotApplicable
from shiftbench.methods import LoadedMethod, load_methods, shipped_methods
from shiftbench.rng import generator
from shiftbench.types import (
    Access,
    Episode,
    LabelledSet,
    Prediction,
    Track,
    UnlabelledSet,
)

SHIPPED = {name: method for file in shipped_methods() for name, method in load_methods(file).items()}


@pytest.fixture
def tiny() -> Problem:
    return copy.deepcopy(problem("unet_bn", 2))


def adapted(name: str, tiny: Problem, seed: int = 0, **changes):
    """The predictor of a shipped method, with fields changed, on the tiny problem; and the model it was handed."""
    method = replace(SHIPPED[name].method, **changes)
    summarise = getattr(method, "summarise", None)
    access = grant(
        method,
        recipe=tiny.recipe,
        source=tiny.source,
        target=UnlabelledSet(tiny.adapt.images),
        labelled_target=tiny.adapt,
        sidecar=summarise(tiny.model, tiny.source, tiny.source_val) if summarise else None,
    )
    model = copy.deepcopy(tiny.model)
    return method.adapt(model, access, rng=generator(seed, name)), model


def scores(predict, image) -> torch.Tensor:
    return predict(image).log_probabilities


def names_that_differ(model, other) -> set[str]:
    return {n for n, value in model.state_dict().items() if not torch.equal(value, other.state_dict()[n])}


def norm_names(model) -> set[str]:
    return {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if isinstance(module, blocks.NORMS)
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }


def mean_dice(predict, cases: LabelledSet) -> float:
    found = []
    for image, reference in zip(cases.images, cases.references, strict=True):
        labels = scores(predict, image).argmax(0)
        for k in range(1, CLASSES):
            a, b = labels == k, reference == k
            found.append(float(2 * (a & b).sum() / (a.sum() + b.sum()).clamp_min(1)))
    return float(np.mean(found))


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_every_shipped_method_keeps_the_contract(name):
    failed = [finding for finding in check_method(SHIPPED[name]) if finding.outcome == "failed"]
    assert not failed, failed


@pytest.mark.parametrize("path", shipped_methods().values(), ids=lambda path: path.stem)
def test_every_file_says_where_it_differs_from_the_paper(path):
    text = path.read_text(encoding="utf-8")
    assert "Differs from the paper:" in text and re.search(r"\b(19|20)\d\d\b", text.split('"""')[1])


def test_the_first_set_of_methods_is_complete():
    assert set(SHIPPED) >= {
        *("erm", "histmatch", "fda_test", "target_oracle", "pred_bn", "adabn", "alpha_bn"),
        *("tent_bn", "tent_in", "tent_bn_episodic", "fewshot_ft_k1", "fewshot_ft_k5", "fewshot_ft_k5_replay"),
    }


def test_source_only_is_the_source_model(tiny):
    predict, _ = adapted("erm", tiny)
    assert torch.equal(scores(predict, tiny.test[0]), scores(blocks.predictor(tiny.model), tiny.test[0]))


def test_alpha_one_is_the_source_model_to_the_bit(tiny):
    predict, _ = adapted("alpha_bn", tiny, alpha=1.0)
    assert torch.equal(scores(predict, tiny.test[0]), scores(blocks.predictor(tiny.model), tiny.test[0]))


def test_statistics_of_a_case_start_from_the_sources_and_not_from_the_case_before(tiny):
    predict, _ = adapted("alpha_bn", tiny)
    predict(tiny.test[1] * 3)
    assert torch.equal(scores(predict, tiny.test[0]), scores(adapted("alpha_bn", tiny)[0], tiny.test[0]))


def test_alpha_zero_is_prediction_time_batch_norm_to_the_bit(tiny):
    by_alpha, _ = adapted("alpha_bn", tiny, alpha=0.0)
    plain, _ = adapted("pred_bn", tiny)
    assert torch.equal(scores(by_alpha, tiny.test[0]), scores(plain, tiny.test[0]))


def test_prediction_time_batch_norm_undoes_an_affine_change_before_the_first_batch_norm(tiny):
    changed = copy.deepcopy(tiny)
    convolution = next(m for m in changed.model.modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        gain = torch.linspace(0.5, 3.0, convolution.out_channels)
        convolution.weight.mul_(gain[:, None, None, None])
        convolution.bias.mul_(gain).add_(0.7)
    image = tiny.test[0]
    assert not torch.allclose(
        scores(adapted("erm", changed)[0], image), scores(adapted("erm", tiny)[0], image), atol=1e-2
    )
    assert torch.allclose(
        scores(adapted("pred_bn", changed)[0], image), scores(adapted("pred_bn", tiny)[0], image), atol=1e-3
    )


def test_adabn_on_source_liketiny_cases_keeps_statistics_and_dice(tiny):
    def with_statistics_of(images):
        model = copy.deepcopy(tiny.model)
        access = Access(recipe=tiny.recipe, target=UnlabelledSet(images))
        return SHIPPED["adabn"].method.adapt(model, access, rng=generator(0)), model

    n = 12
    gammas = {"one": 1, "other": 1, "bent": 3}
    one, other, shifted = (tiny_cases(name, SHAPES[2], n, gamma=g) for name, g in gammas.items())
    predict, model = with_statistics_of(one.images)
    single = [blocks.statistics(with_statistics_of([image])[1]) for image in one.images]
    errors = [torch.stack([case[i][0] for case in single]).std(0) * (2 / n) ** 0.5 for i in range(len(single[0]))]

    def standard_errors_away(images):
        _, model_other = with_statistics_of(images)
        means = zip(blocks.statistics(model), blocks.statistics(model_other), errors, strict=True)
        return float(torch.cat([(a[0] - b[0]) / error for a, b, error in means]).square().mean().sqrt())

    predict_other, _ = with_statistics_of(other.images)
    assert standard_errors_away(other.images) < 3 < standard_errors_away(shifted.images)
    assert abs(mean_dice(predict, tiny.source_val) - mean_dice(predict_other, tiny.source_val)) < 0.005


def test_adabn_changes_statistics_alone(tiny):
    _, model = adapted("adabn", tiny)
    changed = names_that_differ(model, tiny.model)
    assert changed and all(name.endswith(("running_mean", "running_var")) for name in changed)


def test_tent_without_learning_is_prediction_time_batch_norm(tiny):
    tent, _ = adapted("tent_bn", tiny, lr=0.0)
    plain, _ = adapted("pred_bn", tiny)
    for image in tiny.test:
        assert torch.allclose(scores(tent, image), scores(plain, image), atol=1e-4)


@pytest.mark.parametrize("change", [{"lr": 0.0}, {"steps": 0}])
def test_tent_in_without_learning_is_the_source_model_to_the_bit(change):
    tiny = problem("unet_in", 2)
    tent, _ = adapted("tent_in", tiny, **change)
    assert torch.equal(scores(tent, tiny.test[0]), scores(blocks.predictor(tiny.model), tiny.test[0]))


@pytest.mark.parametrize(("name", "backbone"), [("tent_bn", "unet_bn"), ("tent_in", "unet_in")])
def test_tent_moves_norm_parameters_alone(name, backbone):
    tiny = problem(backbone, 2)
    predict, model = adapted(name, tiny)
    predict(tiny.test[0])
    before = dict(tiny.model.named_parameters())
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= norm_names(tiny.model)


def test_tent_predicts_before_its_step_online_and_after_it_episodically(tiny):
    image = tiny.test[0]
    unmoved = scores(adapted("tent_bn", tiny, lr=0.0)[0], image)
    assert torch.equal(scores(adapted("tent_bn", tiny)[0], image), unmoved)
    assert not torch.equal(scores(adapted("tent_bn_episodic", tiny)[0], image), unmoved)


def test_tent_lowers_the_entropy_of_the_case_it_learns_from(tiny):
    image = tiny.test[0]
    before = scores(adapted("tent_bn", tiny, lr=0.0)[0], image)
    after = scores(adapted("tent_bn_episodic", tiny, faithful=True)[0], image)
    assert float(blocks.entropy(after[None]).mean()) < float(blocks.entropy(before[None]).mean())


def test_tent_takes_one_step_per_case_whose_gradient_is_that_of_all_its_tiles(monkeypatch):
    tiny = copy.deepcopy(problem("unet_in", 2))  # instance norm: slices do not see each other, so the sum is exact
    tent = sys.modules[type(SHIPPED["tent_in"].method).__module__]
    gradients = []
    for slices in (6, 4):
        monkeypatch.setattr(inference, "MAX_POSITIONS", slices * 32 * 32)
        model = copy.deepcopy(tiny.model)
        tent.descend(model, tiny.test[0], tent.mean_entropy)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6)


def test_a_method_without_anything_to_move_is_not_applicable_and_never_a_silent_copy(tiny):
    for name in ("pred_bn", "adabn", "alpha_bn", "tent_bn", "tent_bn_episodic"):
        with pytest.raises(NotApplicable, match="batch norm"):
            adapted(name, problem("unet_in", 2))
    with pytest.raises(NotApplicable, match="instance norm"):
        adapted("tent_in", tiny)
    with pytest.raises(NotApplicable, match="no adapt cases"):
        SHIPPED["adabn"].method.adapt(tiny.model, Access(recipe=tiny.recipe), rng=generator(0))


def body_values(image) -> torch.Tensor:
    return image[0][blocks.body_mask(image)]


def test_histmatch_moves_only_the_body_and_onto_the_sources_quantiles(tiny):
    histmatch = sys.modules[type(SHIPPED["histmatch"].method).__module__]
    goal = SHIPPED["histmatch"].method.summarise(tiny.model, tiny.source, tiny.source_val)["quantiles"]
    image = tiny.test[0]
    out, mask = histmatch.matched(image, goal), blocks.body_mask(image)
    assert torch.equal(out[0][~mask], image[0][~mask])
    assert not torch.allclose(blocks.quantile_function(image[0][mask]), goal[0], rtol=0.1)
    own = blocks.quantile_function(out[0][mask])
    assert (own[1:-1] >= goal[0][:-2] - 1e-3).all() and (own[1:-1] <= goal[0][2:] + 1e-3).all()


def test_histmatch_restores_the_intensities_of_a_gamma_inside_the_body(tiny):
    histmatch = sys.modules[type(SHIPPED["histmatch"].method).__module__]
    image = tiny.source.images[0]
    goal = histmatch.body_quantiles(image)
    bent = 100 * (image / 100) ** 2
    mask = blocks.body_mask(image) & blocks.body_mask(bent)
    restored = histmatch.matched(bent, goal)
    assert float((restored[0][mask] - image[0][mask]).abs().mean()) < 0.1 * float((bent - image)[0][mask].abs().mean())


def test_histmatch_maps_every_channel_on_its_own():
    histmatch = sys.modules[type(SHIPPED["histmatch"].method).__module__]
    rng = generator(0, "channels")
    image = torch.from_numpy(rng.uniform(1, 2, (3, 24, 24)).astype(np.float32))
    goal = torch.stack([torch.linspace(10 * i, 10 * i + 5, 1024) for i in range(3)])
    out = histmatch.matched(image, goal)
    assert all(10 * i <= float(out[i].min()) and float(out[i].max()) <= 10 * i + 5 for i in range(3))


def test_fda_with_beta_zero_is_source_only(tiny):
    predict, _ = adapted("fda_test", tiny, beta=0.0)
    assert torch.equal(scores(predict, tiny.test[0]), scores(blocks.predictor(tiny.model), tiny.test[0]))


def test_fda_gives_every_slice_the_sources_mean_intensity(tiny):
    fda = sys.modules[type(SHIPPED["fda_test"].method).__module__]
    template = SHIPPED["fda_test"].method.summarise(tiny.model, tiny.source, tiny.source_val)["amplitude"]
    assert template.shape == (1, 3, 3)
    goal = torch.stack([(image / image.std(correction=0)).mean() for image in tiny.source.images]).mean()
    image = tiny.test[0] / tiny.test[0].std(correction=0)
    out = fda.restyled(image, template, 0.01)
    assert not torch.allclose(image.mean((2, 3)), goal, rtol=0.1)
    assert torch.allclose(out.mean((2, 3)), goal, rtol=1e-4)


def test_fda_does_not_depend_on_the_unit_of_the_image(tiny):
    predict, _ = adapted("fda_test", tiny)
    one, thousand = scores(predict, tiny.test[0]), scores(predict, 1000 * tiny.test[0])
    assert torch.allclose(one, thousand, atol=1e-3)


def test_fda_takes_the_narrower_band_where_sizes_differ():
    fda = sys.modules[type(SHIPPED["fda_test"].method).__module__]
    template = torch.full((1, 9, 9), 0.5)
    small = torch.from_numpy(generator(0, "small").uniform(0, 1, (1, 40, 40)).astype(np.float32))
    out = fda.restyled(small, template, 0.05)
    assert torch.allclose(blocks.low_frequency_amplitude(out, 2), torch.full((1, 5, 5), 0.5), atol=1e-5)
    assert torch.allclose(torch.fft.fft2(out)[0, 3:-3, 3:-3], torch.fft.fft2(small)[0, 3:-3, 3:-3], atol=1e-3), (
        "frequencies outside the image's own band stay"
    )


def test_fine_tuning_for_no_step_is_the_source_model_to_the_bit(tiny):
    predict, _ = adapted("fewshot_ft_k1", tiny, steps=0)
    assert torch.equal(scores(predict, tiny.test[0]), scores(blocks.predictor(tiny.model), tiny.test[0]))


def test_fine_tuning_needs_a_labelled_case(tiny):
    for name in ("fewshot_ft_k1", "target_oracle"):
        with pytest.raises(NotApplicable, match="no labelled target case"):
            SHIPPED[name].method.adapt(tiny.model, Access(recipe=tiny.recipe), rng=generator(0))


def test_replay_needs_the_sourcestiny_cases(tiny):
    access = Access(recipe=tiny.recipe, fewshot=tiny.adapt)
    with pytest.raises(NotApplicable, match="replay"):
        SHIPPED["fewshot_ft_k5_replay"].method.adapt(tiny.model, access, rng=generator(0))


@pytest.mark.parametrize(
    ("part", "allowed"),
    [("head", r"network\.head\.0\.(weight|bias)"), ("first", r"network\.encoder\.0\.body\.0\.(weight|bias)")],
)
def test_fine_tuning_a_convolution_changes_it_alone(tiny, part, allowed):
    _, model = adapted("fewshot_ft_k1", tiny, part=part)
    changed = names_that_differ(model, tiny.model)
    assert changed and all(re.fullmatch(allowed, name) for name in changed), changed


def test_fine_tuning_norms_changes_norms_alone(tiny):
    _, model = adapted("fewshot_ft_k1", tiny, part="norm")
    changed = names_that_differ(model, tiny.model)
    assert changed and changed <= norm_names(tiny.model)


def test_few_shot_sees_its_ktiny_cases_alone(tiny):
    cases = tiny.adapt
    first = replace(tiny, adapt=LabelledSet(cases.images[:1], cases.references[:1], cases.patients[:1]))
    _, with_one = adapted("fewshot_ft_k1", first)
    _, of_two = adapted("fewshot_ft_k1", tiny)
    _, with_two = adapted("fewshot_ft_k1", tiny, k=2)
    assert not names_that_differ(with_one, of_two)
    assert names_that_differ(with_one, with_two)


def test_replay_draws_half_of_every_batch_from_the_source(tiny):
    method = SHIPPED["fewshot_ft_k5_replay"].method
    blank = LabelledSet([torch.zeros_like(x) for x in tiny.source.images], tiny.source.references, ["p"] * 3)
    access = Access(recipe=replace(tiny.recipe, augmentation="none"), fewshot=tiny.adapt, source=blank)
    together = vars(inspect.getmodule(type(method)))["_together"]
    images, references = next(together(method._samplers(tiny.model, access, generator(0))))
    assert len(images) == len(references) == tiny.recipe.batch
    assert [bool(x.any()) for x in images] == [True, True, False, False]


def test_the_oracle_learns_the_target_better_than_the_source_model_and_starts_afresh(tiny):
    inverted = LabelledSet([100 - x for x in tiny.adapt.images], tiny.adapt.references, tiny.adapt.patients)
    hard = replace(tiny, adapt=inverted, recipe=replace(tiny.recipe, steps=40))
    predict, model = adapted("target_oracle", hard)
    assert not names_that_differ(model, tiny.model), "the model it is handed stays as it is"
    assert mean_dice(predict, inverted) > mean_dice(blocks.predictor(tiny.model), inverted) + 0.2


def test_fine_tuning_learns_the_target_better_than_the_source_model(tiny):
    inverted = LabelledSet([100 - x for x in tiny.adapt.images], tiny.adapt.references, tiny.adapt.patients)
    hard = replace(tiny, adapt=inverted, recipe=replace(tiny.recipe, fewshot_steps=40))
    predict, _ = adapted("fewshot_ft_k1", hard, lr=1e-2)
    assert mean_dice(predict, inverted) > mean_dice(blocks.predictor(tiny.model), inverted) + 0.1


# What the contract suite must catch: each method below breaks one clause.


@dataclass(frozen=True)
class Faulty:
    fault: str = ""
    track: Track = Track.TTA
    episode: Episode = Episode.EPISODIC
    requires: tuple[str, ...] = ()
    memory = []

    def summarise(self, model, source, source_val):
        return {"large": torch.zeros(2**19 if self.fault == "sidecar" else 1)}

    def adapt(self, model, access, *, rng):
        if self.fault == "no function":
            return None
        plain = blocks.predictor(model)
        seen = []

        def predict(image):
            self.memory.append(image)
            seen.append(image)
            log_p = plain(image).log_probabilities
            match self.fault:
                case "in place":
                    image.add_(1.0)
                case "global rng":
                    log_p = (log_p + 0.1 * torch.rand(log_p.shape)).log_softmax(0)
                case "remembers":
                    log_p = (log_p * (1 + len(self.memory))).log_softmax(0)
                case "order":
                    log_p = (log_p * len(seen)).log_softmax(0)
                case "nan":
                    log_p = log_p * float("nan")
                case "logits":
                    log_p = log_p + 1.0
                case "shape":
                    log_p = log_p[:, :-1]
                case "range":
                    return Prediction(labels=torch.full(image.shape[1:], CLASSES))
                case "float labels":
                    return Prediction(labels=log_p.argmax(0).float())
                case "labels leak":
                    return Prediction(labels=access.fewshot.references[0])
            return Prediction(log_probabilities=log_p)

        return predict


def findings_of(method, path: Path | None = None) -> list[Finding]:
    Faulty.memory.clear()
    return check_method(LoadedMethod("faulty", method, path or Path(__file__).with_name("conftest.py"), "1", "faulty"))


def failed_clauses(method) -> set[str]:
    ours = "imports nothing of ShiftBench but shiftbench.api"
    return {f.check for f in findings_of(method) if f.outcome == "failed" and f.check != ours}


def test_the_contract_suite_passes_a_sound_method():
    assert not failed_clauses(Faulty())


@pytest.mark.parametrize(
    ("fault", "clause"),
    [
        ("no function", "predicts every case, validly"),
        ("nan", "predicts every case, validly"),
        ("logits", "predicts every case, validly"),
        ("shape", "predicts every case, validly"),
        ("range", "predicts every case, validly"),
        ("float labels", "predicts every case, validly"),
        ("sidecar", "the sidecar is at most 1 MB of tensors"),
        ("in place", "leaves the source model, the images and the references as they are"),
        ("global rng", "the same seed gives the same bits"),
        ("remembers", "adapting again forgets the earlier stream"),
    ],
)
def test_the_contract_suite_catches(fault, clause):
    assert clause in failed_clauses(Faulty(fault))


def test_the_contract_suite_catches_state_where_none_may_be_carried():
    clause = "the order of the cases does not matter"
    assert clause in failed_clauses(Faulty("order", track=Track.SFDA, episode=Episode.OFFLINE))
    assert clause not in failed_clauses(Faulty("order", episode=Episode.ONLINE))


def test_the_contract_suite_catches_a_look_at_hidden_references(monkeypatch):
    monkeypatch.setitem(contract.GRANTS, Track.TTA, frozenset({"fewshot"}))
    assert "hidden references do not matter" in failed_clauses(Faulty("labels leak"))


def test_the_contract_suite_catches_a_silent_no_op_on_a_backbone_without_the_layers():
    clause = "raises NotApplicable where the backbone lacks what it requires"
    assert clause in failed_clauses(Faulty(requires=("batch_norm",)))


def test_the_contract_suite_catches_an_import_that_the_sandbox_does_not_hold(tmp_path):
    path = tmp_path / "peeks.py"
    path.write_text("from shiftbench.data import phantoms\n")
    finding = findings_of(Faulty(), path)[0]
    assert finding.outcome == "failed" and "line 1" in finding.detail and "shiftbench.data" in finding.detail
