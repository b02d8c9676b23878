"""Peak memory of one task, where the platform can tell."""

from __future__ import annotations

from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class PeakMemory:
    """Peak memory since construction: of the GPU on CUDA, resident size of the process on Linux, else unknown."""

    def __init__(self, device: str):
        self.cuda = device.startswith("cuda")
        if self.cuda:
            import torch

            self.torch = torch
            torch.cuda.reset_peak_memory_stats()
            return
        try:
            RESET.write_text("5")
            self.known = True
        except OSError:
            self.known = False

    def megabytes(self) -> float | None:
        """Peak in MiB, or None where it cannot be told."""
        if self.cuda:
            return self.torch.cuda.max_memory_allocated() / 2**20
        if not self.known or not STATUS.is_file():
            return None
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return None
