"""Contact sheets: one shift at its severities, or every target of a scenario, on the same patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from shiftbench.domains import acquisition_steps, dataset_ref, population_of, source_acquisition
from shiftbench.errors import NotApplicable, SpecError, nearest
from shiftbench.graph import Options
from shiftbench.materialise import acquired, drawn
from shiftbench.report.planes import picture, pixel, plane, richest
from shiftbench.report.sheet import Cell, contact_sheet
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS, LabelPolicy
from shiftbench.spec import Scenario, Step, Target
from shiftbench.types import Dataset, Family

# endings of the names of measured quantities -> the unit that they stand for
ACRONYMS = {
    name.lower(): name for name in ("SNR", "FWHM", "NRMSE", "INU", "MTF", "TE", "TR", "TI", "CNR", "GSR", "FOV")
}
UNITS = {
    "_percent": "%",
    "_mm": "mm",
    "_ms": "ms",
    "_deg": "degrees",
    "_hu": "HU",
    "_hz": "Hz",
    "_t": "T",
    "_px": "px",
    "_kvp": "kVp",
    "_mmol": "mM",
    "_bits": "bits",
}


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
    coronal = shift in OPERATORS and "volume" in OPERATORS[shift].requires  # slices are seen from the side
    bare = patients > 1 and shift in OPERATORS and OPERATORS[shift].policy is LabelPolicy.INVARIANT
    targets, looks = [t for _, t in settings], {"wide": wide, "coronal": coronal, "bare": bare}
    return _sheet(scenario, targets, labels, options, patients, title, subtitle, **looks)


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
    sealed = [target.name for target in scenario.targets() if target.sealed]
    if sealed:
        problem = f"the level of '{sealed[0]}' is sealed"
        raise SpecError(problem, where=scenario.name, remedy="run it with the organiser's salt")
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
    coronal: bool = False,
    bare: bool = False,
) -> Figure:
    source = scenario.source[0]
    dataset = dataset_ref(scenario, source.dataset or scenario.dataset, options.folders, options.roots).open()
    chosen = list({info.patient_id: info.case_id for info in dataset.cases()}.values())[:patients]
    at = [richest(dataset.anatomy(case, dict(source.population)).fine, coronal=coronal) for case in chosen]
    rows = [
        [_cell(scenario, dataset, case, z, target, coronal) for case, z in zip(chosen, at, strict=True)]
        for target in targets
    ]
    if bare:  # the reference stays as it is: one patient with contours tells it, the others show the image
        rows = [rows[0], *([*(replace(cell, references=()) for cell in row[:-1]), row[-1]] for row in rows[1:])]
    changes = [_difference(row[0], rows[0][0]) for row in rows]
    if any(change.image is not None and change.image.any() for change in changes):  # a protocol changes no image
        chosen = [*chosen, f"{chosen[0]}: change"]
        rows = [[*row, change] for row, change in zip(rows, changes, strict=True)]
    structures = list(scenario.structures)
    if wide:
        columns = [list(column) for column in zip(*rows, strict=True)]
        return contact_sheet(
            columns, title, subtitle, row_labels=chosen, column_labels=labels, structures=structures, window="row"
        )
    return contact_sheet(rows, title, subtitle, row_labels=labels, column_labels=chosen, structures=structures)


def _difference(cell: Cell, first: Cell) -> Cell:
    """What changed against the first image of the same patient, in blue (darker) and red (brighter)."""
    if cell.image is None or first.image is None:
        return Cell(None, reason="no image to compare")
    return Cell(cell.image - first.image, spacing=cell.spacing, difference=True)


def _cell(scenario: Scenario, dataset: Dataset, case: str, at: int, target: Target | None, coronal: bool) -> Cell:
    source = scenario.source[0]
    anatomy = dataset.anatomy(case, population_of(source, target))
    acquisition = source_acquisition(source, dataset, scenario.name)
    steps = acquisition_steps(target)
    try:
        image, measured = acquired(anatomy, dataset.digest, acquisition, steps, scenario.domain_seed)
    except NotApplicable as reason:
        return Cell(None, reason=str(reason))
    structures = list(scenario.structures)
    protocols = [source.protocol] + ([{**source.protocol, **target.protocol}] if target and target.protocol else [])
    seed = scenario.domain_seed
    drawings = [drawn(anatomy, dataset, structures, p, steps=steps, domain_seed=seed) for p in protocols]
    names = ("reference", "under this protocol")
    geometry = anatomy.geometry
    references = [
        (name, plane(masks, at, geometry, coronal=coronal)) for name, masks in zip(names, drawings, strict=False)
    ]
    size = pixel(geometry.spacing, coronal=coronal)
    window = scenario.window if acquisition["modality"] == "ct" else None
    shown = picture(image, at, geometry, coronal=coronal)
    return Cell(shown, references, size, _caption(measured, target), window=window)


def _caption(measured: Mapping[str, Any], target: Target | None) -> str:
    """The measured effect of the target's steps, and the SNR where the scanner's noise was added."""
    wanted = [OPERATORS[step.operator].achieved for step in target.acquisition] if target else []
    wanted += [name for name in ("snr",) if name not in wanted]
    known = [_words(name, measured[name]) for name in wanted if name in measured and np.isfinite(measured[name])]
    return ", ".join(known[:2])


def _words(quantity: str, value: float) -> str:
    """A measured quantity in words: its name ends with its unit."""
    ending = next((ending for ending in UNITS if quantity.endswith(ending)), "")
    name = " ".join(ACRONYMS.get(word, word) for word in quantity.removesuffix(ending).split("_"))
    shown = f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"{name} {shown} {UNITS.get(ending, '')}".strip()
