"""A Ray cluster on this machine: a head without cores, and nodes of one core that tests kill and add."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

# So that a lost node is noticed in two seconds, not in fifteen.
_WATCHFUL = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


class Nodes:
    """A head and two nodes, whose processes can import scone and the tests' helpers."""

    def __init__(self) -> None:
        head = {"num_cpus": 0, "include_dashboard": False, "_system_config": _WATCHFUL}
        with _environment_of_nodes():
            self._cluster = _started(lambda: Cluster(initialize_head=True, connect=False, head_node_args=head))
        self.address = self._cluster.address
        self._nodes = [self._node() for _ in range(2)]

    def _node(self):
        with _environment_of_nodes():
            return _started(lambda: self._cluster.add_node(num_cpus=1, object_store_memory=80 << 20))

    def kill(self) -> None:
        """Kill a node and everything on it, as a power failure does."""
        self._cluster.remove_node(self._nodes.pop(), allow_graceful=False)

    def complete(self) -> None:
        """Add what was killed."""
        while len(self._nodes) < 2:
            self._nodes.append(self._node())

    def kill_head(self) -> None:
        self._cluster.head_node.kill_all_processes(check_alive=False, allow_graceful=False)

    def end(self) -> None:
        self._cluster.shutdown()


def _started(start: Callable[[], Any]) -> Any:
    """Start something of Ray; where the machine is so busy that it has not registered in half a minute, once more."""
    try:
        return start()
    except Exception as error:  # Ray raises no more specific class
        if "timed out" not in str(error).lower():
            raise
    return start()


@contextlib.contextmanager
def cluster() -> Iterator[Nodes]:
    """Start a cluster, and leave the cluster that `auto` means as it was."""
    noted = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    other = noted.read_text() if noted.is_file() else ""
    nodes = Nodes()
    noted.write_text(other) if other else noted.unlink(missing_ok=True)
    try:
        yield nodes
    finally:
        nodes.end()


@contextlib.contextmanager
def _environment_of_nodes() -> Iterator[None]:
    """A process of Ray has the environment of the moment when its node is added."""
    before = dict(os.environ)
    here = Path(__file__).parent
    os.environ["PYTHONPATH"] = os.pathsep.join([str(here.parents[1]), str(here), before.get("PYTHONPATH", "")])
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
