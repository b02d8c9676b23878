"""The benchmark of a phantom's difficulty: its tables name what the phantoms have, its figures mean what they say."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
difficulty = import_module("phantom_difficulty")
tasks = import_module("phantom_tasks")

NAMES = sorted(tasks.TASKS)


def small(name: str, shape: tuple[int, int, int] = (8, 32, 32)):
    task = tasks.TASKS[name]
    module, kind = task.cohort.split(":")
    size = tuple(n * mm / m for n, mm, m in zip(*task.grids["2d"][:2], shape, strict=True))
    phantom = getattr(import_module(module), kind)(patients=3, shape=shape, spacing_mm=size, supersampling=(1, 2, 2))
    return difficulty.Study(task, phantom, tuple(task.weights), "2d")


@pytest.mark.parametrize("name", NAMES)
def test_a_table_names_only_what_its_phantom_has(name):
    study = small(name)
    phantom, task = study.phantom, study.task
    assert set(task.weights) <= set(phantom.members) and {task.oversampled, task.margin_of} <= set(task.weights)
    for domain in (task.source, *task.shifts.values()):
        assert set(domain.include) <= set(phantom.optional_members)
        for key, value in domain.population.items():
            _, low, high = phantom.population_keys[key]
            assert low <= value <= high
    assert all(domain != task.source for domain in task.shifts.values())


@pytest.mark.parametrize("name", NAMES)
def test_every_shift_changes_the_image_or_the_reference(name):
    study = small(name)
    anatomy = study.phantom.anatomy("p0000", {})
    source = study.task.source
    picture, drawn = difficulty.image(study, anatomy, source, 0), difficulty.reference_of(study, anatomy, source)
    assert picture.shape == study.phantom.shape and picture.min() >= 0 and np.isfinite(picture).all()
    for domain in study.task.shifts.values():
        if domain.population or domain.margin_mm:  # a margin below a pixel of this grid does nothing
            continue
        other = difficulty.image(study, anatomy, domain, 0)
        redrawn = difficulty.reference_of(study, anatomy, domain)
        assert np.isfinite(other).all()
        assert not np.array_equal(other, picture) or not np.array_equal(redrawn, drawn)


def test_a_margin_grows_into_the_background_alone_and_shrinks_what_it_moves():
    study = small("heart", (8, 64, 64))
    anatomy = study.phantom.anatomy("p0001", {})
    drawn = difficulty.reference_of(study, anatomy, study.task.source)
    number = study.structures.index("myocardium") + 1
    grown, shrunk = (difficulty.with_margin(study, drawn, mm) for mm in (6.0, -4.0))
    assert set(drawn[grown != drawn]) == {0} and set(grown[grown != drawn]) == {number}
    assert set(drawn[shrunk != drawn]) == {number} and set(shrunk[shrunk != drawn]) == {0}


class Perfect(torch.nn.Module):
    """Answers with the source's references, case after case, slice by slice."""

    def __init__(self, references: list[np.ndarray], classes: int):
        super().__init__()
        self.references, self.classes = iter(references), classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        labels = torch.from_numpy(next(self.references)).long()
        return torch.nn.functional.one_hot(labels, self.classes).movedim(-1, 1)


def test_to_a_perfect_model_a_protocol_costs_what_the_protocols_disagree():
    study = small("heart", (10, 64, 64))
    anatomies = [study.phantom.anatomy(f"p{i:04d}", {}) for i in range(2)]
    references = [difficulty.reference_of(study, a, study.task.source) for a in anatomies]
    rows = difficulty.sub_structures(study, Perfect(references, len(study.structures) + 1), range(2))
    cells = {(row.split()[0], row.split()[3]): [float(c) for c in row.split()[4:]] for row in rows}
    assert set(cells) == {("papillary", "myocardium"), ("papillary", "lv"), ("basal_slice", "lv")}
    for (rule, _), (agreement, own, other, cost, called) in cells.items():
        assert own == 1 and other == agreement < 1 and cost == pytest.approx(100 * (1 - agreement), abs=0.06)
        assert called == (1 if rule == "papillary" else 0)


def test_an_unknown_shift_is_named():
    with pytest.raises(SystemExit, match="unknown shift phase 9"):
        difficulty.chosen(tasks.TASKS["heart"], ["phase 9"])


def test_a_study_trains_and_scores_in_both_dimensions():
    for dimension in ("2d", "3d"):
        options = argparse.Namespace(phantom="heart", dimension=dimension, structures=None, train=1, test=1)
        assert difficulty.study_of(options).phantom.shape == tasks.TASKS["heart"].grids[dimension][0]
        study = small("heart", (8, 24, 24))
        study = difficulty.Study(study.task, study.phantom, study.structures, dimension)
        images, references = difficulty.materialise(study, range(2), study.task.source)
        model = difficulty.train(study, images, references, 2, 0)
        table = difficulty.scores([difficulty.predicted(model, images[0], dimension)], references[:1], 3)
        assert table.shape == (1, 3) and np.nanmin(table) >= 0 and np.nanmax(table) <= 1
