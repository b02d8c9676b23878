"""What a metric is worth where there is nothing to measure (METRICS.md 5.2): the policy of statuses, in one place."""

from __future__ import annotations

from collections.abc import Mapping

from shiftbench.metrics.scorers import METRICS
from shiftbench.types import FAILURES, Status

Values = dict[tuple[str, str], float | None]  # by metric and definition

# Undefined without a reference, so that a false positive or a failure on a negative case has none of them.
OF_REFERENCE = frozenset(
    {
        *("ndsc", "cc_dice", "instance_recall", "lesion_recall"),
        *("lesion_recall_small", "lesion_recall_medium", "lesion_recall_large"),
    }
)


def _each(values: Mapping[str, float | None]) -> Values:
    return {(name, definition): values[name] for name, scorer in METRICS.items() for definition in scorer.definitions}


_NULL = _each(dict.fromkeys(METRICS, None))
_WORST = _each({name: scorer.worst for name, scorer in METRICS.items()})
_WORST_ON_NEGATIVE = _WORST | {key: None for key in _WORST if key[0] in OF_REFERENCE}


def fixed_values(status: Status, *, reference_empty: bool) -> Values:
    """Every metric of a structure whose status decides it; what can be counted all the same is to be put over it."""
    if status in (Status.BOTH_EMPTY, Status.CLASS_NOT_ANNOTATED):
        return dict(_NULL)
    if status is Status.FP_ON_NEGATIVE:
        return _WORST_ON_NEGATIVE | {("instance_precision", METRICS["instance_precision"].definition): 0.0}
    return dict(_WORST_ON_NEGATIVE if reference_empty else _WORST)


def status_of(n_prediction: int, n_reference: int, failure: Status | None, annotated: bool) -> Status:
    """What the value of a structure means, from its voxels in either mask and what became of the prediction.

    Raises:
        ValueError: `failure` is no failure status.
    """
    if failure is not None and failure not in FAILURES:
        raise ValueError(f"'{failure}' is not a failure status")
    if not annotated:
        return Status.CLASS_NOT_ANNOTATED
    if failure is not None:
        return failure
    if not n_reference:
        return Status.FP_ON_NEGATIVE if n_prediction else Status.BOTH_EMPTY
    return Status.OK if n_prediction else Status.MISSED
