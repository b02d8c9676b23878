"""Peak memory of a guest during one case, where the platform can tell."""

from __future__ import annotations

import contextlib
from pathlib import Path

from shiftbench.isolation.talk import Talk


class PeakMemory:
    """Peak since construction: of the GPU on CUDA, as the guest says; on Linux the resident size of its process."""

    def __init__(self, device: str, talk: Talk):
        self.cuda, self.talk = device.startswith("cuda"), talk
        talk.gpu_peak_mb = None
        pid = None if self.cuda else talk.guest.pid
        self.process = None if pid is None else Path(f"/proc/{pid}")
        if self.process is not None:
            try:
                (self.process / "clear_refs").write_text("5")
            except OSError:
                self.process = None

    def megabytes(self) -> float | None:
        """Peak in MiB, or None where it cannot be told."""
        if self.cuda:
            return self.talk.gpu_peak_mb
        if self.process is not None:
            with contextlib.suppress(OSError):  # it is gone
                for line in (self.process / "status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        return int(line.split()[1]) / 1024
        return None
