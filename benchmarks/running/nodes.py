"""The same graph on a Ray cluster of pretended nodes on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from running import tasks
from running.probes import HERE, timed

OBJECTS_BYTES = 80 * 2**20  # of a node's object store


def there_is_ray() -> bool:
    """Whether Ray is installed."""
    return importlib.util.find_spec("ray") is not None


@contextlib.contextmanager
def cluster(nodes: int) -> Iterator[str]:
    """The address of a cluster of so many nodes of one core each, which is gone at the end."""
    path = os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": tempfile.gettempdir(), "PYTHONPATH": path}
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": OBJECTS_BYTES}
    made = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        for _ in range(nodes - 1):
            made.add_node(**node)
        yield made.address
    finally:
        ray.shutdown()
        made.shutdown()


def on_nodes(folder: Path, nodes: int, size: int, sleeps: float = 0.0) -> tuple[float, int, float]:
    """As `timed`, of a graph on a cluster of so many nodes."""
    from shiftbench.engine.ray import RayEngine

    graph = tasks.graph(size, sleeps)
    with cluster(nodes) as address, contextlib.closing(RayEngine(folder, address=address, modules=tasks.MODULES)) as at:
        return timed(at.run(graph), len(graph))
