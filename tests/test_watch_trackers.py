"""TensorBoard and MLflow as observers: what they keep is read back with their own readers; none can fail a run."""

from __future__ import annotations

import math
import sys

import pytest
from watched import events_of_a_run

from shiftbench.errors import SpecError
from shiftbench.store import Store
from shiftbench.watch import watch as watching
from shiftbench.watch.trackers import TRACKERS, trackers
from shiftbench.watch.trackers.tracked import POINTS, Tracked
from shiftbench.watch.watch import Watch

PARAMS = {"suite": "tiny", "methods": ["tent_bn", "pred_bn"], "seeds": [0, 1]}
BOARD = {"track": "tta", "backbone": "unet", "budget": "smoke", "label": "fewshot (k=1)", "failed_cases": 0}
TABLE = [
    {**BOARD, "scope": "overall", "family": None, "dsc": 0.5, "rank": 1, "nsd": float("nan")},
    {**BOARD, "scope": "family", "family": "acquisition", "dsc": 0.25, "rank": None},
    {**BOARD, "scope": "target", "family": "acquisition", "dsc": 0.75},
]


@pytest.fixture
def store(tmp_path):
    """With the record of the training that the run tells of."""
    store = Store(tmp_path / "out")
    store.open_for({"tiny": "1:abc"})
    store.publish("train", "t", {"losses": [1.0 / (i + 1) for i in range(1300)]})
    return store


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """A busy machine may take long to import a library."""
    monkeypatch.setattr(watching, "CLOSE_SECONDS", 120.0)


class Kept:
    """A log in memory."""

    name = "kept"

    def __init__(self):
        self.params, self.points, self.ended = None, [], None

    def open(self, params):
        self.params = params

    def write(self, points):
        self.points += points

    def close(self, well):
        self.ended = well


def told(log, store) -> list:
    """What others are told when a log watches a run."""
    events = []
    with Watch([events.append], apart=[Tracked(log, store, PARAMS)]) as watch:
        for event in events_of_a_run():
            watch(event)
        watch.table(TABLE)
    return events


def curve(log, name):
    return [(p.step, p.value) for p in log.points if p.name == name]


def test_a_log_is_told_of_counts_seconds_losses_and_the_leaderboard(store):
    log = Kept()
    told(log, store)
    assert log.params == {"suite": "tiny", "methods": "tent_bn, pred_bn", "seeds": "0, 1"} and log.ended is True
    assert curve(log, "tasks/done")[0] == (0, 0.0) and curve(log, "tasks/done")[-1] == (5, 3.0)
    assert curve(log, "tasks/failed")[-1] == (5, 2.0)
    assert curve(log, "seconds/train") == [(1, 30.0)] and curve(log, "seconds/predict") == [(1, 5.0)]
    place = "leaderboard/tta/unet/smoke/fewshot _k_1_"
    assert {p.name: p.value for p in log.points if p.name.startswith("leaderboard")} == {
        f"{place}/overall/dsc": 0.5,
        f"{place}/overall/rank": 1.0,
        f"{place}/overall/failed_cases": 0.0,
        f"{place}/acquisition/dsc": 0.25,
        f"{place}/acquisition/failed_cases": 0.0,
    }


def test_a_long_curve_of_losses_is_thinned_and_keeps_its_last_point(store):
    log = Kept()
    told(log, store)
    points = curve(log, "loss/train t t")
    assert POINTS / 2 < len(points) <= POINTS and points[-1] == (1300, 1.0 / 1300)
    assert all(value == 1.0 / step for step, value in points)


def test_tensorboard_keeps_what_its_own_reader_reads(store):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = told(TRACKERS["tensorboard"](store.root, ""), store)
    assert not [e for e in events if "TensorBoard" in e.words]
    (folder,) = (store.root / "tensorboard").iterdir()
    reader = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    assert [(e.step, e.value) for e in reader.Scalars("seconds/train")] == [(1, 30.0)]
    assert reader.Scalars("tasks/done")[-1].value == 3.0
    losses = reader.Scalars("loss/train t t")
    assert losses[-1].step == 1300 and losses[-1].value == pytest.approx(1.0 / 1300, rel=1e-5)
    assert reader.Scalars("leaderboard/tta/unet/smoke/fewshot _k_1_/overall/dsc")[0].value == 0.5
    text = reader.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| methods | tent_bn, pred_bn |" in text


def test_mlflow_keeps_what_its_own_reader_reads(store, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    events = told(TRACKERS["mlflow"](store.root, ""), store)
    assert not [e for e in events if "MLflow" in e.words]
    client = mlflow.MlflowClient(tracking_uri=(store.root / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("shiftbench").experiment_id])
    assert run.data.params == {"suite": "tiny", "methods": "tent_bn, pred_bn", "seeds": "0, 1"}
    assert run.info.status == "FINISHED" and run.info.run_name == "out"
    assert run.data.metrics["tasks/done"] == 3.0 and run.data.metrics["seconds/train"] == 30.0
    losses = client.get_metric_history(run.info.run_id, "loss/train t t")
    assert max(m.step for m in losses) == 1300 and len(losses) <= POINTS
    assert run.data.metrics["leaderboard/tta/unet/smoke/fewshot _k_1_/acquisition/dsc"] == 0.25


def test_mlflow_goes_where_the_environment_or_the_command_says(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    log = TRACKERS["mlflow"]
    assert log(tmp_path, "")._address() == "http://server:5000"
    assert log(tmp_path, "sqlite:///runs.db")._address() == "sqlite:///runs.db"
    assert log(tmp_path, str(tmp_path / "a b"))._address() == (tmp_path / "a b").as_uri()


def test_a_place_of_its_own_and_an_unknown_tracker(store):
    one, two = trackers(["tensorboard:/some/where", "mlflow:http://h:5000", "mlflow:http://h:5000"], store, {})
    assert str(one.log.folder) == "/some/where" and two.log.where == "http://h:5000"
    with pytest.raises(SpecError, match="unknown tracker 'mlflo'; did you mean 'mlflow'"):
        trackers(["mlflo"], store, {})


@pytest.mark.parametrize(
    ("name", "module", "library"),
    [("tensorboard", "torch.utils.tensorboard", "tensorboard"), ("mlflow", "mlflow", "mlflow-skinny")],
)
def test_a_library_that_is_not_installed_is_one_warning(store, monkeypatch, name, module, library):
    monkeypatch.setitem(sys.modules, module, None)
    events = told(TRACKERS[name](store.root, ""), store)
    words = [e.words for e in events if library in e.words]
    assert len(words) == 1 and f"{library} is not installed; pip install 'shiftbench[track]'" in words[0]
    told_plainly = [e.kind for e in events if library not in e.words]
    assert told_plainly == [e.kind for e in events_of_a_run()]


@pytest.mark.parametrize("verb", ["open", "write", "close"])
def test_a_log_that_raises_anywhere_is_one_warning_and_the_run_goes_on(store, verb):
    class Faulty(Kept):
        pass

    def broken(self, *_):
        raise OSError("the server is gone")

    setattr(Faulty, verb, broken)
    events = told(Faulty(), store)
    words = [e.words for e in events if "the server is gone" in e.words]
    assert len(words) == 1 and words[0].startswith("kept ")
    assert [e.kind for e in events if "server" not in e.words] == [e.kind for e in events_of_a_run()]


def test_a_record_without_losses_or_none_at_all_is_no_trouble(store):
    log = Kept()
    store.root.joinpath("records").rename(store.root / "gone")
    events = told(log, Store(store.root))
    assert not [p for p in log.points if p.name.startswith("loss")] and not [e for e in events if "kept" in e.words]


def test_no_point_is_infinite(store):
    log = Kept()
    watch = Tracked(log, store, {})
    watch.table([{**BOARD, "scope": "overall", "dsc": math.inf, "rank": None, "nsd": "n/a"}])
    assert [p.name.rsplit("/", 1)[1] for p in log.points] == ["failed_cases"]
