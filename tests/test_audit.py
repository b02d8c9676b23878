"""Audits: each question alone, which ones a run is asked, and cheats, each found by the audits that should."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from audit_cheats import write_cheat
from rich.console import Console
from synthetic_rows import make_rows

from scenarios import TINY, write
from shiftbench import questions
from shiftbench.audit import CASES, above_oracle, audit, audit_tasks, failed, lines, read_table, table, write_table
from shiftbench.audit.command import command
from shiftbench.errors import OutputError, SpecError
from shiftbench.graph import Options, Plan, Settings
from shiftbench.plan import plan as make_plan
from shiftbench.questions import Broken, Skipped
from shiftbench.report.sections.audit import marks, section
from shiftbench.report.words import DASH
from shiftbench.runner import prepare
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import Episode
from shiftbench.worker import overlay
from shiftbench.worker.audit import AUDITS
from shiftbench.worker.overlay import Overlay
from shiftbench.worker.perform import Context, perform
from shiftbench.worker.rerun import Rerun

OFF = Settings(isolate="off")
HEAD, IDENTITY, NOISE, HILUM, _ = TINY.split("[[target]]")
ONE_TARGET = f"{HEAD}[[target]]{NOISE}".replace("levels = [3, 5]", "levels = [3]")
TWO_PROTOCOLS = f"{HEAD}[[target]]{IDENTITY}[[target]]{HILUM}"


class Fake:
    """A method of integers: what it says of a case is the case, unless it cheats in one way."""

    def __init__(self, cheat: str = "", episode: Episode = Episode.EPISODIC, cases: int = 3, ways=("noise",)):
        self.cheat, self.episode, self.ways = cheat, episode, ways
        self.names = [f"case-{i}" for i in range(cases)]
        self.memory: list[int] = []
        self.first = self.run(range(cases))

    def run(self, order, *, replaced=(), hidden=""):
        said = []
        for n, i in enumerate(order):
            value = [i, i in replaced]
            value += [len(self.memory)] if self.cheat == "remembers passes" else []
            value += [n] if self.cheat == "counts" else []
            value += [len(order), len(replaced)] if self.cheat == "looks ahead" else []
            value += [len(replaced)] if self.cheat == "sees later images" else []
            value += [hidden] if self.cheat == "leaks" else []
            said.append(tuple(value))
            self.memory.append(i)
        return said


STATELESS, ONLINE = Episode.EPISODIC, Episode.ONLINE
QUESTIONS = {
    q.__name__: q
    for q in (
        questions.same_bits,
        questions.forgets,
        questions.order_invariance,
        questions.causality,
        questions.hidden_references,
    )
}


def broken(fake: Fake) -> set[str]:
    found = set()
    for name, question in QUESTIONS.items():
        try:
            question(fake)
        except Broken:
            found.add(name)
        except Skipped:
            pass
    return found


@pytest.mark.parametrize(
    ("cheat", "episode", "expected"),
    [
        ("", STATELESS, set()),
        ("", ONLINE, set()),
        ("counts", STATELESS, {"forgets", "order_invariance"}),
        ("counts", ONLINE, set()),
        ("remembers passes", STATELESS, {"same_bits", "forgets", "order_invariance"}),
        ("remembers passes", ONLINE, {"same_bits", "forgets", "causality"}),
        ("sees later images", ONLINE, {"causality"}),
        ("leaks", STATELESS, {"hidden_references"}),
    ],
)
def test_each_question_is_broken_by_what_it_asks_about(cheat, episode, expected):
    fake = Fake(cheat, episode)
    if cheat != "remembers passes":
        assert broken(fake) == expected
    else:
        assert broken(fake) >= expected


def test_a_stream_that_ends_earlier_is_asked_too_and_the_first_case_that_differs_is_named():
    with pytest.raises(Broken, match="replaced.*case-0"):
        questions.causality(Fake("looks ahead", ONLINE))
    with pytest.raises(Broken, match="left out.*case-0"):
        questions.causality(_OnlyLength())


class _OnlyLength(Fake):
    def __init__(self):
        super().__init__("", ONLINE)
        self.first = self.run(range(3))

    def run(self, order, *, replaced=(), hidden=""):
        return [(i, len(order)) for i in order]


def test_what_cannot_be_asked_says_why():
    for question, fake, words in (
        (questions.order_invariance, Fake(episode=ONLINE), "may matter"),
        (questions.causality, Fake(), "not online"),
        (questions.order_invariance, Fake(cases=1), "one case"),
        (questions.causality, Fake(episode=ONLINE, cases=1), "one case"),
        (questions.hidden_references, Fake(ways=()), "given target labels"),
    ):
        with pytest.raises(Skipped, match=words):
            question(fake)


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"{name}.npy": rng.integers(0, 3, (4, 6, 6)).astype(np.uint8) for name in "abc"}


@pytest.mark.parametrize("change", [overlay.noise, overlay.exchanged, overlay.relabelled])
def test_a_change_alters_every_array_and_keeps_its_kind_and_labels(change):
    before = arrays()
    after = change(before)
    for name, array in before.items():
        assert after[name].shape == array.shape and after[name].dtype == array.dtype
        assert (after[name] != array).any() and after[name].max() <= 2
    assert all((change(before)[name] == after[name]).all() for name in before), "the same each time"


def test_an_empty_reference_is_not_left_empty_by_noise():
    assert overlay.noise({"a.npy": np.zeros((4, 4), np.uint8)})["a.npy"].any()


def test_an_overlay_holds_what_was_taken_and_changes_nothing_of_the_run(tmp_path):
    run, before = Store(tmp_path / "run"), arrays()
    with run.workspace() as folder:
        for name, array in before.items():
            np.save(folder / name, array)
        run.publish("images", "ab" * 32, {"not_applicable": {}}, folder)
    laid = Overlay(run)
    laid.take("images", "ab" * 32, ["a.npy"])
    laid.change("images", "ab" * 32, ["b.npy"], overlay.noise)
    scratch = Store(tmp_path / "scratch")
    laid.lay_into(scratch)
    there = scratch.artifact("images", "ab" * 32)
    assert sorted(path.name for path in there.iterdir()) == ["a.npy", "b.npy"]
    assert (np.load(there / "a.npy") == before["a.npy"]).all() and (np.load(there / "b.npy") != before["b.npy"]).any()
    own = run.artifact("images", "ab" * 32)
    assert all((np.load(own / name) == array).all() for name, array in before.items())


def planned(folder: Path, methods: list[str] | None, text: str = TINY, **choices):
    """A run that is planned and not computed."""
    return prepare(write(folder, text), methods, out=folder / "out", device="cpu", jobs=1, **choices)


def compute(job, wanted=lambda task: True) -> None:
    """Everything of a plan but scores and cards, in this process; a method's own code as in any run."""
    for task in job.graph.tasks.values():
        if task.kind not in ("score", "card", "audit") and wanted(task) and not job.store.done(task.kind, task.key):
            answer = perform(Context(job.store, OFF), task.kind, task.key, task.payload)
            assert answer["ok"], answer["trace"]


METHODS = ["erm", "pred_bn", "tent_bn", "adabn", "fewshot_ft_k1", "target_oracle", "softdice"]


@pytest.fixture(scope="module")
def plan(tmp_path_factory) -> Plan:
    return planned(tmp_path_factory.mktemp("plan"), METHODS).graph


def test_every_method_is_asked_every_audit_that_concerns_it(plan):
    concerned = {(line.unit.method.name, line.audit) for line in lines(plan) if line.task is not None}
    everyone = {(name, audit) for name in METHODS for audit in ("label_canary", "reset")}
    unlabelled = {"erm", "pred_bn", "tent_bn", "adabn", "softdice"}
    assert concerned == (
        everyone
        | {("tent_bn", "causality")}
        | {(name, "order") for name in METHODS if name not in ("tent_bn", "softdice")}
        | {(name, "poisoned_source") for name in ("pred_bn", "tent_bn", "adabn")}
        | {(name, "no_op") for name in METHODS if name not in ("erm", "softdice")}
        | {(name, "protocol_swap") for name in unlabelled}
    )
    assert all(line.reason for line in lines(plan) if line.task is None)


def test_one_shifted_target_and_the_first_seed_are_asked_unless_it_is_to_be_thorough(plan):
    asked = [line for line in lines(plan) if line.audit == "label_canary"]
    assert all(line.unit.row["target"] == "noise:3" and line.unit.row["seed"] == 0 for line in asked)
    assert all(line.task.payload["cases"] in (CASES, None) for line in asked)
    thorough = [line for line in lines(plan, methods=["pred_bn"], thorough=True) if line.audit == "label_canary"]
    assert len(thorough) == sum(unit.method.name == "pred_bn" for unit in plan.units)
    assert all(line.task.payload["cases"] is None and len(line.task.payload["ways"]) == 3 for line in thorough)


def test_a_target_that_has_been_predicted_is_preferred(plan):
    done = {p for unit in plan.units if unit.row["target"] == "load" for p, _, _ in unit.folds}
    asked = [line for line in lines(plan, ready=done.__contains__) if line.audit == "reset"]
    assert {line.unit.row["target"] for line in asked} == {"load"}


def test_an_audit_is_addressed_by_what_it_asks_and_not_by_where_things_lie(plan, tmp_path):
    cards = {unit.method.name: unit.method for unit in plan.units}
    again = make_plan([load_scenario(write(tmp_path))], list(cards.values())[::-1], Options(), "tiny")
    assert audit_tasks(lines(plan)).keys() == audit_tasks(lines(again)).keys()
    assert not audit_tasks(lines(plan)).keys() & audit_tasks(lines(plan, thorough=True)).keys() - _shared(plan)


def _shared(plan: Plan) -> set[str]:
    """What both ask alike: two keys, and no cases."""
    return {line.task.id for line in lines(plan) if line.task is not None and line.audit == "protocol_swap"}


def test_the_hidden_references_of_a_few_shot_method_leave_out_the_cases_that_it_is_shown(plan):
    line = next(x for x in lines(plan) if x.unit.method.name == "fewshot_ft_k1" and x.audit == "label_canary")
    ((_, _, references, cases),) = line.task.payload["predict"]["fewshot"]
    assert references in line.task.payload["hidden"] and len(cases) == 1
    assert overlay.shown(line.task.payload["predict"]) >= {(references, cases[0])}


def test_what_has_not_been_predicted_is_skipped_and_says_so(plan, tmp_path):
    found = audit(plan, Store(tmp_path / "empty"), OFF, methods=["pred_bn"])
    assert set(found["outcome"]) == {"skipped", "not concerned"}
    assert (found.loc[found["outcome"] == "skipped", "detail"] == "it has not predicted yet").all()


def test_a_table_of_audits_comes_back_from_its_file_and_keeps_earlier_lines(plan, tmp_path):
    store = Store(tmp_path / "out")
    store.root.mkdir()
    one, two = (audit(plan, store, OFF, methods=[name]) for name in ("pred_bn", "fewshot_ft_k1"))
    assert read_table(store.root) is None
    write_table(one, store.root)
    pd.testing.assert_frame_equal(read_table(store.root), one)
    write_table(two, store.root)
    write_table(two, store.root)
    assert Counter(read_table(store.root)["method"]) == Counter(one["method"]) + Counter(two["method"])
    (store.root / "audit.csv").write_text("no,table\n")
    with pytest.raises(OutputError, match="no table of audits"):
        read_table(store.root)


def finding(**fields) -> dict:
    row = {"scenario": "tiny", "target": "noise", "track": "tta", "backbone": "unet_bn", "budget": "smoke"}
    row |= {"method": "tent", "seed": 0, "draw": 0, "audit": "order", "outcome": "passed", "detail": "3 cases"}
    return row | {"asked": AUDITS["order"].words} | fields


def test_the_page_counts_what_passed_and_names_what_failed():
    wrong = finding(audit="label_canary", outcome="failed", detail="first seen in case c3")
    found = table([finding(), wrong, finding(method="other", audit="reset", outcome="skipped")])
    made = section(found)
    assert made.file == "audit.csv" and "tent" in made.alarm and "other" not in made.alarm
    assert made.body[0] == ("tent", "unet_bn", "", "", "1", "1", "0")
    assert "label_canary" in made.body[1][2] and "case c3" in made.body[1][3]
    assert made.body[2] == ("other", "unet_bn", DASH, "", "0", "0", "1")
    assert not section(table([finding()])).alarm and section(None).table.empty


def test_a_failed_audit_marks_every_row_of_its_method_and_no_other():
    board = pd.DataFrame(
        [finding(k=None), finding(k=None, target="load"), finding(k=1), finding(k=None, backbone="unet_in")]
    )
    wrong = [finding(outcome="failed"), finding(audit="reset", outcome="failed"), finding(audit="no_op")]
    assert marks(board, table(wrong)) == ["order, reset", "order, reset", "", ""]
    assert marks(board, None) == [""] * 4


def test_scores_above_the_oracle_are_findings_per_target_and_family():
    rows = make_rows(patients=8, methods=("erm", "tent_bn", "pred_bn", "target_oracle"), levels=(5,))
    rows = rows[rows["scenario"] == "noise"]
    honest = above_oracle(rows)
    assert not len(failed(honest)) and set(honest["outcome"]) == {"passed", "not concerned"}
    lifted = (rows["method"] == "tent_bn") & (rows["target"] == "snr") & (rows["metric"] == "dsc")
    wrong = failed(above_oracle(rows.assign(value=rows["value"] + 0.5 * lifted)))
    assert set(wrong["method"]) == {"tent_bn"}
    assert set(wrong["target"]) == {"snr", "all of: acquisition", "all of: overall"}
    assert wrong["detail"].str.contains("leak").all()


def test_a_method_that_is_not_in_the_run_is_one_sentence(plan, tmp_path):
    with pytest.raises(SpecError, match="no method 'tentt'"):
        command(Console(quiet=True), plan, Store(tmp_path), OFF, methods=["tentt"])


EXPECTED = {
    "honest": set(),
    "remembers": {"order", "reset"},
    "looks_ahead": {"causality"},
    "reads_references": {"label_canary"},
    "hides_the_source": {"poisoned_source"},
    "does_nothing": {"no_op"},
    "draws_anew": {"order", "reset"},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A run of all cheats, without the source's scores."""
    folder = tmp_path_factory.mktemp("audit")
    job = planned(folder, [str(write_cheat(folder, name, folder / "out")) for name in EXPECTED], ONE_TARGET)
    asked = {need for line in lines(job.graph) if line.task is not None for need in line.task.needs}
    compute(job, lambda task: task.kind != "predict" or task.id in asked)
    return job


@pytest.mark.slow
@pytest.mark.parametrize("cheat", EXPECTED)
def test_a_method_that_cheats_is_found_by_the_audits_that_should(world, cheat):
    found = audit(world.graph, world.store, OFF, methods=[cheat])
    assert set(failed(found)["audit"]) == EXPECTED[cheat], found.to_string()
    assert not (found["outcome"] == "skipped").any(), found.to_string()
    if EXPECTED[cheat] - {"no_op"}:
        assert failed(found)["detail"].str.contains("first seen in case").all()
    assert not list((world.store.root / "tmp").glob("*")), "nothing is left behind"


@pytest.mark.slow
def test_an_audit_is_never_computed_twice(world, monkeypatch):
    found = audit(world.graph, world.store, OFF, methods=["honest"])
    monkeypatch.setattr("shiftbench.worker.rerun.perform", None)
    pd.testing.assert_frame_equal(audit(world.graph, world.store, OFF, methods=["honest"]), found)


@pytest.mark.slow
def test_a_run_on_a_gpu_is_audited_on_the_cpu_and_dropped_predictions_are_made_once_more(world):
    line = next(x for x in lines(world.graph, methods=["remembers"]) if x.audit == "order")
    asked = line.task.payload
    on_gpu = asked | {"predict": {**asked["predict"], "device": "cuda"}}
    of = Rerun(Context(world.store, OFF), on_gpu)
    assert len(of.first) == len(of.places) and "cuda" in of.note
    with pytest.raises(Broken, match="first seen in case"):
        questions.order_invariance(of)
    gone = Rerun(Context(_Without(world.store.root, line.task.needs[0]), OFF), asked)
    assert gone.first == of.first and "not kept" in gone.note


class _Without(Store):
    """A store in which the arrays of one task were dropped."""

    def __init__(self, root: Path, task: str):
        super().__init__(root)
        self.task = task

    def present(self, kind: str, key: str) -> bool:
        return f"{kind}/{key}" != self.task and super().present(kind, key)


@pytest.mark.slow
def test_a_method_that_learns_the_protocols_name_differs_between_targets_that_share_their_images(tmp_path):
    path = write_cheat(tmp_path, "knows_the_protocol", tmp_path / "out")
    job = planned(tmp_path, [str(path), f"{path}:protocol=in"], TWO_PROTOCOLS)
    compute(job)
    own = protocol_lines(audit(job.graph, job.store, OFF, methods=["knows_the_protocol"]))
    assert list(own["outcome"]) == ["passed"] and "shares its prediction" in own["detail"].iloc[0]
    told = {unit.row["target"]: unit for unit in job.graph.units if ":" in unit.method.name}
    leaking = Plan(job.graph.tasks)
    for unit in job.graph.units:
        if unit.method.name == "knows_the_protocol":
            folds = told[unit.row["target"]].folds if unit.row["family"] == "annotation" else unit.folds
            leaking.units.append(replace(unit, folds=folds))
    own = protocol_lines(audit(leaking, job.store, OFF))
    assert list(own["outcome"]) == ["failed"] and "label protocol" in own["detail"].iloc[0]


def protocol_lines(found: pd.DataFrame) -> pd.DataFrame:
    return found[(found["method"] == "knows_the_protocol") & (found["audit"] == "protocol_swap")]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "methods"), [("unet_bn", None), ("unet_in", ["tent_in", "fewshot_ft_k1"])])
def test_all_shipped_methods_pass(tmp_path, backbone, methods):
    job = planned(tmp_path, methods, backbones=[backbone], seeds=1)
    asked = {need for line in lines(job.graph) if line.task is not None for need in line.task.needs}
    compute(job, lambda task: task.kind != "predict" or task.id in asked)
    found = audit(job.graph, job.store, OFF)
    assert not len(failed(found)), failed(found).to_string()
    assert not (found["outcome"] == "skipped").any()
    passed = found[found["outcome"] == "passed"]
    need_more = {"fewshot_ft_k5", "fewshot_ft_k5_replay"}  # labelled cases than the two that there are
    absent = need_more | ({"tent_in"} if backbone == "unet_bn" else set())
    applicable = {unit.method.name for unit in job.graph.units} - absent
    assert set(passed["method"]) == applicable
