"""What `shiftbench doctor` looks at."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from shiftbench.isolation import bubblewrap
from shiftbench.isolation.launcher import level, remedy
from shiftbench.runner import cores
from shiftbench.spec import content_root, scenario_files

LIBRARIES = (
    "shiftbench",
    "torch",
    "monai",
    "torchio",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "pandas",
    "nibabel",
    "SimpleITK",
    "edt",
    "connected-components-3d",
    "surface-distance",
)
MEMORY_GIB, DISK_GIB = 4.0, 3.0  # what the quick suite needs


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    text: str


def diagnose(out: Path) -> Iterator[Finding]:
    """Findings on Python, libraries, content, devices, memory, isolation and the result folder."""
    version = sys.version.split()[0]
    yield Finding("python", sys.version_info >= (3, 11), f"{version} on {platform.platform()}")
    for name in LIBRARIES:
        yield _library(name)
    count = len(scenario_files())
    yield Finding("content", count > 0, f"{count} scenarios in {content_root() / 'scenarios'}")
    yield Finding("cores", True, str(cores()))
    yield _memory()
    yield isolation()
    yield from _devices()
    yield _folder(out)


def _library(name: str) -> Finding:
    try:
        return Finding(name, True, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed; pip install {name}")


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return Finding("memory", True, "unknown on this system")
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    remedy = "" if free >= MEMORY_GIB else f"; close other programs, the quick suite needs up to {MEMORY_GIB:g} GiB"
    return Finding("memory", free >= MEMORY_GIB, f"{free:.1f} GiB free{remedy}")


def isolation() -> Finding:
    """How methods are kept apart from what they may not see, and why not better; a sandbox is no condition of a run."""
    found, gets = bubblewrap.bubblewrap(), f"a run gets '{level('auto')}'"
    if isinstance(found, str):
        return Finding("isolation", True, f"{gets}, because {found}: {remedy(found)}")
    users = "--unshare-user" in found.options
    root = "" if users else ", without a namespace of users"
    return Finding("isolation", True, f"{gets}: {found.program} works here{root}")


def _devices() -> Iterator[Finding]:
    import torch  # seconds to import, and only this part needs it

    if not torch.cuda.is_available():
        yield Finding("gpu", True, "none that torch can use; everything runs on the CPU")
        return
    built = torch.cuda.get_arch_list()
    for i in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(i)
        name, known = torch.cuda.get_device_name(i), f"sm_{major}{minor}" in built
        remedy = "" if known else f"; this torch was built for {', '.join(built)}: install one for sm_{major}{minor}"
        yield Finding(f"gpu {i}", known, f"{name}, compute capability {major}.{minor}{remedy}")


def _folder(out: Path) -> Finding:
    existing = next(p for p in [out, *out.absolute().parents] if p.exists())
    probe = existing / f".shiftbench-{uuid.uuid4().hex}"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Finding("results", False, f"{existing} cannot be written ({error.strerror}); give --out elsewhere")
    free = shutil.disk_usage(existing).free / 2**30
    remedy = "" if free >= DISK_GIB else f"; free some space, the quick suite needs about {DISK_GIB:g} GiB"
    return Finding("results", free >= DISK_GIB, f"{out} can be written, {free:.0f} GiB free{remedy}")
