"""A whole run with a method that cheats: it gets nothing, and its scores are those of the labels that it returned."""

import os
import secrets
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from cheat import ATTEMPTS
from test_cheating import ONLY_A_SANDBOX, answering

import shiftbench
from scenarios import TINY, write

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="the ways are those of Linux")]
ROOT = Path(__file__).parents[1]
WAYS = [*ATTEMPTS, "references_among_objects", "references_in_memory"]
MASK = 0x55  # over the reference that is looked for, so that the cheat does not find its own copy
SMALL = TINY.partition('[[target]]\nname = "hilum-in"')[0].replace("levels = [3, 5]", "levels = [3]")
METHOD = """
import gc
from dataclasses import dataclass
import numpy as np
import torch
from shiftbench.api import Episode, Prediction, Track

MASK, CHUNK = 0x55, 2**22


def references_among_objects():
    found = []
    tracked = gc.get_objects()  # arrays are not tracked themselves, what holds them is
    for thing in tracked + [held for holder in tracked for held in gc.get_referents(holder)]:
        if torch.is_tensor(thing) and not thing.is_floating_point():
            thing = thing.cpu().numpy()
        if isinstance(thing, np.ndarray) and thing.dtype.kind in "iu" and thing.size:
            mixed = (thing.astype(np.uint8) ^ MASK).tobytes()
            found += [str(thing.shape)] if KNOWN["patterns"][0] in mixed else []
    return found


def references_in_memory():
    raw, mixed = bytearray(CHUNK), bytearray(CHUNK)
    views = [np.frombuffer(raw, np.uint8), np.frombuffer(mixed, np.uint8)]
    own = [(view.ctypes.data, view.ctypes.data + CHUNK) for view in views]
    found, overlap = [], max(map(len, KNOWN["patterns"]))
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as memory:
        for line in maps.read().splitlines():
            if " rw" not in line:
                continue
            spans = [tuple(int(x, 16) for x in line.split()[0].split("-"))]
            for low, high in own:
                cut = [piece for a, b in spans for piece in ((a, min(b, low)), (max(a, high), b))]
                spans = [(a, b) for a, b in cut if a < b]
            starts = [(start, last) for first, last in spans for start in range(first, last, CHUNK - overlap)]
            for start, last in starts:
                size = min(CHUNK, last - start)
                try:
                    memory.seek(start)
                    size = memory.readinto(memoryview(raw)[:size])
                except (OSError, ValueError, OverflowError):
                    continue
                np.bitwise_xor(views[0], MASK, out=views[1])
                found += [line for pattern in KNOWN["patterns"] if mixed.find(pattern, 0, size) >= 0]
    return found


@dataclass(frozen=True)
class Method:
    track: Track = Track.TTA
    episode: Episode = Episode.ONLINE
    requires: tuple[str, ...] = ()
    plants: bool = False

    def adapt(self, model, access, *, rng):
        planted = []
        if self.plants:
            planted = [torch.from_numpy(np.frombuffer(pattern, np.uint8) ^ MASK) for pattern in KNOWN["patterns"]]
        ways = [*ATTEMPTS.values(), references_among_objects, references_in_memory]
        got = [bool(way()) for way in ways]

        def tell(image):
            labels = torch.zeros(image.shape[1:], dtype=torch.long)
            labels.view(-1)[: len(got)] = torch.tensor(got).long()
            return Prediction(labels=labels)

        return tell


VARIANTS = {"cheat": Method(), "plants": Method(plants=True)}
"""


def artifacts(out: Path, kind: str) -> list[Path]:
    """Files of arrays of one kind of task."""
    return sorted(p for p in (out / "artifacts" / kind).rglob("*.np[yz]") if p.is_file())


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """(scenario, result folder) of an honest run, after which the references of the target lie on the disk."""
    folder = tmp_path_factory.mktemp("cheating")
    path, out = write(folder, SMALL), folder / "out"
    shiftbench.run(path, ["erm"], out=out, device="cpu", jobs=1)
    return path, out


def patterns(out: Path) -> list[bytes]:
    """The slice of a reference with the most structure, in the types that an array of labels may have, masked."""
    slices = [plane for path in artifacts(out, "references") if path.suffix == ".npy" for plane in np.load(path)]
    plane = max(slices, key=lambda labels: (len(np.unique(labels)), int((labels > 0).sum())))
    return [bytes(b ^ MASK for b in plane.astype(kind).tobytes()) for kind in (np.uint8, np.int32, np.int64)]


def cheated(first, folder: Path, isolate: str):
    """(What each way got, by variant; rows) of a run with a method that cheats."""
    path, out = first
    secret = secrets.token_hex(16)
    os.environ["SHIFTBENCH_SECRET"] = secret
    places = {name: folder / name for name in ("folder", "data", "shared", "checkout_copy")}
    for place in places.values():
        place.mkdir()
        (place / "labels.txt").write_text(secret)
    (out / "labels.txt").write_text(secret)
    before = set(artifacts(out, "predict"))
    with answering(secret) as (port, abstract):
        known = {name: str(place) for name, place in places.items()} | {"results": str(out), "patterns": patterns(out)}
        known |= {"terces": secret[::-1], "worker": os.getpid(), "port": port, "abstract": abstract}
        known |= {"host": socket.gethostname(), "checkout": str(ROOT)}
        method = places["folder"] / "cheating.py"
        method.write_text(f"KNOWN = {known!r}\n{(Path(__file__).parent / 'cheat.py').read_text()}{METHOD}")
        rows = shiftbench.run(path, [str(method)], out=out, device="cpu", jobs=1, isolate=isolate)
    del os.environ["SHIFTBENCH_SECRET"]
    Path("/dev/shm", f"left-by-a-cheat-{os.getpid()}").unlink(missing_ok=True)
    labels = [np.load(p)["labels"].reshape(-1) for p in artifacts(out, "predict") if p not in before]
    assert labels, rows[["method", "status"]].value_counts()
    wrote = [str(p) for place in [*places.values(), out] for p in place.glob("written-by-a-cheat")]
    return {tuple(way for way, bit in zip(WAYS, got, strict=False) if bit) for got in labels}, rows, wrote


def scores(rows, method):
    """Values of a method's rows in one order."""
    keys = ["target", "case", "structure", "metric", "definition"]
    return rows[rows["method"] == method].sort_values(keys)["value"].reset_index(drop=True)


PLANTED = ("references_among_objects", "references_in_memory")


def test_a_run_gives_a_cheat_nothing_in_a_sandbox(sandbox, first, tmp_path):
    got, rows, wrote = cheated(first, tmp_path, "strict")
    assert got == {(), PLANTED}  # what a variant planted itself is found: the search works
    assert wrote == []
    assert set(rows[rows["method"].isin(["cheat", "plants"])]["isolation"]) == {"sandbox"}
    blank = rows[(rows["method"] == "cheat") & (rows["metric"] == "dsc") & (rows["structure"] == "liver")]
    assert set(blank["value"]) == {0.0}  # whatever it did to the metrics it did to its own process


def test_a_run_without_a_sandbox_gives_it_no_reference_no_code_and_no_environment(first, tmp_path):
    got, rows, _ = cheated(first, tmp_path, "off")
    assert all(set(ways) - set(PLANTED) <= ONLY_A_SANDBOX for ways in got)
    assert any(not set(ways) & set(PLANTED) for ways in got) and any(set(PLANTED) <= set(ways) for ways in got)
    assert set(rows[rows["method"] == "cheat"]["isolation"]) == {"process"}
