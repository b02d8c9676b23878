"""The result folder: one immutable record per task, addressed by the hash of what computed it."""

from shiftbench.store.envelope import FORMAT
from shiftbench.store.files import flush, read_json, write_json
from shiftbench.store.store import Store

__all__ = ["FORMAT", "Store", "flush", "read_json", "write_json"]
