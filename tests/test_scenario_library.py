"""The scenarios that are shipped: complete, plannable, and every target of them can be made."""

from pathlib import Path

import pytest

from shiftbench.domains import acquisition_steps, dataset_ref, population_of, source_acquisition
from shiftbench.errors import DataError, NotApplicable
from shiftbench.graph import Options
from shiftbench.materialise import acquired, drawn
from shiftbench.plan import plan
from shiftbench.shifts import OPERATORS, POPULATIONS
from shiftbench.shifts.acquisition import moved_labels
from shiftbench.spec import RESELECT, load_scenario, scenario_files
from shiftbench.spec.sealed import unsealed
from shiftbench.types import Family

DATA = Path(__file__).parents[2] / "shared/data"
NAMES = sorted(scenario_files())
SALT = "a salt of the tests"


def opened(name: str):
    scenario = load_scenario(name)
    whole = {op.name for op in (*OPERATORS.values(), *POPULATIONS.values()) if not op.monotone}
    return unsealed(scenario, SALT, whole=lambda operator: operator in whole)


def options() -> Options:
    return Options(roots=(DATA,) if DATA.is_dir() else ())


def test_there_are_at_least_thirty_for_seven_anatomies_and_both_modalities():
    scenarios = [load_scenario(name) for name in NAMES]
    assert len(scenarios) >= 30
    data = {s.dataset for s in scenarios}
    assert {"phantom/brain", "phantom/abdomen", "phantom/heart", "hippocampus", "sunnybrook"} <= data
    assert any(d.startswith("nuclei") for d in data) and {"chase_db1", "hrf"} <= data
    assert {str(s.source[0].acquisition.get("modality", "mr")) for s in scenarios} == {"mr", "ct"}
    families = {t.family for s in scenarios for t in s.targets()}
    assert families == set(Family)
    assert any(s.sealed for s in scenarios) and any(s.stream for s in scenarios)
    assert {len(s.factorial.cells) for s in scenarios if s.factorial} == {2, 3}
    assert {stream.order for s in scenarios for stream in s.stream} == {"continual", "gradual", "mixed", "correlated"}
    assert {t.control for s in scenarios for t in s.target} >= {"permuted_references", "renoise"}


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_states_its_question_its_reason_what_answers_it_and_a_source(name):
    scenario = load_scenario(name)
    assert scenario.name == name
    assert scenario.question.endswith("?") and scenario.reason.endswith(".") and scenario.answer.endswith(".")
    assert any(year in scenario.citation for year in map(str, range(1970, 2027)))


@pytest.mark.parametrize("name", NAMES)
def test_a_scenario_can_be_planned(name):
    try:
        graph = plan([opened(name)], [], options(), name)
    except DataError:
        pytest.skip("its scans are not here")
    assert graph.tasks


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_target_of_a_scenario_can_be_made(name):
    """One patient under every target: a target that no scan can carry would be a row of nothing."""
    scenario = opened(name)
    try:
        datasets = {d: dataset_ref(scenario, d, {}, options().roots).open() for d in _datasets(scenario)}
    except DataError:
        pytest.skip("its scans are not here")
    source = scenario.source[0]
    for target in (None, *scenario.targets()):
        dataset = datasets[(target.dataset if target else None) or source.dataset or scenario.dataset]
        keys = target and target.model_copy(
            update={"population": tuple(s for s in target.population if s.operator != RESELECT)}
        )
        cases = [info.case_id for info in dataset.cases()]
        assert any(_made(scenario, source, keys, dataset, case) for case in cases[:3]), f"{name}: {target}"


def _datasets(scenario) -> set[str]:
    mine = scenario.source[0].dataset or scenario.dataset
    return {mine, *(t.dataset for t in scenario.targets() if t.dataset)}


def _made(scenario, source, target, dataset, case) -> bool:
    anatomy = dataset.anatomy(case, population_of(source, target))
    steps = acquisition_steps(target)
    protocol = {**source.protocol, **(target.protocol if target else {})}
    try:
        acquired(anatomy, dataset.digest, source_acquisition(source, dataset, scenario.name), steps, 0)
    except NotApplicable:
        return False
    moved = moved_labels(anatomy, steps, key=(0, dataset.digest, case))
    reference = drawn(moved, dataset, list(scenario.structures), protocol)
    return bool((reference > 0).any())
