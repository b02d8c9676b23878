"""Contact sheets: one shift at its severities, or every target of a scenario, on the same patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shiftbench.domains import acquisition_steps, dataset_ref, population_of, source_acquisition
from shiftbench.errors import NotApplicable, SpecError, nearest
from shiftbench.graph import Options
from shiftbench.materialise import acquired, drawn
from shiftbench.report.planes import picture, pixel, plane, richest
from shiftbench.report.sheet import Cell, contact_sheet
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS
from shiftbench.spec import Scenario, Step, Target
from shiftbench.types import Dataset, Family

SHOWN = ("snr", "inu_percent", "nrmse", "edge_fwhm_mm")  # measured quantities that a caption may hold, at most two


def severities(scenario: Scenario, shift: str, options: Options, *, patients: int = 3, wide: bool = False) -> Figure:
    """Severities 0 to 5 of one shift (rows; columns if `wide`) on a few patients of the scenario's source.

    A label protocol without levels is shown at each of its choices.

    Raises:
        SpecError: no such operator or protocol rule.
    """
    known = [*OPERATORS, *POPULATIONS, *PROTOCOLS]
    if shift not in known:
        raise SpecError(f"unknown shift '{shift}'", remedy=nearest(shift, known))
    settings = _protocol_settings(shift) if shift in PROTOCOLS else _operator_settings(shift)
    entry = OPERATORS.get(shift) or POPULATIONS.get(shift) or PROTOCOLS[shift]
    title = f"{shift.replace('_', ' ')}: {entry.parameter}"
    subtitle = f"{scenario.dataset}, source '{scenario.source[0].name}'"
    labels = [label for label, _ in settings]
    return _sheet(scenario, [t for _, t in settings], labels, options, patients, title, subtitle, wide=wide)


def _operator_settings(name: str) -> list[tuple[str, Target | None]]:
    """Label and target of each severity of an acquisition or population operator; severity 0 is the source."""
    kind = "acquisition" if name in OPERATORS else "population"
    entry = OPERATORS.get(name) or POPULATIONS[name]
    settings: list[tuple[str, Target | None]] = []
    for level, value in enumerate([entry.identity, *entry.levels]):
        words = f"{value:g} {entry.unit}" if math.isfinite(value) else "as acquired"
        base = Target(name=str(level), family=Family.ACQUISITION)
        target = base.model_copy(update={kind: (Step(operator=name, levels=(level,)),)})
        settings.append((f"severity {level}\n{words}", target if level else None))
    return settings


def _protocol_settings(name: str) -> list[tuple[str, Target | None]]:
    """Label and target of the source, then of each level or choice of a protocol rule."""
    rule = PROTOCOLS[name]
    settings: list[tuple[str, Target | None]] = [("source", None)]
    for i, value in enumerate(rule.levels or rule.choices, start=1):
        label = f"severity {i}\n{value:g} {rule.unit}" if isinstance(value, float) else str(value)
        settings.append((label, Target(name=str(i), family=Family.ANNOTATION, protocol={name: value})))
    return settings


def targets_of(scenario: Scenario, options: Options, *, patients: int = 3) -> Figure:
    """The source and every target of a scenario (rows) on a few patients (columns), with their references."""
    targets = [None, *(t for t in scenario.targets() if t.dataset is None)]
    labels = [scenario.source[0].name, *(f"{t.name}\n({t.family})" for t in targets if t)]
    return _sheet(scenario, targets, labels, options, patients, scenario.name, scenario.question, wide=False)


def _sheet(
    scenario: Scenario,
    targets: Sequence[Target | None],
    labels: Sequence[str],
    options: Options,
    patients: int,
    title: str,
    subtitle: str,
    *,
    wide: bool,
) -> Figure:
    source = scenario.source[0]
    dataset = dataset_ref(scenario, source.dataset or scenario.dataset, options.folders, options.roots).open()
    chosen = list({info.patient_id: info.case_id for info in dataset.cases()}.values())[:patients]
    at = [richest(dataset.anatomy(case, dict(source.population)).fine) for case in chosen]
    rows = [
        [_cell(scenario, dataset, case, z, target) for case, z in zip(chosen, at, strict=True)] for target in targets
    ]
    structures = list(scenario.structures)
    if wide:
        columns = [list(column) for column in zip(*rows, strict=True)]
        return contact_sheet(
            columns, title, subtitle, row_labels=chosen, column_labels=labels, structures=structures, window="row"
        )
    return contact_sheet(rows, title, subtitle, row_labels=labels, column_labels=chosen, structures=structures)


def _cell(scenario: Scenario, dataset: Dataset, case: str, z: int, target: Target | None) -> Cell:
    source = scenario.source[0]
    anatomy = dataset.anatomy(case, population_of(source, target))
    acquisition = source_acquisition(source, dataset, scenario.name)
    try:
        image, measured = acquired(
            anatomy, dataset.digest, acquisition, acquisition_steps(target), scenario.domain_seed
        )
    except NotApplicable as reason:
        return Cell(None, reason=str(reason))
    structures = list(scenario.structures)
    protocols = [source.protocol] + ([{**source.protocol, **target.protocol}] if target and target.protocol else [])
    drawings = [drawn(anatomy, dataset, structures, protocol) for protocol in protocols]
    names = ("reference", "under this protocol")
    references = [(name, plane(masks, z, anatomy.geometry)) for name, masks in zip(names, drawings, strict=False)]
    spacing = anatomy.geometry.spacing
    return Cell(picture(image, z, anatomy.geometry), references, pixel(spacing), _caption(measured))


def _caption(measured: Mapping[str, Any]) -> str:
    words = {
        "snr": "SNR {:.1f}",
        "inu_percent": "non-uniformity {:.0f} %",
        "nrmse": "change {:.1%}",
        "edge_fwhm_mm": "edge {:.1f} mm",
    }
    known = [words[name].format(measured[name]) for name in SHOWN if name in measured and np.isfinite(measured[name])]
    return ", ".join(known[:2])
