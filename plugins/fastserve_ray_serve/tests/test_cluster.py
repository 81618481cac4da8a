"""A cluster that others run: Ray's own tools start the application there, and a node may be lost."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from fastserve_core.artifacts import Artifact
from fastserve_core.errors import UserError
from fastserve_ray_serve.server import LOOPBACK_ONLY, PROXY_TIMEOUT

TWO_NODES = """
import json, socket, sys
import httpx, ray
from ray import serve
from ray.cluster_utils import Cluster
from ray.serve.config import HTTPOptions
from fastserve_ray_serve.deployment import build_app

def nodes():
    return {one["NodeID"] for one in ray.nodes() if one["Alive"]}

def running():
    (application,) = serve.status().applications.values()
    return application.deployments["model"].replica_states.get("RUNNING", 0)

def answers(count):
    asked = {"inputs": ["the film is"], "options": {"max_new_tokens": 2}}
    return [httpx.post(f"http://127.0.0.1:{port}/predict", json=asked, timeout=60).status_code for _ in range(count)]

with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
here = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **here})
second = cluster.add_node(num_cpus=1, **here)
ray.init(cluster.address, _node_ip_address="127.0.0.1", log_to_driver=False, logging_level="ERROR")
serve.start(proxy_location="HeadOnly", http_options=HTTPOptions(port=port))
serve.run(build_app({"artifact": sys.argv[1], "replicas": "2", "name": "writer"}))
found = {"nodes": len(nodes()), "before": answers(8), "replicas": running()}
cluster.remove_node(second)
found["after"] = answers(8)
found["left"] = len(nodes())
print(json.dumps(found), flush=True)
serve.shutdown()
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.slow(1)
@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({}, "artifact=FOLDER is missing"),
        ({"artifact": "a", "port": "1", "host": "b"}, "host and port must be set in the cluster's http_options"),
        ({"artifact": "a", "replica": "2"}, "no option 'replica'; did you mean 'replicas'"),
        ({"artifact": "a", "replicas": "many"}, "serve.ray_serve.replicas='many'"),
        ({"artifact": "a", "max_replicas": 1, "replicas": 2}, "serve.ray_serve.max_replicas must be at least 2"),
    ],
)
def test_wrong_arguments_are_reported(args: dict[str, object], said: str) -> None:
    from fastserve_ray_serve.deployment import build_app  # it imports Ray, in every worker that collects this test

    with pytest.raises(UserError, match=re.escape(said)):
        build_app(args)


@pytest.mark.slow
def test_two_nodes_answer_and_one_continues_alone(
    writer: Artifact, every_core: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**LOOPBACK_ONLY, **PROXY_TIMEOUT, "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    command = [sys.executable, "-c", TWO_NODES, str(writer.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=550)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
    # a node has one core and a replica wants one: two replicas are on two nodes
    assert found == {"nodes": 2, "replicas": 2, "before": [200] * 8, "after": [200] * 8, "left": 1}
