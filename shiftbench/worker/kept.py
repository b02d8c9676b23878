"""What is kept of a prediction beside its labels: arrays that the scenario asks for, and facts for the record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from shiftbench.tasks import Task
from shiftbench.types import Prediction


def kept(
    prediction: Prediction, labels: np.ndarray, layout: Task, keep: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays to store and facts (JSON values) to record of one valid prediction.

    Args:
        prediction: of the method, on any device.
        labels: uint8 (*s), decoded from it.
        layout: of the task.
        keep: what the scenario asks for: "log_probabilities".
    """
    return {}, {}
