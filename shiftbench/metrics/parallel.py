"""Many cases scored over several processes."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from shiftbench.metrics.case import Score, score_case

Case = Mapping[str, Any] | Callable[[], Mapping[str, Any]]

AHEAD = 2  # cases per process that are read before they are needed, which bounds the memory


def score_cases(cases: Iterable[Case], jobs: int = 1) -> Iterator[list[Score]]:
    """The scores of each case, in the order of the cases; equal to those of `score_case` one by one.

    Args:
        cases: the arguments of `score_case` by name, taken as they are needed; or functions that return them, as one
            that reads them from files, which are called in the process that scores.
        jobs: processes, which are started anew (spawned); 1 for none but this one.

    Raises:
        ValueError: jobs is less than 1, or what `score_case` raises, for the first case that it refuses.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; at least one process scores")
    return _in_turn(cases) if jobs == 1 else _in_parallel(cases, jobs)


def _in_turn(cases: Iterable[Case]) -> Iterator[list[Score]]:
    for case in cases:
        yield _score(case)


def _in_parallel(cases: Iterable[Case], jobs: int) -> Iterator[list[Score]]:
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[list[Score]]] = deque()
        try:
            for case in cases:
                waiting.append(pool.submit(_score, case))
                if len(waiting) > AHEAD * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _score(case: Case) -> list[Score]:
    return score_case(**(case() if callable(case) else case))
