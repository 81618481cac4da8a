"""Runs a command as a fork of the server's (``fork_server.py``): its streams, signals and exit code are the command's.

    python -I -S fork_client.py ADDRESS PACKAGES EXECUTABLE -m MODULE ARGUMENTS

``PACKAGES`` is a folder of packages to add, or empty. What cannot be forked is run by ``EXECUTABLE``.
"""

import json
import os
import signal
import socket
import sys

PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT)


def main() -> int:
    address, packages, executable, *arguments = sys.argv[1:]
    if arguments[:1] == ["-u"]:
        del arguments[0]  # what a fork prints is flushed when it ends, and a worker writes to the descriptors
    if arguments[:1] == ["-"]:
        arguments = ["-c", sys.stdin.read(), *arguments[1:]]
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.connect(address.replace("@", "\0", 1))
    ignored = [number for number in PASSED_ON if signal.getsignal(number) is signal.SIG_IGN]
    for number in set(PASSED_ON) - set(ignored):
        signal.signal(number, lambda number, _: server.sendall(str(number).encode()))
    asked = {
        "executable": executable,
        "packages": packages,
        "arguments": arguments,
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109 - pathlib takes longer to import than the rest
        "numbers": [0, 1, 2],
        "session": False,
        "ignored": ignored,
        "cores": sorted(os.sched_getaffinity(0)),
    }
    socket.send_fds(server, [json.dumps(asked).encode()], [0, 1, 2])
    answer = server.recv(16).decode()
    if answer == "cold":
        os.execv(executable, [executable, *arguments])
    code = int(answer or 1)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
