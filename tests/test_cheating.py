"""Code that cheats in every way we know gets nothing; without isolation each way is seen to work, so that none is idle.

What holds only in a sandbox is in `ONLY_A_SANDBOX`: without one, a process of the same user can read the disk, reach
the network and look into its neighbours.
"""

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cheat import ATTEMPTS
from guests import launcher

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the ways are those of Linux")
ROOT = Path(__file__).parents[1]
CHEAT = Path(__file__).parent / "cheat.py"
ONLY_A_SANDBOX = {
    "neighbours",
    "data_folder",
    "result_folder",
    "files_of_other_processes",
    "environments_of_others",
    "memory_of_the_worker",
    "tracing_the_worker",
    "signalling_the_worker",
    "network",
    "name_of_the_machine",
    "phantom_code_of_the_checkout",
    "state_on_the_disk",
    "writing_outside",
}
DRIVER = """
import contextlib, io, json, sys
path = sys.stdin.readline().strip()
names = {"__file__": path, "__name__": "cheat"}
exec(compile(open(path).read(), path, "exec"), names)
got = {name: attempt() for name, attempt in names["ATTEMPTS"].items()}
print(json.dumps(got), flush=True)
"""


@contextlib.contextmanager
def answering(secret):
    """Two servers on this machine that tell the secret: the port of one, the abstract name of the other."""
    name = secrets.token_hex(8)
    inet, unix = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    unix.bind("\0" + name)
    unix.listen()

    def serve(server):
        with contextlib.suppress(OSError):
            while True:
                line, _ = server.accept()
                with line:
                    line.sendall(secret.encode())

    threads = [threading.Thread(target=serve, args=(server,), daemon=True) for server in (inet, unix)]
    for thread in threads:
        thread.start()
    try:
        yield inet.getsockname()[1], name
    finally:
        for server in (inet, unix):
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            server.close()


@contextlib.contextmanager
def neighbour():
    """Another process of this user, with this one's environment."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.communicate(b"\n")


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Folders with the secret in them, the cheat among them, and a way to run it twice; what it got the second time."""
    secret = secrets.token_hex(16)
    held = bytearray(secret.encode() * 100)  # in this process's memory, where an attacker may look for it
    folders = {name: tmp_path / name for name in ("folder", "data", "results", "shared", "checkout_copy", "working")}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / f"{name}.txt").write_text(secret)
    monkeypatch.chdir(folders["working"])
    monkeypatch.setenv("SHIFTBENCH_SECRET", secret)
    with answering(secret) as (port, abstract), neighbour():
        known = {name: str(folder) for name, folder in folders.items()}
        known |= {"terces": secret[::-1], "worker": os.getpid(), "port": port, "abstract": abstract}
        known |= {"host": socket.gethostname(), "checkout": str(ROOT)}
        path = folders["folder"] / "cheat.py"
        path.write_text(f"KNOWN = {known!r}\n{CHEAT.read_text()}")
        yield path, folders
    del held
    Path("/dev/shm", f"left-by-a-cheat-{os.getpid()}").unlink(missing_ok=True)


def attempted(level, path):
    """What each attempt gets in the second of two tasks."""
    starts, got = launcher(level, DRIVER, files=[path]), {}
    for _ in range(2):
        process = starts.start()
        process.writer.write(f"{starts.seen(path)}\n".encode())
        process.writer.flush()
        line = process.reader.readline()
        assert line, process.log()
        got = json.loads(line)
        process.close()
    starts.close()
    return got


def unhindered(path):
    """What each gets in a process as any other, one that does two tasks in a row."""
    twice = DRIVER.replace("got = {", "{name: attempt() for name, attempt in names['ATTEMPTS'].items()}\ngot = {")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", twice], input=f"{path}\n", capture_output=True, text=True, env=environment, check=True
    )
    return json.loads(done.stdout)


def written(folders):
    return [str(p) for folder in folders.values() for p in folder.glob("written-by-a-cheat")]


def test_each_way_works_where_nothing_is_in_the_way(scene):
    path, folders = scene
    got = unhindered(path)
    got["writing_outside"] = written(folders)
    assert set(got) == set(ATTEMPTS)
    unable = set() if os.geteuid() == 0 else {"memory_of_the_worker", "tracing_the_worker"}  # the system may forbid it
    assert {name for name, loot in got.items() if not loot} <= unable


def test_a_cheat_gets_nothing_in_a_sandbox(sandbox, scene):
    path, folders = scene
    assert attempted("sandbox", path) == {name: [] for name in ATTEMPTS}
    assert written(folders) == []


def test_without_a_sandbox_a_cheat_gets_what_only_a_sandbox_keeps_from_it(scene):
    path, folders = scene
    got = attempted("process", path)
    got["writing_outside"] = written(folders)
    assert {name for name, loot in got.items() if loot} <= ONLY_A_SANDBOX
    assert got["data_folder"] and got["network"]  # else the line were drawn in the wrong place
