"""The guest: its wire refuses before it reads, its package holds no scenario, store or phantom, its desk answers."""

from __future__ import annotations

import ast
import io
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_layers import FLOOR

from shiftbench.guest import frames
from shiftbench.guest.desk import AskedFor
from shiftbench.guest.rooms import ROOMS

PACKAGE = Path(__file__).parents[1] / "shiftbench"
# What would tell a method where it is, who the patients are, or what is hidden from it.
HIDDEN = (
    "spec",
    "shifts",
    "data",
    "store",
    "domains",
    "graph",
    "parts",
    "plan",
    "scoring",
    "metrics",
    "worker",
    "methods",
)


def anything(header, shaped) -> None:
    """Admits every tensor."""


def sent(header=None, tensors=None) -> bytes:
    stream = io.BytesIO()
    frames.write(stream, header or {"say": "ok"}, tensors)
    return stream.getvalue()


def received(raw: bytes, admit=anything, limit: int = frames.HEADER_BYTES):
    return frames.read(io.BytesIO(raw), header_bytes=limit, admit=admit)


def with_table(table: object, arrays: bytes = b"", size: int | None = None) -> bytes:
    raw = json.dumps(table).encode()
    whole = 8 + len(raw) + len(arrays) if size is None else size
    return struct.pack("<I", 2) + b"{}" + struct.pack("<QQ", whole, len(raw)) + raw + arrays


# The wire.


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32]
)
def test_tensors_come_back_to_the_bit(dtype):
    tensors = {"a": (torch.rand(3, 4, 5) * 100).to(dtype), "empty": torch.zeros(0, 2, dtype=dtype)}
    tensors["mirrored"], tensors["scalar"] = tensors["a"].flip(1)[:, :2], torch.tensor(3).to(dtype)
    tensors["same memory"] = tensors["a"]
    found = received(sent({"say": "ok", "k": [1, None, "ä"]}, tensors))
    assert found.header == {"say": "ok", "k": [1, None, "ä"]} and found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found.tensors[name], tensor) and found.tensors[name].dtype == dtype
        assert found.tensors[name].data_ptr() % 16 == 0 and found.tensors[name].is_contiguous()


def test_the_end_of_a_stream_is_no_frame_and_half_a_frame_is_an_error():
    assert received(b"") is None
    whole = sent({"say": "ok"}, {"a": torch.ones(3)})
    for n in range(1, len(whole)):
        with pytest.raises(frames.FrameError):
            received(whole[:n])


def test_a_long_header_is_refused_before_it_is_read():
    stream = io.BytesIO(struct.pack("<I", 2**31) + b"x" * 100)
    with pytest.raises(frames.FrameError, match="header of 2147483648 bytes"):
        frames.read(stream, header_bytes=1000, admit=anything)
    assert stream.tell() == 4


def test_what_is_not_admitted_is_not_read():
    seen, raw = {}, sent({"say": "ok"}, {"big": torch.zeros(1000, 10, dtype=torch.float64)})

    def refuse(header, shaped):
        seen.update(shaped)
        raise frames.FrameError("no")

    stream = io.BytesIO(raw)
    with pytest.raises(frames.FrameError, match="no"):
        frames.read(stream, header_bytes=1000, admit=refuse)
    assert seen == {"big": frames.Shaped("F64", (1000, 10))} and seen["big"].bytes == 80_000
    assert stream.tell() < 200
    with pytest.raises(frames.FrameError, match="none were asked for"):
        received(raw, admit=None)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (struct.pack("<I", 4) + b"[12]" + struct.pack("<Q", 0), "no JSON object"),
        (struct.pack("<I", 4) + b"\xff\xfe\x00{" + struct.pack("<Q", 0), "no JSON"),
        (struct.pack("<I", 2) + b"{}" + struct.pack("<QQ", 2**62, 2**61), "a table of tensors of"),
        (struct.pack("<I", 2) + b"{}" + struct.pack("<QQ", 30, 2**40), "a table of tensors of"),
        (with_table({"a": {"dtype": "F32", "shape": [2**40] * 2, "data_offsets": [0, 4]}}, b"1234"), "another length"),
        (with_table({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}), "no shape"),
        (with_table({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, b"1234"), "no shape"),
        (with_table({"a": {"dtype": "OBJ", "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "has the dtype OBJ"),
        (with_table({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}, b"1234"), "has the dtype"),
        (with_table({"a": [1, 2]}, b""), "broken entry"),
        (with_table({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"), "leave gaps"),
        (with_table({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"), "another length"),
        (with_table({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                     "b": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}, b"1234"), "overlap"),
    ],
)  # fmt: skip
def test_bytes_that_are_no_frame_are_refused(raw, words):
    with pytest.raises(frames.FrameError, match=words):
        received(raw)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused_and_nothing_else(at, value):
    raw = bytearray(sent({"say": "ok"}, {"a": torch.arange(20.0), "b": torch.ones(3, dtype=torch.uint8)}))
    raw[at % len(raw)] = value
    try:
        received(bytes(raw))
    except frames.FrameError:
        pass


def test_a_header_is_json_and_nothing_that_could_run():
    with pytest.raises(TypeError, match="is not sent"):
        sent({"say": object()})
    source = (PACKAGE / "guest" / "frames.py").read_text()
    assert "pickle" not in source and "torch.load" not in source


# The rooms.


def closure(room: str, seen: set[Path] | None = None) -> set[Path]:
    """Files of a module or package of ours and of all that they import, wherever in the file."""
    seen = set() if seen is None else seen
    place = PACKAGE / room
    for path in [place.with_suffix(".py")] if place.with_suffix(".py").is_file() else sorted(place.rglob("*.py")):
        if path not in seen:
            seen.add(path)
            for name in imports(path):
                closure(name, seen)
    return seen


def imports(path: Path) -> set[str]:
    """Rooms that a file imports, lazy imports and the homes of lazily imported names included."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "shiftbench":
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("shiftbench.")}
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("shiftbench."):
            found |= {node.value.split(".")[1]} if " " not in node.value else set()
    return found


def test_a_guest_imports_exactly_the_rooms_that_it_is_given():
    files = closure("guest") | closure("api")
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in files}
    assert rooms == set(ROOMS) - {"version"}  # which the package's own __init__ imports
    assert all(FLOOR[room] <= FLOOR["guest"] for room in ROOMS)


def test_no_phantom_no_protocol_no_scenario_no_store_and_no_score_is_in_the_rooms():
    assert not set(ROOMS) & set(HIDDEN)
    assert list(ROOMS) == sorted(ROOMS) and all(
        (PACKAGE / r).is_dir() or (PACKAGE / f"{r}.py").is_file() for r in ROOMS
    )


def test_a_guest_starts_without_what_takes_seconds_to_import():
    code = "import shiftbench.guest.desk, sys; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    loaded = set(done.stdout.split())
    assert "torch" in loaded and not loaded & {"monai", "matplotlib", "pandas", "pydantic", "ray", "mlflow"}


# The desk.


def test_images_that_are_asked_for_come_one_by_one_and_in_slices():
    asked = []
    images = AskedFor(lambda i: asked.append(i) or torch.tensor(i), range(5))
    assert len(images) == 5 and not asked
    assert int(images[-1]) == 4 and [int(i) for i in images[1:3]] == [1, 2] and len(images[::2]) == 3
    assert asked == [4, 1, 2]
    with pytest.raises(IndexError):
        images[5]
