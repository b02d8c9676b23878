"""From rows to robustness: drop, oracle gap, recovered share, harm, headlines and severity curves.

Every comparison is between rows of the same backbone, budget and seeds: `erm` is source-only, `target_oracle` was
trained on labelled cases of the target. Scores are averaged over structures, then cases, then patients.
"""

from shiftbench.robustness.constants import CONSTANTS, Constants
from shiftbench.robustness.curves import severity_curves
from shiftbench.robustness.headline import headline
from shiftbench.robustness.patients import patient_table
from shiftbench.robustness.summary import summary

__all__ = ["CONSTANTS", "Constants", "headline", "patient_table", "severity_curves", "summary"]
