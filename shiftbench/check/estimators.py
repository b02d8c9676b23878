"""The contract of an estimator, tried on a tiny synthetic problem."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from shiftbench.check.findings import Finding, clause_by_clause, fingerprint, refuse_changes, refuses_lacking
from shiftbench.check.problem import Problem
from shiftbench.contract import grant, validate_estimates
from shiftbench.methods import LoadedMethod
from shiftbench.questions import Broken

SAME = 1e-6  # DSC: rounding of sums that are taken in another order


def check_estimator(loaded: LoadedMethod) -> list[Finding]:
    """What the contract asks of an estimator, clause by clause; as `check_method`."""
    return clause_by_clause(
        *(loaded, lambda of: Trial(loaded, of)),
        *(lambda: refuses_lacking(loaded, lambda p: Trial(loaded, p).run(p.test[:1])), CLAUSES),
    )


class Trial:
    """An estimator on one problem; `first` holds its estimates on the test images."""

    def __init__(self, loaded: LoadedMethod, problem: Problem):
        self.loaded, self.problem = loaded, copy.deepcopy(problem)  # a faulty estimator spoils its own copy alone
        self.pristine = fingerprint(problem)
        self.first = np.empty((0, 0))

    def run(self, images: Sequence[Tensor]) -> np.ndarray:
        """Valid estimates (n, structures), float64."""
        problem = self.problem
        access = grant(self.loaded.method, recipe=problem.recipe, source=problem.source, source_val=problem.source_val)
        found = self.loaded.method.estimate(problem.model, access, images)  # type: ignore[attr-defined]
        values, faults = validate_estimates(found, len(images), problem.model.task.classes - 1)
        for fault in faults:
            if fault is not None:
                raise fault
        return values

    def estimates_every_case(self) -> str:
        """Every image gets one valid value per structure."""
        self.first = self.run(self.problem.test)
        return f"{len(self.first)} cases, {self.first.shape[1]} structures"

    def leaves_its_inputs(self) -> None:
        """Nothing that the estimator was handed was changed in place by the first run."""
        refuse_changes(self.pristine, self.problem)

    def same_bits(self) -> None:
        """The estimates depend on the inputs alone."""
        if self.run(self.problem.test).tobytes() != self.first.tobytes():
            raise Broken("a second run differs; draw from a fixed generator and keep no state")

    def order(self) -> None:
        """Images are a set."""
        if not np.allclose(self.run(self.problem.test[::-1])[::-1], self.first, rtol=0, atol=SAME):
            raise Broken("an estimate depends on the order of the images")


CLAUSES: dict[str, Callable[[Trial], str | None]] = {
    "estimates every case and structure, validly": Trial.estimates_every_case,
    "leaves the source model, the images and the references as they are": Trial.leaves_its_inputs,
    "the same inputs give the same bits": Trial.same_bits,
    "the order of the images does not matter": Trial.order,
}
