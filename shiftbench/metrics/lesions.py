"""Scores of scattered lesions, which are the connected components of a mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def lesion_values(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], region: np.ndarray | None = None
) -> dict[tuple[str, str], float | None]:
    """Every metric of `shiftbench.metrics.scorers.LESION_SCORERS` by name and definition."""
    raise NotImplementedError
