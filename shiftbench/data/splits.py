"""Splits by patient, fixed per (dataset, seed): no patient is ever in two parts (ARCHITECTURE.md section 5)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shiftbench.errors import DataError, NotApplicable, nearest
from shiftbench.rng import generator
from shiftbench.types import CaseInfo

PUBLISHED_PARTS: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Split:
    """Case ids of each part, patients in a seeded order, so that a prefix of a part is a random sample of it.

    Attributes:
        train: source cases a model is trained on.
        val: source cases a training is watched on.
        adapt: target cases a method may see.
        test: cases a method is scored on; with simulated shifts the same ones for the source and every target.
    """

    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    adapt: tuple[str, ...] = ()
    test: tuple[str, ...] = ()


def simulated_split(
    cases: Sequence[CaseInfo],
    *,
    dataset_digest: str,
    seed: int,
    fractions: tuple[float, float, float, float] = (0.5, 0.1, 0.2, 0.2),
) -> Split:
    """Source train and val, target adapt, and test, for a dataset whose target domains are simulated.

    Args:
        cases: everyone in the dataset, in any order.
        dataset_digest: with `seed`, what fixes the split.
        seed: of the split.
        fractions: shares of the patients in the order train, val, adapt, test.

    Raises:
        DataError: there are fewer patients than parts.
    """
    parts = _partition(cases, fractions, generator(seed, "split", "simulated", dataset_digest))
    return Split(*parts)


def real_source_split(
    cases: Sequence[CaseInfo],
    *,
    dataset_digest: str,
    seed: int,
    fractions: tuple[float, float, float] = (0.6, 0.15, 0.25),
) -> Split:
    """Source train, val and test of a real site; `adapt` is empty.

    Where the cases carry the publisher's split it is kept: `test` is then the same for every seed, and `val` is drawn
    from the publisher's training patients if the publisher named none.

    Args:
        cases: everyone at the site, in any order.
        dataset_digest: with `seed`, what fixes the split.
        seed: of the split.
        fractions: shares of the patients in the order train, val, test.

    Raises:
        DataError: fewer patients than parts, or a patient in two parts of the publisher's split.
    """
    rng = generator(seed, "split", "source", dataset_digest)
    if not any(case.split for case in cases):
        train, val, test = _partition(cases, fractions, rng)
        return Split(train=train, val=val, test=test)
    published = published_parts(cases)
    for part in ("train", "test"):
        if not published[part]:
            raise DataError(
                f"the publisher's split has no case in '{part}'", remedy="leave 'split' out of the description"
            )
    (test,) = _partition(published["test"], (1.0,), rng)
    if published["val"]:
        (train,), (val,) = (_partition(published[part], (1.0,), rng) for part in ("train", "val"))
    else:
        train, val = _partition(published["train"], fractions[:2], rng)
    return Split(train=train, val=val, test=test)


def cross_fit_halves(cases: Sequence[CaseInfo], *, dataset_digest: str, seed: int) -> tuple[Split, Split]:
    """Two folds of a real target: adapt on one half of the patients, score the other, then swap.

    Raises:
        DataError: there is only one patient.
    """
    first, second = _partition(cases, (0.5, 0.5), generator(seed, "split", "halves", dataset_digest))
    return Split(adapt=first, test=second), Split(adapt=second, test=first)


def fewshot_cases(adapt: Sequence[str], k: int, *, dataset_digest: str, seed: int, draw: int = 0) -> tuple[str, ...]:
    """The `k` labelled target cases: a prefix of one permutation of `adapt`, so that 1 is in 2 is in 5 is in 10.

    Args:
        adapt: case ids a method may see, in any order.
        k: number of labelled cases.
        dataset_digest: with `seed` and `draw`, what fixes the permutation.
        seed: of the split.
        draw: which permutation.

    Raises:
        NotApplicable: `adapt` has fewer than `k` cases.
    """
    if not 1 <= k <= len(adapt):
        raise NotApplicable(
            f"{k} labelled cases of a target with {len(adapt)} cases to adapt on", remedy="use a smaller k"
        )
    order = generator(seed, "fewshot", dataset_digest, draw).permutation(len(adapt))
    ids = sorted(adapt)
    return tuple(ids[i] for i in order[:k])


def published_parts(cases: Iterable[CaseInfo], *, where: object = None) -> dict[str, list[CaseInfo]]:
    """The cases in the publisher's train, val and test.

    Raises:
        DataError: a case has no part or an unknown one, or one patient is in two parts.
    """
    parts: dict[str, list[CaseInfo]] = {"train": [], "val": [], "test": []}
    for case in cases:
        part = PUBLISHED_PARTS.get(case.split.strip().lower())
        if part is None:
            problem = f"the case '{case.case_id}' is in the part '{case.split}' of the split"
            raise DataError(problem, where=where, remedy=nearest(case.split, PUBLISHED_PARTS))
        parts[part].append(case)
    check_split(parts, where=where)
    return parts


def check_split(parts: Mapping[str, Iterable[CaseInfo]], *, where: object = None) -> None:
    """Makes sure that no patient is in two parts.

    Raises:
        DataError: names the patient, the two parts and a case in each.
    """
    seen: dict[str, tuple[str, str]] = {}  # patient -> part, case
    for part, cases in parts.items():
        for case in cases:
            other, other_case = seen.setdefault(case.patient_id, (part, case.case_id))
            if other != part:
                raise DataError(
                    f"the patient '{case.patient_id}' is in two parts of the split, "
                    f"'{other}' ({other_case}) and '{part}' ({case.case_id})",
                    where=where,
                    remedy="keep all cases of a patient in one part, or leave 'split' out of the description",
                )


def _partition(cases: Sequence[CaseInfo], fractions: Sequence[float], rng) -> list[tuple[str, ...]]:
    """Case ids of consecutive shares of the permuted patients; the order of `cases` does not matter."""
    of_patient: dict[str, list[str]] = {}
    for case in sorted(cases, key=lambda case: case.case_id):
        of_patient.setdefault(case.patient_id, []).append(case.case_id)
    patients = sorted(of_patient)
    counts = part_sizes(len(patients), fractions)
    order = rng.permutation(len(patients))
    parts, start = [], 0
    for count in counts:
        chosen = [patients[i] for i in order[start : start + count]]
        parts.append(tuple(case for patient in chosen for case in of_patient[patient]))
        start += count
    return parts


def part_sizes(patients: int, fractions: Sequence[float]) -> list[int]:
    """Numbers of patients per part: proportional by largest remainder, and at least one.

    Raises:
        DataError: there are fewer patients than parts.
        ValueError: a fraction is not positive.
    """
    if min(fractions) <= 0:
        raise ValueError(f"every part of a split needs a positive share, not {tuple(fractions)}")
    if patients < len(fractions):
        raise DataError(
            f"{patients} patient{'s' * (patients != 1)} cannot be split into {len(fractions)} parts",
            remedy="a split is by patient: use a dataset with more of them",
        )
    wanted = [patients * fraction / sum(fractions) for fraction in fractions]
    sizes = [int(size + 1e-9) for size in wanted]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (sizes[i] - wanted[i], i))
    for i in by_remainder[: patients - sum(sizes)]:
        sizes[i] += 1
    while 0 in sizes:  # a tiny part takes a patient from the largest
        sizes[sizes.index(max(sizes))] -= 1
        sizes[sizes.index(0)] += 1
    return sizes
