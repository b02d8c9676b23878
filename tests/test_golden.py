"""A golden output per version: a value that changes without a raised version fails here.

After raising a version, `python tests/test_golden.py` writes the file again; its change belongs into the CHANGELOG
under "Numbers that change".
"""

import json
from pathlib import Path

import numpy as np
import pytest

from shiftbench.data.phantoms import AbdomenPhantom

from shiftbench.domains import DatasetRef
from shiftbench.materialise import acquired, drawn
from shiftbench.metrics import SCORERS, score_case
from shiftbench.shifts import OPERATORS, POPULATIONS, PROTOCOLS, value_at
from shiftbench.shifts.population import resolve
from shiftbench.shifts.settings import Step, check_acquisition

FILE = Path(__file__).with_name("golden.json")
SIZE = {"patients": 2, "shape": (8, 64, 64), "spacing_mm": (2.0, 6.25, 6.25), "supersampling": (1, 2, 2)}
STRUCTURES = ["liver", "tumour", "spleen", "kidney"]
CASE = "p0001"
BEYOND_THE_GRID = {"in_plane_resolution": 12.0}  # mm; its levels are finer than this grid


def dataset() -> AbdomenPhantom:
    return DatasetRef("phantom/abdomen", phantom=SIZE).open()


def summary(image: np.ndarray) -> list[float]:
    """Mean, spread, centre of mass along each axis: enough to notice a change, the same on every processor."""
    values = image.astype(float)
    axes = [np.arange(n) for n in values.shape[1:]]
    weights = values.sum(0) / values.sum()
    centre = [float((weights.sum(tuple(a for a in range(3) if a != i)) * axis).sum()) for i, axis in enumerate(axes)]
    return [float(values.mean()), float(values.std()), *centre]


def computed() -> dict[str, list[float]]:
    phantom = dataset()
    anatomy = phantom.anatomy(CASE, {})
    counts = [int((anatomy.fine == i).sum()) for i in range(len(phantom.fine_labels))]
    found = {f"phantom@{AbdomenPhantom.version}": counts}
    base = check_acquisition({"modality": "mr"})
    for op in OPERATORS.values():
        steps = [Step(op.name, BEYOND_THE_GRID.get(op.name) or value_at(op, 4))]
        image, _ = acquired(anatomy, phantom.digest, base, steps, 0)
        found[f"{op.name}@{op.version}"] = summary(image)
    found["ct"] = summary(acquired(anatomy, phantom.digest, check_acquisition({"modality": "ct"}), [], 0)[0] + 1100)
    for rule in PROTOCOLS.values():
        value = rule.choices[-1] if rule.choices else rule.levels[3]
        mask = drawn(anatomy, phantom, STRUCTURES, {rule.name: value})
        found[f"{rule.name}@{rule.version}"] = np.bincount(mask.ravel(), minlength=5).tolist()
    for who in POPULATIONS.values():
        other = phantom.anatomy(CASE, resolve({}, who.name, level=5))
        found[f"{who.name}@{who.version}"] = [int((other.fine == i).sum()) for i in range(len(phantom.fine_labels))]
    one, two = (drawn(anatomy, phantom, STRUCTURES, p) for p in ({}, {"margin_mm": 5.0}))
    scores = score_case(two, one, SIZE["spacing_mm"], "mm", [(s, 4.0) for s in STRUCTURES])
    for name, scorer in SCORERS.items():
        found[f"{name}@{scorer.version}"] = [s.value or 0.0 for s in scores if s.metric == name]
    return found


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
