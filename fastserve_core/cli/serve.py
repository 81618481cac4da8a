"""``fastserve serve ARTIFACT [option=value …]``: serve a model until a signal comes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastserve_core.cli.arguments import find_artifact, parser
from fastserve_core.errors import BadOption
from fastserve_core.serving import serve_until_signal, start_server

HELP = "the server's options, e.g. port=9000 host=0.0.0.0 (see 'fastserve +plugin=server --cfg job')"


def main(arguments: Sequence[str]) -> int:
    options = parser("serve", "Serve an artifact, or a run's best one, until Ctrl-C or SIGTERM.")
    options.add_argument("model", type=Path, metavar="RUN_OR_ARTIFACT")
    options.add_argument("options", nargs="*", metavar="option=value", help=HELP)
    options.add_argument("--plugin", default="server", help="the server plugin; 'server' or, e.g., 'ray_serve'")
    given = options.parse_intermixed_args(arguments)
    if hasattr(signal, "SIGUSR1"):  # it asks for another model, which is too early until there is one
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    server = start_server(find_artifact(given.model), given.plugin, dict(map(_pair, given.options)))
    serve_until_signal(server, given.model, lambda: find_artifact(given.model))
    return 0


def _pair(text: str) -> tuple[str, Any]:
    from omegaconf import OmegaConf

    name, equals, said = text.partition("=")
    if not equals:
        raise BadOption(f"'{text}' is no option=value")
    value = OmegaConf.to_container(OmegaConf.from_dotlist([text]))[name]  # type: ignore[call-overload, index]
    return name, said if isinstance(value, (list, dict)) else value  # YAML's "-" is a list, the options' a name
