"""What stands beside the leaderboards: a table per question, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from shiftbench.report.sections import (
    attribution,
    audit,
    calibration,
    concept,
    corruption,
    detection,
    downstream,
    estimators,
    failure_detection,
    forms,
    impossible,
    pairs,
    radiomics,
    ranks,
    segments,
    selection,
    severity,
    streams,
    transfer,
    worst,
)
from shiftbench.report.sections.section import Section, print_sections, write_sections

__all__ = ["SECTIONS", "Section", "print_sections", "sections", "write_sections"]

SECTIONS: tuple[Callable[[pd.DataFrame], Section], ...] = (
    impossible.section,
    ranks.section,
    pairs.section,
    severity.section,
    transfer.section,
    corruption.section,
    worst.section,
    detection.section,
    forms.section,
    segments.section,
    streams.section,
    attribution.section,
    calibration.section,
    failure_detection.section,
    estimators.section,
    selection.section,
    radiomics.section,
    downstream.section,
)


def sections(
    rows: pd.DataFrame, agreement: pd.DataFrame | None = None, audits: pd.DataFrame | None = None
) -> list[Section]:
    """The sections that the rows of a run have something for.

    Args:
        rows: the columns of `shiftbench.types.Row`.
        agreement: of the label protocols (see `shiftbench.agreement`), where it is known.
        audits: what `shiftbench audit` found, where it was asked.

    Raises:
        OutputError: see `robustness.patient_table`.
    """
    made = [audit.section(audits), *(make(rows) for make in SECTIONS), concept.section(rows, agreement)]
    return [section for section in made if not section.table.empty]
