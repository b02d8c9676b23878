"""The benchmark of a phantom's difficulty: its tables name what the phantoms have, its figures mean what they say."""

import argparse
import sys
from dataclasses import replace
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
        choices = {rule: set(of) for rule, of in phantom.alternative_members.values()}
        assert all(picked in choices[rule] for rule, picked in domain.alternatives.items())
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


def test_a_sub_structure_of_two_structures_goes_where_the_domain_puts_it():
    study = small("heart", (10, 64, 64))
    anatomy = study.phantom.anatomy("p0000", {})
    inside = np.isin(anatomy.fine, [study.phantom.fine_labels.index(name) for name in ("papillary", "trabeculae")])
    assert inside.any()
    for alternatives, structure in (
        ({}, "lv"),
        ({"papillary": "blood_pool"}, "lv"),
        ({"papillary": "mass"}, "myocardium"),
    ):
        drawn = difficulty.reference_of(study, anatomy, replace(study.task.source, alternatives=alternatives))
        assert set(drawn[inside]) == {study.structures.index(structure) + 1}


PRINTED = """python benchmarks/phantom_difficulty.py --phantom heart{options}
heart 2d, {steps} steps, 50 training patients
                     myocardium           lv    mean    drop  missed    time
phantom 5.9s, training 39.4s
source                    {dsc:.3f}        0.944   0.922            0.00    4.4s
SNR 10                    0.700        0.800   0.750   -17.2    0.00    4.4s
logistic regr.            0.622        0.576   0.599            0.00   19.4s

rule          of                  drawn  changes        agreement    source     other  cost/pt    called
papillary     myocardium           mass  lv                 0.917     0.944     0.878       6.6     0.888
"""


def test_the_table_has_a_row_per_anatomy_and_dimension_with_quick_budget_and_plateau(tmp_path):
    runs = []
    for steps, dsc, options in ((3000, 0.951, " --steps 3000"), (300, 0.9, "")):
        path = tmp_path / f"{steps}.txt"
        path.write_text(PRINTED.format(steps=steps, dsc=dsc, options=options))
        runs.append(difficulty.Printed.read(path))
    *_, row = table = difficulty.markdown(runs).splitlines()
    assert len(table) == 3
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == "heart 2d" and cells[3] == "0.599"
    assert cells[1] == "300 steps<br>myocardium 0.900<br>lv 0.944<br>mean 0.922"
    assert cells[2].startswith("3000 steps<br>myocardium 0.951")
    assert cells[4] == "papillary (mass), lv: 0.917, 6.6, 0.888"
    assert cells[5].count("phantom_difficulty.py") == 2 and "--steps 3000" in cells[5]
    assert "not run" in difficulty.markdown(runs[1:])


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
