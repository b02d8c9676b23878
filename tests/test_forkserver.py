"""The fork server: guests are born clean, end whole, and cannot reach the server or one another."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time

import pytest

from shiftbench.errors import IsolationError
from shiftbench.isolation.bubblewrap import HOME, WRITABLE, bubblewrap
from shiftbench.isolation.forkserver import SOCKET, ForkServer
from shiftbench.isolation.stage import staged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers are for Linux")

# The guest runs whatever it reads on its standard input.
SERVER = """
import socket, sys
from shiftbench.guest.forkserver import serve
def run():
    exec(sys.stdin.read(), {})
    sys.stdout.flush()
serve(socket.socket(fileno=int(sys.argv[1])), run)
"""


@pytest.fixture(params=["sandbox", "process"])
def server(request, tmp_path):
    """A fork server at each level, without the imports of a real guest."""
    inner = [sys.executable, "-c", SERVER]
    found = bubblewrap()
    if request.param == "sandbox":
        if isinstance(found, str):
            pytest.skip(found)
        command, package, clean = found.command(staged(), inner), "/stage", WRITABLE
    else:
        command, package, clean = inner, str(staged().package), [str(tmp_path)]
    made = ForkServer([*command, SOCKET], {"PATH": "/usr/bin:/bin", "PYTHONPATH": package}, clean)
    made.folder = HOME if request.param == "sandbox" else str(tmp_path)
    yield made
    made.close()


def done(server, code: str) -> str:
    """What a guest prints that runs `code`."""
    guest = server.fork(server.folder)
    guest.stdin.write(textwrap.dedent(code).encode())
    guest.stdin.close()
    said = guest.stdout.read().decode()
    assert guest.wait(20) == 0, guest.stderr.read().decode()
    return said.strip()


def test_a_guest_is_born_in_its_folder_without_what_an_earlier_one_changed(server):
    first = "import os, builtins; builtins.kept = 1; open('left', 'w').close(); print(os.getcwd(), os.environ['HOME'])"
    assert done(server, first) == f"{server.folder} {server.folder}"
    second = "import os, builtins; print(hasattr(builtins, 'kept'), os.listdir('.'))"
    assert done(server, second) == "False []"


def test_nothing_that_outlives_processes_passes_to_the_next_guest(server):
    if server.folder != HOME:
        pytest.skip("without a sandbox guests share the system's own")
    leave = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        made = [libc.shmget(7, 4096, 0o1666), libc.semget(7, 1, 0o1666), libc.msgget(7, 0o1666)]
        queue = libc.mq_open(b"/left", os.O_CREAT | os.O_RDWR, 0o600, None)
        open("/dev/shm/left", "w").close()
        print(all(number >= 0 for number in made), queue)
        """
    assert done(server, leave) == "True -1"
    look = """
        import ctypes, os
        lines = [len(open(f"/proc/sysvipc/{name}").read().splitlines()) for name in ("shm", "sem", "msg")]
        print(lines, os.listdir("/dev/shm"))
        """
    assert done(server, look) == "[1, 1, 1] []"


def test_a_folder_that_cannot_be_emptied_ends_the_server(server):
    if server.folder != HOME:
        pytest.skip("root may enter every folder")
    done(server, "import os; os.mkdir('d'); open('d/left', 'w').close(); os.chmod('d', 0)")
    server.process.wait(20)
    assert not server.alive()


def test_what_a_guest_leaves_running_is_gone_before_its_end_is_told(server):
    left = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
        """
    done(server, left)
    assert len(_tree(server.process.pid)) <= 2  # bubblewrap's first process and the server


def _tree(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [int(p) for p in found] + [q for p in found for q in _tree(int(p))]


def test_a_guest_cannot_read_the_memory_or_the_environment_of_the_server(server):
    spy = """
        import os
        for name in ("mem", "environ", "maps", "fd/0"):
            try:
                open(f"/proc/{os.getppid()}/{name}", "rb").read(1)
                print("read", name)
            except OSError:
                pass
        print("nothing")
        """
    if os.geteuid() == 0 and server.folder != HOME:
        pytest.skip("root without a sandbox may read every process")
    assert done(server, spy) == "nothing"


def test_a_guest_that_kills_the_server_is_a_killed_guest_and_nothing_hangs(server):
    guest = server.fork(server.folder)
    guest.stdin.write(b"import os, time; os.kill(os.getppid(), 9); time.sleep(30)")
    guest.stdin.close()
    assert guest.wait(20) == -9
    for _ in range(100):
        if not server.alive():
            break
        time.sleep(0.1)
    assert not server.alive()


def test_a_guest_is_killed_with_all_that_it_started(server):
    guest = server.fork(server.folder)
    guest.stdin.write(b"import os, time\nos.fork()\nos.fork()\ntime.sleep(1000)")
    guest.stdin.close()
    time.sleep(0.3)
    guest.kill()
    assert guest.returncode == -9 and len(_tree(server.process.pid)) <= 2
    assert done(server, "print('the next one')") == "the next one"


def test_the_pid_is_that_which_this_side_sees(server):
    guest = server.fork(server.folder)
    status = open(f"/proc/{guest.pid}/status").read()
    assert "python" in status.partition("\n")[0].lower()
    guest.kill()
    assert not os.path.exists(f"/proc/{guest.pid}")


def test_exit_codes_and_signals_are_told_apart(server):
    guest = server.fork(server.folder)
    guest.stdin.write(b"raise SystemExit(7)")
    guest.stdin.close()
    assert guest.wait(20) == 7
    guest = server.fork(server.folder)
    guest.stdin.write(b"import os; os.kill(os.getpid(), 11)")
    guest.stdin.close()
    assert guest.wait(20) == -11


def test_a_server_that_cannot_start_says_why():
    broken = ForkServer([sys.executable, "-c", "raise RuntimeError('no such luck')"], {"PATH": "/usr/bin:/bin"})
    with pytest.raises(IsolationError, match="could not be started: RuntimeError: no such luck"):
        broken.fork("/tmp")
    broken.close()
