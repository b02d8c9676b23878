"""Sealed scenarios and the controls: levels that nobody could tune to, and scores that nobody can have."""

import json

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows

import shiftbench
from scenarios import TINY, write
from shiftbench import plan as planning
from shiftbench.domains import Part, load_reference
from shiftbench.errors import OutputError, SpecError
from shiftbench.graph import MethodCard, Options
from shiftbench.metrics import dsc
from shiftbench.plan.orders import derangement
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.sections import sections
from shiftbench.report.tables import markdown
from shiftbench.robustness.tables.impossible import impossible
from shiftbench.runner import prepare, whole_severities
from shiftbench.scoring import between_patients
from shiftbench.spec import load_scenario, unsealed
from shiftbench.store import Store
from shiftbench.types import BETWEEN_PATIENTS, Track

SALT, OTHER = "the organiser's own words", "somebody else's words"
ERM = MethodCard("erm", "erm", "1", Track.DG, "offline", {}, (), {"path": "erm"})
SEALED = TINY.replace("version = 1", "version = 1\nsealed = true").replace("levels = [3, 5]", "between = [2, 4.5]")
PERMUTED = '\n[[target]]\nname = "permuted"\nfamily = "control"\ncontrol = "permuted_references"\n'


@pytest.fixture(autouse=True)
def no_salt_around(monkeypatch):
    monkeypatch.delenv("SHIFTBENCH_SALT", raising=False)


def opened(folder, salt=SALT, text=SEALED):
    return unsealed(load_scenario(write(folder, text)), salt, whole=whole_severities)


def level(scenario, name="noise"):
    (step,) = next(t for t in scenario.targets() if t.name == name).acquisition
    return step.levels[0]


def test_the_salt_draws_a_level_in_the_range_and_the_name_does_not_tell_it(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path, OTHER)
    assert level(one) == level(opened(tmp_path)) != level(other)
    assert all(2 <= level(s) <= 4.5 for s in (one, other))
    assert [t.name for t in one.targets()] == ["identity", "noise", "hilum-in", "load"]
    many = [level(opened(tmp_path, f"a salt with the number {i}")) for i in range(12)]
    assert max(many) - min(many) > 1.0


def test_the_salt_gives_other_patients_and_other_draws(tmp_path):
    public, one, other = load_scenario(write(tmp_path, SEALED)), opened(tmp_path), opened(tmp_path, OTHER)
    assert len({s.domain_seed for s in (public, one, other)}) == 3
    assert len({s.phantom.seed for s in (public, one, other)}) == 3
    tasks = [set(planning.plan([s], [ERM], Options(), "s").tasks) for s in (one, other)]
    assert not tasks[0] & tasks[1]


def test_an_operator_with_whole_severities_gets_a_whole_one(tmp_path):
    text = TINY.replace("version = 1", "version = 1\nsealed = true").replace("levels = [4]", "between = [1.5, 4.5]")
    for i in range(6):
        (step,) = opened(tmp_path, f"a salt with the number {i}", text).target[-1].population
        assert step.levels[0] in (2, 3, 4)
    with pytest.raises(SpecError, match="there is none from 2.2 to 2.8; widen 'between'"):
        opened(tmp_path, text=text.replace("[1.5, 4.5]", "[2.2, 2.8]"))


@pytest.mark.parametrize(
    ("salt", "words"), [(None, "is sealed"), ("", "--salt"), ("short", "the salt has 5 characters")]
)
def test_without_a_good_salt_a_sealed_scenario_is_refused_in_one_sentence(tmp_path, salt, words):
    with pytest.raises(SpecError) as error:
        prepare(write(tmp_path, SEALED), ["erm"], out=tmp_path / "out", device="cpu", salt=salt)
    assert words in str(error.value) and "tiny" in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_sealed_scenario_is_not_planned_and_a_public_one_needs_no_salt(tmp_path):
    with pytest.raises(SpecError, match="still sealed"):
        planning.plan([load_scenario(write(tmp_path, SEALED))], [ERM], Options(), "s")
    public = load_scenario(write(tmp_path))
    assert unsealed(public, None, whole=whole_severities) is public


def test_the_folder_holds_a_commitment_and_refuses_another_salt(tmp_path, monkeypatch):
    path, out = write(tmp_path, SEALED), tmp_path / "out"
    job = prepare(path, ["erm"], out=out, device="cpu", salt=SALT)
    monkeypatch.setenv("SHIFTBENCH_SALT", SALT)
    assert prepare(path, ["erm"], out=out, device="cpu").digest() == job.digest()
    with pytest.raises(OutputError, match="sealed scenario 'tiny' were made with another salt"):
        prepare(path, ["erm"], out=out, device="cpu", salt=OTHER)
    with pytest.raises(OutputError, match="another text of version 1"):
        prepare(write(tmp_path, SEALED.replace("4.5]", "4.6]")), ["erm"], out=out, device="cpu")
    written = "".join(p.read_text() for p in out.rglob("*.json"))
    assert SALT not in written and "+" in json.loads((out / "meta.json").read_text())["scenarios"]["tiny"]


@pytest.mark.parametrize("n", [2, 3, 10])
def test_every_patient_gets_the_reference_of_another(n):
    patients = {f"c{i}-{j}": f"p{i}" for i in range(n) for j in range(1 + i % 2)}
    for seed in range(5):
        donors = derangement(patients, seed)
        assert set(donors) == set(patients) and all(patients[c] != patients[d] for c, d in donors.items())
        assert len({patients[d] for d in donors.values()}) == n
    assert n < 10 or derangement(patients, 0) != derangement(patients, 1)


def test_the_impossible_control_shares_its_predictions_with_the_source(tmp_path):
    graph = planning.plan([load_scenario(write(tmp_path, TINY + PERMUTED))], [ERM], Options(), "s")
    plain = planning.plan([load_scenario(write(tmp_path))], [ERM], Options(), "s")
    assert {graph.tasks[name].kind for name in set(graph.tasks) - set(plain.tasks)} == {"score"}
    folds = {u.row["target"]: u.folds[0] for u in graph.units}
    assert folds["permuted"][0] == folds["site-a"][0] and folds["permuted"][1] != folds["site-a"][1]


def test_references_are_permuted_on_phantoms_alone(tmp_path, monkeypatch):
    folder = tmp_path / "scans"
    monkeypatch.setattr(planning.scenario.Parts, "dataset", _as_if_real(planning.scenario.Parts.dataset), raising=True)
    with pytest.raises(SpecError, match="the control 'permuted_references' of target 'permuted' needs patients on one"):
        planning.plan([load_scenario(write(tmp_path, TINY + PERMUTED))], [ERM], Options(roots=(folder,)), "s")


def _as_if_real(dataset):
    def real(self, name):
        ref, opened_ = dataset(self, name)
        return (type(ref)(ref.name, description="d", root="r"), opened_)

    return real


def published(folder, references, patients):
    """A store with references by case, and their part."""
    store = Store(folder / "store")
    store.publish("anatomy", "a", {"cases": {case: {"patient": p, "spacing": None} for case, p in patients.items()}})
    with store.workspace() as work:
        for case, labels in references.items():
            np.save(work / f"{case}.npy", labels)
        store.publish("references", "r", {}, work)
    return store, Part((("a", "i", "r", tuple(references)),))


def test_the_comparison_is_the_mean_dsc_between_the_references_of_different_patients(tmp_path):
    rng = np.random.default_rng(0)
    patients = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "d1": "d"}
    references = {case: (rng.random((6, 7)) < 0.4).astype(np.uint8) for case in patients}
    references["d1"][:] = 0  # an empty one is no target, and overlaps with nothing
    store, part = published(tmp_path, references, patients)
    donors = derangement(patients, 0)
    rows = {row["case"]: row for row in between_patients(store, part, donors, ["liver"])}
    assert set(rows) == {case for case, donor in donors.items() if donor != "d1"}
    for case, row in rows.items():
        drawn = load_reference(store, "r", donors[case])
        others = [c for c in patients if patients[c] != patients[donors[case]]]
        expected = np.mean([dsc(references[c] > 0, drawn > 0) for c in others])
        assert row["value"] == pytest.approx(expected, abs=1e-9) and row["patient"] == patients[case]


def controlled(methods):
    """Rows of an impossible control: chance is 0.5, and `methods` gives what each method has."""
    rows = make_rows(patients=20, seeds=(0, 1), methods=tuple(methods))
    rows = rows[(rows["scenario"] == "control") & (rows["target"] != rows["source"]) & (rows["metric"] == "dsc")].copy()
    wobble = 0.01 * (rows["patient"].rank(method="dense") % 3) + 0.01 * rows["seed"]
    chance = rows.assign(metric=BETWEEN_PATIENTS, value=0.5 + wobble)
    return pd.concat([rows.assign(value=rows["method"].map(methods) + 2 * wobble), chance], ignore_index=True)


def test_only_a_method_better_than_other_patients_solves_the_control():
    table = impossible(controlled({"erm": 0.45, "tent_bn": 0.7, "pred_bn": 0.485}))
    solved = table.groupby("method")["solved"].all()
    assert solved.to_dict() == {"erm": False, "pred_bn": False, "tent_bn": True}
    assert (table["p_holm"] >= 0).all() and len(table) == 6 and table["between_patients"].round(2).unique().size == 1


def test_p_values_are_corrected_over_methods_and_structures():
    one = impossible(controlled({"erm": 0.492}))["p_holm"].min()
    many = impossible(controlled({"erm": 0.492, "tent_bn": 0.2, "pred_bn": 0.2, "fda": 0.2}))
    assert many[many["method"] == "erm"]["p_holm"].min() > one


def test_a_solved_control_is_shouted_at_the_top_of_the_page_and_enters_no_other_table():
    rows = controlled({"erm": 0.45, "tent_bn": 0.7})
    section = sections(rows)[0]
    assert section.alarm.startswith("THE IMPOSSIBLE CONTROL WAS SOLVED by tent_bn") and "YES" in section.body[-1]
    source = make_rows(patients=20, seeds=(0, 1), methods=("erm", "tent_bn"), levels=(3,))
    plain = source[source["scenario"].isin(["hilum", "noise"])]
    whole = pd.concat([plain, rows], ignore_index=True)
    page = markdown(leaderboard(whole), sections=[section])
    assert page.index("THE IMPOSSIBLE CONTROL WAS SOLVED") < page.index("How to read it") < page.index("| YES |")
    got, expected = (leaderboard(r).query("scope != 'target'").reset_index(drop=True) for r in (whole, plain))
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)
    compared = rows["metric"] == BETWEEN_PATIENTS
    first = pd.concat([rows[compared].assign(seconds=0.0), rows[~compared], plain], ignore_index=True)
    assert leaderboard(first).query("scenario == 'control'")["seconds_per_case"].tolist() == pytest.approx([0.4, 0.4])
    assert not sections(controlled({"erm": 0.45}))[0].alarm


def test_a_run_scores_the_control_and_nobody_solves_it(tmp_path):
    text = "".join(TINY.partition("[[target]]")[:1]) + PERMUTED
    path = write(tmp_path, text.replace("patients = 10", "patients = 20"))
    rows = shiftbench.run(path, ["erm"], out=tmp_path / "out", device="cpu", jobs=2)
    mine = rows[(rows["target"] == "permuted") & (rows["structure"] == "liver")]
    assert mine["prediction"].nunique() == 1 and set(mine["metric"]) >= {"dsc", BETWEEN_PATIENTS}
    scores = mine.groupby("metric")["value"].mean()
    own = rows[(rows["target"] == "site-a") & (rows["structure"] == "liver") & (rows["metric"] == "dsc")][
        "value"
    ].mean()
    assert scores["dsc"] < own
    (section,) = [s for s in sections(rows) if s.file == "impossible.csv"]
    assert not section.alarm and set(section.table["solved"]) == {False}
