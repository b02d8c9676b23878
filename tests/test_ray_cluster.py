"""The Ray engine on real raylets with pretended GPUs: what is killed comes again, and all is published exactly once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas
import pytest
import tiny_ray_tasks as tiny

import scenarios
from shiftbench.engine.carrier import reads
from shiftbench.engine.order import topological
from shiftbench.errors import ShiftBenchError
from shiftbench.graph import Settings
from shiftbench.runner import collect, compute, prepare
from shiftbench.store import Store
from shiftbench.store.pack import pack, unpack
from shiftbench.worker.perform import Context, perform

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from shiftbench.engine.ray import RayEngine  # noqa: E402

pytestmark = pytest.mark.slow
MIB = 2**20


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """A head with one core; nodes are added by the tests, and every process is gone at the end."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_TMPDIR", tempfile.gettempdir())  # Ray's sockets need a short path
    monkeypatch.setenv("TMPDIR", str(_folder(tmp_path / "node-tmp")))  # of the nodes: there they keep what is carried
    head = {"num_cpus": 1, "object_store_memory": 80 * MIB, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield made
    finally:
        if ray.is_initialized():
            ray.shutdown()
        made.shutdown()


def _folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def node(cluster, **resources):
    return cluster.add_node(**{"num_cpus": 1, "object_store_memory": 80 * MIB, **resources})


def engine_on(cluster, root, **choices):
    return RayEngine(root, address=cluster.address, modules=tiny.MODULES, **choices)


def results(root, tasks):
    """Totals of all tasks, after it was seen that each is in the store once, with one folder of arrays."""
    store = Store(root)
    for kind in tiny.KINDS:
        keys = {task.key for task in tasks.values() if task.kind == kind}
        assert store.finished(kind) == keys
        folders = [path.name.split(".")[0] for path in (store.root / "artifacts" / kind).glob("*/*")]
        assert Counter(folders) == Counter(list(keys)), "arrays of an attempt that lost are left"
    assert not list((root / "failures").glob("*/*/*.json")), "a failure outlives its task's result"
    return tiny.totals(store, tasks)


def ended_well(outcomes):
    return Counter(outcome.task.id for outcome in outcomes if outcome.ok)


@pytest.mark.parametrize("carrier", ["shared", "objects", "auto"])
def test_a_graph_is_computed_on_several_nodes(cluster, tmp_path, carrier):
    node(cluster)
    log = _folder(tmp_path / "log")
    tasks = tiny.graph(4, log=str(log), bytes=200_000)
    engine = engine_on(cluster, tmp_path / "results", carrier=carrier)
    nodes, outcomes = set(), []
    for outcome in engine.run(tasks, tick=lambda: nodes.update(r.where for r in engine.running())):
        outcomes.append(outcome)
    assert ended_well(outcomes) == Counter(list(tasks))
    assert results(tmp_path / "results", tasks) == tiny.expected(tasks)
    assert len(list(log.iterdir())) == len(tasks), "a task was attempted twice"
    assert not list((tmp_path / "node-tmp").glob("shiftbench*/*")), "what was carried is left on a node"
    assert bool(list((tmp_path / "node-tmp").glob("shiftbench*"))) == (carrier == "objects")
    assert not list((tmp_path / "results").glob("tmp/*")) and not list((tmp_path / "results").glob("runs/*"))


def test_a_finished_graph_is_not_computed_again(cluster, tmp_path):
    tasks, log = tiny.graph(1), _folder(tmp_path / "log")
    list(engine_on(cluster, tmp_path / "results").run(tasks))
    again = {name: task for name, task in tasks.items()}
    for task in again.values():
        task.payload["log"] = str(log)
    assert list(engine_on(cluster, tmp_path / "results").run(again)) == []
    assert not list(log.iterdir())


@pytest.mark.parametrize("carrier", ["shared", "objects"])
def test_a_killed_worker_is_replaced_and_its_task_repeated(cluster, tmp_path, carrier):
    tasks = tiny.graph(2, dies_once=str(tmp_path / "died"))
    outcomes = list(engine_on(cluster, tmp_path / "results", carrier=carrier).run(tasks))
    lost = [outcome for outcome in outcomes if not outcome.ok]
    assert [(o.reason, o.again, o.task.kind) for o in lost] == [("lost", True, "predict")]
    assert "worker process died" in lost[0].cause
    assert ended_well(outcomes) == Counter(list(tasks))
    assert results(tmp_path / "results", tasks) == tiny.expected(tasks)


@pytest.mark.parametrize("carrier", ["shared", "objects"])
def test_a_node_removed_in_the_middle_of_a_task_loses_nothing(cluster, tmp_path, carrier):
    mark = tmp_path / "node"
    tasks = tiny.graph(3, node_dies_once=str(mark), device="cuda")
    leaving = [node(cluster, num_gpus=1)]
    engine = engine_on(cluster, tmp_path / "results", carrier=carrier, gpus=True)

    def tick():
        if leaving and mark.exists() and mark.read_text():
            node(cluster, num_gpus=1)
            cluster.remove_node(leaving.pop(), allow_graceful=False)

    outcomes = list(engine.run(tasks, tick=tick))
    assert not leaving
    causes = [outcome.cause for outcome in outcomes if not outcome.ok]
    assert any("the node was lost" in cause for cause in causes)
    assert ended_well(outcomes) == Counter(list(tasks))
    assert results(tmp_path / "results", tasks) == tiny.expected(tasks)


DRIVER = """
import sys
from pathlib import Path
import tiny_ray_tasks as tiny
from shiftbench.engine.ray import RayEngine
root, address, carrier, log, gate = sys.argv[1:]
tasks = tiny.graph(3, log=log, wait_for=gate)
if __name__ == "__main__":
    for outcome in RayEngine(Path(root), address=address, modules=tiny.MODULES, carrier=carrier).run(tasks):
        print(outcome.task.id, flush=True)
"""


@pytest.mark.parametrize("carrier", ["shared", "objects"])
def test_a_killed_driver_leaves_its_results_and_the_next_one_goes_on(cluster, tmp_path, carrier):
    node(cluster)
    root, log, gate = tmp_path / "results", _folder(tmp_path / "log"), tmp_path / "gate"
    script = tmp_path / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(root), cluster.address, carrier, str(log), str(gate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as driver:
        try:
            assert driver.stdout is not None
            before = {driver.stdout.readline().strip() for _ in range(4)}
            _wait_until(lambda: any((root / "claims").rglob("predict/*")))
        finally:
            driver.send_signal(signal.SIGKILL)
    tasks = tiny.graph(3, log=str(log), wait_for=str(gate))
    finished = {name for name, task in tasks.items() if Store(root).done(task.kind, task.key)}
    assert before <= finished and len(finished) < len(tasks)
    gate.touch()
    outcomes = list(engine_on(cluster, root, carrier=carrier).run(tasks))
    assert ended_well(outcomes) == Counter(set(tasks) - finished), "what was published is not computed again"
    assert results(root, tasks) == tiny.expected(tasks)


def _wait_until(holds, seconds=60.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_pretended_gpus_are_given_to_as_many_tasks_as_they_may_hold(cluster, tmp_path):
    node(cluster, num_cpus=6, num_gpus=2)
    log, gate = _folder(tmp_path / "log"), tmp_path / "gate"
    tasks = tiny.graph(6, device="cuda", wait_for=str(gate), log=str(log))
    engine, under_way = engine_on(cluster, tmp_path / "results", gpus=True, jobs_per_device=2), []
    end = time.monotonic() + 90.0

    def tick():
        under_way.append(sum(each.task.kind == "predict" for each in engine.running()))
        if under_way[-1] >= 4 or time.monotonic() > end:  # tasks wait for each other, so that no timing decides
            gate.touch()

    list(engine.run(tasks, tick=tick))
    of_predict = {task.key for task in tasks.values() if task.kind == "predict"}
    seats = Counter(path.read_text() for path in log.iterdir() if path.name.split(".")[0] in of_predict)
    assert set(seats) == {"0", "1"} and max(under_way) == 4


def test_a_task_that_takes_too_long_is_ended_and_what_needs_it_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("shiftbench.engine.ray.GRACE_SECONDS", 0.5)
    tasks = tiny.graph(1, seconds=600)
    engine = engine_on(cluster, tmp_path / "results", settings=Settings(seconds=1.0))
    ends = {o.task.kind: (o.ok, o.reason, o.status) for o in engine.run(tasks) if o.task.label.endswith("0")}
    assert ends["predict"] == (False, "timeout", "timeout") and ends["score"][1] == "input"
    assert "more than 1 s" in Store(tmp_path / "results").failure("predict", _key(tasks, "predict"))["cause"]


def _key(tasks, kind):
    return next(task.key for task in tasks.values() if task.kind == kind)


def test_an_error_of_a_task_is_in_the_record_with_its_trace(cluster, tmp_path):
    tasks = tiny.graph(1, raises="no such luck")
    engine = engine_on(cluster, tmp_path / "results", carrier="objects")
    ends = {o.task.kind: (o.ok, o.reason) for o in engine.run(tasks)}
    failure = Store(tmp_path / "results").failure("predict", _key(tasks, "predict"))
    assert ends["predict"] == (False, "exception") and ends["score"] == (False, "input")
    assert failure["cause"] == "ValueError: no such luck" and "_misbehave" in failure["trace"]
    assert failure["label"] == "predict 30" and len(failure["attempts"]) == 1


def test_a_demand_that_no_node_meets_is_refused_in_one_sentence(cluster, tmp_path):
    tasks = tiny.graph(1, device="cuda")
    with pytest.raises(ShiftBenchError, match="no node of the Ray cluster offers 1 CPU, 1 GPU for one task"):
        list(engine_on(cluster, tmp_path / "results", gpus=True).run(tasks))
    huge = Settings(memory_mb=10_000_000)
    with pytest.raises(ShiftBenchError, match="10000000 MiB"):
        list(engine_on(cluster, tmp_path / "results", settings=huge).run(tasks))


def test_results_travel_as_objects_where_a_node_does_not_see_the_folder(cluster, tmp_path, monkeypatch):
    node(cluster)
    tasks = tiny.graph(2)
    monkeypatch.setattr("shiftbench.engine.cluster.look", _blind)
    engine = engine_on(cluster, tmp_path / "results")
    assert len(ended_well(engine.run(tasks))) == len(tasks)
    assert any("does not see" in sentence for sentence in engine.said())
    assert results(tmp_path / "results", tasks) == tiny.expected(tasks)
    with pytest.raises(ShiftBenchError, match="does not see the result folder"):
        list(engine_on(cluster, tmp_path / "other", carrier="shared").run(tasks))


def _blind(nonce):
    """Stands for a node of another machine."""
    from shiftbench.engine.ray_worker import look

    return look(nonce + ".elsewhere")


def test_a_folder_of_scans_is_read_on_the_drivers_node(cluster, tmp_path):
    node(cluster, num_cpus=4)
    tasks = tiny.graph(6, dataset={"name": "scans", "root": "/somewhere"})
    engine, places = engine_on(cluster, tmp_path / "results", carrier="objects"), set()
    home = engine.cluster.home[:6]
    look = lambda: places.update(r.where for r in engine.running() if r.task.kind == "predict")  # noqa: E731
    slow = tiny.graph(6, dataset={"name": "scans", "root": "/somewhere"}, seconds=0.6)
    assert set(slow) == set(tasks)
    list(engine.run(slow, tick=look))
    assert places and all(home in place for place in places)


METHODS = ["erm", "histmatch", "fewshot_ft_k1", "atc"]  # with a prepared state, labels, and an estimator
COSTS = ("seconds", "peak", "isolation")


def rows_of(scenario, out, make_engine=None):
    """Rows of a real scenario through the runner's own plan, without what the attempts cost."""
    prepared = prepare(str(scenario), ["erm"], out=out, device="cpu", jobs=2)
    made = make_engine(prepared.store.root) if make_engine else prepared.engine()
    compute(prepared.graph, prepared.store, made, lambda event: None, 2)
    assert not list(prepared.store.root.glob("failures/*/*/*.json"))
    rows = collect(prepared.graph, prepared.store)
    return rows[[name for name in rows.columns if not any(cost in name for cost in COSTS)]]


def test_the_rows_are_those_of_the_local_engine(cluster, tmp_path):
    node(cluster)
    scenario = scenarios.write(tmp_path)
    local = rows_of(scenario, tmp_path / "local")
    assert len(local) > 100
    for carrier in ("shared", "objects"):

        def on_ray(root, carrier=carrier):
            return RayEngine(root, address=cluster.address, carrier=carrier)

        pandas.testing.assert_frame_equal(rows_of(scenario, tmp_path / carrier, on_ray), local)


def test_every_task_of_a_real_plan_reads_only_what_is_carried(tmp_path):
    """With the real handlers, each task in a store that holds nothing else."""
    prepared = prepare(str(scenarios.write(tmp_path)), METHODS, out=tmp_path / "d", device="cpu")
    tasks, driver = prepared.graph.tasks, prepared.store
    for i, name in enumerate(topological(tasks)):
        task, node_store = tasks[name], Store(tmp_path / f"node{i}")
        for read in reads(task, tasks):
            unpack(node_store, pack(driver, *read.split("/")))
        answer = perform(Context(node_store), task.kind, task.key, task.payload)
        assert answer["ok"], (task.label, answer["cause"], answer["trace"])
        unpack(driver, pack(node_store, task.kind, task.key))
    assert {task.kind for task in tasks.values()} >= {"anatomy", "images", "references", "train", "predict", "score"}


def test_what_a_node_finds_is_json(cluster):
    from shiftbench.engine.ray_worker import look

    assert json.loads(json.dumps(look("/nowhere/at/all")))["shared"] is False
