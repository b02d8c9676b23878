"""What a guest may see and use, at each level, and that nothing of it is left; guests are a few lines of Python."""

import os
import pwd
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from guests import SOON, WAIT, answer, eventually, gone, guest, launcher

from shiftbench.diagnosis import isolation
from shiftbench.errors import IsolationError
from shiftbench.isolation import bubblewrap, limits
from shiftbench.isolation.keeper import children, descendants
from shiftbench.isolation.launcher import THREAD_VARIABLES, Launcher, Level, level
from shiftbench.isolation.limits import FILES_MB, physical_mb
from shiftbench.isolation.process import LOG_BYTES, Death
from shiftbench.isolation.stage import PREFIX, Stage, staged, sweep
from shiftbench.types import Status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked at through /proc")
ROOT = Path(__file__).parents[1]
HERE = str(Path(__file__).parent)


@pytest.fixture(params=["process", "sandbox"])
def at(request):
    """Each level; the sandbox where there is one."""
    if request.param == "sandbox":
        request.getfixturevalue("sandbox")
    return request.param


def test_of_the_disk_a_sandbox_holds_what_python_needs(sandbox, tmp_path):
    (tmp_path / "reference.npy").write_bytes(b"labels")
    places = [str(tmp_path), str(ROOT), HERE, str(ROOT / "shiftbench"), "/var", "/srv", "/etc/shadow", "/etc/hostname"]
    prefixes = [sys.prefix, sys.base_prefix]
    above = sorted({str(p) for prefix in prefixes for p in Path(prefix).parents})
    code = f"""
import os
seen = [p for p in {places!r} if os.path.lexists(p) and p not in {above!r}]
held = [os.path.join(p, name) for p in {places!r} if p in {above!r} for name in os.listdir(p)]
seen += [p for p in held if not any(prefix.startswith(p) for prefix in {prefixes!r})]
tell([seen, sorted(os.listdir('/')), os.listdir('.')])
"""
    seen, roots, working = answer("sandbox", code)
    assert seen == [] and working == []  # of a checkout that the interpreter lies in, the way to it alone
    prefixes = {Path(p).parts[1] for p in (sys.prefix, sys.base_prefix, os.path.realpath(sys.base_prefix))}
    allowed = {"bin", "dev", "etc", "lib", "lib32", "lib64", "libx32", "proc", "sbin", "stage", "tmp", "usr", "guest"}
    assert set(roots) <= allowed | prefixes


def test_a_home_that_holds_the_interpreter_shows_nothing_else(sandbox):
    home = pwd.getpwuid(os.getuid()).pw_dir
    beside = [str(p) for p in Path(home).iterdir() if not any(Path(home) in Path(q).parents for q in (sys.prefix,))]
    prefixes = [os.path.realpath(p) for p in (sys.prefix, sys.base_prefix)]
    beside = [p for p in beside if not any(q.startswith(p) for q in prefixes)]
    assert answer("sandbox", f"import os\ntell([p for p in {beside!r} if os.path.lexists(p)])") == []


def test_only_the_parts_of_a_prefix_that_start_python_are_seen(tmp_path, monkeypatch):
    for part in ("bin", "lib", "data", "results"):
        (tmp_path / part).mkdir()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    found = set(bubblewrap._interpreter())
    assert {tmp_path / "bin", tmp_path / "lib"} <= found
    assert not found & {tmp_path, tmp_path / "data", tmp_path / "results"}


def test_a_package_that_is_installed_beside_torch_is_covered(sandbox, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    (site / "shiftbench" / "data").mkdir(parents=True)
    (site / "shiftbench" / "data" / "phantoms.py").write_text("secret = 1")
    (site / "other.py").write_text("")
    monkeypatch.syspath_prepend(site)
    found = answer("sandbox", f"import os\ntell([os.listdir({str(site)!r}), os.listdir({str(site / 'shiftbench')!r})])")
    assert found == [["shiftbench", "other.py"], []] or found == [["other.py", "shiftbench"], []]


def test_what_is_to_be_hidden_is_hidden_inside_what_is_seen(sandbox, tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    (site / "results").mkdir(parents=True)
    (site / "results" / "scores.json").write_text("{}")
    (site / "secret.txt").write_text("x")
    monkeypatch.syspath_prepend(site)
    code = f"""
import os
try:
    read = open({str(site / "secret.txt")!r}).read()
except PermissionError:
    read = "denied"
tell([os.listdir({str(site / "results")!r}), read])
"""
    assert answer("sandbox", code) == [["scores.json"], "x"]
    assert answer("sandbox", code, hide=[site / "results", site / "secret.txt"]) == [[], "denied"]


def test_a_given_file_is_read_without_its_neighbours_and_not_written(sandbox, tmp_path):
    given, neighbour = tmp_path / "method.py", tmp_path / "labels.txt"
    given.write_text("x = 1")
    neighbour.write_text("1 2 3")
    starts = launcher("sandbox", "", files=[given])
    place = starts.seen(given)
    code = f"""
import os
try:
    open({place!r}, "a")
    wrote = True
except OSError:
    wrote = False
tell([open({place!r}).read(), os.listdir(os.path.dirname({place!r})), os.path.exists({str(neighbour)!r}), wrote])
"""
    assert answer("sandbox", code, files=[given]) == ["x = 1", ["method.py"], False, False]
    assert launcher("process", "", files=[given]).seen(given) == str(given)


def test_nothing_can_be_written_but_the_working_folder(sandbox):
    code = """
import os
wrote = []
library = os.path.dirname(os.__file__)
for folder in ("/", "/usr", "/etc", "/dev", "/stage", "/stage/shiftbench", "/root", library, "/tmp", "/guest"):
    try:
        open(folder + "/mark", "w").write("x")
        wrote.append(folder)
    except OSError:
        pass
tell([wrote, os.getcwd(), os.environ["HOME"]])
"""
    assert answer("sandbox", code) == [["/tmp", "/guest"], "/guest", "/guest"]


def test_the_working_folder_has_an_end(sandbox):
    if not bubblewrap.bubblewrap().sizes:
        pytest.skip("this bubblewrap does not limit a folder's size")
    code = "import os\ntell([os.statvfs(p).f_blocks * os.statvfs(p).f_frsize for p in ('/tmp', '/dev/shm')])"
    assert answer("sandbox", code) == [FILES_MB * 2**20] * 2


def test_a_sandbox_has_no_capability_whoever_runs_it(sandbox):
    lines = answer("sandbox", "tell(open('/proc/self/status').read().splitlines())")
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert {
        name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    } == dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)
    assert status["NoNewPrivs"] == "1"


def test_a_sandbox_makes_no_sandbox_of_its_own(sandbox):
    if "--disable-userns" not in bubblewrap.bubblewrap().options:
        pytest.skip("this bubblewrap cannot forbid it")
    assert answer("sandbox", "import ctypes\ntell(ctypes.CDLL(None).unshare(0x10000000))") == -1


def test_a_sandbox_sees_its_own_processes_alone(sandbox):
    code = "import os\ntell([sorted(int(p) for p in os.listdir('/proc') if p.isdigit()), os.getppid(), os.getpid()])"
    processes, *own = answer("sandbox", code)
    assert processes == [1, *own]  # bubblewrap's first process, the server that it was forked from, and itself


def test_a_sandbox_has_no_network_and_no_name(sandbox):
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"""
import socket
try:
    socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=2).close()
    reached = True
except OSError:
    reached = False
tell([reached, [name for _, name in socket.if_nameindex()], socket.gethostname()])
"""
        assert answer("sandbox", code) == [False, ["lo"], "guest"]
        assert answer("process", code)[0] is True  # the same code does reach it where nothing is in the way


def test_the_environment_is_the_table_and_nothing_else(at, monkeypatch):
    monkeypatch.setenv("SECRET_PATH", "/data/references")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    code = "import os\ntell([dict(os.environ), open('/proc/self/environ').read(), open('/proc/1/environ').read()])"
    if at == "process":
        code = "import os\ntell([dict(os.environ), open('/proc/self/environ').read(), ''])"
    environment, own, first = answer(at, code, threads=3)
    fixed = {"PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "PYTHONHASHSEED", "PYTHONDONTWRITEBYTECODE"}
    fixed |= {"PYTHONUNBUFFERED", "CUDA_VISIBLE_DEVICES", "CUBLAS_WORKSPACE_CONFIG", "PWD"}  # PWD: of a shell
    assert set(environment) - {"LC_CTYPE"} <= fixed | set(THREAD_VARIABLES)
    assert environment["CUDA_VISIBLE_DEVICES"] == "" and environment["OMP_NUM_THREADS"] == "3"
    assert "references" not in own + first


@pytest.mark.parametrize(
    "module", ["store", "data.phantoms", "shifts.protocol", "domains", "worker", "isolation", "plan"]
)
def test_what_is_not_staged_cannot_be_imported(at, module):
    code = f"""
import importlib
try:
    importlib.import_module("shiftbench.{module}")
    tell("imported")
except ImportError as error:
    import shiftbench
    tell(shiftbench.__file__)
"""
    place = Path("/stage") if at == "sandbox" else staged().package
    assert answer(at, code) == str(place / "shiftbench" / "__init__.py")


def test_a_stage_holds_the_rooms_that_are_named(tmp_path):
    source = tmp_path / "shiftbench"
    modules = ("spec/__init__", "spec/training", "spec/scenario", "train/__init__", "train/a/__init__", "train/a/b")
    for name in ("__init__", "types", "store", *modules):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / f"{name}.py").write_text("")
    stage = Stage(("types", "spec.training", "train"), source)
    modules = ["train/__init__.py", "train/a/__init__.py", "train/a/b.py"]
    wanted = ["__init__.py", "spec/__init__.py", "spec/training.py", *modules, "types.py"]
    assert stage.files == wanted
    assert sorted(p.relative_to(stage.package / "shiftbench").as_posix() for p in stage.package.rglob("*.py")) == wanted
    stage.close()
    assert not stage.folder.exists()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Stage(("nowhere",), source)


def test_the_stage_of_a_killed_worker_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, mine = tmp_path / f"{PREFIX}{ended.pid}-a", tmp_path / f"{PREFIX}{os.getpid()}-b"
    dead.mkdir()
    mine.mkdir()
    sweep()
    assert not dead.exists() and mine.exists()


DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    print(os.getpid(), flush=True)
    for pipe in range(3):
        os.close(pipe)
    os.environ.clear()
    os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(0.3)
print("ready", flush=True)
"""
IDLE = "\ntime.sleep(600)"


def whole_tree(at, process):
    """All processes of a guest that made a daemon, also where it got away, and those between it and us."""
    said = [process.reader.readline() for _ in range(2)]
    assert b"ready\n" in said, process.log()
    own = [int(line) for line in said if line != b"ready\n" and at == "process"]  # a sandbox counts from 1
    return sorted({process.process.pid, *process.tree(), *own})


def tree(process):
    """All processes of a guest, and those between it and us."""
    return [process.process.pid, *descendants(process.process.pid)]


def test_killing_a_guest_takes_a_daemonised_child_along(at):
    with guest(at, DAEMON + WAIT) as process:
        pids = whole_tree(at, process)
        assert len(pids) >= 2 and process.pid in pids
        process.kill()
        assert eventually(lambda: all(map(gone, pids))), [p for p in pids if not gone(p)]
        assert process.pid is None and not process.alive()


def test_a_guest_that_ends_takes_a_daemonised_child_along(at):
    with guest(at, DAEMON + WAIT) as process:
        pids = whole_tree(at, process)
        process.writer.close()
        assert eventually(lambda: all(map(gone, pids)))
        ended = Death("the process ended with exit code 0", Status.FAILED, "exception")
        assert eventually(lambda: process.ended() == ended)


def test_a_stopped_keeper_does_not_save_its_guest(monkeypatch):
    monkeypatch.setattr("shiftbench.isolation.process.KILL_SECONDS", 0.2)
    with guest("process", DAEMON + "os.kill(os.getppid(), 19)" + WAIT) as process:
        pids = whole_tree("process", process)
        process.kill()
        assert eventually(lambda: all(map(gone, pids)))


def test_guests_end_with_a_worker_that_is_killed(at):
    code = f"""
import sys, time
sys.path.insert(0, {HERE!r})
from guests import launcher
from shiftbench.isolation.keeper import descendants
starts = launcher({at!r}, {DAEMON + IDLE!r}, spares=True)
process = starts.start()
process.reader.readline(), process.reader.readline()
import os
print(*descendants(os.getpid()), flush=True)
time.sleep(600)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(bubblewrap.__file__).parents[2])}
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    pids = [int(p) for p in worker.stdout.readline().split()]
    assert sum(not gone(p) for p in pids) >= 4  # a guest, its daemon, and what stands over them
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert eventually(lambda: all(map(gone, pids))), [p for p in pids if not gone(p)]


def test_a_guest_does_not_end_with_the_thread_that_asked_for_it(at):
    import threading

    starts, got = launcher(at, "print('up', flush=True)" + WAIT), []
    thread = threading.Thread(target=lambda: got.append(starts.start()))
    thread.start()
    thread.join()
    assert got[0].reader.readline() == b"up\n"
    time.sleep(0.1)
    assert got[0].alive()
    got[0].close()


def test_memory_is_refused_to_a_guest_beyond_its_limit(at):
    code = """
try:
    block = bytearray(2 * 2**30)
    tell("had it")
except MemoryError:
    tell("refused")
"""
    assert answer(at, code, memory_mb=500.0) == "refused"


def test_a_tree_that_shares_out_its_memory_is_killed_with_the_figures(at):
    code = """
import os, time
for _ in range(3):
    if os.fork() == 0:
        block = bytearray(b"x") * (40 * 2**20)
        time.sleep(600)
time.sleep(600)
"""
    with guest(at, code, memory_mb=100.0) as process:
        pids = tree(process)
        assert eventually(lambda: process.ended() is not None)
        death = process.ended()
        assert (death.status, death.reason) == (Status.OUT_OF_MEMORY, "out_of_memory")
        assert "more than its limit of 100 MiB; raise the limit or lower the batch" in death.cause
        assert int(death.cause.split(" used ")[1].split()[0]) > 100
        assert eventually(lambda: all(map(gone, pids)))


def test_a_fork_bomb_is_ended(at, monkeypatch):
    monkeypatch.setattr(limits, "PROCESSES", 20)
    code = """
import os, time
for _ in range(60):
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
time.sleep(600)
"""
    with guest(at, code) as process:
        assert eventually(lambda: process.ended() is not None)
        assert "others, more than the 20 allowed" in process.ended().cause
        assert descendants(process.process.pid) == []


def test_a_chatty_guest_neither_waits_nor_fills_memory(at):
    code = "import sys\nfor i in range(50_000): print('line', i, 'x' * 80, file=sys.stderr)\nprint('done', flush=True)"
    with guest(at, code + WAIT) as process:
        assert process.reader.readline() == b"done\n"
        process.writer.close()
        assert eventually(lambda: process.ended() is not None)
        assert process.log().splitlines()[-1].startswith("line 49999 ")
        assert len(process.log().encode()) <= LOG_BYTES


@pytest.mark.parametrize(
    ("code", "cause", "status", "reason"),
    [
        ("import os; os.kill(os.getpid(), 11)", "the process was killed by SIGSEGV", Status.FAILED, "signal"),
        (
            "import os; os.kill(os.getpid(), 9)",
            "the process was killed by SIGKILL, which is what the system does when memory runs out; "
            "lower --jobs or the batch",
            Status.OUT_OF_MEMORY,
            "signal",
        ),
        (
            "import sys; sys.exit('no such thing')",
            "the process ended with exit code 1 (no such thing)",
            Status.FAILED,
            "exception",
        ),
    ],
)
def test_causes_of_death_are_told_apart(at, code, cause, status, reason):
    with guest(at, code) as process:
        assert eventually(lambda: process.ended() is not None)
        assert process.ended() == Death(cause, status, reason)


def test_a_server_has_one_guest_at_a_time_and_a_dead_one_is_replaced(at):
    starts = launcher(at, "print('here', flush=True)" + WAIT)
    first, second = starts.start(), starts.start()
    assert first.reader.readline() == second.reader.readline() == b"here\n" and first.alive() and second.alive()
    assert len(starts._servers) == 2
    second.close()
    third = starts.start()
    assert third.reader.readline() and first.alive() and len(starts._servers) == 2
    starts._servers[0].process.kill()
    assert eventually(lambda: first.ended() is not None)
    fourth = starts.start()
    assert fourth.reader.readline() and third.alive() and len(starts._servers) == 2
    for process in (first, third, fourth):
        process.close()
    starts.close()


def test_where_guests_are_not_forked_the_next_one_is_started_ahead_and_a_dead_one_replaced(at, monkeypatch):
    monkeypatch.setattr("shiftbench.isolation.launcher.FORKS", False)
    starts = launcher(at, "import os; print(os.getpid(), flush=True)" + WAIT, spares=True)
    first, ahead = starts.start(), starts._spare
    second = starts.start()
    assert second is ahead and second.process.pid != first.process.pid
    dead = starts._spare
    dead.kill()
    third = starts.start()
    assert third is not dead and third.reader.readline()
    last = starts._spare
    starts.close()
    assert not last.alive()
    for process in (first, second, third):
        process.close()


def test_nothing_passes_from_one_guest_to_the_next(at):
    code = """
import os, pathlib
places = [pathlib.Path(p) for p in (os.environ["HOME"], ".", "/dev/shm" if os.path.exists("/stage") else ".")]
found = [str(p) for p in places for q in p.glob("left-*")]
for place in places:
    (place / "left-here").write_text("x")
tell(found)
"""
    starts = launcher(at, "import json\ndef tell(value): print(json.dumps(value), flush=True)\n" + code)
    for _ in range(2):
        process = starts.start()
        assert process.reader.readline() == b"[]\n", process.log()
        folder = process.folder
        process.close()
        assert folder is None or not folder.exists()


def test_the_level_is_the_most_there_is(sandbox):
    assert (level("auto"), level("strict"), level("off")) == (Level.SANDBOX, Level.SANDBOX, Level.PROCESS)


@pytest.mark.parametrize(
    "fault", ["bubblewrap is not installed", "bubblewrap cannot make a sandbox here (No permission)"]
)
def test_without_a_sandbox_strict_is_refused_in_one_sentence(fault, monkeypatch):
    monkeypatch.setattr(bubblewrap, "bubblewrap", lambda: fault)
    assert level("auto") is Level.PROCESS and level("off") is Level.PROCESS
    with pytest.raises(IsolationError, match="a sandbox was asked for and bubblewrap .*, or give --isolate auto.$"):
        level("strict")
    with pytest.raises(IsolationError):
        Launcher(isolate="strict", device="cpu", threads=1, memory_mb=None)
    finding = isolation()
    assert finding.ok and "process" in finding.text and fault in finding.text


def test_an_unknown_isolation_is_refused():
    with pytest.raises(IsolationError, match="unknown isolation 'best'; give one of auto, strict, off"):
        level("best")


def test_the_doctor_says_what_a_run_gets(sandbox):
    assert "sandbox" in isolation().text and isolation().ok


def test_a_bubblewrap_that_is_forbidden_to_work_is_no_sandbox(tmp_path, monkeypatch):
    fake = tmp_path / "bwrap"
    fake.write_text(
        '#!/bin/sh\n[ "$1" = --help ] && { echo --cap-drop --remount-ro; exit 0; }\n'
        "echo 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = bubblewrap.bubblewrap.__wrapped__()
    assert found == "bubblewrap cannot make a sandbox here (No permissions to create new namespace)"
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert bubblewrap.bubblewrap.__wrapped__() == "bubblewrap is not installed"


def test_children_are_found_where_the_kernel_keeps_no_lists_of_them():
    from shiftbench.isolation.keeper import _scanned

    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert process.pid in children(os.getpid()) and process.pid in _scanned(os.getpid())
    finally:
        process.communicate(b"\n", timeout=SOON)


def test_memory_is_that_of_the_machine_at_most():
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert 0 < physical_mb() <= whole


@pytest.mark.gpu
def test_a_sandbox_computes_on_the_gpu(sandbox):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    code = "import torch\ntell(float((torch.ones(8, 8, device='cuda') @ torch.ones(8, 8, device='cuda')).sum()))"
    assert answer("sandbox", code, device="cuda") == 512.0
