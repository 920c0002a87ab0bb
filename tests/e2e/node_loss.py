"""Runs the job on three simulated nodes and removes one that works: ``node_loss.py CONFIG.json DESTINATION``.

In a process of its own, since a simulated cluster takes the process's Ray.
"""

import json
import logging
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from prichexy.anonymize import anonymize
from prichexy.config import AnonymizeConfig


def main(config: Path, destination: Path) -> None:
    """Publish, losing a node when two shards are committed; prints the summary and how many nodes there were."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20})
    nodes = [cluster.add_node(num_cpus=2, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    alive = []

    def lose() -> None:
        while len(list(destination.glob("_snapshots/0001/_commits/*.json"))) < 2:
            time.sleep(0.05)
        alive.append(len([node for node in ray.nodes() if node["Alive"]]))
        cluster.remove_node(nodes[0], allow_graceful=False)
        alive.append(len(list(destination.glob("_snapshots/0001/_commits/*.json"))))

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    summary = anonymize(AnonymizeConfig.model_validate_json(config.read_text()))
    thread.join(timeout=1)
    print(json.dumps({**asdict(summary), "nodes": alive[0], "committed_when_lost": alive[1]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
