"""Whole runs of two nodes, each a command with a store of its own: alike, at odds, alone, lost, and on two networks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from conftest import write_reviews
from fastserve_torch_ddp.rendezvous.endpoint import is_reachable

pytestmark = pytest.mark.slow

OPTIONS = {"epochs": 4, "batch_size": 8, "lr": "3e-3", "checkpoint_every_s": 0.1, "nnodes": 2, "rdzv_id": "a/b"}


class Node:
    """One machine: a folder with its own model, data and store, and the command that runs there."""

    def __init__(self, folder: Path, model: Path, data: Path, endpoint: str, inside: tuple[str, ...] = ()) -> None:
        shutil.copytree(model, folder / "model")
        shutil.copyfile(data, folder / "texts.csv")
        self.folder, self.process = folder, None
        options = OPTIONS | {"rdzv_endpoint": endpoint}
        self.command = [*inside, sys.executable, "-m", "fastserve_core", "+plugin=torch_ddp"]
        self.command += ["model=model", "data=texts.csv", "engine=torch"]
        self.command += [f"train.torch_ddp.{name}={value}" for name, value in options.items()]

    process: subprocess.Popen[str] | None

    def start(self, *more: str, **environment: str) -> subprocess.Popen[str]:
        own = {"FASTSERVE_HOME": str(self.folder / "home")}
        self.process = subprocess.Popen(
            [*self.command, *more],
            cwd=self.folder,
            env=os.environ | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.process

    def finish(self) -> tuple[int, str]:
        assert self.process is not None
        said, _ = self.process.communicate(timeout=300)
        return self.process.returncode, said

    def lose_power(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()

    def wait_until(self, seen: Callable[[], Any]) -> None:
        assert self.process is not None
        deadline = time.monotonic() + 120
        while not seen():
            assert self.process.poll() is None, self.finish()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def checkpoints(self) -> list[Path]:
        return list(self.folder.glob("home/partial/train-*/work/checkpoint-*.safetensors"))

    def digest(self) -> str:
        newest = max(self.folder.glob("outputs/*/*/run.json"), key=lambda path: path.stat().st_mtime)
        return str(json.loads(newest.read_text())["stages"][0]["digest"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_reviews(tmp_path_factory.mktemp("texts") / "texts.csv", 400)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


@pytest.fixture
def pair(tmp_path: Path, tiny_bert: Path, texts: Path) -> Iterator[list[Node]]:
    """Two nodes that meet on loopback."""
    endpoint = f"127.0.0.1:{free_port()}"
    nodes = [Node(tmp_path / name, tiny_bert, texts, endpoint) for name in ("a", "b")]
    yield nodes
    for node in nodes:
        node.lose_power()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path, texts: Path) -> str:
    """What two nodes that nothing happens to end with, each in its own store."""
    endpoint, folder = f"127.0.0.1:{free_port()}", tmp_path_factory.mktemp("undisturbed")
    nodes = [Node(folder / name, tiny_bert, texts, endpoint) for name in ("a", "b")]
    for node in nodes:
        node.start()
    for code, said in [node.finish() for node in nodes]:
        assert code == 0, said
    assert nodes[0].digest() == nodes[1].digest()
    return nodes[0].digest()


@pytest.mark.parametrize("lost", [0, 1], ids=["the host", "another"])
def test_a_node_that_is_lost_comes_back_and_the_result_is_the_same(
    pair: list[Node], undisturbed: str, lost: int
) -> None:
    pair[0].start()
    port = int(pair[0].command[-1].rpartition(":")[2])
    pair[0].wait_until(lambda: is_reachable("127.0.0.1", port, 1))
    pair[1].start()
    pair[lost].wait_until(pair[lost].checkpoints)
    pair[lost].lose_power()
    pair[lost].start()
    said = [node.finish() for node in pair]
    assert [code for code, _ in said] == [0, 0], said
    assert "waiting up to 600 s for all 2 nodes" in said[1 - lost][1]
    assert [node.digest() for node in pair] == [undisturbed] * 2


def test_differences_between_two_nodes_are_reported_by_both(pair: list[Node]) -> None:
    pair[0].start()
    pair[1].start("train.torch_ddp.lr=1e-3", "seed=7", "train.torch_ddp.checkpoint_every_s=5")
    for code, said in [node.finish() for node in pair]:
        assert code == 2, said
        named = {line.split(":")[0].strip() for line in said.splitlines() if " on node 1 (" in line}
        assert named == {"train.torch_ddp.lr", "seed"}
        assert "Traceback" not in said


def test_a_node_that_waits_alone_ends_with_the_address(pair: list[Node]) -> None:
    pair[0].start("train.torch_ddp.rdzv_timeout_s=2")
    code, said = pair[0].finish()
    assert code == 1, said
    assert f"the 2 nodes did not meet at {pair[0].command[-1].partition('=')[2]} under the id 'a/b'" in said
    assert "Traceback" not in said


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"network namespaces cannot be made here: {' '.join(command)}: {done.stderr.strip()}")


@pytest.fixture
def networks() -> Iterator[list[str]]:
    """Two namespaces, each with its own addresses, joined by nothing but a cable: 10.213.0.1 and 10.213.0.2."""
    if shutil.which("ip") is None:
        pytest.skip("network namespaces need the command 'ip' (package iproute2)")
    names = [f"fastserve-{os.getpid()}-{end}" for end in ("a", "b")]
    cables = [f"fs{os.getpid() % 100000}{end}" for end in ("a", "b")]
    try:
        for name in names:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            run("ip", "link", "set", cable, "netns", name)
            run("ip", "-n", name, "address", "add", f"10.213.0.{number}/24", "dev", cable)
            run("ip", "-n", name, "link", "set", cable, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.parametrize("host", [1, 2])
def test_nodes_with_addresses_of_their_own_end_with_the_same_model(
    tmp_path: Path, tiny_bert: Path, texts: Path, undisturbed: str, networks: list[str], host: int
) -> None:
    """The host may be either: the one that sorts first, whose rank is 0, or the other."""
    inside = [("ip", "netns", "exec", name) for name in networks]
    nodes = [
        Node(tmp_path / name, tiny_bert, texts, f"10.213.0.{host}:29500", where)
        for name, where in zip("ab", inside, strict=True)
    ]
    try:
        for node in nodes:
            node.start(FASTSERVE_TESTS_ONLINE="1")  # from a namespace without a way out, to the other one
        for code, said in [node.finish() for node in nodes]:
            assert code == 0, said
        assert [node.digest() for node in nodes] == [undisturbed] * 2
    finally:
        for node in nodes:
            node.lose_power()
