"""What is made of kept results: scores after a metric's fix, tables, and the estimate of what is left to do."""

import dataclasses
import shutil

import pandas as pd
import pytest
from kept import BROKEN, SMALL, InThisProcess, card, finished, planned

from shiftbench import plan as planning
from shiftbench.errors import OutputError
from shiftbench.graph import Options
from shiftbench.keeping import plans, tables
from shiftbench.keeping.estimate import estimate
from shiftbench.keeping.field import BYTES, sized
from shiftbench.keeping.limits import Costs, described, gpu_hours, limits
from shiftbench.keeping.rescore import drop_predictions, rescore
from shiftbench.metrics.scorers import METRICS, SCORERS
from shiftbench.report.gallery import examples
from shiftbench.runner import PARQUET, collect, read_rows, write_rows, write_tables
from shiftbench.scoring import masks
from shiftbench.spec import load_scenario
from shiftbench.store import Store
from shiftbench.types import Track


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """(plan, folder) of one finished run with its tables."""
    folder = tmp_path_factory.mktemp("kept")
    plan = planned(folder, SMALL)
    store = finished(plan, folder / "out")
    plans.save(plan, store, {"scenarios": ["tiny"]})
    write_tables(collect(plan, store), store.root)
    return plan, store.root


@pytest.fixture
def ran(once, tmp_path):
    """The same, as a copy that may be changed."""
    plan, folder = once
    shutil.copytree(folder, tmp_path / "out")
    return plan, Store(tmp_path / "out")


def fix(patch, name="dsc"):
    """A metric of another version whose values are those of before plus one."""
    for table in (SCORERS, METRICS):
        patch.setitem(table, name, dataclasses.replace(SCORERS[name], version=99))
    before = masks.score_case
    patch.setattr(masks, "score_case", lambda *a, **k: [_fixed(score, name) for score in before(*a, **k)])


def _fixed(score, name):
    more = score.metric == name and score.status == "ok"
    return dataclasses.replace(score, value=score.value + 1.0) if more else score


def test_after_a_metrics_fix_score_tasks_alone_are_run_and_the_other_values_stay(ran, monkeypatch):
    plan, store = ran
    before = read_rows(store.root)
    fix(monkeypatch)
    engine = InThisProcess(store)
    done = rescore(store.root, engine)
    kinds = {task_id.split("/")[0] for task_id in engine.ran}
    good = {u.folds[0][1] for u in plan.units if u.row["method"] != BROKEN}
    assert kinds == {"score"} and len(engine.ran) == done.scored == len(good)
    after = read_rows(store.root)
    mine = (after["metric"] == "dsc") & (after["status"] == "ok")
    assert mine.any() and (after.loc[mine, "value"] == before.loc[mine, "value"] + 1.0).all()
    pd.testing.assert_frame_equal(after[~mine], before[~mine])
    assert set(after[after["method"] == BROKEN]["status"]) == {"failed"}
    assert done.lines[:2] == (
        f"{len(good)} of {len(good) + 4} predictions were scored again",
        "dsc: version 1 before, 99 now",
    )
    assert done.lines[-1] == "4 predictions failed and keep their failure rows: no such luck"


def test_what_was_rescored_is_what_a_run_with_the_new_metric_would_plan(ran, tmp_path, monkeypatch):
    plan, store = ran
    fix(monkeypatch)
    done = rescore(store.root, InThisProcess(store))
    planned_now = planned(tmp_path, SMALL)
    assert set(done.plan.tasks) == set(planned_now.tasks) != set(plan.tasks)
    assert done.plan.digest() == planned_now.digest() and plans.latest(store) == done.plan
    engine = InThisProcess(store)
    again = rescore(store.root, engine)
    assert engine.ran == [] and again.scored == 0
    pd.testing.assert_frame_equal(again.rows, done.rows)
    assert len(plans.known(store)) == 2


def test_dropped_predictions_keep_their_record_and_their_scores_of_before(ran, monkeypatch):
    plan, store = ran
    before = read_rows(store.root)
    kept = next(u.folds[0] for u in plan.units if u.row["method"] == "erm" and u.row["target"] == "load")
    shutil.copytree(store.root / "records" / "score", store.root.parent / "scores")
    store.record_path(*kept[1].split("/")).unlink()
    n = len({u.folds[0][0] for u in plan.units if u.row["method"] == "erm"})
    assert drop_predictions(plan, store) == n - 1 and drop_predictions(plan, store) == 0
    assert store.present(*kept[0].split("/")), "its score is still to be made"
    gone = [u.folds[0][0].split("/") for u in plan.units if u.row["method"] == "erm" and u.folds[0][0] != kept[0]]
    assert all(store.dropped(*task) and store.done(*task) and not store.artifact(*task).exists() for task in gone)
    shutil.copytree(store.root.parent / "scores", store.root / "records" / "score", dirs_exist_ok=True)
    assert pd.testing.assert_frame_equal(tables.rebuild(store.root), collect(plan, store)) is None
    fix(monkeypatch)
    done = rescore(store.root, InThisProcess(store))
    after = read_rows(store.root)
    changed = after[after["value"].fillna(-9) != before["value"].fillna(-9)]
    assert done.scored == 1 and set(changed["target"]) == {"load"}
    assert any(line.startswith("3 predictions were dropped: their rows are those") for line in done.lines)


def test_the_gallery_draws_what_is_left_when_predictions_were_dropped(ran):
    plan, store = ran
    drop_predictions(plan, store)
    found = examples(plan, store, read_rows(store.root))
    assert found and all(example.predictions["erm"] is None for example in found)


def test_a_fold_that_cannot_be_scored_ends_in_one_sentence_and_the_plan_of_before_stays_the_latest(ran, monkeypatch):
    plan, store = ran
    kept = next(u.folds[0][0] for u in plan.units if u.row["method"] == "erm")
    for file in store.artifact(*kept.split("/")).iterdir():
        file.write_bytes(b"nothing")
    fix(monkeypatch)
    with pytest.raises(OutputError, match="run `shiftbench rescore` again"):
        rescore(store.root, InThisProcess(store))
    assert plans.latest(store) == plan


def test_rows_are_made_again_from_the_plan_and_the_records_alone(ran):
    _, store = ran
    before = (store.root / "rows.csv.gz").read_bytes()
    for name in ("rows.csv.gz", PARQUET):
        (store.root / name).unlink(missing_ok=True)  # no Parquet without pyarrow
    rows = tables.rebuild(store.root)
    assert (store.root / "rows.csv.gz").read_bytes() == before and len(rows) == len(read_rows(store.root))
    assert tables.rebuild(store.root, plans.known(store)[0]).equals(rows)
    with pytest.raises(OutputError, match="no plan 'zz' here"):
        tables.rebuild(store.root, "zz")


def test_the_parquet_holds_what_the_csv_holds(once):
    pytest.importorskip("pyarrow")
    _, folder = once
    read = pd.read_parquet(folder / PARQUET)
    rows = read_rows(folder)
    assert list(read.columns) == list(rows.columns) and rows["detail"].isna().any() and rows["value"].isna().any()
    pd.testing.assert_frame_equal(read, rows, check_dtype=False)


@pytest.mark.parametrize("how", ["no pyarrow", "a disk that is full"])
def test_a_parquet_that_cannot_be_written_fails_nothing_and_leaves_no_older_one(ran, monkeypatch, how):
    plan, store = ran
    if how == "no pyarrow":
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    else:
        monkeypatch.setattr(pd.DataFrame, "to_parquet", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "full")))
    rows = collect(plan, store)
    (store.root / PARQUET).write_bytes(b"of other rows")
    assert write_tables(rows, store.root) == [store.root / "rows.csv.gz"]
    assert not (store.root / PARQUET).exists() and not list(store.root.glob(".rows*"))
    (store.root / "again").mkdir()
    write_rows(rows, store.root / "again" / "rows.csv.gz")
    assert (store.root / "again" / "rows.csv.gz").read_bytes() == (store.root / "rows.csv.gz").read_bytes()


def test_the_estimate_counts_what_is_left_and_who_shares_a_training(ran, tmp_path):
    plan, store = ran
    nothing = estimate(plan, Store(tmp_path / "none"), jobs=2)
    assert {one.kind: one.to_do for one in nothing.kinds} == {
        kind: sum(task.kind == kind for task in plan.tasks.values()) for kind in {t.kind for t in plan.tasks.values()}
    }
    assert all(one.reused == 0 and one.measured == 0 for one in nothing.kinds)
    assert nothing.seconds == pytest.approx(sum(task.seconds for task in plan.tasks.values()) / 2)
    after = {one.kind: one for one in estimate(plan, store).kinds}
    assert (after["train"].to_do, after["train"].reused, after["train"].measured) == (0, 1, 1)
    assert after["predict"].to_do == 4 and after["score"].to_do == 4  # those of the broken method
    (training,) = nothing.trainings
    assert (training.source, training.backbone, training.seed, training.methods) == ("site-a", "unet_bn", 0, 2)
    assert training.scenarios == ("tiny",) and not training.reused and estimate(plan, store).trainings[0].reused


def test_times_rest_on_what_finished_tasks_of_the_kind_took(ran):
    plan, store = ran
    more = planning.plan([plan.units[0].scenario], [card(), card(BROKEN, Track.TTA)], Options(seeds=(0, 1)), "tiny")
    found = {one.kind: one for one in estimate(more, store).kinds}
    guess = next(task.seconds for task in plan.tasks.values() if task.kind == "train")
    assert found["train"].measured == 1 and found["train"].seconds == pytest.approx(4.0)  # as the first took
    assert guess != pytest.approx(4.0)
    assert found["predict"].seconds == pytest.approx(12 * 2 * 0.5)  # twelve to do, of two cases that took half a second
    lines = estimate(more, store, 3).lines()
    assert lines[0].split() == ["to", "do", "reused", "time", "estimated", "from"]
    assert any(line.startswith("trained") and line.endswith("1 finished ones") for line in lines)
    assert any(line.split()[:4] == ["site-a", "unet_bn", "1", "2"] for line in lines)
    assert lines[-1].endswith("with 3 tasks at a time")


def test_a_counted_run_has_the_tasks_files_and_rows_that_it_has_when_it_is_run(ran):
    plan, store = ran
    size = sized([plan, plan], store)
    assert size.tasks == {
        k: sum(t.kind == k for t in plan.tasks.values()) for k in {t.kind for t in plan.tasks.values()}
    }
    assert size.scenarios == 2 and size.counted == 2 * len(plan.tasks)
    for kind in ("anatomy", "images", "references"):
        arrays = [p for p in (store.root / "artifacts" / kind).rglob("*") if p.is_file()]
        records = [p for p in (store.root / "records" / kind).rglob("*.json")]
        assert size.files(kind) == len(arrays) + len(records), kind
        on_disk = sum(p.stat().st_size for p in arrays + records)
        assert size.stored(kind) == pytest.approx(on_disk, rel=0.01), kind
    rows = read_rows(store.root)
    assert sized([plan]).rows == rows["metric"].isin(SCORERS).sum()
    assert size.measured == str(store.root) and sized([plan]).bytes is BYTES


def test_scenarios_that_share_a_source_share_its_tasks_in_a_count(tmp_path):
    path = tmp_path / "t.toml"
    texts = [
        SMALL.replace("[3, 5]", levels).replace('"tiny"', f'"{name}"') for levels, name in (("[3]", "a"), ("[4]", "b"))
    ]
    several = []
    for text in texts:
        path.write_text(text)
        several.append(load_scenario(path))
    size = sized(planning.plan_each(several, [card(), card("oracle", Track.REFERENCE)], Options(), "s"))
    whole = planning.plan(several, [card(), card("oracle", Track.REFERENCE)], Options(), "s")
    assert size.total == len(whole.tasks) and size.tasks["train"] == 1
    assert size.trained == {"train": 1, "predict": 3}  # oracles of 3 targets train; the source is no target of theirs
    hours = gpu_hours(size, Costs(train_hours=10, predict_seconds=3600))
    assert hours == 4 * 10 + size.cases["predict"]


def test_what_is_scarcest_comes_first_and_assumptions_are_said(once):
    plan, _ = once
    size = sized([plan])
    found = limits(size, Costs(memory_gb=1e-9))
    assert [limit.share for limit in found] == sorted((limit.share for limit in found), reverse=True)
    assert found[0].what == "rows of all scores as one table in memory" and found[0].share > 1
    text = "\n".join(described(size, Costs(memory_gb=1e-9)))
    assert "(assumed: 2 h a training" in text and "rows of all scores as one table in memory would break first" in text
    assert "fits" in described(size, Costs())[-1]
