"""Scores of a predicted against a reference mask: overlap, surfaces, and one pass over a whole case."""

from shiftbench.metrics.case import SCORERS, Score, Scorer, score_case
from shiftbench.metrics.overlap import dsc, volume_bias_percent
from shiftbench.metrics.surface import hd95_mm, nsd

__all__ = ["SCORERS", "Score", "Scorer", "dsc", "hd95_mm", "nsd", "score_case", "volume_bias_percent"]
