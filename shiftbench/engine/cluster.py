"""A Ray cluster as the engine sees it: joining and leaving it, its nodes, and how many tasks fit."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from shiftbench.engine.ray_worker import look, tidy
from shiftbench.errors import ShiftBenchError
from shiftbench.version import __version__

LOOK_SECONDS = 120.0  # for a node to start a process, import the package and answer
TIDY_SECONDS = 15.0
COUNT_SECONDS = 5.0  # between two counts of what the cluster has
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


class Cluster:
    """A connection to a Ray cluster.

    Args:
        address: see `shiftbench.engine.ray.RayEngine`.

    Raises:
        ShiftBenchError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, address: str | None):
        self.ray = imported()
        self.joined = not self.ray.is_initialized()  # else the caller's own connection is used, and kept
        if self.joined:
            _join(self.ray, address)
        self.home = self.ray.get_runtime_context().get_node_id()
        self._remotes: dict[Any, Any] = {}
        self._counted = (-math.inf, (0, 0))

    def leave(self) -> None:
        """Ends the connection; a cluster that was started for it ends too. May be called again."""
        if self.joined and self.ray.is_initialized():
            self.ray.shutdown()

    def nodes(self) -> list[Mapping[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def remote(self, function: Callable[..., Any], *, threads: int = 1, max_calls: int = 0) -> Any:
        """`function` as a Ray task that Ray never repeats by itself, with that many threads in every library."""
        variant = (function, threads, max_calls)
        if variant not in self._remotes:
            environment = {"env_vars": {name: str(threads) for name in THREAD_VARIABLES}}
            options: dict[str, Any] = {"max_retries": 0, "num_cpus": 0, "runtime_env": environment}
            if max_calls:
                options["max_calls"] = max_calls
            self._remotes[variant] = self.ray.remote(**options)(function)
        return self._remotes[variant]

    def beside(self, actor: type) -> Any:
        """An actor on the driver's node, which takes no core."""
        made = self.ray.remote(num_cpus=0, max_restarts=-1)(actor)
        return made.options(**self.here({})).remote()

    def here(self, wants: Mapping[str, float]) -> dict[str, Any]:
        """Options that bind a task to the driver's node; a head that offers no cores gives them all the same."""
        have: Mapping[str, float] = next(
            (node["Resources"] for node in self.nodes() if node["NodeID"] == self.home), {}
        )
        cores = {"num_cpus": min(wants["num_cpus"], have.get("CPU", 0))} if "num_cpus" in wants else {}
        return {**cores, **self._on(self.home)}

    def look(self, nonce: Path) -> list[dict[str, Any]]:
        """What every node says of itself (see `shiftbench.engine.ray_worker.look`).

        Raises:
            ShiftBenchError: a node has no ShiftBench, or another version of it.
        """
        asked = {self._ask(node, look, str(nonce)): node for node in self.nodes()}
        answered, silent = self.ray.wait(list(asked), num_returns=len(asked), timeout=LOOK_SECONDS)
        remedy = "install the same version of shiftbench on every node"
        found = []
        for reference in answered:
            host = asked[reference]["NodeManagerHostname"]
            try:
                found.append(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                words = str(error).strip().splitlines()[-1]
                raise ShiftBenchError(f"the node cannot run ShiftBench: {words}", where=host, remedy=remedy) from None
            if found[-1]["shiftbench"] != __version__:
                problem = f"the node has ShiftBench {found[-1]['shiftbench']}, this machine {__version__}"
                raise ShiftBenchError(problem, where=host, remedy=remedy)
        if silent:
            host = asked[silent[0]]["NodeManagerHostname"]
            problem = f"the node gave no answer for {LOOK_SECONDS:.0f} s"
            raise ShiftBenchError(problem, where=host, remedy="see `ray status`, and the logs in its /tmp/ray")
        return found

    def tidy(self, run: str) -> None:
        """Removes what a run has carried to the nodes."""
        asked = [self._ask(node, tidy, run, node["NodeID"]) for node in self.nodes()]
        self.ray.wait(asked, num_returns=len(asked), timeout=TIDY_SECONDS)

    def check_room(self, wants: Sequence[Mapping[str, float]]) -> None:
        """Refuses a run whose tasks fit no node: Ray would wait for one without an end.

        Raises:
            ShiftBenchError: names what no node has.
        """
        names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
        for each in {tuple(sorted(want.items())) for want in wants}:
            want = {names[name]: amount for name, amount in each if amount}
            if not any(all(n["Resources"].get(k, 0) >= v for k, v in want.items()) for n in self.nodes()):
                words = ", ".join(f"{v / 2**20:.0f} MiB" if k == "memory" else f"{v:g} {k}" for k, v in want.items())
                remedy = "see `ray status`; add such a node, or change --threads, --device or the memory limit"
                raise ShiftBenchError(f"no node of the Ray cluster offers {words} for one task", remedy=remedy)

    def seats(self, threads: int, gpu_share: float) -> tuple[int, int]:
        """How many tasks fit at a time, and how many of those with a GPU."""
        at, seats = self._counted
        if time.monotonic() - at > COUNT_SECONDS:
            have = [node["Resources"] for node in self.nodes()]
            cores = sum(int(each.get("CPU", 0) // threads) for each in have)
            devices = sum(int(each.get("GPU", 0) / gpu_share + 1e-6) for each in have) if gpu_share else 0
            seats = (cores, devices)
            self._counted = (time.monotonic(), seats)
        return seats

    def _ask(self, node: Mapping[str, Any], function: Callable[..., Any], *arguments: Any) -> Any:
        return self.remote(function).options(**self._on(node["NodeID"])).remote(*arguments)

    def _on(self, node_id: str) -> dict[str, Any]:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)
        return {"scheduling_strategy": strategy}


def imported() -> ModuleType:
    """The package `ray`, with its usage statistics off.

    Raises:
        ShiftBenchError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        remedy = "pip install 'shiftbench[cluster]', on every node"
        raise ShiftBenchError("the engine 'ray' needs the package ray", remedy=remedy) from None
    return ray


def _join(ray: ModuleType, address: str | None) -> None:
    """Connects to a cluster, or starts one on this machine for "local"."""
    if address is not None and address.startswith("ray://"):
        remedy = "start the run on a node of the cluster, with --address auto"
        raise ShiftBenchError("the address of a Ray client cannot be used", where=address, remedy=remedy)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address == "local":
        ray.init(address="local", include_dashboard=False, **quiet)
        return
    try:
        with contextlib.redirect_stdout(None):
            ray.init(address=address or "auto", **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        words = str(error).strip().splitlines()[0]
        remedy = "start one with `ray start --head`, or give --address local for a cluster on this machine alone"
        where = address or "this machine"
        raise ShiftBenchError(f"no Ray cluster can be used here ({words})", where=where, remedy=remedy) from None
