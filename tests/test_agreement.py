"""Protocol agreement: the score of a perfect source model, by hand on tiny references, and its way to the reports."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_rows import make_rows

from scenarios import write
from shiftbench.agreement import protocol_agreement
from shiftbench.domains import Part
from shiftbench.errors import OutputError
from shiftbench.graph import Plan, Unit
from shiftbench.report import figures, results
from shiftbench.report.leaderboard import leaderboard
from shiftbench.report.tables import markdown
from shiftbench.spec import Step, Target, load_scenario
from shiftbench.store import Store

LIVER, TUMOUR = 1, 2
PATIENTS = {"a-1": "a", "a-2": "a", "b-1": "b", "c-1": "c"}


def drawn(liver: int, tumour: int = 0) -> np.ndarray:
    """A reference (4, 4) with that many voxels of each structure."""
    labels = np.zeros(16, np.uint8)
    labels[:liver], labels[16 - tumour :] = LIVER, TUMOUR
    return labels.reshape(4, 4)


SOURCE = {"a-1": drawn(4, 2), "a-2": drawn(4, 2), "b-1": drawn(4), "c-1": drawn(4)}
TARGET = {
    "a-1": drawn(4, 2),  # 1 and 1
    "a-2": drawn(8, 6),  # 2/3 and 1/2
    "b-1": drawn(12),  # 1/2, and no tumour in either
    "c-1": drawn(4, 3),  # 1, and a tumour that the source's protocol leaves out
}


class Run:
    """A store and a graph of one scenario whose references are given."""

    def __init__(self, folder, scenario="hilum"):
        self.store, self.graph = Store(folder / "out"), Plan()
        self.scenario = load_scenario(str(write(folder)))
        self.name = scenario

    def domain(self, target, family, references, *, anatomy="anatomies", key=None, unreachable=()):
        """Publishes a domain and adds the unit of one method on it."""
        key = key or f"references-{target}"
        self.store.publish("anatomy", anatomy, {"cases": {case: {"patient": p} for case, p in PATIENTS.items()}})
        images = {"not_applicable": dict.fromkeys(unreachable, "out of reach"), "measured": {}}
        self.store.publish("images", f"images-{target}", images)
        with self.store.workspace() as folder:
            for case, labels in references.items():
                np.save(folder / f"{case}.npy", labels)
            self.store.publish("references", key, {}, folder)
        row = {"scenario": self.name, "source": "site-a", "target": target, "family": family}
        test = Part(((anatomy, f"images-{target}", key, tuple(references)),))
        for _ in range(2):  # two methods share a domain
            self.graph.units.append(Unit(row, (("predict/p", "score/s", test),), None, self.scenario))
        return self

    def agreement(self):
        """The table, by target and structure."""
        return protocol_agreement(self.graph, self.store).set_index(["target", "structure"])


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path).domain("site-a", "control", SOURCE)


def test_agreement_is_averaged_over_structures_then_cases_then_patients(run):
    table = run.domain("hilum-in", "annotation", TARGET).agreement()
    assert list(table.index) == [("hilum-in", name) for name in ("liver", "tumour", "all")]
    a, b, c = (1 + (2 / 3 + 1 / 2) / 2) / 2, 1 / 2, 1 / 2
    assert table.loc[("hilum-in", "all"), "agreement"] == pytest.approx((a + b + c) / 3, abs=1e-12)
    assert table.loc[("hilum-in", "liver"), "agreement"] == pytest.approx(((1 + 2 / 3) / 2 + 1 / 2 + 1) / 3, abs=1e-12)
    assert table.loc[("hilum-in", "tumour"), "agreement"] == pytest.approx(((1 + 1 / 2) / 2 + 0) / 2, abs=1e-12)
    assert table["n_patients"].tolist() == [3, 2, 3]
    assert (table["low"] < table["agreement"]).all() and (table["agreement"] < table["high"]).all()
    assert (table["scenario"] == "hilum").all()


def test_the_change_of_volume_and_the_shift_of_the_surface_stand_beside_it(run):
    table = run.domain("hilum-in", "annotation", TARGET).agreement()
    liver = table.loc[("hilum-in", "liver")]
    assert liver["volume_change_percent"] == pytest.approx(((0 + 100) / 2 + 200 + 0) / 3)
    assert 0 < liver["shift_mean_mm"] <= liver["shift_p95_mm"]
    assert np.isnan(table.loc[("hilum-in", "all"), "volume_change_percent"])


def test_a_target_that_moves_the_anatomy_has_no_agreement(run):
    scenario = run.scenario.model_copy(
        update={
            "target": (
                Target(
                    name="hilum-in",
                    family="combined",
                    acquisition=(Step(operator="distortion", levels=(3.0,)),),
                    protocol={"hilum": "included"},
                ),
            )
        }
    )
    run.scenario = scenario
    assert run.domain("hilum-in", "combined", TARGET).agreement().empty


def test_a_structure_that_the_target_leaves_out_enters_no_mean(run):
    table = run.domain("no-lesions", "annotation", {case: drawn(4) for case in SOURCE}).agreement()
    assert table["agreement"].to_dict() == {("no-lesions", "liver"): 1.0, ("no-lesions", "all"): 1.0}


def test_only_targets_with_another_protocol_and_the_same_patients_have_an_agreement(run):
    run.domain("same-protocol", "combined", SOURCE, key="references-site-a")
    run.domain("other-patients", "combined", TARGET, anatomy="other anatomies")
    run.domain("fewer-patients", "combined", {"a-1": drawn(4, 2), "b-1": drawn(5)})
    run.domain("noise", "acquisition", TARGET)
    run.domain("at-once", "combined", TARGET)
    assert set(run.agreement().index.get_level_values("target")) == {"at-once"}


def test_cases_that_could_not_be_acquired_are_left_out(run):
    table = run.domain("at-once", "combined", TARGET, unreachable=["a-2", "b-1"]).agreement()
    assert table.loc[("at-once", "liver"), ["agreement", "n_patients"]].tolist() == [1.0, 2]


def test_one_patient_has_an_agreement_without_limits(tmp_path):
    run = Run(tmp_path).domain("site-a", "control", {"b-1": SOURCE["b-1"]})
    table = run.domain("hilum-in", "annotation", {"b-1": TARGET["b-1"]}).agreement()
    assert table.loc[("hilum-in", "all"), "agreement"] == 0.5 and table["low"].isna().all()


def test_a_run_without_such_targets_has_an_empty_table_with_the_same_columns(run):
    table = protocol_agreement(run.graph, run.store)
    assert table.empty and list(table.columns) == results.AGREEMENT_COLUMNS


@pytest.fixture(scope="module")
def rows():
    return make_rows(methods=("erm", "tent_bn", "target_oracle"))


def test_the_agreement_stands_beside_the_scores_of_its_target(run, rows):
    agreement = protocol_agreement(run.domain("hilum-in", "annotation", TARGET).graph, run.store)
    table = leaderboard(rows)
    text = markdown(table, agreement=agreement)
    whole = agreement.set_index("structure").loc["all"]
    shown = f"{whole['agreement']:.3f} [{whole['low']:.3f}, {whole['high']:.3f}]".replace("-", "−")
    assert f"| annotation | hilum: hilum-in | {shown} |" in text
    assert "| Family | Target | Protocol agreement | `erm` |" in text and "| noise: snr:1 | – |" in text
    elsewhere = agreement.assign(scenario="margin")
    assert "| Protocol agreement |" not in markdown(table, agreement=elsewhere) + markdown(table)


def test_the_agreement_is_written_by_a_run_and_read_back_without_one(run, rows, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "write_figures", lambda rows, folder: [])
    monkeypatch.setattr(results, "_write_examples", lambda rows, folder, job: [])
    run.domain("hilum-in", "annotation", TARGET)
    job = SimpleNamespace(graph=run.graph, store=run.store)
    made = results.write_tables_and_figures(rows, tmp_path, job)
    assert tmp_path / "agreement.csv" in made
    kept = protocol_agreement(run.graph, run.store)
    pd.testing.assert_frame_equal(results.read_agreement(tmp_path), kept, check_exact=True, check_dtype=False)
    text = (tmp_path / "leaderboard.md").read_text()
    assert "| Protocol agreement |" in text
    results.write_tables_and_figures(rows, tmp_path)
    assert (tmp_path / "leaderboard.md").read_text() == text
    (tmp_path / "agreement.csv").unlink()
    results.write_tables_and_figures(rows, tmp_path)
    assert "| Protocol agreement |" not in (tmp_path / "leaderboard.md").read_text()


def test_an_agreement_that_is_no_such_table_is_refused_in_one_sentence(tmp_path):
    for content in ("a,b\n1,2\n", ""):
        (tmp_path / "agreement.csv").write_text(content)
        with pytest.raises(OutputError, match="agreement.csv"):
            results.read_agreement(tmp_path)
