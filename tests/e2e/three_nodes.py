"""A Ray cluster of three simulated nodes with a job server, until stdin ends: ``three_nodes.py TEMP DASHBOARD AGENT``.

As infra/kuberay has it: a head without cores for tasks, and workers. In a process of its own, since a simulated cluster
takes the process's Ray; its nodes go with it.
"""

import sys
from pathlib import Path

from ray.cluster_utils import Cluster

OBJECT_STORE = 150 * 2**20


def main(temp: str, dashboard: int, agent: int) -> None:
    """Start the nodes, say so in a line, and stop them when nobody holds our stdin any more."""
    head = {
        "num_cpus": 0,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": dashboard,
        "dashboard_agent_listen_port": agent,
        "temp_dir": temp,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**head, "object_store_memory": OBJECT_STORE})
    # As `ray start` does: a submitted job looks here for its cluster, and for any on this machine if there is nothing.
    (Path(temp) / "ray_current_cluster").write_text(cluster.address)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=2, object_store_memory=OBJECT_STORE)
        print("ready", flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
