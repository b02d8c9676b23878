"""Shared test settings: one torch thread, where the real scans lie, and whether there is a sandbox."""

from pathlib import Path

import pytest
import torch

from shiftbench.isolation.bubblewrap import bubblewrap

torch.set_num_threads(1)

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """The folder of real scans beside the checkout; the test is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("no real scans beside this checkout")
    return SHARED_DATA


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> None:
    """For what only holds in a sandbox: counted, and skipped where bubblewrap is absent or cannot work."""
    found = bubblewrap()
    request.node.user_properties.append(("sandbox", "ran" if not isinstance(found, str) else "skipped"))
    if isinstance(found, str):
        pytest.skip(found)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says how much of what a sandbox promises was seen to hold."""
    reports = [r for group in terminalreporter.stats.values() for r in group if getattr(r, "user_properties", None)]
    nodes = {
        state: {r.nodeid for r in reports if ("sandbox", state) in r.user_properties} for state in ("ran", "skipped")
    }
    if nodes["ran"] or nodes["skipped"]:
        ran, skipped = len(nodes["ran"]), len(nodes["skipped"])
        words = f"{ran} assertions under the sandbox ran, {skipped} skipped because bubblewrap is absent"
        terminalreporter.write_line(f"isolation: {words}")
