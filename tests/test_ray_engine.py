"""What the Ray engine does without a cluster: what is carried, when it is let go of, and what is refused."""

from __future__ import annotations

import builtins
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_ray_tasks as tiny

from shiftbench.engine import carrier as carrying
from shiftbench.engine import cluster as clusters
from shiftbench.engine.carrier import Carrier, Scratch, carried_method, reads, stays_here, sweep_scratch
from shiftbench.engine.order import topological
from shiftbench.engine.ray_worker import Board, _seldom, _warnings_to
from shiftbench.errors import OutputError, ShiftBenchError
from shiftbench.graph import Task
from shiftbench.spec import content_root
from shiftbench.store import Store
from shiftbench.store.pack import pack
from shiftbench.worker.perform import Context, perform

ROOT = Path(__file__).parents[1]


class Shelf:
    """An object store in memory that counts."""

    def __init__(self):
        self.values, self.gone, self.puts = {}, set(), 0

    def put(self, value):
        self.puts += 1
        self.values[self.puts] = value
        return self.puts

    def get(self, reference):
        return self.values[reference]


@pytest.fixture
def graph(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return tiny.graph(2)


def performed(task, store):
    answer = perform(Context(store), task.kind, task.key, task.payload, tiny.MODULES)
    assert answer["ok"], answer["cause"]


def test_every_task_runs_in_a_store_that_holds_only_what_was_carried(graph, tmp_path):
    driver, shelf = Store(tmp_path / "driver"), Shelf()
    carrier = Carrier(driver, graph, graph, shelf)
    for i, name in enumerate(topological(graph)):
        task, node = graph[name], Store(tmp_path / f"node{i}")
        for read, (reference,) in carrier.inputs(task):
            carrying.unpack(node, shelf.get(reference))
            assert node.present(*read.split("/"))
        performed(task, node)
        carrier.publish(task, shelf.put(pack(node, task.kind, task.key)))
        carrier.end(task)
    assert tiny.totals(driver, graph) == tiny.expected(graph)
    assert shelf.puts == len(graph), "a result was packed twice"
    assert carrier.held == {}, "a result that nobody reads any more is still held"


def test_a_result_is_held_as_long_as_a_task_to_come_reads_it(graph, tmp_path):
    carrier, store = Carrier(Store(tmp_path), graph, graph, shelf := Shelf()), Store(tmp_path)
    train = next(task for task in graph.values() if task.kind == "train")
    readers = [task for task in graph.values() if train.id in reads(task, graph)]
    assert [task.kind for task in readers] == ["predict", "score"] * 2, "a score reads the training that made a state"
    for name in topological(graph)[: topological(graph).index(train.id) + 1]:
        performed(graph[name], store)
    carrier.publish(train, shelf.put(pack(store, "train", train.key)))
    for reader in readers:
        assert train.id in carrier.held
        carrier.end(reader)
    assert train.id not in carrier.held


def test_what_was_lost_with_a_node_is_packed_again_from_the_drivers_store(graph, tmp_path):
    store, shelf = Store(tmp_path), Shelf()
    anatomy = next(task for task in graph.values() if task.kind == "anatomy")
    images = next(task for task in graph.values() if anatomy.id in task.needs)
    performed(anatomy, store)
    carrier = Carrier(store, graph, graph, shelf)
    assert carrier.inputs(images) == carrier.inputs(images) and shelf.puts == 1
    carrier.forget()
    assert carrier.inputs(images) == [(anatomy.id, [2])]


def test_only_tasks_that_have_not_ended_keep_a_result(graph, tmp_path):
    anatomy = next(task for task in graph.values() if task.kind == "anatomy")
    carrier = Carrier(Store(tmp_path), graph, [anatomy.id], Shelf())
    assert not +carrier.wanted


def test_a_result_that_arrives_damaged_is_refused(graph, tmp_path):
    there, here, shelf = Store(tmp_path / "there"), Store(tmp_path / "here"), Shelf()
    task = next(task for task in graph.values() if task.kind == "anatomy")
    performed(task, there)
    blob = bytearray(pack(there, task.kind, task.key))
    blob[blob.index(b'"body"') + 9] ^= 1
    with pytest.raises(OutputError):
        Carrier(here, graph, graph, shelf).publish(task, shelf.put(bytes(blob)))
    assert not here.done(task.kind, task.key)


def test_a_result_of_another_run_is_kept(graph, tmp_path):
    there, here, shelf = Store(tmp_path / "there"), Store(tmp_path / "here"), Shelf()
    task = next(task for task in graph.values() if task.kind == "anatomy")
    performed(task, there)
    here.publish(task.kind, task.key, {"total": -1})
    Carrier(here, graph, graph, shelf).publish(task, shelf.put(pack(there, task.kind, task.key)))
    assert here.record(task.kind, task.key) == {"total": -1}


@pytest.fixture
def scratch(monkeypatch, tmp_path):
    monkeypatch.setattr(carrying.tempfile, "gettempdir", lambda: str(tmp_path))
    return Scratch("run", "node")


def test_a_users_method_file_comes_along_and_shipped_ones_are_found_by_name(scratch, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("class Method: ...\n")
    there = scratch.method(carried_method({"path": str(mine), "module": None}))
    assert Path(there).name == "mine.py" and Path(there).read_bytes() == mine.read_bytes() and there != str(mine)
    assert scratch.method(carried_method({"path": str(mine), "module": None})) == there
    shipped = content_root() / "baselines" / "tent.py"
    carried = carried_method({"path": str(shipped), "module": None})
    assert carried == {"shipped": "tent.py"} and scratch.method(carried) == str(shipped)
    installed = carried_method({"path": "/somewhere/else/graph.py", "module": "shiftbench.graph"})
    assert Path(scratch.method(installed)) == ROOT / "shiftbench" / "graph.py"
    with pytest.raises(FileNotFoundError, match="not installed here"):
        scratch.method({"module": "shiftbench.no_such_module"})


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_scratch_of_killed_runs_is_removed_and_that_of_living_ones_stays(scratch, tmp_path):
    left = carrying.place_of("killed", "node")
    left.mkdir()
    (left / carrying.LOCK).touch()
    code = "import fcntl, sys; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(left / carrying.LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        sweep_scratch()
        assert left.is_dir(), "another process uses it"
        other.kill()
    sweep_scratch()
    assert not left.exists() and scratch.root.is_dir()


def test_only_tasks_that_open_a_folder_of_scans_stay_on_the_drivers_node():
    def task(**payload):
        return Task("anatomy", "k", payload, (), "", 1.0)

    assert stays_here(task(dataset={"name": "scans", "root": "/data", "phantom": None}))
    assert not stays_here(task(dataset={"name": "phantom/abdomen", "root": None, "phantom": {}}))
    assert not stays_here(task(train=[]))


def test_without_ray_one_sentence_says_what_to_install(monkeypatch):
    plain = builtins.__import__

    def absent(name, *rest):
        if name == "ray" or name.startswith("ray."):
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ShiftBenchError, match=r"needs the package ray; pip install 'shiftbench\[cluster\]'"):
        clusters.imported()


def test_importing_the_engine_does_not_import_ray():
    code = "import shiftbench.engine.ray, sys; assert 'ray' not in sys.modules, 'ray'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_words_of_progress_are_said_seldom_and_warnings_of_the_package_are_told(monkeypatch):
    said = []
    tell = _seldom(said.append)
    for i in range(5):
        tell(str(i))
    assert said == ["0"]
    board = Board()
    board.write("a", {"words": "step 1"})
    assert (board.read(), board.read()) == ([("a", {"words": "step 1"})], [])
    with _warnings_to(said.append):
        import warnings

        warnings.warn_explicit("the patch was rounded", UserWarning, str(ROOT / "shiftbench" / "x.py"), 1)
        shown = warnings.showwarning
    assert said[-1] == "the patch was rounded" and warnings.showwarning is not shown


class Few:
    """Nodes for `Cluster` without Ray."""

    def __init__(self, *resources):
        self.made = clusters.Cluster.__new__(clusters.Cluster)
        self.made.nodes = lambda: [{"Resources": each, "NodeID": str(i)} for i, each in enumerate(resources)]
        self.made._counted = (-1e9, (0, 0))


def test_seats_are_counted_per_node():
    few = Few({"CPU": 3, "GPU": 2}, {"CPU": 5}, {})
    assert few.made.seats(2, 0.0) == (3, 0)
    few.made._counted = (-1e9, (0, 0))
    assert few.made.seats(1, 1 / 3) == (8, 6)


def test_what_one_task_asks_for_must_be_on_one_node():
    few = Few({"CPU": 4}, {"CPU": 1, "GPU": 1, "memory": 2**30}).made
    few.check_room([{"num_cpus": 4, "num_gpus": 0, "memory": 0}, {"num_cpus": 1, "num_gpus": 0.5, "memory": 2**30}])
    with pytest.raises(ShiftBenchError, match="no node of the Ray cluster offers 4 CPU, 1 GPU for one task"):
        few.check_room([{"num_cpus": 4, "num_gpus": 1, "memory": 0}])
    with pytest.raises(ShiftBenchError, match="2048 MiB"):
        few.check_room([{"num_cpus": 1, "num_gpus": 0, "memory": 2**31}])


def test_a_client_address_is_refused_before_anything_is_started():
    pytest.importorskip("ray")
    with pytest.raises(ShiftBenchError, match="on a node of the cluster"):
        clusters.Cluster("ray://somewhere:10001")


def test_a_cluster_that_does_not_answer_is_one_sentence(monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def init(**_):
        raise ConnectionError("Could not find any running Ray instance.\nmore words")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ShiftBenchError, match=r"running Ray instance.*ray start --head") as error:
        clusters.Cluster(None)
    assert "more words" not in str(error.value)
