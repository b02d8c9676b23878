"""What this machine has to compute with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shiftbench.errors import DataError


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resolve_device(device: str) -> str:
    """Where to compute, "cpu" or "cuda"; "auto" takes a GPU that torch can use.

    Raises:
        DataError: CUDA was asked for and torch has none.
    """
    if device == "cpu":
        return "cpu"
    seen = sys.platform == "win32" or Path("/dev/nvidiactl").exists() or Path("/dev/kfd").exists()
    usable = False
    if seen or device == "cuda":
        import torch  # only where there may be a GPU

        usable = torch.cuda.is_available()
    if device == "cuda" and not usable:
        raise DataError(
            "CUDA was asked for and torch finds no GPU", remedy="use --device cpu, or see `shiftbench doctor`"
        )
    return "cuda" if usable else "cpu"


def gpus(device: str) -> tuple[str, ...]:
    """The GPUs that methods may compute on, as CUDA_VISIBLE_DEVICES names them; none on the CPU."""
    if device != "cuda":
        return ()
    import torch  # only where there is a GPU

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named or map(str, range(torch.cuda.device_count())))
