"""A method that cheats in every way we know; tests put `KNOWN` before it: what an attacker may have guessed.

An attempt gives what it got: an empty list where it got nothing. What it looks for is told to it backwards, so that it
does not find its own copy.
"""

import contextlib
import ctypes
import glob
import importlib
import os
import socket
import sys

KNOWN = globals().get("KNOWN", {})
SECRET = KNOWN.get("terces", "?")[::-1]
HIDDEN = (
    "shiftbench.data.phantoms",
    "shiftbench.shifts.protocol",
    "shiftbench.store",
    "shiftbench.spec",
    "shiftbench.domains",
)
SCORING = ("shiftbench.metrics", "shiftbench.scoring.fold")
PTRACE_SEIZE = 0x4206
MARK = "left-by-a-cheat"


def holding(paths):
    """Those files that can be read and have the secret in them."""
    found = []
    for path in paths:
        with contextlib.suppress(OSError):
            if os.path.isfile(path):  # a pipe would never let go
                with open(path, "rb") as handle:
                    found += [path] if SECRET.encode() in handle.read(2**20) else []
    return found


def below(folder):
    """All files under a folder; its own file is no booty."""
    own = os.path.realpath(globals().get("__file__", ""))
    walked = (os.path.join(where, name) for where, _, names in os.walk(folder) for name in names)
    return [path for path in walked if os.path.realpath(path) != own]


def others():
    """Every process that is to be seen, but for this one."""
    return [path for path in glob.glob("/proc/[0-9]*") if int(path.rpartition("/")[2]) != os.getpid()]


def neighbours():
    return holding(below(KNOWN["folder"]) + below(os.path.dirname(os.path.abspath(globals().get("__file__", ".")))))


def data_folder():
    return holding(below(KNOWN["data"]))


def result_folder():
    return holding(below(KNOWN["results"]))


def files_of_other_processes():
    """Through their working folders and roots, and what they have open."""
    found = []
    for process in others():
        with contextlib.suppress(OSError):
            names = [name for name in os.listdir(process + "/cwd") if name.endswith(".txt")]
            found += holding(os.path.join(process, "cwd", name) for name in names)
        found += holding([process + "/root" + path for path in below(KNOWN["data"])])
    return found


def environment():
    return [name for name, value in os.environ.items() if SECRET in value]


def environments_of_others():
    return holding(process + "/environ" for process in others())


def memory_of_the_worker():
    worker = f"/proc/{KNOWN['worker']}"
    with contextlib.suppress(OSError), open(worker + "/maps") as maps, open(worker + "/mem", "rb", 0) as memory:
        for line in maps:
            if " rw-p " not in line:
                continue
            first, last = (int(x, 16) for x in line.split()[0].split("-"))
            with contextlib.suppress(OSError, ValueError, OverflowError):
                memory.seek(first)
                if SECRET.encode() in memory.read(last - first):
                    return [line]
    return []


def tracing_the_worker():
    ptrace = ctypes.CDLL(None).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    child = os.fork()
    if child == 0:  # which lets go of the worker at its end
        os._exit(ptrace(PTRACE_SEIZE, KNOWN["worker"], None, None) != 0)
    return ["traced"] if os.waitpid(child, 0)[1] == 0 else []


def signalling_the_worker():
    with contextlib.suppress(OSError):
        os.kill(KNOWN["worker"], 0)
        return ["reached"]
    return []


def network():
    found = []
    for family, place in ((socket.AF_INET, ("127.0.0.1", KNOWN["port"])), (socket.AF_UNIX, "\0" + KNOWN["abstract"])):
        with contextlib.suppress(OSError), socket.socket(family) as line:
            line.settimeout(5)
            line.connect(place)
            found.append(line.recv(100).decode())
    return found


def name_of_the_machine():
    return [socket.gethostname()] if socket.gethostname() == KNOWN["host"] else []


def phantom_code():
    """What would draw the case again, with its reference."""
    found = []
    for module in HIDDEN:
        with contextlib.suppress(ImportError):
            found.append(importlib.import_module(module).__name__)
    return found


def metrics():
    found = []
    for module in SCORING:
        with contextlib.suppress(ImportError):
            scores = importlib.import_module(module)
            for name in [n for n in vars(scores) if callable(getattr(scores, n))]:
                setattr(scores, name, lambda *_, **__: 1.0)
            found.append(module)
    return found


def phantom_code_of_the_checkout():
    """Also where only the files lie, and not on Python's path."""
    path = os.path.join(KNOWN["checkout"], "shiftbench", "shifts", "protocol.py")
    installed = [os.path.join(p, "shiftbench", "shifts", "protocol.py") for p in sys.path]
    return [p for p in (path, *installed) if os.path.exists(p)]


def state_in_the_process():
    import builtins

    found = [MARK] if hasattr(builtins, "left_by_a_cheat") or MARK in sys.modules else []
    builtins.left_by_a_cheat = True
    sys.modules[MARK] = sys
    return found


def state_in_its_folders():
    return _state([os.getcwd(), os.environ.get("HOME", "."), os.environ.get("TMPDIR", ".")])


def state_on_the_disk():
    return _state([KNOWN["results"], KNOWN["shared"], "/dev/shm"])


def _state(folders):
    places = [os.path.join(folder, f"{MARK}-{KNOWN['worker']}") for folder in folders]
    found = [place for place in places if os.path.exists(place)]
    for place in places:
        with contextlib.suppress(OSError):
            open(place, "w").write("seen before")
    return found


def writing_outside():
    """The test looks for what is there afterwards."""
    for folder in (KNOWN["data"], KNOWN["results"], KNOWN["folder"], KNOWN["checkout_copy"]):
        with contextlib.suppress(OSError):
            os.makedirs(folder, exist_ok=True)  # a folder of its own of that name is no way out
            open(os.path.join(folder, "written-by-a-cheat"), "w").write("x")
    return []


ATTEMPTS = {
    attempt.__name__: attempt
    for attempt in (
        neighbours,
        data_folder,
        result_folder,
        files_of_other_processes,
        environment,
        environments_of_others,
        memory_of_the_worker,
        tracing_the_worker,
        signalling_the_worker,
        network,
        name_of_the_machine,
        phantom_code,
        metrics,
        phantom_code_of_the_checkout,
        state_in_the_process,
        state_in_its_folders,
        state_on_the_disk,
        writing_outside,
    )
}
