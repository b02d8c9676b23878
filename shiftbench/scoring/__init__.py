"""From a fold's predictions and references to its rows, whatever became of each case."""

from shiftbench.scoring.fold import score_fold
from shiftbench.scoring.impossible import between_patients

__all__ = ["between_patients", "score_fold"]
