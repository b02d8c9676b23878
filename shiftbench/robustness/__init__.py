"""From rows to robustness: transfer, drop, oracle gap, recovered share, harm, headlines, severity, worst cases, causes.

Every comparison is between rows of the same backbone, budget and seeds: `erm` is source-only, `target_oracle` was
trained on labelled cases of the target. Scores are averaged over structures, then cases, then patients.
"""

from shiftbench.robustness.constants import CONSTANTS, Constants
from shiftbench.robustness.curves import severity_curves
from shiftbench.robustness.headline import headline
from shiftbench.robustness.patients import patient_table
from shiftbench.robustness.recovery import recovery
from shiftbench.robustness.summary import summary
from shiftbench.robustness.tables.attribution import attribution
from shiftbench.robustness.tables.concept import concept
from shiftbench.robustness.tables.corruption import corruption
from shiftbench.robustness.tables.detection import detection
from shiftbench.robustness.tables.severity import severity
from shiftbench.robustness.tables.transfer import transfer
from shiftbench.robustness.tables.worst import worst

__all__ = [
    "CONSTANTS",
    "Constants",
    "attribution",
    "concept",
    "corruption",
    "detection",
    "headline",
    "patient_table",
    "recovery",
    "severity",
    "severity_curves",
    "summary",
    "transfer",
    "worst",
]
