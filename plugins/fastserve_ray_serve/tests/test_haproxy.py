"""HAProxy's config as Ray writes it is amended, and what Ray reads is left to the user who has decided."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from fastserve_ray_serve import haproxy

CONFIG = """global
    maxconn 4096
defaults
    mode http
frontend prometheus
    bind :9101
    no log
frontend http_frontend
    bind 127.0.0.1:8000
    default_backend default_backend
backend default_backend
    http-request return status 404
listen stats
  bind *:8404
  stats enable
"""


def test_only_the_requested_port_listens() -> None:
    left = haproxy.patch_config(CONFIG)
    assert [line.strip() for line in left.splitlines() if "bind" in line] == ["bind 127.0.0.1:8000"]
    assert "defaults\n    option http-buffer-request\n    mode http\nfrontend http_frontend\n" in left
    assert left.endswith("backend default_backend\n    http-request return status 404\n")


def test_rays_own_template_has_the_amended_lines() -> None:
    from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

    assert "\ndefaults\n" in HAPROXY_CONFIG_TEMPLATE
    assert "\nfrontend prometheus\n" in HAPROXY_CONFIG_TEMPLATE
    assert HAPROXY_CONFIG_TEMPLATE.count("bind ") - haproxy.patch_config(HAPROXY_CONFIG_TEMPLATE).count("bind ") == 2


def test_the_wrapper_changes_the_config_and_becomes_haproxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = haproxy.find_haproxy()
    for name, value in haproxy.environment(program, tmp_path, 10).items():
        monkeypatch.setenv(name, value)
    haproxy.write_wrapper(program, tmp_path)
    (tmp_path / "haproxy.cfg").write_text(CONFIG)
    told = [tmp_path / haproxy.WRAPPER_SCRIPT, "-c", "-f", tmp_path / "haproxy.cfg"]
    done = subprocess.run(told, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Configuration file is valid" in done.stdout + done.stderr
    assert "stats" not in (tmp_path / "haproxy.cfg").read_text()
    assert b'\r\n\r\n{"error":' in (tmp_path / "500.http").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="HAProxy is left to itself elsewhere")
def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "sleep.cfg").write_text("defaults\n")
    starting = "import subprocess, sys, time; print(subprocess.Popen(sys.argv[1:]).pid, flush=True); time.sleep(60)"
    told = [sys.executable, haproxy.__file__, str(shutil.which("tail")), "-f", str(tmp_path / "sleep.cfg")]
    with subprocess.Popen([sys.executable, "-c", starting, *told], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        started = psutil.Process(int(parent.stdout.readline()))
        assert until(lambda: started.name() == "tail")
        parent.kill()
    assert until(lambda: not started.is_running() or started.status() == psutil.STATUS_ZOMBIE)


def test_haproxy_answers_the_open_requests_before_it_ends(tmp_path: Path) -> None:
    from fastserve_ray_serve.process import drain_proxy

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            begun.set()
            time.sleep(0.5)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    begun = threading.Event()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, ThreadPoolExecutor() as pool:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        port = unused_port()
        haproxy.config_path(tmp_path).write_text(
            "defaults\n  mode http\n  timeout connect 9s\n  timeout client 9s\n  timeout server 9s\n"
            f"listen front\n  bind 127.0.0.1:{port}\n  server back 127.0.0.1:{server.server_port}\n"
        )
        command = [str(haproxy.find_haproxy()), "-db", "-f", str(haproxy.config_path(tmp_path))]
        with subprocess.Popen(command) as proxy:
            try:
                assert until(lambda: is_listening(port))
                answer = pool.submit(httpx.get, f"http://127.0.0.1:{port}", timeout=20)
                assert begun.wait(10)
                drain_proxy(tmp_path, 20)
                assert proxy.poll() == 0
            finally:
                proxy.kill()
                server.shutdown()
        assert answer.result().status_code == 204


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def until(holds: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def test_the_user_may_decide_on_the_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(haproxy.ENABLE, "0")
    assert haproxy.environment("haproxy", tmp_path, 10) == {}
    haproxy.write_wrapper("haproxy", tmp_path)
    assert not list(tmp_path.iterdir())
