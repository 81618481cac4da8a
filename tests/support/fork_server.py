"""A process with the slow imports done, which forks commands off itself and does nothing else.

    python fork_server.py ADDRESS THREADS

Who wants a command sends it with its descriptors over the Unix socket at that address. Python processes do that with
``ForkingPopen`` (``forks.py``) and become the command's parent. A shell does it with ``fork_client.py``: then the
server is the parent, passes on the signals that the client sends, and answers with the exit code; a client that
disappears takes its command with it. The server ends with its own parent.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import site
import socket
import sys
from collections.abc import Callable
from typing import Any

import forks
from fastserve_core.processes import (
    PRELOAD_MODULES,
    set_library_environment,
    suppress_library_output,
    thread_environment,
)

MODULES = (
    *PRELOAD_MODULES,
    *(f"transformers.{name}" for name in ("generation.utils", "modeling_layers", "masking_utils", "video_utils")),
    *(f"transformers.models.{name}" for name in ("bert.modeling_bert", "gpt2.modeling_gpt2")),
    *(
        f"fastserve_core.{name}"
        for name in ("pipeline.execute", "evaluation.paired_timing", "cli.job", "cli.serve", "cli.predict")
    ),
    *("fastserve_torch_ddp.agent", "fastserve_torch_ddp.launch", "fastserve_text.text_classification"),
    *("fastserve_engines.torch_engine", "fastserve_engines.hugging_face", "fastserve_server.process"),
    *("nevergrad", "scipy.stats", "sklearn.metrics", "openai", "hypothesis", "xdist.remote"),
    *("torch.export", "torch._functorch.aot_autograd", "openvino.frontend.pytorch.fx_decoder"),
    *("torch.onnx._internal.exporter._compat", "neural_compressor.torch.algorithms.pt2e_quant"),
    *("hydra", "jinja2", "rich.progress", "tokenizers.implementations"),
)
"""What most commands import sooner or later. Its only threads are of OpenBLAS and jemalloc, which provide for forks."""


class Server:
    """The commands of shells that run, each by the descriptor that shows its end."""

    def __init__(self, address: str) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(address.replace("@", "\0", 1))
        self.listener.listen(128)
        self.running: dict[int, tuple[int, socket.socket]] = {}

    def run(self) -> None:
        """Serve until killed."""
        while True:
            clients = {client.fileno(): pid for pid, client in self.running.values()}
            for ready in select.select([self.listener, *self.running, *clients], [], [])[0]:
                if ready is self.listener:
                    self.start()
                elif ready in self.running:
                    self.report(*self.running.pop(ready), ended=ready)
                elif clients[ready] in [pid for pid, _ in self.running.values()]:
                    self.pass_on(clients[ready], ready)

    def pass_on(self, pid: int, client: int) -> None:
        """Send the command the signal that its client names, or kill it because the client is gone."""
        said = b""
        with contextlib.suppress(OSError):
            said = os.read(client, 16)
        os.kill(pid, int(said or signal.SIGKILL))

    def report(self, pid: int, client: socket.socket, ended: int) -> None:
        """Tell the client how its command ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError), client:
            client.sendall(str(code).encode())
        os.close(ended)

    def start(self) -> None:
        """Fork one command, or tell its client to run it by itself."""
        connection, _ = self.listener.accept()
        message, descriptors, _, _ = socket.recv_fds(connection, forks.LARGEST_MESSAGE, forks.MOST_DESCRIPTORS)
        asked = json.loads(message) if message else {}
        if not message:
            connection.close()
        elif not forks.is_forkable(asked["arguments"], asked["environment"]):
            connection.sendall(forks.COLD)
            connection.close()
        elif "parent" in asked:
            if (between := os.fork()) == 0:
                if os.fork():
                    os._exit(0)
                become(asked, descriptors, connection)
            os.waitpid(between, 0)
            connection.close()
        else:
            if (pid := os.fork()) == 0:
                become(asked, descriptors, connection)
            self.running[os.pidfd_open(pid)] = (pid, connection)
        for descriptor in descriptors:
            os.close(descriptor)


def become(asked: dict[str, Any], descriptors: list[int], connection: socket.socket) -> None:
    """In the fork: run the command with a server of its own, and end."""
    code = 1
    try:
        if "parent" in asked:
            forks.wait_for_parent(asked["parent"])
            connection.sendall(str(os.getpid()).encode())
        else:
            forks.set_for_process(forks.PR_SET_PDEATHSIG, signal.SIGKILL)  # the client's end is seen by the server
        os.sched_setaffinity(0, asked["cores"])
        if asked["session"]:
            os.setsid()
        forks.put_descriptors(descriptors, asked["numbers"])
        forks.forget_parent(keep=asked["numbers"], ignored=asked["ignored"])
        if asked["packages"]:
            sys.executable = asked["executable"]
            site.addsitedir(asked["packages"])
        importlib.invalidate_caches()
        start_beside()
        serve_supervised()
        code = forks.run_as_main(asked["arguments"], asked["environment"], asked["folder"])
    finally:
        forks.finish(code)


def start_beside() -> None:
    """Start a server for what this process starts, which ends with it."""
    address = f"@fastserve-forks-{os.getpid()}"
    server = Server(address)  # listening before anybody asks
    if os.fork() == 0:
        forks.set_for_process(forks.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in range(3):
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        forks.forget_parent(keep=[server.listener.fileno()])
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        server.run()
    server.listener.close()
    forks.use_server(lambda: address)


def serve_supervised() -> None:
    """A command runs in a child of the process that was started: let that child have a server of its own too."""
    module = importlib.import_module("fastserve_core.cli.supervisor")
    supervise = module.supervise

    def supervise_beside(function: Callable[[], int]) -> int:
        def run() -> int:
            start_beside()
            return function()

        return supervise(run)

    module.supervise = supervise_beside


def main(address: str) -> None:
    """Import what the commands need, and serve."""
    forks.set_for_process(forks.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    del sys.path[0]  # this folder is for the server alone
    gc.disable()  # it would look through a million objects, again and again, of which all stay
    with suppress_library_output():
        torch: Any = importlib.import_module("torch")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # some modules compute when they are imported, and OpenMP's threads survive no fork
        for name in MODULES:
            importlib.import_module(name)
        torch.set_num_threads(threads)
        importlib.import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
    gc.freeze()
    gc.enable()
    forks.IMPORTED_WITH.update(os.environ)  # some modules set variables when they are imported
    server = Server(address)
    print("ready", flush=True)
    server.run()


if __name__ == "__main__":
    set_library_environment()
    if missing := set(thread_environment(int(sys.argv[2])).items()) - set(os.environ.items()):
        os.environ.update(missing)  # the C library reads some of them when the process starts
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main(sys.argv[1])
