"""The versions of what computes a task, where nothing else declares them: to be raised when results change."""

from __future__ import annotations

from shiftbench.metrics.features import VERSIONS as FEATURE_VERSIONS
from shiftbench.metrics.scorers import METRICS
from shiftbench.spec import Scenario

TRAIN_VERSION = 2
PREDICT_VERSION = 2
SELECT_VERSION = 1  # of the criterion that configurations are chosen by without labels


def metric_versions(scenario: Scenario) -> dict[str, int]:
    """Metric to its version, as far as they may reach the scores of a scenario."""
    versions = {name: scorer.version for name, scorer in METRICS.items()}
    return versions | (dict(FEATURE_VERSIONS) if scenario.radiomics is not None else {})
