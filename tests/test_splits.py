"""Splits: by patient, fixed per (dataset, seed), disjoint, nested where they must be."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shiftbench.data.describe import load_description
from shiftbench.data.folders import FolderDataset, locate
from shiftbench.data.splits import (
    Split,
    check_split,
    cross_fit_halves,
    fewshot_cases,
    part_sizes,
    published_parts,
    real_source_split,
    simulated_split,
)
from shiftbench.errors import DataError, NotApplicable
from shiftbench.types import CaseInfo

DESCRIPTIONS = Path(__file__).parents[1] / "scenarios" / "datasets"


def cohort(scans: list[int], split: str = "") -> list[CaseInfo]:
    """Patient i with scans[i] cases."""
    return [CaseInfo(f"p{i:02d}_{j}", f"p{i:02d}", split=split) for i, n in enumerate(scans) for j in range(n)]


def patients(part: tuple[str, ...]) -> set[str]:
    return {case.split("_")[0] for case in part}


scans_per_patient = st.lists(st.integers(1, 4), min_size=4, max_size=40)


@settings(max_examples=60, deadline=None)
@given(scans_per_patient, st.integers(0, 1000))
def test_every_case_is_in_exactly_one_part_and_no_patient_in_two(scans, seed):
    cases = cohort(scans)
    split = simulated_split(cases, dataset_digest="d", seed=seed)
    parts = (split.train, split.val, split.adapt, split.test)
    assert sorted(case for part in parts for case in part) == sorted(case.case_id for case in cases)
    assert sum(len(patients(part)) for part in parts) == len(scans)
    assert all(parts)


@settings(max_examples=30, deadline=None)
@given(scans_per_patient, st.integers(0, 1000), st.randoms())
def test_a_split_does_not_depend_on_the_order_of_the_cases(scans, seed, random):
    cases = cohort(scans)
    shuffled = list(cases)
    random.shuffle(shuffled)
    for make in (simulated_split, real_source_split, cross_fit_halves):
        assert make(cases, dataset_digest="d", seed=seed) == make(shuffled, dataset_digest="d", seed=seed)


def test_a_split_changes_with_the_seed_and_with_the_dataset():
    cases = cohort([1] * 30)
    splits = {simulated_split(cases, dataset_digest=d, seed=s) for d in ("d", "e") for s in (0, 1)}
    assert len(splits) == 4


def test_the_simulated_split_of_100_patients_is_50_10_20_20():
    split = simulated_split(cohort([1] * 100), dataset_digest="d", seed=0)
    assert [len(part) for part in (split.train, split.val, split.adapt, split.test)] == [50, 10, 20, 20]


def test_the_split_of_a_known_cohort_stays_as_it_is():
    split = simulated_split(cohort([1] * 10), dataset_digest="golden", seed=0)
    assert split == Split(
        train=("p03_0", "p08_0", "p07_0", "p04_0", "p00_0"),
        val=("p06_0",),
        adapt=("p09_0", "p01_0"),
        test=("p02_0", "p05_0"),
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=5), st.integers(5, 500))
def test_part_sizes_add_up_and_stay_within_one_of_their_share(fractions, n):
    sizes = part_sizes(n, fractions)
    wanted = [n * fraction / sum(fractions) for fraction in fractions]
    assert sum(sizes) == n and min(sizes) >= 1
    if min(wanted) >= 1:
        assert all(abs(size - share) < 1 for size, share in zip(sizes, wanted, strict=True))


def test_few_patients_are_refused_with_their_number():
    with pytest.raises(DataError, match="3 patients cannot be split into 4 parts"):
        simulated_split(cohort([2, 2, 2]), dataset_digest="d", seed=0)
    with pytest.raises(DataError, match="1 patient cannot"):
        cross_fit_halves(cohort([5]), dataset_digest="d", seed=0)


def test_fewshot_cases_are_nested_and_differ_between_draws():
    adapt = tuple(f"c{i}" for i in range(20))
    key = {"dataset_digest": "d", "seed": 3}
    ten = fewshot_cases(adapt, 10, **key)
    for k in (1, 2, 5):
        assert fewshot_cases(adapt, k, **key) == ten[:k]
    assert fewshot_cases(adapt[::-1], 10, **key) == ten
    assert len(set(ten)) == 10 and set(ten) <= set(adapt)
    assert fewshot_cases(adapt, 10, **key, draw=1) != ten
    with pytest.raises(NotApplicable, match="21 labelled cases of a target with 20"):
        fewshot_cases(adapt, 21, **key)


def test_the_two_halves_swap_their_roles_and_cover_every_patient():
    cases = cohort([2] * 15)
    first, second = cross_fit_halves(cases, dataset_digest="d", seed=0)
    assert (first.adapt, first.test) == (second.test, second.adapt)
    assert not patients(first.adapt) & patients(first.test)
    assert len(first.adapt) + len(first.test) == len(cases)
    assert abs(len(patients(first.adapt)) - len(patients(first.test))) <= 1
    assert first.train == first.val == ()


def test_the_publishers_test_patients_are_the_same_for_every_seed():
    cases = cohort([2] * 20)
    cases = [CaseInfo(c.case_id, c.patient_id, split="test" if c.patient_id > "p14" else "Training") for c in cases]
    splits = [real_source_split(cases, dataset_digest="d", seed=seed) for seed in range(3)]
    assert {frozenset(patients(split.test)) for split in splits} == {frozenset(f"p{i}" for i in range(15, 20))}
    assert len({split.val for split in splits}) == 3
    for split in splits:
        assert len(patients(split.train)) == 12 and len(patients(split.val)) == 3
        assert not patients(split.train) & patients(split.val)


def test_the_publishers_validation_part_is_kept():
    cases = cohort([1] * 9)
    cases = [CaseInfo(c.case_id, c.patient_id, split=("train", "val", "test")[i // 3]) for i, c in enumerate(cases)]
    split = real_source_split(cases, dataset_digest="d", seed=0)
    assert (sorted(split.val), sorted(split.test)) == (["p03_0", "p04_0", "p05_0"], ["p06_0", "p07_0", "p08_0"])


def test_one_patient_in_two_parts_is_named_with_its_cases():
    left, right = CaseInfo("eye_L", "child_1", split="train"), CaseInfo("eye_R", "child_1", split="test")
    pattern = r"manifest.csv: the patient 'child_1' is in two parts.*'train' \(eye_L\) and 'test' \(eye_R\)"
    with pytest.raises(DataError, match=pattern):
        check_split({"train": [left], "test": [right]}, where="manifest.csv")
    with pytest.raises(DataError, match="child_1"):
        real_source_split([left, right], dataset_digest="d", seed=0)
    check_split({"train": [left], "test": [CaseInfo("eye_L", "child_2")]})


@pytest.mark.parametrize("split", ["", "fold_3"])
def test_an_unknown_part_of_the_publishers_split_is_refused(split):
    cases = [CaseInfo("a", "a", split="train"), CaseInfo("b", "b", split=split)]
    with pytest.raises(DataError, match=f"the case 'b' is in the part '{split}'.*known: "):
        published_parts(cases)


@pytest.mark.parametrize("name", ["chase_db1", "hrf", "hippocampus"])
def test_real_splits_keep_patients_together(shared_data, name):
    description = load_description(name, DESCRIPTIONS)
    cases = FolderDataset(description, locate(name, description, roots=[shared_data])).cases()
    of = {case.case_id: case for case in cases}
    for seed in range(3):
        key = {"dataset_digest": "any", "seed": seed}
        for split in (real_source_split(cases, **key), simulated_split(cases, **key), *cross_fit_halves(cases, **key)):
            parts = {part: [of[case] for case in ids] for part, ids in vars(split).items()}
            assert sum(len(part) for part in parts.values()) == len(cases)
            check_split(parts)


def test_both_eyes_of_a_child_stay_together(shared_data):
    description = load_description("chase_db1", DESCRIPTIONS)
    cases = FolderDataset(description, locate("chase_db1", description, roots=[shared_data])).cases()
    split = real_source_split(cases, dataset_digest="any", seed=0)
    parts = [split.train, split.val, split.test]
    assert [len(part) for part in parts] == [16, 4, 8]
    for part in parts:
        assert all(case[:-1] + side in part for case in part for side in "LR")
