"""A whole run on a tiny scenario: every row once, failures as rows, nothing computed twice or lost when killed."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import shiftbench
from scenarios import TINY, write
from shiftbench.errors import DataError, MethodError, OutputError
from shiftbench.metrics.scorers import SCORERS
from shiftbench.runner import prepare, write_rows
from shiftbench.store import Store

METHODS = ["pred_bn", "tent_in", "fewshot_ft_k1", "target_oracle"]
OF_MASKS = sum(len(scorer.definitions) for scorer in SCORERS.values())  # rows per case and structure
UNTIMED = ["seconds", "peak_mb"]

BROKEN = '''
"""Methods that break the contract in one way each."""
import os, signal
from dataclasses import dataclass
import torch
from shiftbench.api import Access, Episode, Prediction, Track, predictor

@dataclass(frozen=True)
class Method:
    track: Track = Track.TTA
    episode: Episode = Episode.ONLINE
    requires: tuple[str, ...] = ()
    fault: str = "raise"

    def adapt(self, model, access, *, rng):
        if self.fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "raise":
            raise ValueError("no such luck")
        predict, seen = predictor(model), []

        def faulty(image):
            seen.append(1)
            scores = predict(image).log_probabilities
            if self.fault == "nan":
                return Prediction(log_probabilities=scores * float("nan"))
            if self.fault == "shape":
                return Prediction(log_probabilities=scores[..., :-1])
            if self.fault == "second" and len(seen) == 2:
                raise RuntimeError("the second case")
            return Prediction(log_probabilities=scores)

        return faulty

VARIANTS = {f"broken_{fault}": Method(fault=fault) for fault in ("raise", "nan", "shape", "second", "die")}
'''


def values(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.drop(columns=UNTIMED)


def stored(rows: pd.DataFrame, folder) -> pd.DataFrame:
    """The rows as they come back from a result folder, without times."""
    write_rows(rows, folder / "rows.csv.gz")
    return values(shiftbench.read_rows(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """(folder of the scenario, rows, result folder) of one finished run."""
    folder = tmp_path_factory.mktemp("tiny")
    path = write(folder)
    rows = shiftbench.run(path, METHODS, out=folder / "out", device="cpu", jobs=2)
    return path, rows, folder / "out"


def test_every_row_is_there_once(tiny):
    _, rows, _ = tiny
    key = ["target", "method", "seed", "case", "structure", "metric", "definition"]
    assert not rows.duplicated(key).any()
    assert set(rows["target"]) == {"site-a", "identity", "noise:3", "noise:5", "hilum-in", "load"}
    for method, group in rows.groupby("method"):
        targets = 4 if method == "target_oracle" else 6  # reference methods skip the controls
        of_masks = group[group["metric"].isin(SCORERS)]
        assert len(of_masks) == targets * 2 * 2 * OF_MASKS, method  # 2 test patients, 2 structures


def test_a_method_that_has_nothing_to_adapt_says_so(tiny):
    _, rows, _ = tiny
    mine = rows[rows["method"] == "tent_in"]
    assert set(mine["status"]) == {"not_applicable"} and mine["value"].isna().all()
    assert "instance norm" in mine["detail"].iloc[0]


def test_the_identity_control_gives_the_same_scores_as_the_source(tiny):
    _, rows, _ = tiny
    erm = rows[(rows["method"] == "erm") & (rows["metric"] == "dsc")].set_index(["target", "case", "structure"])[
        "value"
    ]
    pd.testing.assert_series_equal(erm.loc["identity"], erm.loc["site-a"])


def test_a_hidden_protocol_changes_no_prediction_of_a_method_without_target_labels(tiny):
    _, rows, _ = tiny
    for method in ("erm", "pred_bn"):
        mine = rows[rows["method"] == method]
        assert set(mine[mine["target"] == "hilum-in"]["prediction"]) == set(
            mine[mine["target"] == "site-a"]["prediction"]
        )
    few = rows[rows["method"] == "fewshot_ft_k1"]
    assert set(few[few["target"] == "hilum-in"]["prediction"]) != set(few[few["target"] == "site-a"]["prediction"])


def test_all_methods_start_from_the_same_checkpoint_and_are_scored_on_the_same_cases(tiny):
    _, rows, _ = tiny
    assert rows["checkpoint"].nunique() == 1
    per_method = rows.groupby(["target", "method"])["case"].agg(lambda cases: tuple(sorted(set(cases))))
    assert (per_method.groupby("target").nunique() == 1).all()


def test_a_second_run_computes_nothing_and_gives_the_same_rows(tiny):
    path, rows, out = tiny
    before = {p: p.stat().st_mtime_ns for p in (out / "records").rglob("*.json")}
    again = shiftbench.run(path, METHODS, out=out, device="cpu")
    assert {p: p.stat().st_mtime_ns for p in (out / "records").rglob("*.json")} == before
    pd.testing.assert_frame_equal(rows, again)


def test_the_order_of_methods_changes_no_row(tiny):
    path, rows, out = tiny
    again = shiftbench.run(path, list(reversed(METHODS)), out=out, device="cpu")
    pd.testing.assert_frame_equal(rows, again)


def test_another_text_of_the_scenario_is_refused_and_nothing_is_lost(tiny, tmp_path):
    _, _, out = tiny
    before = (out / "rows.csv.gz").read_bytes()
    with pytest.raises(OutputError, match="scenario 'tiny' in another text of version 1"):
        shiftbench.run(write(tmp_path, TINY.replace("levels = [3, 5]", "levels = [3, 4]")), METHODS, out=out)
    assert (out / "rows.csv.gz").read_bytes() == before


def test_a_broken_method_is_failed_rows_and_the_rest_goes_on(tiny, tmp_path):
    path, rows, out = tiny
    (tmp_path / "broken.py").write_text(BROKEN)
    got = shiftbench.run(path, [str(tmp_path / "broken.py"), "pred_bn"], out=out, device="cpu", jobs=2)
    status = got[got["metric"] == "dsc"].groupby("method")["status"].agg(set)
    assert status["broken_raise"] == {"failed"} and status["broken_die"] == {"out_of_memory"}
    assert status["broken_nan"] == {"invalid_output"} and status["broken_shape"] == {"invalid_output"}
    assert got[got["method"] == "broken_nan"]["detail"].str.contains("broken.py: .*NaN or infinity; return").all()
    second = got[(got["method"] == "broken_second") & (got["metric"] == "dsc") & (got["structure"] == "liver")]
    per_target = second.groupby("target")["status"].value_counts().unstack(fill_value=0)
    assert (per_target["failed"] == 1).all()  # the other case keeps its score
    failed = got[
        (got["status"] == "failed") & (got["metric"] == "dsc") & ~got["detail"].str.contains("reference_empty")
    ]
    assert (failed["value"] == 0.0).all()
    assert got[got["method"] == "broken_raise"]["detail"].str.contains("no such luck").all()
    killed = got[got["method"] == "broken_die"]["detail"].iloc[0]
    assert "SIGKILL" in killed and "lower --jobs" in killed
    assert stored(got[got["method"] == "pred_bn"], tmp_path).equals(stored(rows[rows["method"] == "pred_bn"], tmp_path))


def test_failures_are_tried_again_and_then_forgotten(tiny, tmp_path):
    path, _, out = tiny
    flag = tmp_path / "mended"
    (tmp_path / "moody.py").write_text(
        BROKEN.split("VARIANTS")[0].replace('if self.fault == "raise":', f"if not os.path.exists({str(flag)!r}):")
        + 'VARIANTS = {"moody": Method(fault="none")}\n'
    )
    first = shiftbench.run(path, [str(tmp_path / "moody.py")], out=out, device="cpu", jobs=2, isolate="off")
    assert set(first[first["method"] == "moody"]["status"]) == {"failed"}
    flag.write_text("")
    second = shiftbench.run(path, [str(tmp_path / "moody.py")], out=out, device="cpu", jobs=2, isolate="off")
    assert "failed" not in set(second[second["method"] == "moody"]["status"])


OWN = '''
"""A method with a training of its own: an untrained network, and a sidecar that says how many cases it saw."""
from dataclasses import dataclass
import torch
from shiftbench.api import Access, Episode, Prepared, Track, predictor

@dataclass(frozen=True)
class Method:
    track: Track = Track.SFDA
    episode: Episode = Episode.OFFLINE
    requires: tuple[str, ...] = ()

    def prepare(self, source, source_val, build, *, recipe, rng):
        return Prepared(build(), {"seen": torch.tensor([len(source), len(source_val)])})

    def adapt(self, model, access, *, rng):
        assert access.sidecar["seen"].tolist() == [5, 1] and access.source is None and access.fewshot is None
        assert len(access.target) == 2
        return predictor(model)
'''


def test_a_method_may_train_its_own_model_on_the_source(tiny, tmp_path):
    path, rows, out = tiny
    (tmp_path / "own.py").write_text(OWN)
    got = shiftbench.run(path, [str(tmp_path / "own.py")], out=out, device="cpu", jobs=2)
    mine = got[(got["method"] == "own") & (got["metric"] == "dsc")]
    assert set(mine["status"]) <= {"ok", "missed", "fp_on_negative", "both_empty"}, mine["detail"].unique()
    erm = got[(got["method"] == "erm") & (got["metric"] == "dsc")]
    assert mine["value"].mean() < erm["value"].mean() and not set(mine["prediction"]) & set(erm["prediction"])


def test_permuted_references_change_no_prediction(tiny, tmp_path):
    """The canary: targets with other references (another margin) give the same predictions where labels are hidden."""
    path = write(
        tmp_path,
        TINY.replace('protocol = { hilum = "included" }', 'protocol = { hilum = "excluded", margin_mm = -9.0 }'),
    )
    _, rows, _ = tiny
    graph = prepare(path, ["pred_bn"], out=tmp_path / "other", device="cpu").graph
    keys = {u.row["target"]: {f[0].split("/")[1] for f in u.folds} for u in graph.units if u.row["method"] == "pred_bn"}
    assert keys["hilum-in"] == set(rows[(rows["method"] == "pred_bn") & (rows["target"] == "hilum-in")]["prediction"])


def test_a_missing_method_and_a_missing_gpu_are_one_sentence(tiny, tmp_path):
    path, _, out = tiny
    with pytest.raises(MethodError, match="unknown method 'tnt'; did you mean 'tent'"):
        shiftbench.run(path, ["tnt"], out=out)
    (tmp_path / "empty.py").write_text('"""Nothing."""\n')
    with pytest.raises(MethodError, match="neither 'class Method' nor 'VARIANTS'"):
        shiftbench.run(path, [str(tmp_path / "empty.py")], out=out, device="cpu")
    import torch

    if not torch.cuda.is_available():
        with pytest.raises(DataError, match="torch finds no GPU; use --device cpu"):
            shiftbench.run(path, ["erm"], out=out, device="cuda")


def start(path, out) -> subprocess.Popen:
    command = [sys.executable, "-m", "shiftbench.cli", "run", str(path), "--out", str(out), "--device", "cpu"]
    methods = [arg for m in ("pred_bn", "fewshot_ft_k1") for arg in ("--method", m)]
    return subprocess.Popen([*command, *methods], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def published(out) -> int:
    return sum(1 for _ in (out / "records").rglob("*.json")) if out.is_dir() else 0


@pytest.mark.slow
@pytest.mark.parametrize(("at", "how"), [(3, signal.SIGKILL), (20, signal.SIGKILL), (30, signal.SIGINT)])
def test_a_run_that_is_stopped_goes_on_to_the_same_rows(tiny, tmp_path, at, how):
    path, rows, _ = tiny
    out = tmp_path / "out"
    process = start(path, out)
    while published(out) < at and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, process.stdout.read()
    process.send_signal(how)
    process.wait(timeout=30)
    if how == signal.SIGINT:
        assert process.returncode == 130 and "the same command goes on from here" in process.stdout.read()
    assert not (out / "rows.csv.gz").exists()
    finished = start(path, out)
    assert finished.wait(timeout=300) == 0, finished.stdout.read()
    got = values(shiftbench.read_rows(out))
    mine = stored(rows[rows["method"].isin(["erm", "pred_bn", "fewshot_ft_k1"])], tmp_path)
    pd.testing.assert_frame_equal(got, mine)
    assert not (out / "tmp").exists() and list(Store(out).root.glob(".*")) == []


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tiny, tmp_path):
    path, _, _ = tiny
    process = start(path, tmp_path / "out")
    while published(tmp_path / "out") < 3 and process.poll() is None:
        time.sleep(0.02)
    children = [
        int(p) for p in subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()
    ]
    assert children
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(os.path.exists(f"/proc/{c}") for c in children):
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{c}") for c in children)
