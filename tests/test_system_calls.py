"""Offline at the level of system calls: a whole run with all that is installed, C++ libraries included, under strace.

The audit hook of ``tests/offline`` sees what Python does; strace sees every connection of every process.
"""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

STRACE = ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg"]
ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')
VARIABLES = ("ORT_DISABLE_TELEMETRY", "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "HABANA_LOGS")
IN_NAMESPACE = """
mount --bind "$HOME" "$HOME" && mount -o remount,bind,ro "$HOME" || exit 77
touch "$HOME/x" 2> /dev/null && exit 77
cd "$1" && exec "$2" -m fastserve_core doctor
"""


class Traced:
    """Commands under strace in a folder, with a home and a folder for temporary files of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places = {"HOME": folder / "home", "TMPDIR": folder / "t"}
        for place in self.places.values():
            place.mkdir()
        (folder / "work").mkdir()
        inherited = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        own = {name: str(place) for name, place in self.places.items()}
        self.environment = inherited | own | {"FASTSERVE_HOME": str(folder / "store")}
        self.count = 0

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        self.count += 1
        command = [*STRACE, "-o", str(self.folder / f"trace-{self.count}"), sys.executable, "-m", "fastserve_core"]
        return subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=self.folder / "work",
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: object) -> None:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output

    def other_machines(self) -> list[str]:
        """The lines with an address that is not on loopback."""
        lines = [line for path in self.folder.glob("trace-*") for line in path.read_text().splitlines()]
        found = {line: match for line in lines if (match := ADDRESS.search(line))}
        return [line for line, match in found.items() if not is_loopback(match[1] or match[2])]

    def left(self) -> list[str]:
        return [str(path) for place in self.places.values() for path in place.rglob("*")]


def is_loopback(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)
    return address.is_loopback or (mapped is not None and mapped.is_loopback)


@pytest.mark.slow(60)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace: apt install strace")
@pytest.mark.usefixtures("every_core")
def test_a_whole_run_reaches_no_other_machine_and_leaves_nothing(
    tmp_path: Path, tiny_bert: Path, reviews: Path
) -> None:
    traced = Traced(tmp_path)
    options = [
        "train.torch_ddp.epochs=1",
        "train.torch_ddp.nproc=2",
        "gate.min_speedup=0.01",
        "gate.min_size_ratio=0.1",
    ]
    plugins = "+plugin=[torch_ddp,neural_compressor,tensorboard]"
    traced.run(plugins, f"model={tiny_bert}", f"data={reviews}", *options, "hydra.run.dir=run")
    (trained,) = (tmp_path / "store" / "store").glob("train-torch_ddp-*")
    traced.run("export", trained, "exported", "--to", "onnx")
    server = traced.start("serve", trained, "port=0")
    assert server.stdout is not None
    url = next(match[1] for line in server.stdout if (match := re.search(r"at (http://\S+)", line)))
    with urlopen(Request(f"{url}/predict", b'{"inputs": ["a moving film"]}'), timeout=60) as answer:
        assert b"predictions" in answer.read()
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGTERM)  # strace itself ends with the command
    assert server.wait(timeout=60) == 0
    assert any("127.0.0.1" in path.read_text() for path in tmp_path.glob("trace-*")), "strace saw no connection at all"
    assert traced.other_machines() == []
    assert traced.left() == []
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == ["exported", "run"]


@pytest.mark.slow(1)
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_the_doctor_needs_neither_a_network_nor_a_home_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", IN_NAMESPACE, "sh", tmp_path]
    done = subprocess.run(
        [*command, sys.executable],
        env=os.environ | {"HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine allows no namespaces")
    problems = [line for line in done.stdout.splitlines() if line.startswith("!") and "GB" not in line]
    assert problems == [], done.stdout
    assert done.stderr == ""
    assert list((tmp_path / "home").iterdir()) == []
