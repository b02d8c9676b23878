"""The wire between a host and its guest: frames of a JSON header and named tensors, read only after a look at lengths.

    u32 length, header (JSON, UTF-8) | u64 length, tensors (safetensors; nothing where the length is 0)

Both lengths, and names, types and shapes of the tensors, are known and can be refused before an array is read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # cards are asked for by processes without torch
    from torch import Tensor

HEADER_BYTES = 2**18  # of what a guest says; a host says as much as a method's file is long
TABLE_BYTES = 2**22  # names, types and shapes of the tensors of one frame
ITEM_BYTES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1},
    **{"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}
FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_HEADER, _TENSORS = struct.Struct("<I"), struct.Struct("<Q")


class FrameError(ValueError):
    """Bytes that are no frame, or one that its reader refuses."""


class Shaped(NamedTuple):
    """What a frame says of one tensor before its bytes: a type of `ITEM_BYTES` and a shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """That its values take."""
        return ITEM_BYTES[self.dtype] * math.prod(self.shape)


class Readable(Protocol):
    """Where frames come from; `read` may give fewer bytes than asked for, and none at the end."""

    def read(self, n: int, /) -> bytes: ...


class Writable(Protocol):
    """Where frames go."""

    def write(self, data: bytes, /) -> Any: ...
    def flush(self) -> Any: ...


Admit = Callable[[Mapping[str, Any], Mapping[str, Shaped]], None]  # raises where a frame is not wanted


@dataclass(frozen=True)
class Frame:
    """One message: a header of JSON values, and tensors on the CPU."""

    header: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def write(stream: Writable, header: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> None:
    """Sends one frame; tensors go as they are, from any device and with any strides."""
    words = json.dumps(header, allow_nan=False, default=_plain).encode()
    arrays = _serialised(tensors) if tensors else b""
    stream.write(_HEADER.pack(len(words)) + words + _TENSORS.pack(len(arrays)))
    if arrays:
        stream.write(arrays)
    stream.flush()


def read(stream: Readable, *, header_bytes: int, admit: Admit | None = None) -> Frame | None:
    """The next frame, or None where the stream ended before it.

    Args:
        stream: to read from.
        header_bytes: a longer header is refused.
        admit: sees the header, and type and shape of every tensor, before the first array is read; None refuses every
            tensor.

    Raises:
        FrameError: no frame, or one that is too long; the stream cannot be used any more.
    """
    start = stream.read(_HEADER.size)
    if not start:
        return None
    length = _HEADER.unpack(start + _exactly(stream, _HEADER.size - len(start)))[0]
    if length > header_bytes:
        raise FrameError(f"a header of {length} bytes, where {header_bytes} are allowed")
    header = _json(_exactly(stream, length))
    size = _TENSORS.unpack(_exactly(stream, _TENSORS.size))[0]
    if size == 0:
        if admit is not None:
            admit(header, {})
        return Frame(header)
    table, shaped = _table(stream, size)
    if admit is None:
        raise FrameError("tensors, where none were asked for")
    admit(header, shaped)
    arrays = _exactly(stream, sum(entry.bytes for entry in shaped.values()))
    return Frame(header, _parsed(_TENSORS.pack(len(table)) + table + arrays))


def _table(stream: Readable, size: int) -> tuple[bytes, dict[str, Shaped]]:
    """The table of a safetensors file of `size` bytes, as it came and checked."""
    length = _TENSORS.unpack(_exactly(stream, _TENSORS.size))[0] if size > _TENSORS.size else size
    if length > min(TABLE_BYTES, size - _TENSORS.size):
        raise FrameError(f"a table of tensors of {length} bytes")
    raw = _exactly(stream, length)
    shaped, spans = {}, []
    for name, entry in _json(raw).items():
        if name == "__metadata__":
            continue
        shaped[name], span = _entry(name, entry)
        spans.append(span)
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise FrameError("tensors that overlap or leave gaps")
        end = stop
    if end != size - _TENSORS.size - length:
        raise FrameError("tensors of another length than was said")
    return raw, shaped


def _entry(name: str, entry: Any) -> tuple[Shaped, tuple[int, int]]:
    """Type, shape and place of one tensor of a table."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise FrameError(f"a table of tensors with a broken entry '{name[:80]}'") from None
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise FrameError(f"'{name[:80]}' has the dtype {str(dtype)[:20]}")
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise FrameError(f"'{name[:80]}' has no shape")
    found = Shaped(dtype, shape)
    if stop - start != found.bytes:
        raise FrameError(f"'{name[:80]}' has another length than its shape")
    return found, (start, stop)


def _serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """As safetensors; a tensor that shares its memory with an earlier one is copied."""
    from safetensors.torch import save  # imports torch

    plain: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        own = tensor.detach().to("cpu").contiguous()
        own = own.clone() if own.untyped_storage().data_ptr() in seen else own
        seen.add(own.untyped_storage().data_ptr())
        plain[name] = own
    return save(plain)


def _parsed(raw: bytes) -> dict[str, Tensor]:
    """The tensors in memory of torch's own: its alignment is part of what makes sums the same to the bit."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return {name: tensor.clone() for name, tensor in load(raw).items()}
    except SafetensorError as error:
        raise FrameError(f"tensors that cannot be read ({error})") from None


def _json(raw: bytes) -> dict[str, Any]:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise FrameError("a header that is no JSON") from None
    if not isinstance(found, dict):
        raise FrameError("a header that is no JSON object")
    return found


def _plain(value: Any) -> Any:
    """Mappings of other kinds as dicts."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not sent")


def _exactly(stream: Readable, n: int) -> bytes:
    """All n bytes."""
    parts: list[bytes] = []
    while n > 0:
        part = stream.read(n)
        if not part:
            raise FrameError("an end in the middle of a frame")
        parts.append(part)
        n -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
