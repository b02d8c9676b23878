"""The audit that reads scores: above the oracle by more than the noise."""

from __future__ import annotations

import pandas as pd

from shiftbench import robustness
from shiftbench.audit.answers import ABOVE_ORACLE, ASKED, table
from shiftbench.robustness.constants import CONSTANTS, ORACLE, SOURCE_ONLY
from shiftbench.robustness.recovery import GAP
from shiftbench.robustness.streams import outside_streams
from shiftbench.types import Track
from shiftbench.worker.audit import FAILED, NOT_CONCERNED, PASSED

METRICS = ("dsc", "nsd")
WORDS = (
    f"it closes {{share:.0f}} % of the gap between source-only and the oracle, more than"
    f" {CONSTANTS.audit_recovered_percent:g} %, and is above the oracle by more than the noise; look for a leak"
)


def above_oracle(rows: pd.DataFrame) -> pd.DataFrame:
    """A finding per method and target, and per method and shift family and overall.

    The marks are those of `robustness.summary` and `robustness.recovery`. Where there is no oracle or no gap, it does
    not concern the method. METHODS.md 10.9.

    Raises:
        OutputError: see `robustness.patient_table`.
    """
    alone = outside_streams(rows[rows["track"] != Track.ESTIMATE])
    scored = alone[alone["metric"].isin(METRICS)]
    if scored.empty:
        return table([])
    found = [_finding(line) for line in robustness.summary(scored).to_dict("records")]
    pooled = robustness.recovery(scored).to_dict("records")
    return table([*found, *(_finding(line | {"target": f"all of: {line['family']}"}) for line in pooled)])


def _finding(line: dict) -> dict:
    """One line of the table of audits from one of the marked tables."""
    place = {name: line.get(name) for name in ("scenario", "target", "track", "backbone", "budget", "method", "k")}
    outcome, detail = PASSED, ""
    if line["method"] in (SOURCE_ONLY, ORACLE):
        outcome, detail = NOT_CONCERNED, "it is one of the two that the others are compared with"
    elif line["gap_status"] != GAP:
        outcome, detail = NOT_CONCERNED, line["gap_status"] if isinstance(line["gap_status"], str) else "no scores"
    elif line["audit"]:
        outcome, detail = FAILED, WORDS.format(share=line["recovered_percent"])
    return {**place, "audit": ABOVE_ORACLE, "outcome": outcome, "detail": detail, "asked": ASKED[ABOVE_ORACLE]}
