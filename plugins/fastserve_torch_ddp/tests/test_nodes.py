"""Several machines: where they meet, who is missing, and what they disagree about."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastserve_core.errors import StageError, UserError
from fastserve_core.events import Event, Progress
from fastserve_torch_ddp.rendezvous import endpoint
from fastserve_torch_ddp.rendezvous.endpoint import find_endpoint, is_reachable, list_interfaces

pytestmark = pytest.mark.seconds(0.6)


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        return int(taken.getsockname()[1])


# -- where they meet ---------------------------------------------------------------------------------


def test_an_endpoint_of_this_machine_is_kept_by_it() -> None:
    found = find_endpoint("127.0.0.1:29500")
    assert (found.address, found.port, found.is_local, found.local, found.interface) == (
        *("127.0.0.1", 29500, True, "127.0.0.1", "lo"),
    )
    assert list_interfaces()["127.0.0.1"] == "lo"
    assert find_endpoint("localhost:1").is_local


@pytest.mark.parametrize("text", ["10.0.0.1", "10.0.0.1:", ":29500", "host:0", "host:65536", "host:http", "host:-1"])
def test_a_malformed_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"rdzv_endpoint must be HOST:PORT"):
        find_endpoint(text)


def resolving(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], Any]) -> None:
    """Names are answered here: the machine that runs the tests may have no name service, or any hosts file."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answer())


def test_a_name_that_is_loopback_here_is_refused_with_the_other_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian's installer names a machine 127.0.1.1 in its own /etc/hosts."""
    resolving(monkeypatch, lambda: [(2, 1, 6, "", ("127.0.1.1", 0))])
    monkeypatch.setattr(endpoint, "list_interfaces", lambda: {"127.0.0.1": "lo", "192.168.7.2": "eth9"})
    with pytest.raises(UserError, match=r"loopback address 127\.0\.1\.1.*192\.168\.7\.2 \(eth9\)"):
        find_endpoint("node-a:29500")


def test_an_unknown_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    resolving(monkeypatch, unknown)
    with pytest.raises(UserError, match=r"does not know the host 'node-a'"):
        find_endpoint("node-a:29500")


def test_an_address_of_another_machine_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lambda: [(2, 1, 6, "", ("192.0.2.1", 0))])  # an address that is nobody's, RFC 5737
    monkeypatch.setattr(endpoint, "_route_to", lambda *_: "127.0.0.1")  # no test leaves loopback
    assert not find_endpoint("192.0.2.1:29500").is_local


def test_a_port_without_a_listener_is_not_reachable() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        assert is_reachable("127.0.0.1", listener.getsockname()[1], 1)
    assert not is_reachable("127.0.0.1", free_port(), 1)


# -- coming together ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def quiet_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not look for the caller's name at each event of torch's log: with all that is imported it takes 0.2 s."""
    from torch.distributed.elastic.rendezvous import dynamic_rendezvous

    monkeypatch.setattr(dynamic_rendezvous, "get_method_name", lambda depth=2: "")


def meeting(port: int, told: list[Event] | None = None, **terms: Any) -> Any:
    from fastserve_torch_ddp.rendezvous.config import RendezvousConfig
    from fastserve_torch_ddp.rendezvous.handler import TcpRendezvousHandler

    wanted: dict[str, Any] = {"name": "reviews", "nodes": 2, "device": "cpu", "timeout_s": 20.0} | terms
    events: list[Event] = [] if told is None else told
    return TcpRendezvousHandler(RendezvousConfig(find_endpoint(f"127.0.0.1:{port}"), **wanted), events.append)


def failing(handler: Any) -> Exception:
    with pytest.raises((StageError, UserError)) as caught:
        handler.next_rendezvous()
    handler.shutdown()
    return caught.value


def beside(*calls: Callable[[], Any]) -> list[Any]:
    """The answers of calls that wait for each other."""
    answers: list[Any] = [None] * len(calls)

    def run(number: int) -> None:
        answers[number] = calls[number]()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


@pytest.fixture(autouse=True)
def own_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")


def test_nodes_meet_and_get_different_ranks_of_one_world() -> None:
    port, told = free_port(), list[Event]()
    first, second = meeting(port, told), meeting(port)
    infos = beside(first.next_rendezvous, second.next_rendezvous)
    assert sorted((info.rank, info.world_size) for info in infos) == [(0, 2), (1, 2)]
    assert len({info.bootstrap_store_info.master_port for info in infos}) == 1
    assert told == [Progress(f"nodes at 127.0.0.1:{port}", done, 2) for done in (0, 2)]
    assert (first.num_nodes_waiting(), first.is_closed()) == (0, False)
    begin = time.monotonic()
    assert beside(first.shutdown, second.shutdown) == [True, True]
    assert time.monotonic() - begin < 5  # the host leaves as soon as the other has


def test_a_rendezvous_that_nobody_joins_ends_with_the_address() -> None:
    port = free_port()
    message = str(failing(meeting(port, timeout_s=1.0)))
    assert f"the 2 nodes did not meet at 127.0.0.1:{port} under the id 'reviews' within 1 s" in message
    assert "Joined: 127.0.0.1 (rdzv_id=reviews, nnodes=2)." in message
    assert "same command on every node" in message


def test_a_host_that_never_listens_is_reported() -> None:
    port, other = free_port(), find_endpoint("127.0.0.1:1")
    from fastserve_torch_ddp.rendezvous.config import RendezvousConfig
    from fastserve_torch_ddp.rendezvous.handler import TcpRendezvousHandler

    elsewhere = replace(other, text=f"127.0.0.1:{port}", port=port, is_local=False)
    message = str(failing(TcpRendezvousHandler(RendezvousConfig(elsewhere, "reviews", 2, "cpu", 0.5), print)))
    assert "No program listens there." in message
    assert f"127.0.0.1:{port}" in message


def test_a_port_of_another_program_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastserve_torch_ddp.rendezvous import handler

    monkeypatch.setattr(handler, "ANSWER_SECONDS", 0.5)
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        fault = failing(meeting(other.getsockname()[1]))
    assert isinstance(fault, UserError)
    assert "another program listens at 127.0.0.1" in str(fault)


def test_nodes_with_different_ids_wait_in_vain_and_see_each_other() -> None:
    port = free_port()
    first, other = meeting(port, timeout_s=2.0), meeting(port, timeout_s=2.0, name="news")
    messages = [str(fault) for fault in beside(lambda: failing(first), lambda: failing(other))]
    assert all("rdzv_id=reviews" in text or "rdzv_id=news" in text for text in messages)
    assert any("rdzv_id=reviews" in text and "rdzv_id=news" in text for text in messages)


def test_nodes_that_want_another_number_still_meet_so_that_all_can_be_told() -> None:
    port = free_port()
    first, later = meeting(port), meeting(port, nodes=3)

    def join_later() -> Any:
        while not is_reachable("127.0.0.1", port, 1):
            time.sleep(0.1)
        time.sleep(1.0)  # the first keeps the store a moment before it has said what it wants
        return later.next_rendezvous()

    infos = beside(first.next_rendezvous, join_later)
    assert [info.world_size for info in infos] == [2, 2]
    beside(first.shutdown, later.shutdown)


def test_gpus_on_one_node_only_are_refused() -> None:
    port = free_port()
    host = meeting(port, timeout_s=2.0)
    waiting = threading.Thread(target=lambda: failing(host))
    waiting.start()
    time.sleep(0.5)
    fault = failing(meeting(port, device="cuda"))
    assert isinstance(fault, UserError)
    assert "this node trains on cuda and another node" in str(fault)
    waiting.join(20)


# -- what they disagree about ------------------------------------------------------------------------

SETTINGS = st.dictionaries(st.sampled_from(["lr", "seed", "data", "model"]), st.sampled_from(["1", "2", "3"]))


@given(st.lists(SETTINGS, min_size=1, max_size=4))
def test_exactly_the_settings_that_differ_are_named(nodes: list[dict[str, str]]) -> None:
    from fastserve_torch_ddp.rendezvous.nodes import find_differences

    lines = find_differences({number: (f"host{number}", theirs) for number, theirs in enumerate(nodes)})
    differing = {name for settings in nodes for name in settings if len({other.get(name) for other in nodes}) > 1}
    assert {line.partition(":")[0] for line in lines} == differing
    assert all(f"node {len(nodes) - 1} (host{len(nodes) - 1})" in line for line in lines)


def test_another_precision_is_met_with_advice() -> None:
    from fastserve_torch_ddp.rendezvous.nodes import PRECISION, _advice, find_differences

    lines = find_differences({0: ("new", {PRECISION: '"bf16"'}), 1: ("old", {PRECISION: '"fp32"'})})
    assert lines == [f'{PRECISION}: "bf16" on node 0 (new), "fp32" on node 1 (old)']
    assert "precision=fp32" in _advice(lines)
    assert "same command" in _advice([*lines, "seed: 1 on node 0, 2 on node 1"])


def test_the_private_parts_of_multiprocessing_are_there() -> None:
    """``fork_server`` sets them; another Python may have others (see the bound in ``start_server``)."""
    from multiprocessing import forkserver

    if sys.version_info < (3, 14):
        server = forkserver.ForkServer()
        assert {"_forkserver_address", "_forkserver_alive_fd", "_forkserver_pid"} <= vars(server).keys()
        assert isinstance(forkserver._forkserver, forkserver.ForkServer)  # type: ignore[attr-defined]


def test_the_interface_of_loopback_is_found() -> None:
    assert endpoint.list_interfaces()["127.0.0.1"] == "lo"
