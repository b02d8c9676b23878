"""In which order cases come: passes over a stream, and the ring of patients of the impossible control."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shiftbench.contract import GRANTS
from shiftbench.domains import Part
from shiftbench.graph import MethodCard
from shiftbench.rng import generator
from shiftbench.robustness.constants import SOURCE_ONLY
from shiftbench.spec import Stream
from shiftbench.types import Episode, Track

Place = tuple[str, str]  # target and case


@dataclass(frozen=True)
class Pass:
    """One pass over a stream: every case of every target once.

    Attributes:
        seed: the order seed.
        tests: test part per target.
    """

    name: str
    seed: int
    order: tuple[Place, ...]
    tests: Mapping[str, Part]

    def positions(self, target: str) -> dict[str, int]:
        """Case of one target to its place in the pass."""
        return {case: i for i, (name, case) in enumerate(self.order) if name == target}


def runs_on_streams(method: MethodCard) -> bool:
    """Whether the method keeps state over a stream; one that is handed a target's own data cannot be run on several."""
    alone = GRANTS[method.track] <= {"sidecar"}
    return alone and method.episode in (Episode.ONLINE, Episode.CONTINUAL)


def stands_in_streams(method: MethodCard) -> bool:
    """Whether the method has rows of streams: it runs on them, or is source-only or forgets every case."""
    forgets = method.track is Track.TTA and method.episode == Episode.EPISODIC
    return method.name == SOURCE_ONLY or forgets or runs_on_streams(method)


def passes(stream: Stream, tests: Mapping[str, Part], domain_seed: int) -> Iterator[Pass]:
    """The stream once per order seed."""
    cases = {name: sorted(test.where()) for name, test in tests.items()}
    for seed in stream.order_seeds:
        rng = generator(domain_seed, "stream", stream.order, list(stream.targets), seed)
        if stream.order == "continual":
            order = continual(cases, rng, as_listed=seed == 0)
        elif stream.order == "gradual":
            order = gradual(cases, rng)
        elif stream.order == "mixed":
            order = _shuffled([(name, case) for name, own in cases.items() for case in own], rng)
        else:
            order = correlated(cases, rng, stream.concentration)
        yield Pass(stream.name, seed, tuple(order), tests)


def continual(cases: Mapping[str, Sequence[str]], rng: np.random.Generator, *, as_listed: bool) -> list[Place]:
    """One target after another, as listed or permuted; the cases of each shuffled."""
    names = list(cases)
    permuted = [names[i] for i in rng.permutation(len(names))]
    return [place for name in (names if as_listed else permuted) for place in _block(name, cases[name], rng)]


def gradual(cases: Mapping[str, Sequence[str]], rng: np.random.Generator) -> list[Place]:
    """Along the targets and back, half of each target's cases on each way, so that severity rises and falls.

    The last target is met once, with all its cases.
    """
    names = list(cases)
    shuffled = {name: _block(name, cases[name], rng) for name in names}
    middle = {name: len(own) if name == names[-1] else (len(own) + 1) // 2 for name, own in shuffled.items()}
    there = [place for name in names for place in shuffled[name][: middle[name]]]
    return there + [place for name in reversed(names) for place in shuffled[name][middle[name] :]]


def correlated(cases: Mapping[str, Sequence[str]], rng: np.random.Generator, concentration: float) -> list[Place]:
    """Uneven blocks: each target's cases fall into as many periods as there are targets, by Dirichlet shares.

    Reference:
        Gong et al., NOTE: Robust continual test-time adaptation against temporal correlation, NeurIPS 2022.
    """
    periods: list[list[list[Place]]] = [[] for _ in cases]
    for name, own in cases.items():
        shuffled = _block(name, own, rng)
        shares = np.cumsum(rng.dirichlet(np.full(len(cases), concentration)))
        edges = [0, *(round(float(share) * len(own)) for share in shares[:-1]), len(own)]
        for period, first, last in zip(periods, edges[:-1], edges[1:], strict=True):
            period.append(shuffled[first:last])
    return [place for period in periods for i in rng.permutation(len(period)) for place in period[i]]


def _block(name: str, cases: Sequence[str], rng: np.random.Generator) -> list[Place]:
    return _shuffled([(name, case) for case in cases], rng)


def _shuffled(places: Sequence[Place], rng: np.random.Generator) -> list[Place]:
    return [places[i] for i in rng.permutation(len(places))]


def derangement(patients: Mapping[str, str], seed: int) -> dict[str, str]:
    """Case to the case of another patient: patients in a seeded ring, each given a case of the next one.

    Args:
        patients: case to patient, at least two patients.
        seed: of the domain.
    """
    own: dict[str, list[str]] = {}
    for case in sorted(patients):
        own.setdefault(patients[case], []).append(case)
    names = sorted(own)
    ring = [names[i] for i in generator(seed, "permuted references", names).permutation(len(names))]
    following = dict(zip(ring, [*ring[1:], ring[0]], strict=True))
    return {
        case: own[following[patient]][i % len(own[following[patient]])]
        for patient, cases in own.items()
        for i, case in enumerate(cases)
    }
