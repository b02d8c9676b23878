"""What stands beside the leaderboards: a table per question, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from shiftbench.report.sections import attribution, impossible, segments, streams
from shiftbench.report.sections.section import Section, print_sections, write_sections

__all__ = ["SECTIONS", "Section", "print_sections", "sections", "write_sections"]

SECTIONS: tuple[Callable[[pd.DataFrame], Section], ...] = (
    impossible.section,
    segments.section,
    streams.section,
    attribution.section,
)


def sections(rows: pd.DataFrame) -> list[Section]:
    """The sections that the rows of a run have something for.

    Raises:
        OutputError: see `robustness.patient_table`.
    """
    made = (make(rows) for make in SECTIONS)
    return [section for section in made if not section.table.empty]
