"""``fastserve serve ARTIFACT [ANOTHER …] [option=value …]``: serve models until a signal comes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fastserve_core.artifacts.locate import find_artifact, parse_named_path
from fastserve_core.cli.arguments import parser
from fastserve_core.errors import InvalidOption
from fastserve_core.serving.serve import ArtifactResolvers, serve_until_signal, start_server

HELP = """further models to serve beside it, each a RUN_OR_ARTIFACT or NAME:RUN_OR_ARTIFACT; and the server's options,
e.g. port=9000 host=0.0.0.0 (see 'fastserve +plugin=server --cfg job')"""


def main(arguments: Sequence[str]) -> int:
    options = parser("serve", "Serve an artifact, or a run's best one, until Ctrl-C or SIGTERM.")
    options.add_argument("model", metavar="RUN_OR_ARTIFACT")
    options.add_argument("more", nargs="*", metavar="MODEL or option=value", help=HELP)
    options.add_argument("--plugin", default="server", help="the server plugin; 'server' or, e.g., 'ray_serve'")
    given = options.parse_intermixed_args(arguments)
    if hasattr(signal, "SIGUSR1"):  # it asks for another model, which is too early until there is one
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    models = [one for one in given.more if "=" not in one or Path(one).is_dir()]
    asked = dict(_split_pairs(one) for one in given.more if one not in models)
    name, first = parse_named_path(given.model)
    if models:
        asked["models"] = [*asked["models"], *models] if isinstance(asked.get("models"), list) else models
    if "models" in asked or name != first.name:  # the names that the user said, not those of folders in the store
        asked = {"name": name} | asked
    for one in models:
        if not parse_named_path(one)[1].exists():
            raise InvalidOption(f"'{one}' is no option=value, and no model: {parse_named_path(one)[1]} does not exist")
    server = start_server(find_artifact(first), given.plugin, asked)
    places: ArtifactResolvers = {
        name: partial(find_artifact, folder) for name, folder in map(parse_named_path, asked.get("models", []))
    }
    shown = " and ".join([str(given.model), *map(str, asked.get("models", []))])
    serve_until_signal(server, shown, {None: partial(find_artifact, first), **places})
    return 0


def _split_pairs(text: str) -> tuple[str, Any]:
    from omegaconf import OmegaConf

    name, _, said = text.partition("=")
    value = OmegaConf.to_container(OmegaConf.from_dotlist([text]))[name]  # type: ignore[call-overload, index]
    return name, said if value == [None] or isinstance(value, dict) else value  # YAML's "-" is a list, ours a name
