"""Re-selection: another population out of the same real cases."""

import dataclasses
import math

import numpy as np
import pytest

from shiftbench.errors import SpecError
from shiftbench.rng import generator
from shiftbench.shifts.reselect import LEVELS, Reselection, reference_attributes, reselect, stratified_sample
from shiftbench.shifts.weights import effective_sample_size, importance_weights, tilted, wasserstein
from shiftbench.types import CaseInfo


def people(n=400, seed=0, per_patient=1):
    rng = generator(seed)
    ages = rng.normal(60, 10, n).round(1)
    return [
        CaseInfo(f"c{i:03d}-{j}", f"p{i:03d}", site="AB"[i % 2], attributes={"age": str(age), "sex": "fm"[i % 3 == 0]})
        for i, age in enumerate(ages)
        for j in range(per_patient)
    ]


def ages(selection, cases):
    known = {case.case_id: float(case.attributes["age"]) for case in cases}
    return np.array([known[case] for case in selection.cases])


def chosen(rule, cases=None, seed=0):
    return reselect(people() if cases is None else cases, rule, generator(seed, "reselect", rule.attribute))


@pytest.mark.parametrize("strength", [0.0, *LEVELS])
def test_a_tilt_moves_the_mean_by_its_strength_in_standard_deviations(strength):
    cases = people()
    picked = chosen(Reselection("age", tilt=strength, min_ess=5.0), cases)
    own = ages(picked, cases)
    mean = float(np.sum(own * picked.weights))
    assert (mean - own.mean()) / own.std() == pytest.approx(strength, abs=0.22 * strength + 1e-9)
    assert picked.wasserstein == pytest.approx(mean - own.mean(), abs=1e-6)  # everyone moves the same way
    assert sum(picked.weights) == pytest.approx(1)
    if strength <= 1:  # beyond, 400 people have no tail to speak of
        assert picked.ess == pytest.approx(400 * math.exp(-(strength**2)), rel=0.3)
    if strength == 0:
        assert picked.ess == pytest.approx(400) and picked.wasserstein < 1e-9


def test_a_negative_tilt_mirrors_a_positive_one_and_stronger_ones_move_further():
    cases = people()
    moved = [chosen(Reselection("age", tilt=t, min_ess=1.0), cases).wasserstein for t in (-1.0, *LEVELS)]
    assert moved[1:] == sorted(moved[1:]) and moved[0] == pytest.approx(moved[3], rel=0.2)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_of_the_cases_lies_above_a_value(share):
    cases = people()
    picked = chosen(Reselection("age", share=share, above=65.0), cases)
    own = ages(picked, cases)
    assert np.sum(np.array(picked.weights)[own >= 65]) == pytest.approx(share)
    n = (own >= 65).sum(), (own < 65).sum()
    assert picked.ess == pytest.approx(1 / (share**2 / n[0] + (1 - share) ** 2 / n[1]))
    only = chosen(Reselection("age", share=1.0, above=65.0), cases)
    assert ages(only, cases).min() >= 65 and only.ess == pytest.approx(len(only.cases)) == pytest.approx(n[0])


def test_categories_get_their_shares_and_a_site_is_one():
    cases = people()
    picked = chosen(Reselection("site", shares={"A": 0.8, "B": 0.2}), cases)
    by_site = {c.case_id: c.site for c in cases}
    assert sum(w for c, w in zip(picked.cases, picked.weights, strict=True) if by_site[c] == "A") == pytest.approx(0.8)
    assert picked.wasserstein == pytest.approx(0.3)  # from 0.5 to 0.8
    women = chosen(Reselection("sex", shares={"f": 1.0}), cases)
    assert {c.attributes["sex"] for c in cases if c.case_id in women.cases} == {"f"}


def test_cases_are_drawn_without_replacement_and_stronger_tilts_share_their_chances():
    cases = people()
    drawn = [chosen(Reselection("age", tilt=t, cases=60), cases) for t in (0.0, 0.25, 1.0, -1.0)]
    for picked in drawn:
        assert len(set(picked.cases)) == 60 and picked.ess == pytest.approx(60) and set(picked.weights) == {1 / 60}
        assert picked.cases == tuple(sorted(picked.cases))
    means = [ages(picked, cases).mean() for picked in drawn]
    assert means[3] < means[0] < means[2] and means[2] - means[0] > 6
    common = [len(set(drawn[0].cases) & set(other.cases)) for other in drawn[1:]]
    assert common[0] > 45 > common[1]
    again = chosen(Reselection("age", tilt=1.0, cases=60), cases)
    assert again == drawn[2] != chosen(Reselection("age", tilt=1.0, cases=60), cases, seed=1)
    assert again.wasserstein == pytest.approx(
        wasserstein(ages(again, cases), np.ones(60), [float(c.attributes["age"]) for c in cases])
    )


def test_the_effective_sample_counts_patients_not_cases():
    twice = people(100, per_patient=2)
    assert chosen(Reselection("age", tilt=0.0), twice).ess == pytest.approx(100)
    assert effective_sample_size([1, 1, 1, 1]) == 4 and effective_sample_size([3.0, 1.0]) == 1.6
    assert effective_sample_size([0.0, 0.0]) == 0


def test_cases_without_the_attribute_are_named():
    cases = people(40)
    cases[3] = dataclasses.replace(cases[3], attributes={"age": "", "sex": "f"})
    cases[7] = dataclasses.replace(cases[7], attributes={"age": float("nan")})
    picked = chosen(Reselection("age", tilt=0.25), cases)
    assert picked.without == (cases[3].case_id, cases[7].case_id) and len(picked.cases) == 38


def test_a_selection_that_says_too_little_is_refused():
    with pytest.raises(SpecError, match=r"only \d\.\d effective patients are left of 40; ask for a weaker change"):
        chosen(Reselection("age", tilt=2.0), people(40))
    assert chosen(Reselection("age", tilt=2.0, min_ess=1.0), people(40)).ess > 1


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "give exactly one"),
        ({"tilt": 1.0, "shares": {"f": 1.0}}, "give exactly one"),
        ({"share": 0.5}, "'share' and 'above' belong together"),
        ({"tilt": float("nan")}, "use -5 to 5"),
        ({"share": 1.5, "above": 60.0}, "use 0 to 1"),
        ({"shares": {"f": 0.7}}, "add up to 0.7"),
        ({"shares": {"f": 1.5, "m": -0.5}}, "use shares of 0 to 1"),
        ({"tilt": 1.0, "cases": 0}, "at least one"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(rule, message):
    with pytest.raises(SpecError, match=message):
        Reselection("age", **rule)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Reselection("agee", tilt=1.0), "no case has the attribute 'agee'; did you mean 'age'"),
        (Reselection("sex", tilt=1.0), r"'sex' is no number \('f'\); use 'shares'|'sex' is no number \('m'\)"),
        (Reselection("sex", shares={"x": 1.0}), "no case has sex = 'x'"),
        (Reselection("age", share=0.5, above=500.0), "no case has age = 'above'"),
        (Reselection("age", tilt=1.0, cases=4000), "4000 cases are asked for, 400 can be chosen"),
    ],
)
def test_what_the_cases_cannot_give_is_refused(rule, message):
    with pytest.raises(SpecError, match=message):
        chosen(rule)
    with pytest.raises(SpecError, match="the same in every case"):
        tilted(np.ones(5), 1.0, "age")
    with pytest.raises(SpecError, match="add 'attributes' to the dataset's description"):
        chosen(Reselection("age", tilt=1.0), [CaseInfo("a", "a"), CaseInfo("b", "b")])


def test_strata_get_whole_numbers_and_keep_their_cases():
    groups = ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    picked = stratified_sample(groups, {"a": 0.5, "b": 0.3, "c": 0.2}, 21, generator(0))
    counts = [sum(groups[i] == g for i in picked) for g in "abc"]
    assert counts == [11, 6, 4] and len(set(picked.tolist())) == 21 and (np.diff(picked) > 0).all()
    more = stratified_sample(groups, {"a": 0.8, "b": 0.2, "c": 0.0}, 30, generator(0))
    assert {i for i in picked.tolist() if groups[i] == "a"} < {i for i in more.tolist() if groups[i] == "a"}
    with pytest.raises(SpecError, match="31 cases of 'a' are asked for, there are 30"):
        stratified_sample(groups, {"a": 1.0}, 31, generator(0))
    with pytest.raises(SpecError, match="add up to 0.5"):
        stratified_sample(groups, {"a": 0.5}, 10, generator(0))


@pytest.mark.parametrize("how", ["histogram", "kde", "logistic"])
def test_importance_weights_turn_the_source_into_the_target(how):
    rng = generator(0)
    source, target = rng.normal(0, 1, 3000), rng.normal(0.7, 1, 3000)
    weights = importance_weights(source, target, how)
    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    assert np.sum(weights * source) == pytest.approx(0.7, abs=0.08)
    assert wasserstein(source, weights, target) < 0.3 * wasserstein(source, np.ones(3000), target)
    exact = np.exp(0.7 * source)
    assert np.corrcoef(weights, exact)[0, 1] > (0.8 if how == "histogram" else 0.9)
    assert effective_sample_size(weights) == pytest.approx(3000 * math.exp(-(0.7**2)), rel=0.2)


def test_several_attributes_need_odds_and_populations_must_overlap():
    rng = generator(1)
    source, target = rng.normal(0, 1, (800, 2)), rng.normal([0.5, -0.5], 1, (800, 2))
    weights = importance_weights(source, target, "logistic")
    assert weights @ source == pytest.approx([0.5, -0.5], abs=0.15)
    with pytest.raises(SpecError, match="a histogram takes one attribute"):
        importance_weights(source, target)
    with pytest.raises(SpecError, match="did you mean 'logistic'"):
        importance_weights(source, target, "logist")
    with pytest.raises(SpecError, match="do not overlap"):
        importance_weights(source[:, 0], target[:, 0] + 1e3, "kde")


def test_a_reference_tells_volumes_and_counts():
    reference = np.zeros((4, 10, 10), np.uint8)
    reference[:2], reference[3, 1, 1], reference[3, 5:7, 5] = 1, 2, 2
    assert reference_attributes(reference, ("organ", "lesion"), (5.0, 2.0, 2.0), ("lesion",)) == pytest.approx(
        {"organ_ml": 4.0, "lesion_ml": 0.06, "lesion_count": 2.0}
    )
    assert reference_attributes(reference[3], ("organ", "lesion"), None) == {"organ_px": 0.0, "lesion_px": 3.0}
