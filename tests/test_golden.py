"""A golden output per version: a value that changes without a raised version fails here.

After raising a version, `python tests/test_golden.py` writes the file again; its change belongs into the CHANGELOG
under "Numbers that change".
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from shiftbench.certificate.reference_set import REFERENCE_SETS, ReferenceSet, candidates
from shiftbench.errors import NotApplicable, OperatorError, SpecError
from shiftbench.materialise import drawn
from shiftbench.metrics import METRICS, ScoredStructure, score_case
from shiftbench.metrics.calibration import calibration_values
from shiftbench.metrics.components import components
from shiftbench.metrics.features import FEATURES, PREFIX
from shiftbench.metrics.radiomics import features
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS, value_at
from shiftbench.shifts.operator import Operator
from shiftbench.shifts.population import resolve
from shiftbench.shifts.protocol import check_protocol
from shiftbench.shifts.settings import Step
from shiftbench.tasks import Task

FILE = Path(__file__).with_name("golden.json")
CASE = 1
STRUCTURES = ["liver", "tumour", "spleen", "kidney"]
DRAWN = {  # what is segmented where label protocols are tried, small grids of the three anatomies
    "phantom/abdomen": STRUCTURES,
    "phantom/brain": ["white_matter", "grey_matter", "ventricles", "lesion"],
    "phantom/heart": ["myocardium", "lv", "rv"],
}
HEART = ReferenceSet("heart cine", "phantom/heart", (6, 48, 48), (14.0, 4.8, 4.8), (("preset", "cardiac_cine"),))


def small(chosen: ReferenceSet) -> ReferenceSet:
    """The same anatomy on at most 64 pixels; sets that serve a purpose keep their spacing and are cut instead."""
    d, h, w = chosen.shape
    if chosen.serves in ("kernel", "transfer") or "fine" in chosen.name:
        return replace(chosen, shape=(min(d, 12), min(h, 96), min(w, 96)))
    factor = max(h // 64, 1)
    z, y, x = chosen.spacing_mm
    return replace(chosen, shape=(min(d, 32), h // factor, w // factor), spacing_mm=(z, y * factor, x * factor))


SETS = (*(small(s) for s in REFERENCE_SETS), HEART)


def summary(image: np.ndarray) -> list[float]:
    """Mean, spread, centre of mass along each axis: enough to notice a change, the same on every processor."""
    values = image.astype(float)
    values = values - min(0.0, float(values.min()))
    axes = [np.arange(n) for n in values.shape[1:]]
    weights = values.sum(0) / values.sum()
    others = [tuple(a for a in range(len(axes)) if a != i) for i in range(len(axes))]
    centre = [float((weights.sum(o) * axis).sum()) for o, axis in zip(others, axes, strict=True)]
    return [float(values.mean()), float(values.std()), *centre]


def of_operator(operator: Operator) -> list[float]:
    """The summary of an image under an operator, on the first set that can carry its strongest possible level."""
    for chosen in candidates(operator, SETS):
        for level in (4, 3, 5, 2):
            try:
                return summary(chosen.acquired(CASE, [Step(operator.name, value_at(operator, level))])[0])
            except (NotApplicable, OperatorError):
                continue
    raise AssertionError(f"no set can carry {operator.name}")


def of_rule(rule) -> list[int] | None:
    """Voxels per structure under a label protocol, on the first anatomy that it is defined for."""
    if rule.name == "reassign":  # has neither choices nor levels
        return None
    value = rule.choices[-1] if rule.choices else rule.levels[3]
    for name, structures in DRAWN.items():
        chosen = next(s for s in SETS if s.phantom == name and not s.real)
        anatomy, dataset = chosen.case(CASE), chosen.dataset
        try:
            check_protocol(
                {rule.name: value},
                dataset.optional_members,
                alternative_members=dataset.alternative_members,
                structures=structures,
                things=dataset.things,
                ndim=3,
            )
            return np.bincount(drawn(anatomy, dataset, structures, {rule.name: value}).ravel(), minlength=5).tolist()
        except SpecError:
            continue
    return None


def of_population(who) -> list[int]:
    """Voxels per fine label of a patient under a population operator, on the first phantom that has its key."""
    chosen = next(s for s in SETS if not s.real and s.phantom in who.phantoms)
    other = chosen.dataset.anatomy(f"p{CASE:04d}", resolve({}, who.name, level=5))
    return np.bincount(other.fine.ravel(), minlength=len(chosen.dataset.fine_labels)).tolist()


def of_metrics(reference: np.ndarray, prediction: np.ndarray, spacing: tuple[float, ...]) -> dict[str, list[float]]:
    """Every metric in every definition: of masks, of their components as instances, and of blurred probabilities."""
    structures = [ScoredStructure(*s) for s in (("liver", 4.0), ("tumour", 4.0, "lesions"), ("spleen", 4.0, "tube"))]
    reference, prediction = (np.where(labels < 4, labels, 0) for labels in (reference, prediction))
    ids = [components(labels > 0) * 4 + labels for labels in (prediction, reference)]  # one id lies in one structure
    scores = score_case(
        *(prediction, reference, spacing, structures),
        layout=Task(4, "panoptic", (1, 2, 3)),
        instances=ids[0].astype(np.int32),
        reference_instances=ids[1].astype(np.int32),
        region=ndimage.binary_dilation(reference > 0, iterations=3),
    )
    found: dict[str, list[float]] = {}
    for score in scores:
        name = f"{score.metric}@{METRICS[score.metric].version}"
        found.setdefault(name, []).append(score.value or 0.0)
    blurred = np.stack([ndimage.gaussian_filter((prediction == k).astype(float), 1.5) for k in range(4)])
    stack = blurred / blurred.sum(0)
    for values in calibration_values(stack, reference, spacing, 10.0):
        for (metric, _), value in values.items():
            if metric in METRICS:
                found.setdefault(f"{metric}@{METRICS[metric].version}", []).append(value or 0.0)
    intensities = np.cos(np.arange(reference.size)).reshape(reference.shape) + reference
    measured = features(intensities, reference == 1, spacing, "mm")
    return found | {f"{PREFIX}{name}@{FEATURES[name].version}": [value or 0.0] for name, value in measured.items()}


def computed() -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for chosen in SETS:
        anatomy = chosen.case(CASE)
        kind = type(chosen.dataset)
        counts = np.bincount(anatomy.fine.ravel(), minlength=len(kind.fine_labels)).tolist()
        found[f"{kind.name}@{kind.version}, {chosen.name}"] = counts
        found[f"{chosen.name}, image"] = summary(chosen.acquired(CASE, [])[0])
    found |= {f"{op.name}@{op.version}": of_operator(op) for op in OPERATORS.values()}
    found |= {f"{r.name}@{r.version}": counts for r in PROTOCOLS.values() if (counts := of_rule(r)) is not None}
    found |= {f"population {who.name}@{who.version}": of_population(who) for who in POPULATIONS.values()}
    anatomy, dataset = SETS[0].case(CASE), SETS[0].dataset
    one, two = (drawn(anatomy, dataset, STRUCTURES, p) for p in ({}, {"margin_mm": 5.0}))
    return found | of_metrics(one, two, anatomy.geometry.spacing)


@pytest.fixture(scope="module")
def now():
    return computed()


@pytest.mark.parametrize("name", sorted(json.loads(FILE.read_text())) if FILE.is_file() else [])
def test_a_value_changes_only_with_its_version(now, name):
    golden = json.loads(FILE.read_text())[name]
    voxels = 2 if all(isinstance(value, int) for value in golden) else 0
    assert now[name] == pytest.approx(golden, rel=1e-3, abs=voxels or 0.01)


def test_everything_with_a_version_has_a_golden_value(now):
    assert set(now) == set(json.loads(FILE.read_text())), "raise a version, or write the file again"


if __name__ == "__main__":
    FILE.write_text(json.dumps(computed(), indent=1) + "\n")
